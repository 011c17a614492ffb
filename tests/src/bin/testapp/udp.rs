//! Datagrams, which the mesh does not touch.

use crate::{Target, report};
use serde_json::json;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

/// Longest wait for an answer; a lost one counts as failed.
const PATIENCE: Duration = Duration::from_secs(2);

/// Sends back each datagram.
pub(crate) fn echo(address: SocketAddr) -> io::Result<bool> {
    let socket = UdpSocket::bind(address)?;
    report::listening(socket.local_addr()?);
    let mut buffer = vec![0; 65_536];
    loop {
        let (length, peer) = socket.recv_from(&mut buffer)?;
        report::line(&json!({ "peer": peer.to_string(), "bytes": length }));
        socket.send_to(&buffer[..length], peer)?;
    }
}

/// Sends datagrams and waits for each answer.
pub(crate) fn client(target: &Target, count: usize) -> io::Result<bool> {
    let any = if target.to.is_ipv4() {
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))
    } else {
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))
    };
    let socket = UdpSocket::bind(target.bind.unwrap_or(any))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(target.to)?;
    let mut buffer = vec![0; 65_536];
    let mut ok = 0;
    for number in 0..count {
        let datagram = format!("datagram {number}");
        socket.send(datagram.as_bytes())?;
        let answered = socket.recv(&mut buffer).map(|length| &buffer[..length]);
        if answered.is_ok_and(|answer| answer == datagram.as_bytes()) {
            ok += 1;
        }
    }
    report::line(&json!({ "ok": ok, "failed": count - ok,
                          "peer": socket.peer_addr()?.to_string() }));
    Ok(ok == count)
}
