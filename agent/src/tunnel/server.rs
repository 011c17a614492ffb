//! The inbound end: one accepted HBONE connection, from its handshake to its last stream.
//!
//! Each stream is handed to the caller as an [`Incoming`], which is answered once policy and
//! application have said yes or no. The connection goes on whatever its streams do.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use culvert_spiffe::{SpiffeId, VerifiedPeer};
use h2::{RecvStream, SendStream, server::SendResponse};
use http::{Request, Response, StatusCode};
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Limits, StreamError,
    hbone::{self, BadRequest, Refused},
    metrics::{End, TunnelMetrics},
    read_ahead::ReadAhead,
};
use crate::identity::{Svid, handshake};

/// As long as it takes: streams outlive a certificate.
const FOREVER: Duration = Duration::from_hours(24 * 365);

type TlsStream = tokio_rustls::server::TlsStream<ReadAhead<TcpStream>>;
type Http2 = h2::server::Connection<TlsStream, Bytes>;

/// Accepts HBONE connections for one worker, within its limits.
pub struct Server {
    limits: Rc<Limits>,
    metrics: TunnelMetrics,
    connections: Cell<usize>,
    handshakes: RefCell<HashMap<IpAddr, usize>>,
}

/// One request for a flow.
pub struct Incoming {
    /// The peer that sent it, proven by the connection's handshake.
    pub peer: SpiffeId,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    resets: Rc<Cell<u32>>,
}

impl Incoming {
    /// Where the request wants to go.
    ///
    /// # Errors
    /// [`BadRequest`], to be answered with [`Self::refuse`].
    pub fn target(&self) -> Result<SocketAddr, BadRequest> {
        hbone::target(&self.request)
    }

    /// Answers 200: from now on bytes follow.
    ///
    /// # Errors
    /// [`StreamError::PeerReset`]: the peer has given up meanwhile.
    pub fn accept(mut self) -> Result<(SendStream<Bytes>, RecvStream), StreamError> {
        let send = self
            .respond
            .send_response(answer(StatusCode::OK), false)
            .map_err(|_| StreamError::PeerReset)?;
        Ok((send, self.request.into_body()))
    }

    /// Answers with a refusal.
    pub fn refuse(mut self, refused: Refused) {
        // The peer may have given up meanwhile; then there is nobody to tell.
        let _ = self.respond.send_response(answer(refused.status()), true); // reason: see above
    }

    /// Waits until the peer gives the request up.
    ///
    /// Cancel safe.
    pub async fn given_up(&mut self) {
        // An error of the connection gives it up as well.
        let _ = std::future::poll_fn(|cx| self.respond.poll_reset(cx)).await; // reason: see above
        self.resets.set(self.resets.get().saturating_add(1));
    }
}

fn answer(status: StatusCode) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    response
}

/// How an accepted connection came to its end before any stream.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// Too many connections, or too many that do not finish their handshake.
    #[error("limit `{limit}` reached; see `tunnel` in the configuration")]
    Limit {
        /// Name of the limit.
        limit: &'static str,
    },
    /// The peer did not prove an identity.
    #[error(transparent)]
    Handshake(#[from] handshake::HandshakeError),
    /// The peer does not speak HTTP/2.
    #[error("the peer does not speak HTTP/2 inside of TLS")]
    Preface(#[source] h2::Error),
}

impl ConnectionError {
    /// The reason for metrics and log.
    pub fn reason(&self) -> crate::observe::Reason {
        use crate::observe::Reason;
        match self {
            Self::Limit { .. } => Reason::LimitReached,
            Self::Handshake(error) => error.reason(),
            Self::Preface(_) => Reason::H2Handshake,
        }
    }
}

impl Server {
    /// A server without connections.
    pub fn new(limits: Rc<Limits>, metrics: TunnelMetrics) -> Rc<Self> {
        let (connections, handshakes) = (Cell::new(0), RefCell::default());
        Rc::new(Self { limits, metrics, connections, handshakes })
    }

    /// Runs one accepted connection to its end. `serve` makes the task of each stream; `drain`
    /// asks for an orderly end: no new streams, and those that run get [`Limits::drain`].
    ///
    /// Dropped halfway, the connection and all its streams are reset.
    ///
    /// # Errors
    /// [`ConnectionError`] when there was no stream to begin with.
    pub async fn run<F>(
        self: &Rc<Self>,
        socket: TcpStream,
        source: SocketAddr,
        svid: Arc<Svid>,
        drain: &CancellationToken,
        serve: impl Fn(Incoming) -> F,
    ) -> Result<SpiffeId, ConnectionError>
    where
        F: Future<Output = ()> + 'static,
    {
        let _place = self.place()?;
        let (http2, peer) = {
            let _handshake = self.handshake_place(source.ip())?;
            let (tls, peer) = handshake::accept(&svid, ReadAhead::new(socket)).await?;
            (self.preface(tls).await?, peer)
        };
        let not_after = svid.not_after().as_secs().min(peer.not_after().as_secs());
        let connection = Serving {
            limits: &self.limits,
            peer: &peer,
            expires: Instant::now() + until(not_after),
            resets: Rc::default(),
            streams: JoinSet::new(),
        };
        let _counted = self.metrics.connection(End::Server);
        connection.run(http2, drain, serve).await;
        Ok(peer.id().clone())
    }

    async fn preface(&self, tls: TlsStream) -> Result<Http2, ConnectionError> {
        let limits = &self.limits;
        let preface = h2::server::Builder::new()
            .initial_window_size(limits.stream_window)
            .initial_connection_window_size(limits.connection_window())
            .max_frame_size(limits.frame_size)
            .max_header_list_size(limits.header_list_size)
            .max_concurrent_streams(limits.streams_per_connection)
            .max_send_buffer_size(limits.stream_window as usize)
            .handshake(tls);
        match timeout(limits.first_request, preface).await {
            Ok(done) => done.map_err(ConnectionError::Preface),
            Err(_) => Err(ConnectionError::Preface(h2::Reason::SETTINGS_TIMEOUT.into())),
        }
    }

    fn limit_reached(&self, limit: &'static str) -> ConnectionError {
        self.metrics.limit_reached(limit);
        ConnectionError::Limit { limit }
    }

    fn place(self: &Rc<Self>) -> Result<impl Drop + use<>, ConnectionError> {
        if self.connections.get() >= self.limits.connections {
            return Err(self.limit_reached("connections"));
        }
        self.connections.set(self.connections.get() + 1);
        let server = Rc::clone(self);
        Ok(scopeguard(move || server.connections.set(server.connections.get() - 1)))
    }

    fn handshake_place(
        self: &Rc<Self>,
        source: IpAddr,
    ) -> Result<impl Drop + use<>, ConnectionError> {
        let mut handshakes = self.handshakes.borrow_mut();
        if handshakes.values().sum::<usize>() >= self.limits.handshakes {
            return Err(self.limit_reached("handshakes"));
        }
        let of_source = handshakes.entry(source).or_default();
        if *of_source >= self.limits.handshakes_per_source {
            return Err(self.limit_reached("handshakesPerSource"));
        }
        *of_source += 1;
        let server = Rc::clone(self);
        Ok(scopeguard(move || {
            let mut handshakes = server.handshakes.borrow_mut();
            if let Some(of_source) = handshakes.get_mut(&source) {
                *of_source -= 1;
                if *of_source == 0 {
                    handshakes.remove(&source);
                }
            }
        }))
    }
}

/// Runs a closure when dropped.
fn scopeguard(undo: impl FnOnce()) -> impl Drop {
    struct Guard<F: FnOnce()>(Option<F>);
    impl<F: FnOnce()> Drop for Guard<F> {
        fn drop(&mut self) {
            if let Some(undo) = self.0.take() {
                undo();
            }
        }
    }
    Guard(Some(undo))
}

/// A connection past its handshake.
struct Serving<'a> {
    limits: &'a Limits,
    peer: &'a VerifiedPeer,
    expires: Instant,
    resets: Rc<Cell<u32>>,
    streams: JoinSet<()>,
}

impl Serving<'_> {
    async fn run<F>(
        mut self,
        mut http2: Http2,
        drain: &CancellationToken,
        serve: impl Fn(Incoming) -> F,
    ) where
        F: Future<Output = ()> + 'static,
    {
        let limits = self.limits;
        let Some(mut pings) = http2.ping_pong() else { return };
        let mut next_ping = Instant::now() + limits.ping_interval;
        let mut waiting_for_pong = false;
        let mut quiet_until = Instant::now() + limits.first_request;
        let mut closing: Option<Instant> = None;
        loop {
            let idle = self.streams.is_empty();
            let end = closing.unwrap_or(self.expires);
            tokio::select! {
                // A request that is there is served before a deadline that came with it.
                biased;
                request = http2.accept() => match request {
                    Some(Ok((request, respond))) => {
                        let incoming = Incoming {
                            peer: self.peer.id().clone(),
                            request,
                            respond,
                            resets: Rc::clone(&self.resets),
                        };
                        self.streams.spawn_local(serve(incoming));
                    }
                    Some(Err(_)) | None => break,
                },
                Some(ended) = self.streams.join_next() => {
                    report(ended);
                    quiet_until = Instant::now() + limits.idle;
                    if self.resets.get() > limits.early_resets {
                        tracing::warn!(peer = %self.peer.id(), "peer resets streams faster than they are served; connection ended");
                        http2.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM);
                        closing.get_or_insert(Instant::now());
                    }
                }
                pong = std::future::poll_fn(|cx| pings.poll_pong(cx)), if waiting_for_pong => {
                    if pong.is_err() {
                        return;
                    }
                    waiting_for_pong = false;
                    next_ping = Instant::now() + limits.ping_interval;
                }
                () = sleep_until(next_ping) => {
                    // Either it is time to ask, or the answer has not come in time.
                    if waiting_for_pong || pings.send_ping(h2::Ping::opaque()).is_err() {
                        return;
                    }
                    waiting_for_pong = true;
                    next_ping = Instant::now() + limits.ping_timeout;
                }
                () = drain.cancelled(), if closing.is_none() => {
                    http2.graceful_shutdown();
                    closing = Some(Instant::now() + limits.drain);
                }
                () = sleep_until(quiet_until), if idle && closing.is_none() => {
                    // A stream that crosses this on its way may still run to its end.
                    http2.graceful_shutdown();
                    closing = Some(Instant::now() + FOREVER);
                }
                () = sleep_until(end) => {
                    if closing.is_some() {
                        return;
                    }
                    // A certificate has ended: no new streams, those that run may go on.
                    http2.graceful_shutdown();
                    closing = Some(Instant::now() + FOREVER);
                }
            }
        }
        // The connection has ended. Streams that were cut find out by themselves; those that had
        // ended in order may still have bytes for an application that reads slowly.
        drop(http2);
        let rest = async {
            while let Some(ended) = self.streams.join_next().await {
                report(ended);
            }
        };
        let cut = async {
            drain.cancelled().await;
            tokio::time::sleep(limits.drain).await;
        };
        futures_util::future::select(std::pin::pin!(rest), std::pin::pin!(cut)).await;
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a stream's task panicked; its flow was reset");
    }
}

/// From now to a wall-clock second; none once it has passed.
fn until(unix_seconds: u64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Duration::from_secs(unix_seconds).saturating_sub(now)
}
