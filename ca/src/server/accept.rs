//! Accepts connections and their TLS handshakes, both bounded.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;
use tracing::{debug, warn};

/// Connections at a time, those in their handshake included; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 4096;
/// Longest a TLS handshake may take.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// Pause after a failure of `accept` itself (no descriptors left), which would else loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Address of the caller, put into each request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerAddress(pub(crate) SocketAddr);

/// A connection whose handshake is over. Holds its place until it is dropped.
pub(super) struct Connection {
    tls: TlsStream<TcpStream>,
    peer: PeerAddress,
    _place: OwnedSemaphorePermit,
}

/// Accepts until `cancel`, or until nobody takes connections any more.
pub(super) async fn run(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    accepted: mpsc::Sender<Connection>,
    cancel: CancellationToken,
) {
    let acceptor = TlsAcceptor::from(config);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut handshakes = JoinSet::new();
    loop {
        let Some(next) = cancel.run_until_cancelled(next(&listener, &places)).await else {
            break;
        };
        while let Some(ended) = handshakes.try_join_next() {
            report(ended);
        }
        match next {
            Ok((tcp, peer, place)) => {
                let handshake = shake(acceptor.clone(), tcp, PeerAddress(peer), place);
                let accepted = accepted.clone();
                handshakes.spawn(async move {
                    if let Some(connection) = handshake.await {
                        // Fails only when the server has stopped; the connection then ends here.
                        let _ = accepted.send(connection).await;
                    }
                });
            }
            Err(error) => {
                warn!(%error, "cannot accept connections; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    handshakes.shutdown().await;
}

async fn next(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (tcp, peer) = listener.accept().await?;
    Ok((tcp, peer, place))
}

async fn shake(
    acceptor: TlsAcceptor,
    tcp: TcpStream,
    peer: PeerAddress,
    place: OwnedSemaphorePermit,
) -> Option<Connection> {
    // A failure costs some latency, no correctness.
    let _ = tcp.set_nodelay(true);
    match timeout(HANDSHAKE_DEADLINE, acceptor.accept(tcp)).await {
        Ok(Ok(tls)) => Some(Connection { tls, peer, _place: place }),
        Ok(Err(error)) => {
            debug!(peer = %peer.0, %error, "TLS handshake failed");
            None
        }
        Err(_) => {
            debug!(peer = %peer.0, "TLS handshake took too long");
            None
        }
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        warn!(%error, "handshake task failed");
    }
}

impl Connected for Connection {
    type ConnectInfo = PeerAddress;

    fn connect_info(&self) -> PeerAddress {
        self.peer
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(context)
    }
}
