//! Listens on the unix socket and on TCP; the same is answered by both.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http::Request;
use prometheus::Registry;
use tokio::net::{TcpListener, UnixStream};
use tokio_util::sync::CancellationToken;

use super::caller::Caller;
use super::door::Door;
use super::error::AdminError;
use super::metrics::AdminMetrics;
use super::socket::Socket;
use super::state::Routes;
use crate::config;
use crate::serve::{self, Answer, Bounds, Listener, Reply};

/// A life longer than the longest profile.
const BOUNDS: Bounds =
    Bounds { connections: 32, head: Duration::from_secs(15), life: Duration::from_mins(2) };

/// A server that listens and does not answer before [`Server::run`].
pub struct Server {
    socket: Socket,
    tcp: Option<(TcpListener, SocketAddr)>,
    front: Front,
}

impl Server {
    /// Listens on a unix socket, replacing one that is there, and on TCP where that is wanted.
    ///
    /// # Errors
    /// One of the two cannot be had, or a metric's name is taken.
    ///
    /// # Panics
    /// When called outside a tokio runtime.
    pub fn bind(
        settings: &config::Admin,
        routes: Routes,
        registry: &Registry,
    ) -> Result<Self, AdminError> {
        let metrics = AdminMetrics::register(registry).map_err(AdminError::Metrics)?;
        let socket = Socket::bind(&settings.socket, "admin.socket")?;
        let listen = |address| {
            let refuse = |source| AdminError::Address { address, source };
            let listener = serve::listen(address).map_err(refuse)?;
            let address = listener.local_addr().map_err(refuse)?;
            Ok((listener, address))
        };
        let tcp = settings.listen.map(listen).transpose()?;
        Ok(Self { socket, tcp, front: Front { routes, metrics } })
    }

    /// Where it listens on TCP.
    pub fn address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().map(|(_, address)| *address)
    }

    /// Answers until `stop` is cancelled, then cuts what is open, joins it and removes the socket.
    ///
    /// Dropping the future does the same, but for the joining.
    pub async fn run(self, stop: CancellationToken) {
        let Self { socket, tcp, front } = self;
        let socket = serve::run("admin socket", socket, front.clone(), BOUNDS, stop.clone());
        let tcp = async {
            if let Some((listener, _)) = tcp {
                serve::run("admin", listener, front, BOUNDS, stop).await;
            }
        };
        tokio::join!(socket, tcp);
    }
}

impl Listener for Socket {
    type Stream = UnixStream;
    type Peer = Caller;

    async fn accept(&self) -> io::Result<(UnixStream, Caller)> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            match Caller::of(&stream) {
                Ok(caller) => return Ok((stream, caller)),
                Err(error) => {
                    tracing::warn!(%error, "admin socket: the kernel does not say who calls; refused");
                }
            }
        }
    }
}

/// Answers by either door, and counts.
#[derive(Clone)]
struct Front {
    routes: Routes,
    metrics: AdminMetrics,
}

impl Front {
    async fn counted(&self, door: Door, request: Request<()>) -> Reply {
        let (what, reply) = self.routes.answer(door, request).await;
        self.metrics.answered(what.label(), reply.status());
        reply
    }
}

impl Answer<Caller> for Front {
    async fn answer(&self, caller: Caller, request: Request<()>) -> Reply {
        self.counted(Door::Socket(caller), request).await
    }
}

impl Answer<SocketAddr> for Front {
    async fn answer(&self, _peer: SocketAddr, request: Request<()>) -> Reply {
        self.counted(Door::Tcp, request).await
    }
}
