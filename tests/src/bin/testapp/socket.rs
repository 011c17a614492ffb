//! Sockets as ordinary programs make them.

use crate::Target;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// `MSG_FASTOPEN` of `<linux/socket.h>`: no crate in use names it.
const MSG_FASTOPEN: i32 = 0x2000_0000;

/// Listens, IPv4 too where the address is the IPv6 wildcard; a restart may take the port again.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&SockAddr::from(address))?;
    socket.listen(4096)?;
    Ok(socket.into())
}

/// Connects as most programs do, and waits.
pub(crate) fn connect(target: &Target) -> io::Result<TcpStream> {
    let socket = new(target)?;
    if target.fast_open {
        socket.send_to_with_flags(b"f", &SockAddr::from(target.to), MSG_FASTOPEN)?;
    } else {
        socket.connect(&SockAddr::from(target.to))?;
    }
    finish(socket, target)
}

/// Connects as event loops do: `EINPROGRESS`, poll for writing, `SO_ERROR`.
pub(crate) fn connect_nonblocking(target: &Target) -> io::Result<TcpStream> {
    let socket = new(target)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::from(target.to)) {
        Ok(()) => {}
        Err(error)
            if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) =>
        {
            let mut interest = [PollFd::new(&socket, PollFlags::OUT)];
            let patience =
                Timespec { tv_sec: i64::try_from(target.patience).unwrap_or(i64::MAX), tv_nsec: 0 };
            if poll(&mut interest, Some(&patience))? == 0 {
                return Err(io::ErrorKind::TimedOut.into());
            }
            if let Some(error) = socket.take_error()? {
                return Err(error);
            }
        }
        Err(error) => return Err(error),
    }
    socket.set_nonblocking(false)?;
    finish(socket, target)
}

fn new(target: &Target) -> io::Result<Socket> {
    let protocol = if target.multipath { Protocol::MPTCP } else { Protocol::TCP };
    let socket = Socket::new(Domain::for_address(target.to), Type::STREAM, Some(protocol))?;
    if let Some(device) = &target.device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    if let Some(source) = target.bind {
        socket.set_reuse_address(true)?;
        socket.bind(&SockAddr::from(source))?;
    }
    if let Some(first) = target.first
        && socket.connect(&SockAddr::from(first)).is_ok()
    {
        rustix::net::connect_unspec(&socket)?;
    }
    Ok(socket)
}

fn finish(socket: Socket, target: &Target) -> io::Result<TcpStream> {
    let stream = TcpStream::from(socket);
    let patience = Some(Duration::from_secs(target.patience.max(1)));
    stream.set_read_timeout(patience)?;
    stream.set_write_timeout(patience)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Closes with a reset instead of a FIN.
pub(crate) fn reset(stream: TcpStream) -> io::Result<()> {
    Socket::from(stream).set_linger(Some(Duration::ZERO))
}
