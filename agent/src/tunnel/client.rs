//! The outbound end: HBONE connections, pooled by who talks to whom.
//!
//! ```text
//!  open ──▶ a live connection with room? ──▶ CONNECT ──▶ 200 ──▶ stream
//!               │ no                            ▲
//!               └──▶ connecting (shared by all that wait for it) ──▶ driver task
//! ```
//!
//! A connection belongs to one source workload and identity and one destination workload and
//! identity: the certificate is the caller's name, and the address it comes from is what the
//! other end shows its application. A pool belongs to one worker.
//!
//! A flow goes over a connection that was made with its own SVID or a newer one: after a renewal
//! the next flow opens a connection, and the one before closes once its last stream has ended. So
//! the newest certificate counts at once, and a connection takes no new streams after the end of
//! either certificate. One that rests on a revoked root is closed with its streams.

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
use futures_util::{
    FutureExt as _,
    future::{LocalBoxFuture, Shared},
};
use h2::{RecvStream, SendStream, client::SendRequest};
use http::{Request, StatusCode};
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Instant, timeout},
};

use super::{
    Limits, StreamError,
    metrics::{End, TunnelMetrics},
    read_ahead::ReadAhead,
};
use crate::{
    capture::{Pod, close_in_order},
    identity::{Svid, handshake},
};

/// How often connections that nobody uses are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(15);
/// How often a request is tried on another connection, when the first one turns out to be closing.
const RETRIES: usize = 2;

/// From whom to whom a flow goes, and how to get there.
#[derive(Clone)]
pub struct Route {
    /// The source workload, to dial from.
    pub pod: Arc<Pod>,
    /// The source's SVID.
    pub svid: Arc<Svid>,
    /// Address of the source workload that the connection comes from.
    pub source: IpAddr,
    /// The identity that the other end must prove.
    pub expected: SpiffeId,
    /// The destination workload's address and HBONE port.
    pub to: SocketAddr,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    source: IpAddr,
    source_id: SpiffeId,
    expected: SpiffeId,
    to: SocketAddr,
}

/// An open flow: bytes for the other end, and from it.
pub struct Stream {
    send: SendStream<Bytes>,
    receive: RecvStream,
    place: Place,
    handshake: Option<Duration>,
}

impl Stream {
    /// How long the handshake of its connection took, if it is the first on it.
    pub fn handshake(&self) -> Option<Duration> {
        self.handshake
    }

    /// Both directions, and the place that must be kept as long as they are used.
    pub fn into_parts(self) -> (SendStream<Bytes>, RecvStream, Place) {
        (self.send, self.receive, self.place)
    }
}

/// A stream's place on its connection, given back when dropped.
pub struct Place(Rc<Connection>);

impl Place {
    /// The connection's reason in place of a reset that the stream saw.
    pub fn explain(&self, seen: StreamError) -> StreamError {
        match (&seen, self.0.cut.get()) {
            (StreamError::PeerReset, Some(known)) => known.clone(),
            _ => seen,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let left = self.0.streams.get() - 1;
        self.0.streams.set(left);
        if left == 0 {
            self.0.idle_since.set(Instant::now());
        }
    }
}

/// One HBONE connection.
struct Connection {
    requests: SendRequest<Bytes>,
    streams: Cell<u32>,
    idle_since: Cell<Instant>,
    ended: Cell<bool>,
    /// Why it ended, where that is known better here than by its streams.
    cut: OnceCell<StreamError>,
    /// How long its handshake took, for the first stream to say.
    handshake: Cell<Option<Duration>>,
    /// When the SVID was made that it was opened with.
    svid_made: std::time::Instant,
    /// Seconds since 1970 at which own or peer's certificate ends.
    not_after: u64,
}

impl Connection {
    /// Whether it was opened with this SVID or a newer one, and has not ended.
    fn is_current(&self, svid: &Svid) -> bool {
        !self.ended.get() && self.svid_made >= svid.made()
    }

    fn takes_more(&self, limits: &Limits) -> bool {
        // A certificate's end is a wall-clock time.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        !self.ended.get()
            && self.streams.get() < limits.streams_per_connection
            && now < self.not_after
    }

    fn place(self: &Rc<Self>) -> Place {
        self.streams.set(self.streams.get() + 1);
        Place(Rc::clone(self))
    }
}

type Outcome = Result<Rc<Connection>, StreamError>;
type Connecting = Shared<LocalBoxFuture<'static, Outcome>>;

#[derive(Default)]
struct Entry {
    live: Vec<Rc<Connection>>,
    /// The attempt under way; all flows that found no room wait for it.
    connecting: Option<Connecting>,
}

/// The connections of one worker.
pub struct Pool(Rc<Inner>);

struct Inner {
    limits: Rc<Limits>,
    metrics: TunnelMetrics,
    entries: RefCell<HashMap<Key, Entry>>,
    /// Attempts and drivers of the connections; ended with the pool.
    tasks: RefCell<JoinSet<()>>,
}

impl Pool {
    /// An empty pool.
    pub fn new(limits: Rc<Limits>, metrics: TunnelMetrics) -> Self {
        let (entries, tasks) = (RefCell::default(), RefCell::default());
        Self(Rc::new(Inner { limits, metrics, entries, tasks }))
    }

    /// Opens a flow: `request` is sent on a pooled connection of `route`, or on a new one.
    ///
    /// Cancel safe: dropped, the stream is reset; an attempt that others wait for goes on.
    ///
    /// # Errors
    /// [`StreamError`]; no byte of the application was consumed.
    pub async fn open(&self, route: &Route, request: &Request<()>) -> Result<Stream, StreamError> {
        let mut tries = 0;
        loop {
            let (connection, place) = self.connection(route).await?;
            match self.send(route, &connection, request).await {
                Ok((send, receive)) => {
                    let handshake = connection.handshake.take();
                    return Ok(Stream { send, receive, place, handshake });
                }
                // The connection was closing as we took it: nothing was processed.
                Err(StreamError::Http2 { source, .. })
                    if tries < RETRIES && never_processed(&source) =>
                {
                    connection.ended.set(true);
                    tries += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn send(
        &self,
        route: &Route,
        connection: &Connection,
        request: &Request<()>,
    ) -> Result<(SendStream<Bytes>, RecvStream), StreamError> {
        let to = route.to;
        let failed = |source: h2::Error| StreamError::Http2 { to, source: Arc::new(source) };
        let exchange = async {
            let mut requests = connection.requests.clone().ready().await.map_err(failed)?;
            let (response, send) = requests.send_request(request.clone(), false).map_err(failed)?;
            Ok((response.await.map_err(failed)?, send))
        };
        let (response, send) = timeout(self.0.limits.response, exchange)
            .await
            .unwrap_or(Err(StreamError::NoAnswer { to }))?;
        let status = response.status();
        if status != StatusCode::OK {
            return Err(StreamError::Refused {
                to,
                refused: status.into(),
                status: status.as_u16(),
            });
        }
        Ok((send, response.into_body()))
    }

    /// A connection with room, and a place on it.
    async fn connection(&self, route: &Route) -> Result<(Rc<Connection>, Place), StreamError> {
        let key = Key {
            source: route.source,
            source_id: route.svid.id().clone(),
            expected: route.expected.clone(),
            to: route.to,
        };
        let mut waits = None;
        loop {
            let attempt = {
                let mut entries = self.0.entries.borrow_mut();
                let entry = entries.entry(key.clone()).or_default();
                entry.live.retain(|connection| connection.is_current(&route.svid));
                if let Some(found) =
                    entry.live.iter().find(|found| found.takes_more(&self.0.limits))
                {
                    self.0.metrics.placed(waits.is_some());
                    return Ok((Rc::clone(found), found.place()));
                }
                self.attempt(&key, entry, route)?
            };
            waits.get_or_insert_with(|| self.0.metrics.waits());
            // Those that find the new connection full come round and start the next.
            attempt.await?;
        }
    }

    /// The attempt under way, or a new one. It runs as a task of its own, so that it goes on when
    /// the flow that began it is given up.
    fn attempt(
        &self,
        key: &Key,
        entry: &mut Entry,
        route: &Route,
    ) -> Result<Connecting, StreamError> {
        if let Some(under_way) = &entry.connecting {
            return Ok(under_way.clone());
        }
        if entry.live.len() >= self.0.limits.connections_per_pair {
            let limit = "connectionsPerPair";
            self.0.metrics.limit_reached(limit);
            return Err(StreamError::Limit { limit });
        }
        let (inner, route, key) = (Rc::clone(&self.0), route.clone(), key.clone());
        let attempt = async move {
            let outcome = inner.connect(route).await;
            inner.file(&key, &outcome);
            outcome
        };
        let attempt = attempt.boxed_local().shared();
        entry.connecting = Some(attempt.clone());
        self.0.tasks.borrow_mut().spawn_local(attempt.clone().map(drop));
        Ok(attempt)
    }

    /// Closes connections that have had no stream for the idle time; runs until dropped.
    pub async fn sweep(&self) {
        let mut interval = tokio::time::interval(SWEEP_INTERVAL);
        loop {
            interval.tick().await;
            let idle = self.0.limits.idle;
            self.0.entries.borrow_mut().retain(|_, entry| {
                entry.live.retain(|connection| {
                    let used = connection.streams.get() > 0;
                    !connection.ended.get()
                        && (used || connection.idle_since.get().elapsed() < idle)
                });
                !entry.live.is_empty() || entry.connecting.is_some()
            });
            while self.0.tasks.borrow_mut().try_join_next().is_some() {}
        }
    }

    /// Lets go of the connections that come from one of these addresses: their workload has left
    /// the mesh, and they must not keep its namespace alive.
    pub fn leave(&self, sources: &[IpAddr]) {
        self.0.entries.borrow_mut().retain(|key, _| !sources.contains(&key.source));
    }

    /// Lets go of every connection: each closes in order once its last stream has ended.
    pub fn drain(&self) {
        for entry in self.0.entries.borrow_mut().values_mut() {
            entry.live.clear();
        }
    }

    /// Lets go of every connection and waits until each has closed: what its last streams had to
    /// say, their ends too, has been written then.
    pub async fn closed(&self) {
        self.drain();
        // Taken out, because the cell must not be borrowed while waiting.
        let mut tasks = std::mem::take(&mut *self.0.tasks.borrow_mut());
        while tasks.join_next().await.is_some() {}
    }
}

impl Inner {
    /// Puts the outcome of an attempt in its place.
    fn file(&self, key: &Key, outcome: &Outcome) {
        let mut entries = self.entries.borrow_mut();
        let Some(entry) = entries.get_mut(key) else { return };
        entry.connecting = None;
        if let Ok(connection) = outcome {
            entry.live.push(Rc::clone(connection));
        }
        if entry.live.is_empty() {
            entries.remove(key);
        }
    }

    async fn connect(&self, route: Route) -> Outcome {
        let (to, limits) = (route.to, &self.limits);
        let socket =
            route.pod.connect(to).await.map_err(|error| StreamError::connect(to, error))?;
        // A tunnel says itself whether what it carries is whole.
        close_in_order(&socket);
        let began = Instant::now();
        let (tls, peer) = handshake::connect(&route.svid, &route.expected, ReadAhead::new(socket))
            .await
            .map_err(|error| StreamError::Handshake { to, source: Arc::new(error) })?;
        let handshake = began.elapsed();
        let (requests, connection) = h2::client::Builder::new()
            .enable_push(false)
            .initial_window_size(limits.stream_window)
            .initial_connection_window_size(limits.connection_window())
            .max_frame_size(limits.frame_size)
            .max_header_list_size(limits.header_list_size)
            .max_send_buffer_size(limits.stream_window as usize)
            .handshake(tls)
            .await
            .map_err(|error| StreamError::Http2 { to, source: Arc::new(error) })?;
        let handle = Rc::new(Connection {
            requests,
            streams: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
            ended: Cell::new(false),
            cut: OnceCell::new(),
            handshake: Cell::new(Some(handshake)),
            svid_made: route.svid.made(),
            not_after: route.svid.not_after().as_secs().min(peer.not_after().as_secs()),
        });
        tracing::debug!(source = %route.svid.id(), destination = %peer.id(), %to, "HBONE connection opened");
        self.drive(connection, &handle, route.svid, &peer);
        Ok(handle)
    }

    /// Starts the task that moves the connection's frames.
    fn drive(
        &self,
        connection: Http2,
        handle: &Rc<Connection>,
        svid: Arc<Svid>,
        peer: &VerifiedPeer,
    ) {
        let (peer, root) = (peer.id().clone(), peer.root());
        // Weak: the connection closes in order when pool and streams have let go of it.
        let ended = Rc::downgrade(handle);
        let limits = Rc::clone(&self.limits);
        let counted = self.metrics.connection(End::Client);
        let metrics = self.metrics.clone();
        self.tasks.borrow_mut().spawn_local(async move {
            let driven = drive(connection, &limits, svid.revoked(root), || {
                if let Some(handle) = ended.upgrade() {
                    handle.ended.set(true);
                    let _ = handle.cut.set(StreamError::RootRevoked); // set here only, once
                }
            });
            let outcome = driven.await;
            if let Some(handle) = ended.upgrade() {
                handle.ended.set(true);
            }
            drop(counted);
            if outcome == REVOKED {
                metrics.revoked(End::Client);
                tracing::warn!(source = %svid.id(), destination = %peer, "HBONE connection closed: a root that it rests on was revoked");
            }
            tracing::debug!(source = %svid.id(), destination = %peer, outcome, "HBONE connection ended");
        });
    }
}

type Http2 = h2::client::Connection<tokio_rustls::client::TlsStream<ReadAhead<TcpStream>>>;

/// Outcome of a connection that was closed because of a revoked root.
const REVOKED: &str = "root revoked";

/// Runs the connection to its end; a peer that answers no PING is gone. `cut` is called while the
/// streams still live, when `revoked` ends the connection.
async fn drive(
    mut connection: Http2,
    limits: &Limits,
    revoked: impl Future<Output = ()>,
    cut: impl FnOnce(),
) -> &'static str {
    let Some(mut pings) = connection.ping_pong() else { return "no ping" };
    let alive = async {
        loop {
            tokio::time::sleep(limits.ping_interval).await;
            let answered = timeout(limits.ping_timeout, pings.ping(h2::Ping::opaque())).await;
            if !matches!(answered, Ok(Ok(_))) {
                return;
            }
        }
    };
    tokio::select! {
        // Whatever ends first ends the connection; order cannot matter.
        ended = &mut connection => if ended.is_ok() { "closed" } else { "failed" },
        () = alive => "peer gone",
        () = revoked => {
            // Before the connection goes, so that its streams find the reason.
            cut();
            REVOKED
        }
    }
}

/// Whether the other end has certainly not seen the request.
fn never_processed(error: &h2::Error) -> bool {
    error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR)
        || error.reason() == Some(h2::Reason::REFUSED_STREAM)
        || error.is_library() && error.get_io().is_none() && error.reason().is_none()
        || error.get_io().is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
}
