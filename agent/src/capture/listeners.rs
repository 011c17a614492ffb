//! The agent's listeners inside a pod's namespace.
//!
//! No packet is ever addressed to them: the `sk_lookup` program hands connections over, whatever
//! their address and port. They are bound only because a socket must be bound to listen. The
//! address is one that no pod has (`IP_TRANSPARENT` allows that), so the pod cannot reach them
//! either; the port is the well-known one where the pod does not use it itself, so that
//! `ss -ltn` explains itself.
//!
//! One listener a worker, and no `SO_REUSEPORT`: a pod's own root process could join the group.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use culvert_common::maps::{HBONE_PORT, OUTBOUND_PORT, PLAINTEXT_PORT};
use socket2::{Domain, Protocol, Socket, Type};

use crate::sys::netns::Netns;

/// Connections that wait to be accepted, a listener; the kernel caps it at `net.core.somaxconn`.
pub(super) const BACKLOG: usize = 4096;

/// What arrives at a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The workload's own connections, steered.
    Outbound,
    /// Connections from outside that are not HBONE.
    Plaintext,
    /// Connections from outside to the HBONE port.
    Hbone,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Outbound, Self::Plaintext, Self::Hbone];

    /// Its name in the kernel's table, and the port it is bound to where that is free.
    pub(super) fn port(self) -> u16 {
        match self {
            Self::Outbound => OUTBOUND_PORT,
            Self::Plaintext => PLAINTEXT_PORT,
            Self::Hbone => HBONE_PORT,
        }
    }
}

/// One listening socket, for one worker.
#[derive(Debug)]
pub struct Listener {
    /// What arrives here.
    pub kind: Kind,
    /// The address of the pod whose connections it takes.
    pub address: IpAddr,
    /// The worker that is to accept from it.
    pub worker: u16,
    /// The socket, non-blocking.
    pub socket: std::net::TcpListener,
}

/// Makes all listeners of a pod: for each kind, address and worker one.
///
/// # Errors
/// As `socket(2)`, `bind(2)`, `listen(2)`.
pub(super) fn open(netns: &Netns, addresses: &[IpAddr], workers: u16) -> io::Result<Vec<Listener>> {
    netns.run(|| {
        let mut listeners = Vec::new();
        for &address in addresses {
            for kind in Kind::ALL {
                for worker in 0..workers {
                    let socket = listen(place(address, worker), kind.port())?;
                    listeners.push(Listener { kind, address, worker, socket });
                }
            }
        }
        Ok(listeners)
    })?
}

/// An address that no pod has: of the discard-only prefix (RFC 6666), and of the block for
/// benchmarks (RFC 2544), which no cluster routes.
fn place(pod: IpAddr, worker: u16) -> IpAddr {
    let [high, low] = worker.to_be_bytes();
    match pod {
        IpAddr::V4(_) => Ipv4Addr::new(198, 18, high, low).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, worker).into(),
    }
}

fn listen(address: IpAddr, port: u16) -> io::Result<std::net::TcpListener> {
    match try_listen(SocketAddr::new(address, port)) {
        // The pod itself, or an agent that is about to hand over, holds the port: any will do.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            try_listen(SocketAddr::new(address, 0))
        }
        done => done,
    }
}

fn try_listen(at: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket =
        Socket::new(Domain::for_address(at), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    match at {
        SocketAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_ip_transparent_v6(true)?;
        }
    }
    // So that a new agent can bind beside connections of an old one that are still closing.
    socket.set_reuse_address(true)?;
    super::pod::tune(&socket)?;
    socket.bind(&at.into())?;
    socket.listen(i32::try_from(BACKLOG).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}
