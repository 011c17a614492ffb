//! Whether the programs run for us: a cgroup that holds neither the agent nor the pods would take
//! them without a word, and nothing would be steered.
//!
//! A connection of our own to ourselves is given a false original destination; `getpeername` must
//! then tell that, because the program says so.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
};

use culvert_common::{Addr, SocketState};

use super::{AttachError, SharedTables};

/// An address that is nobody's (RFC 5737).
const NOBODY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9);

/// # Errors
/// [`AttachError::NotEffective`] when the programs do not run for this process.
pub(super) fn run(tables: &SharedTables, cgroup: &std::path::Path) -> Result<(), AttachError> {
    match seen_peer(tables) {
        Ok(NOBODY) => Ok(()),
        Ok(_) => Err(AttachError::NotEffective { cgroup: cgroup.to_owned() }),
        Err(source) => Err(AttachError::SelfTest(source)),
    }
}

fn seen_peer(tables: &SharedTables) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let stream = TcpStream::connect(listener.local_addr()?)?;
    let state = SocketState::application(Addr::from(NOBODY.ip()), NOBODY.port().to_be());
    tables.mark(&stream, state).map_err(io::Error::other)?;
    stream.peer_addr()
}
