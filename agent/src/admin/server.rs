//! Accepts at the admin socket: few connections, a short life each.

use std::convert::Infallible;
use std::path::Path;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::Registry;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::caller::Caller;
use super::error::AdminError;
use super::metrics::AdminMetrics;
use super::routes::Routes;
use super::socket::Socket;

/// Connections at once; one more waits in the kernel's queue.
const CONNECTIONS: usize = 16;
/// Time for the head of a request, and so also the idle time between two.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest life of a connection.
const LIFE: Duration = Duration::from_secs(30);
/// What a failing accept waits: mostly the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A server that listens and does not answer before [`Server::run`].
pub struct Server {
    socket: Socket,
    routes: Routes,
    metrics: AdminMetrics,
}

impl Server {
    /// Listens on a unix socket at `path`, replacing one that is there.
    ///
    /// # Errors
    /// The socket cannot be had, or a metric's name is taken.
    ///
    /// # Panics
    /// When called outside a tokio runtime.
    pub fn bind(path: &Path, routes: Routes, registry: &Registry) -> Result<Self, AdminError> {
        let metrics = AdminMetrics::register(registry).map_err(AdminError::Metrics)?;
        Ok(Self { socket: Socket::bind(path, "admin.socket")?, routes, metrics })
    }

    /// Answers until `stop` is cancelled, then cuts what is open, joins it and removes the socket.
    ///
    /// Dropping the future does the same, but for the joining.
    pub async fn run(self, stop: CancellationToken) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(_) = connections.join_next() => {}
                accepted = self.socket.listener.accept(), if connections.len() < CONNECTIONS => {
                    match accepted {
                        Ok((stream, _)) => {
                            let (routes, metrics) = (self.routes.clone(), self.metrics.clone());
                            connections.spawn(serve(stream, routes, metrics));
                        }
                        Err(error) => {
                            tracing::warn!(%error, "admin socket: accept failed");
                            tokio::time::sleep(ACCEPT_PAUSE).await;
                        }
                    }
                }
            }
        }
        connections.shutdown().await;
    }
}

async fn serve(stream: UnixStream, routes: Routes, metrics: AdminMetrics) {
    let caller = match Caller::of(&stream) {
        Ok(caller) => caller,
        Err(error) => {
            tracing::warn!(%error, "admin socket: the kernel does not say who calls; refused");
            return;
        }
    };
    let service = service_fn(move |request| {
        let (what, answer) = routes.answer(caller, &request);
        metrics.answered(what.label(), answer.status());
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(LIFE, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "admin connection failed"),
        Err(_) => tracing::debug!("admin connection reached the end of its life"),
    }
}
