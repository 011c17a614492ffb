//! [`Server`]: the socket, its connections, and gRPC on them.

use std::future::Future as _;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use culvert_proto::spiffe::workload::spiffe_workload_api_server::SpiffeWorkloadApiServer;
use futures_util::stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use super::attest::{Attestor, share};
use super::authority::AuthorityFilter;
use super::caller::Caller;
use super::metrics::{ApiMetrics, Cut};
use super::quota::{Place, Quota};
use super::service::Service;
use super::socket_file::{SocketError, SocketFile};
use super::tokens::TokenCache;
use crate::identity::IdentityStore;
use crate::observe::{Metrics, RegisterError};
use crate::sys::peer::{NamespaceId, OWN_PROC, PeerProcess, ProcessEnd};
use crate::workload::Snapshot;

/// Connections of one workload at a time; a client library keeps one for each source it opens.
const CONNECTIONS_OF_ONE: usize = 64;
/// Connections of all.
const CONNECTIONS: usize = 4096;
/// Calls of one workload at a time, open streams among them.
const CALLS_OF_ONE: usize = 128;
/// Calls of all.
const CALLS: usize = 8192;
/// Calls of one connection. Not under the 100 that clients assume until they have read our
/// settings.
const CALLS_OF_A_CONNECTION: u32 = 100;
/// Longest message read: a token to validate, with room to spare.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;
/// Longest that a call may take until its answer, or its stream's begin, is there.
const CALL_DEADLINE: Duration = Duration::from_secs(15);
/// Who has not called by then only holds a place that another could use.
const FIRST_CALL: Duration = Duration::from_secs(10);
/// Pause after a failure of `accept` itself (no descriptors left), which would else loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Longest that streams may take to end at a stop.
const STOP_DEADLINE: Duration = Duration::from_secs(2);
/// Accepted connections that wait for tonic to take them.
const ACCEPTED_WAITING: usize = 64;

/// What the Workload API is made from.
pub struct Parts<'a> {
    /// `workloadApi.socket`.
    pub socket: PathBuf,
    /// The host's `/proc`, where the agent runs in a container.
    pub host_proc: Option<&'a Path>,
    /// This node, as the workloads file names it.
    pub node: &'a str,
    /// Who runs here.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Whose certificates, keys and bundle are handed out.
    pub identity: IdentityStore,
    /// Where it counts.
    pub metrics: &'a Metrics,
}

/// Why there is no Workload API.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its socket cannot be made.
    #[error("cannot offer the Workload API")]
    SocketFile(#[from] SocketError),
    /// Its metrics are registered twice.
    #[error("cannot count the Workload API's calls")]
    Metrics(#[from] RegisterError),
    /// The node's own namespace is unknown, so that nobody could be told from the host.
    #[error("cannot tell the node's own network namespace; mount /proc")]
    Host(#[source] io::Error),
}

/// The Workload API, listening and not yet answering.
pub struct Server {
    listener: UnixListener,
    file: SocketFile,
    /// Where callers are looked at.
    proc: PathBuf,
    attestor: Attestor,
    identity: IdentityStore,
    metrics: ApiMetrics,
}

impl Server {
    /// Makes the socket; [`Server::run`] answers.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn bind(parts: Parts<'_>) -> Result<Self, StartError> {
        let Parts { socket, host_proc, node, snapshots, identity, metrics } = parts;
        let host = match host_proc {
            Some(proc) => NamespaceId::at(&proc.join("1/ns/net")),
            None => NamespaceId::own(),
        };
        let host = host.map_err(StartError::Host)?;
        let proc = host_proc.unwrap_or(Path::new(OWN_PROC)).to_owned();
        let metrics = ApiMetrics::register(metrics)?;
        let (listener, file) = SocketFile::bind(&socket)?;
        let attestor = Attestor::new(node, snapshots, host);
        Ok(Self { listener, file, proc, attestor, identity, metrics })
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        self.file.path()
    }

    /// Answers until `stop`; open streams are then told to come again, and what is left after two
    /// seconds is cut. The socket goes with it.
    ///
    /// # Errors
    /// gRPC itself failed.
    pub async fn run(self, stop: CancellationToken) -> Result<(), tonic::transport::Error> {
        let Self { listener, file, proc, attestor, identity, metrics } = self;
        let (accepted, mut incoming) = mpsc::channel(ACCEPTED_WAITING);
        let accept = Accept {
            listener,
            proc,
            attestor: attestor.clone(),
            quota: Quota::new(CONNECTIONS_OF_ONE, CONNECTIONS),
            metrics: metrics.clone(),
        };
        let service = Service {
            attestor,
            identity,
            metrics,
            calls: Quota::new(CALLS_OF_ONE, CALLS),
            tokens: TokenCache::default(),
            stop: stop.clone(),
        };
        let server = tonic::transport::Server::builder()
            .timeout(CALL_DEADLINE)
            .max_concurrent_streams(CALLS_OF_A_CONNECTION)
            // Finds a caller that is stopped, and would hold its places for ever.
            .http2_keepalive_interval(Some(Duration::from_mins(1)))
            .http2_keepalive_timeout(Some(Duration::from_secs(20)))
            .http2_max_header_list_size(16 * 1024)
            .add_service(
                SpiffeWorkloadApiServer::new(service).max_decoding_message_size(MAX_MESSAGE_BYTES),
            )
            .serve_with_incoming_shutdown(
                stream::poll_fn(move |context| {
                    incoming.poll_recv(context).map(|c| c.map(Ok::<_, io::Error>))
                }),
                stop.clone().cancelled_owned(),
            );
        let overdue = async {
            stop.cancelled().await;
            tokio::time::sleep(STOP_DEADLINE).await;
        };
        let ended = tokio::select! {
            // Whichever comes first ends it; only tonic's own end can be an error.
            ended = server => ended,
            () = accept.run(accepted, &stop) => Ok(()),
            () = overdue => Ok(()),
        };
        drop(file);
        ended
    }
}

struct Accept {
    listener: UnixListener,
    proc: PathBuf,
    attestor: Attestor,
    quota: Arc<Quota>,
    metrics: ApiMetrics,
}

impl Accept {
    /// Accepts until `stop`, and then waits for ever: what was accepted is served on.
    async fn run(self, accepted: mpsc::Sender<Connection>, stop: &CancellationToken) {
        while let Some(next) = stop.run_until_cancelled(self.listener.accept()).await {
            match next {
                Ok((socket, _)) => {
                    let Some(connection) = self.let_in(socket) else { continue };
                    // Full only when tonic does not come to take them; then those who wait, wait.
                    if accepted.send(connection).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept workload API connections; trying again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(self);
        std::future::pending::<()>().await;
    }

    /// Takes hold of the caller, and of a place for it; without one the connection is closed.
    fn let_in(&self, socket: UnixStream) -> Option<Connection> {
        let process = PeerProcess::of(&socket, &self.proc)
            .inspect_err(|error| tracing::debug!(%error, "workload API caller unknown"))
            .ok();
        let caller = Caller::new(process);
        let share = share(&self.attestor.attest(&caller));
        let Some(place) = self.quota.take(&share) else {
            self.metrics.cut(Cut::TooMany);
            return None;
        };
        let watched = caller.process().map(PeerProcess::watch);
        let Ok(alive) = watched.transpose().inspect_err(|error| {
            tracing::warn!(%error, "workload API connection given up");
            self.metrics.cut(Cut::Unwatched);
        }) else {
            return None;
        };
        self.metrics.connections.inc();
        Some(Connection {
            socket,
            authority: AuthorityFilter::default(),
            caller,
            alive,
            first_call: Some(Box::pin(tokio::time::sleep(FIRST_CALL))),
            metrics: self.metrics.clone(),
            _place: place,
        })
    }
}

/// A connection that ends with the process that made it, even when another holds its socket too.
struct Connection {
    socket: UnixStream,
    authority: AuthorityFilter,
    caller: Caller,
    /// Readable when the caller has ended.
    alive: Option<ProcessEnd>,
    /// Until the first call has come.
    first_call: Option<Pin<Box<Sleep>>>,
    metrics: ApiMetrics,
    _place: Place,
}

impl Connection {
    /// Whether the caller has nothing more to say here.
    fn poll_over(&mut self, context: &mut Context<'_>) -> Poll<Cut> {
        if let Some(alive) = &self.alive
            && alive.poll(context).is_ready()
        {
            return Poll::Ready(Cut::Ended);
        }
        if self.caller.is_proven() {
            self.first_call = None;
        }
        match &mut self.first_call {
            Some(deadline) => deadline.as_mut().poll(context).map(|()| Cut::Silent),
            None => Poll::Pending,
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.metrics.connections.dec();
    }
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(cut) = self.poll_over(context) {
            self.metrics.cut(cut);
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(context, buffer))?;
        let (_, read) = buffer.filled_mut().split_at_mut(before);
        self.authority.pass(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}
