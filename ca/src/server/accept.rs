//! Accepts connections and their TLS handshakes, both bounded.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
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

/// The other end of a connection, put into each request. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    address: SocketAddr,
    chain: Option<Arc<[CertificateDer<'static>]>>,
}

impl Peer {
    /// Where it calls from.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificates that it presented, leaf first. TLS has proved that it holds the leaf's key
    /// and nothing else.
    pub(crate) fn chain(&self) -> Option<&[CertificateDer<'static>]> {
        self.chain.as_deref()
    }
}

/// A connection whose handshake is over. Holds its place until it is dropped.
pub(super) struct Connection {
    tls: TlsStream<TcpStream>,
    peer: Peer,
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
                let handshake = shake(acceptor.clone(), tcp, peer, place);
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
    peer: SocketAddr,
    place: OwnedSemaphorePermit,
) -> Option<Connection> {
    // A failure costs some latency, no correctness.
    let _ = tcp.set_nodelay(true);
    match timeout(HANDSHAKE_DEADLINE, acceptor.accept(tcp)).await {
        Ok(Ok(tls)) => {
            let chain = tls.get_ref().1.peer_certificates();
            let chain = chain.map(|chain| chain.iter().cloned().map(CertificateDer::into_owned));
            let peer = Peer { address: peer, chain: chain.map(Iterator::collect) };
            Some(Connection { tls, peer, _place: place })
        }
        Ok(Err(error)) => {
            debug!(%peer, %error, "TLS handshake failed");
            None
        }
        Err(_) => {
            debug!(%peer, "TLS handshake took too long");
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
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
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
