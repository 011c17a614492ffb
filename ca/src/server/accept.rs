//! Accepts connections and their TLS handshakes, both bounded.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::connection::Connection;
use super::limits::{Full, Place, Places, source};
use crate::metrics::CaMetrics;

/// Connections at a time, those in their handshake included; more are closed.
const MAX_CONNECTIONS: usize = 4096;
/// Of them, connections from one address. An agent keeps one; many behind one address translator
/// may share it.
const MAX_CONNECTIONS_OF_ADDRESS: usize = 256;
/// Longest a TLS handshake may take.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// Pause after a failure of `accept` itself (no descriptors left), which would else loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts until `cancel`, or until nobody takes connections any more.
pub(super) async fn run(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    accepted: mpsc::Sender<Connection>,
    metrics: CaMetrics,
    cancel: CancellationToken,
) {
    let acceptor = TlsAcceptor::from(config);
    let places = Places::new(MAX_CONNECTIONS, MAX_CONNECTIONS_OF_ADDRESS);
    let mut handshakes = JoinSet::new();
    while let Some(next) = cancel.run_until_cancelled(listener.accept()).await {
        while let Some(ended) = handshakes.try_join_next() {
            report(ended);
        }
        let (tcp, peer) = match next {
            Ok(next) => next,
            Err(error) => {
                warn!(%error, "cannot accept connections; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let place = match places.take(source(peer.ip())) {
            Ok(place) => place,
            Err(full) => {
                let limit = if full == Full::All { "connections" } else { "address" };
                metrics.connection_refused(limit);
                debug!(%peer, limit, "connection closed: too many");
                continue;
            }
        };
        let handshake = shake(acceptor.clone(), tcp, peer, place);
        let accepted = accepted.clone();
        handshakes.spawn(async move {
            if let Some(connection) = handshake.await {
                // Fails only when the server has stopped; the connection then ends here.
                let _ = accepted.send(connection).await;
            }
        });
    }
    handshakes.shutdown().await;
}

async fn shake(
    acceptor: TlsAcceptor,
    tcp: TcpStream,
    peer: SocketAddr,
    place: Place<IpAddr>,
) -> Option<Connection> {
    // A failure costs some latency, no correctness.
    let _ = tcp.set_nodelay(true);
    match timeout(HANDSHAKE_DEADLINE, acceptor.accept(tcp)).await {
        Ok(Ok(tls)) => Some(Connection::new(tls, peer, place)),
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
