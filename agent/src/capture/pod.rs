//! An enrolled workload as the later stages see it: whom a flow belongs to, and a place to dial
//! from.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd as _, AsRawFd as _},
    sync::Arc,
    time::Duration,
};

use culvert_common::{SocketState, maps::DELIVERY_MARK};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::net::{TcpSocket, TcpStream};

use super::SharedTables;
use crate::{
    sys::{netns::Netns, socket},
    workload::Workload,
};

/// How long an application has to accept a delivery, and a node to accept a connection; Istio's
/// value.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Source ports of deliveries of captured plaintext. The client's own four-tuple is taken by our
/// accepted socket in the same namespace, only the other way round: a SYN from the same port
/// would meet that socket. Clients' ephemeral ports start at 32,768, so stay below.
const PLAINTEXT_DELIVERY_PORTS: (u16, u16) = (10_240, 32_767);

/// An enrolled workload with its open network namespace.
///
/// Cheap to share; holds the namespace open until the last flow is done.
pub struct Pod {
    workload: Arc<Workload>,
    netns: Netns,
    tables: Arc<SharedTables>,
}

/// Which way a delivery came, which decides over its source ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// Through a tunnel.
    Tunnel,
    /// As plaintext from outside.
    Plaintext,
}

impl Pod {
    pub(super) fn new(workload: Arc<Workload>, netns: Netns, tables: Arc<SharedTables>) -> Self {
        Self { workload, netns, tables }
    }

    /// Whose namespace this is.
    pub fn workload(&self) -> &Arc<Workload> {
        &self.workload
    }

    pub(super) fn netns(&self) -> &Netns {
        &self.netns
    }

    pub(super) fn tables(&self) -> &SharedTables {
        &self.tables
    }

    /// Connects from the workload's namespace and address to somewhere outside of it.
    ///
    /// Cancel safe: dropped, the connection attempt is given up.
    ///
    /// # Errors
    /// As `connect(2)`, and `TimedOut` after ten seconds.
    pub async fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let socket = self.socket(to, SocketState::agent())?;
        finish(socket, to).await
    }

    /// Connects to an application inside the workload, as if from `source`.
    ///
    /// The application sees `source`'s address (not its port). Where the families differ, or the
    /// source is the workload itself, it sees the workload's own address.
    ///
    /// Cancel safe: dropped, the connection attempt is given up.
    ///
    /// # Errors
    /// As `connect(2)`, and `TimedOut` after ten seconds.
    pub async fn deliver(&self, source: IpAddr, to: SocketAddr, via: Via) -> io::Result<TcpStream> {
        let socket = self.socket(to, SocketState::delivery())?;
        if source.is_ipv4() == to.is_ipv4() && source != to.ip() {
            impersonate(&socket, source, via)?;
        }
        finish(socket, to).await
    }

    /// Makes a socket in the workload's namespace that the kernel programs know as ours.
    fn socket(&self, to: SocketAddr, state: SocketState) -> io::Result<Socket> {
        let domain = Domain::for_address(to);
        let socket = self
            .netns
            .run(|| Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP)))??;
        self.tables.mark(&socket.as_fd().as_raw_fd(), state).map_err(io::Error::other)?;
        tune(&socket)?;
        Ok(socket)
    }
}

impl std::fmt::Debug for Pod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Pod").field(&self.workload.key()).finish()
    }
}

/// Options of every connection that the agent makes or takes.
///
/// Keepalive finds a peer that is gone while nobody sends: without it a half-closed flow whose
/// application has ended would stay for ever.
///
/// Closed, it is reset and not ended in order, until [`super::close_in_order`] says otherwise: a
/// connection that is given up before anybody has it in hand, or that the kernel closes because
/// the agent was killed, must not look like the end of the data. What a listener accepts takes
/// this over from it.
pub(super) fn tune(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_linger(Some(Duration::ZERO))?;
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_mins(3))
        .with_interval(Duration::from_secs(30))
        .with_retries(4);
    socket.set_tcp_keepalive(&keepalive)
}

fn impersonate(socket: &Socket, source: IpAddr, via: Via) -> io::Result<()> {
    match source {
        IpAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
        IpAddr::V6(_) => socket.set_ip_transparent_v6(true)?,
    }
    socket.set_mark(DELIVERY_MARK)?;
    socket::bind_address_no_port(socket)?;
    if via == Via::Plaintext {
        let (low, high) = PLAINTEXT_DELIVERY_PORTS;
        // Before kernel 6.3 there is no such option; the ports then come from the whole range.
        let _ = socket::local_port_range(socket, low, high); // reason: see above
    }
    socket.bind(&SocketAddr::new(source, 0).into())
}

async fn finish(socket: Socket, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::from_std_stream(socket.into());
    tokio::time::timeout(CONNECT_TIMEOUT, socket.connect(to))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
