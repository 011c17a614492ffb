//! The inbound end: one accepted HBONE connection, from its handshake to its last stream.
//!
//! Each stream is handed to the caller as an [`Incoming`], which is answered once policy and
//! application have said yes or no. The connection goes on whatever its streams do.

use std::{
    cell::{Cell, OnceCell, RefCell},
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
use crate::observe::TraceParent;

/// As long as it takes: streams outlive a certificate.
const FOREVER: Duration = Duration::from_hours(24 * 365);
/// How long streams may take to notice that the time to drain is over; they have only to log.
const STREAMS_END: Duration = Duration::from_secs(5);
/// How long a connection that was told off may take to hear it.
const FAREWELL: Duration = Duration::from_secs(1);

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
    /// How long that handshake took, if this is the first request after it.
    pub handshake: Option<Duration>,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    resets: Rc<Cell<u32>>,
    cut: Cut,
}

/// Why the connection under a stream ended, where we know better than the stream does.
#[derive(Clone, Default)]
pub struct Cut(Rc<OnceCell<StreamError>>);

impl Cut {
    /// The connection's reason in place of a reset that the stream saw.
    pub fn explain(&self, seen: StreamError) -> StreamError {
        match (&seen, self.0.get()) {
            (StreamError::PeerReset, Some(known)) => known.clone(),
            _ => seen,
        }
    }
}

impl Incoming {
    /// Tells, once the flow was cut, why.
    pub fn cut(&self) -> Cut {
        self.cut.clone()
    }

    /// Where the request wants to go.
    ///
    /// # Errors
    /// [`BadRequest`], to be answered with [`Self::refuse`].
    pub fn target(&self) -> Result<SocketAddr, BadRequest> {
        hbone::target(&self.request)
    }

    /// The trace that the source belongs it to, if it says one.
    pub fn trace(&self) -> Option<TraceParent> {
        hbone::trace(&self.request)
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

/// How an accepted connection failed, before its first stream or after.
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
    /// The peer broke the rules of HTTP/2, or asks for more work than it lets us do.
    #[error("the peer misuses HTTP/2; connection ended, and all its flows")]
    Misuse(#[source] h2::Error),
    /// The peer answers no PING.
    #[error("the peer answered no PING in time; it, its node or the network between is gone")]
    PeerGone,
    /// A root was revoked.
    #[error(
        "a root that {peer}'s certificate or our own rests on was revoked; it must connect anew"
    )]
    RootRevoked {
        /// Who was connected.
        peer: SpiffeId,
    },
}

impl ConnectionError {
    /// The reason for metrics and log.
    pub fn reason(&self) -> crate::observe::Reason {
        use crate::observe::Reason;
        match self {
            Self::Limit { .. } => Reason::LimitReached,
            Self::Handshake(error) => error.reason(),
            Self::Preface(_) => Reason::H2Handshake,
            Self::Misuse(error) if error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM) => {
                Reason::LimitReached
            }
            Self::Misuse(_) => Reason::H2Protocol,
            Self::PeerGone => Reason::PeerGone,
            Self::RootRevoked { .. } => Reason::RootRevoked,
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
    /// [`ConnectionError`] when the peer did not get as far as a stream, misused the connection or
    /// vanished. A peer that closes the connection, in whatever way, is none.
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
        let (http2, peer, took) = {
            let _handshake = self.handshake_place(source.ip())?;
            let began = Instant::now();
            let (tls, peer) = handshake::accept(&svid, ReadAhead::new(socket)).await?;
            let took = began.elapsed();
            (self.preface(tls).await?, peer, took)
        };
        let not_after = svid.not_after().as_secs().min(peer.not_after().as_secs());
        let connection = Serving {
            limits: &self.limits,
            peer: &peer,
            svid: &svid,
            expires: Instant::now() + until(not_after),
            resets: Rc::default(),
            cut: Cut::default(),
            handshake: Cell::new(Some(took)),
            streams: JoinSet::new(),
        };
        let _counted = self.metrics.connection(End::Server);
        let ran = connection.run(http2, drain, serve).await;
        if let Err(ConnectionError::RootRevoked { .. }) = &ran {
            self.metrics.revoked(End::Server);
        }
        ran?;
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
    svid: &'a Svid,
    expires: Instant,
    resets: Rc<Cell<u32>>,
    cut: Cut,
    /// How long its handshake took, for the first stream to say.
    handshake: Cell<Option<Duration>>,
    streams: JoinSet<()>,
}

/// Why a connection takes no more streams.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Closing {
    /// The agent is stopping.
    Drain,
    /// Nobody uses it.
    Quiet,
    /// A certificate has ended.
    Expired,
    /// The peer resets too much.
    Resets,
}

/// How a connection ended.
enum Ended {
    /// The peer closed it, or it broke, or we closed it while no stream was on it.
    Closed,
    /// The time to drain ran out.
    Drained,
    /// By a fault of the peer.
    Failed(ConnectionError),
}

impl Serving<'_> {
    async fn run<F>(
        mut self,
        mut http2: Http2,
        drain: &CancellationToken,
        serve: impl Fn(Incoming) -> F,
    ) -> Result<(), ConnectionError>
    where
        F: Future<Output = ()> + 'static,
    {
        let ended = self.until_end(&mut http2, drain, serve).await;
        let known = match &ended {
            Ended::Drained => StreamError::Draining,
            Ended::Failed(ConnectionError::PeerGone) => StreamError::PeerGone,
            Ended::Failed(ConnectionError::RootRevoked { .. }) => StreamError::RootRevoked,
            Ended::Closed | Ended::Failed(_) => StreamError::PeerReset,
        };
        let _ = self.cut.0.set(known); // set here only, once
        // The connection has ended. Streams that were cut find out by themselves; those that had
        // ended in order may still have bytes for an application that reads slowly.
        drop(http2);
        let rest = async {
            while let Some(ended) = self.streams.join_next().await {
                report(ended);
            }
        };
        let time_left = match ended {
            Ended::Drained => STREAMS_END,
            Ended::Closed | Ended::Failed(_) => self.limits.drain,
        };
        let cut = async {
            drain.cancelled().await;
            tokio::time::sleep(time_left).await;
        };
        futures_util::future::select(std::pin::pin!(rest), std::pin::pin!(cut)).await;
        match ended {
            Ended::Closed | Ended::Drained => Ok(()),
            Ended::Failed(error) => Err(error),
        }
    }

    async fn until_end<F>(
        &mut self,
        http2: &mut Http2,
        drain: &CancellationToken,
        serve: impl Fn(Incoming) -> F,
    ) -> Ended
    where
        F: Future<Output = ()> + 'static,
    {
        let limits = self.limits;
        let Some(mut pings) = http2.ping_pong() else { return Ended::Closed };
        let mut next_ping = Instant::now() + limits.ping_interval;
        let mut waiting_for_pong = false;
        let mut quiet_until = Instant::now() + limits.first_request;
        let mut closing: Option<(Instant, Closing)> = None;
        let (svid, peer) = (self.svid, self.peer);
        let mut revoked = std::pin::pin!(svid.revoked(peer.root()));
        loop {
            let idle = self.streams.is_empty();
            let end = closing.map_or(self.expires, |(end, _)| end);
            tokio::select! {
                // Nothing is served under a revoked root; a request that is there is served
                // before a deadline that came with it.
                biased;
                () = &mut revoked => {
                    return Ended::Failed(ConnectionError::RootRevoked { peer: peer.id().clone() });
                }
                request = http2.accept() => match request {
                    Some(Ok((request, respond))) => {
                        let incoming = self.incoming(request, respond);
                        self.streams.spawn_local(serve(incoming));
                    }
                    Some(Err(error)) => return self.failed(error, closing),
                    None => return Ended::Closed,
                },
                Some(ended) = self.streams.join_next() => {
                    report(ended);
                    quiet_until = Instant::now() + limits.idle;
                    if self.resets.get() > limits.early_resets && !is_resets(closing) {
                        http2.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM);
                        closing = Some((Instant::now() + FAREWELL, Closing::Resets));
                    }
                }
                pong = std::future::poll_fn(|cx| pings.poll_pong(cx)), if waiting_for_pong => {
                    if pong.is_err() {
                        return Ended::Closed;
                    }
                    waiting_for_pong = false;
                    next_ping = Instant::now() + limits.ping_interval;
                }
                () = sleep_until(next_ping) => {
                    // Either it is time to ask, or the answer has not come in time.
                    if waiting_for_pong {
                        return Ended::Failed(ConnectionError::PeerGone);
                    }
                    if pings.send_ping(h2::Ping::opaque()).is_err() {
                        return Ended::Closed;
                    }
                    waiting_for_pong = true;
                    next_ping = Instant::now() + limits.ping_timeout;
                }
                () = drain.cancelled(), if matches!(closing, None | Some((_, Closing::Quiet | Closing::Expired))) => {
                    http2.graceful_shutdown();
                    closing = Some((Instant::now() + limits.drain, Closing::Drain));
                }
                () = sleep_until(quiet_until), if idle && closing.is_none() => {
                    // A stream that crosses this on its way may still run to its end.
                    http2.graceful_shutdown();
                    closing = Some((Instant::now() + FOREVER, Closing::Quiet));
                }
                () = sleep_until(end) => match closing {
                    Some((_, Closing::Drain)) => return Ended::Drained,
                    Some((_, Closing::Resets)) => return Ended::Failed(too_many_resets()),
                    Some((_, Closing::Quiet | Closing::Expired)) => return Ended::Closed,
                    None => {
                        // A certificate has ended: no new streams, those that run may go on.
                        http2.graceful_shutdown();
                        closing = Some((Instant::now() + FOREVER, Closing::Expired));
                    }
                },
            }
        }
    }

    fn incoming(&self, request: Request<RecvStream>, respond: SendResponse<Bytes>) -> Incoming {
        let (peer, resets) = (self.peer.id().clone(), Rc::clone(&self.resets));
        let handshake = self.handshake.take();
        Incoming { peer, handshake, request, respond, resets, cut: self.cut.clone() }
    }

    /// What an error of the connection means: a fault that our side found in the peer counts, the
    /// socket's end or the peer's own farewell does not.
    fn failed(&self, error: h2::Error, closing: Option<(Instant, Closing)>) -> Ended {
        if is_resets(closing) {
            return Ended::Failed(too_many_resets());
        }
        if error.is_library() {
            return Ended::Failed(ConnectionError::Misuse(error));
        }
        tracing::debug!(peer = %self.peer.id(), %error, "HBONE connection broke");
        Ended::Closed
    }
}

fn is_resets(closing: Option<(Instant, Closing)>) -> bool {
    matches!(closing, Some((_, Closing::Resets)))
}

fn too_many_resets() -> ConnectionError {
    ConnectionError::Limit { limit: "earlyResets" }
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
