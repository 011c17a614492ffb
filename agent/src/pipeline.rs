//! READ FIRST: the life of one connection, outbound and inbound.
//!
//! ```text
//!  outbound   captured ─▶ known? ─▶ policy::outbound ─┬─ Tunnel ──▶ SVID ─▶ pool ─▶ CONNECT ─▶ relay
//!                                                     ├─ Passthrough ─▶ connect ─▶ relay
//!                                                     └─ Refuse ─▶ reset
//!  inbound    HBONE: SVID ─▶ handshake ─▶ each stream: right workload? policy::inbound?
//!                                           ├─ Allow ─▶ deliver as the source ─▶ 200 ─▶ relay
//!                                           └─ Refuse ─▶ 400 or 401
//!             plaintext: policy::inbound ─┬─ Allow ─▶ deliver ─▶ relay
//!                                         └─ Refuse ─▶ reset
//! ```
//!
//! Whatever ends a flow other than its own two ends is a reset to the application, never an
//! orderly close: data cut short must not look complete. [`Guarded`] sees to that on every path,
//! also when the future is dropped.

use std::{net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use culvert_common::maps::HBONE_PORT;
use culvert_spiffe::SpiffeId;
use futures_util::future::{Either, select};
use tokio::{net::TcpStream, sync::watch};
use tokio_util::sync::CancellationToken;

use crate::{
    capture::{Captured, Lost, Pod, Via, close_in_order, reset},
    identity::IdentityStore,
    observe::{
        FlowLabels, Metrics, OpenFlow, Party, Path, Reason, Reporter, Security, ServiceName, Trace,
        TraceParent,
    },
    policy::{self, ILLEGAL_PORTS, Inbound, InboundFlow, Outbound, OutboundFlow, Refusal},
    tunnel::{
        Incoming, Pool, Route, Server, StreamError,
        hbone::{self, Refused},
        relay,
    },
    workload::{Service, Snapshot, Workload},
};

/// How long a flow waits for news of a destination that may be a pod's: more than the API server
/// takes to tell of a new pod, less than anybody minds.
const NEWS_WAIT: Duration = Duration::from_secs(1);

/// What a worker's flows pass through.
pub struct Stages {
    /// The mesh as it is now.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// SVIDs of local workloads.
    pub identity: IdentityStore,
    /// Where flows are counted and logged.
    pub metrics: Metrics,
    /// HBONE connections to other workloads.
    pub pool: Pool,
    /// Accepted HBONE connections.
    pub server: Rc<Server>,
    /// Cancelled when the agent is told to stop.
    pub drain: CancellationToken,
}

impl Stages {
    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshots.borrow())
    }
}

/// An application's end of a flow: reset when closed, unless the flow came to its own end.
///
/// Capture makes every connection so; it is not asked for when something fails, because the kernel
/// must do it also when the agent is killed: a FIN would make half of a download look complete.
struct Guarded(TcpStream);

impl Guarded {
    fn new(stream: TcpStream) -> Self {
        Self(stream)
    }

    fn socket(&self) -> &TcpStream {
        &self.0
    }

    /// Both directions have ended in order.
    fn complete(self) {
        close_in_order(&self.0);
    }
}

/// A local workload's own connection, from its capture to its last byte.
pub async fn outbound(captured: Captured, stages: &Stages) {
    let Some(snapshot) = informed(&captured, stages).await else {
        // The application has given up before it was known where to.
        return reset(captured.stream);
    };
    let source = current(&snapshot, &captured.pod);
    let decision = policy::outbound(
        &snapshot,
        &OutboundFlow {
            source: &source,
            client: captured.source.ip(),
            destination: captured.original_dst,
            draw: rand::random(),
        },
    );
    stages.metrics.decided(Reporter::Source, decision.labels());
    let to = match &decision {
        Outbound::Tunnel { to, .. } | Outbound::Passthrough { to, .. } => *to,
        Outbound::Refuse(_) => captured.original_dst,
    };
    let labels = FlowLabels {
        source: party(&source),
        destination: snapshot.by_address(to.ip()).map(|w| party(w)).unwrap_or_default(),
        service: snapshot.services().by_address(captured.original_dst.ip()).map(|s| dialled(s)),
        ..FlowLabels::unknown(Reporter::Source, captured.source, to)
    };
    match decision {
        Outbound::Tunnel { destination, to } => {
            through_tunnel(captured, stages, &source, (&destination, to), labels).await;
        }
        Outbound::Passthrough { to, .. } => passthrough(captured, to, stages, labels).await,
        Outbound::Refuse(refusal) => {
            refused(stages, labels, &refusal);
            reset(captured.stream);
        }
    }
}

/// The mesh as it is when its destination is known, or when [`NEWS_WAIT`] is over. Nothing if the
/// application resets its connection meanwhile.
async fn informed(captured: &Captured, stages: &Stages) -> Option<Arc<Snapshot>> {
    let snapshot = stages.snapshot();
    if !policy::awaits_news(&snapshot, captured.original_dst) {
        return Some(snapshot);
    }
    let mut snapshots = stages.snapshots.clone();
    let known = async {
        let known = snapshots.wait_for(|now| !policy::awaits_news(now, captured.original_dst));
        // What it saw is read again below; the source of the snapshots ends only with the agent.
        drop(known.await);
    };
    let waited = std::pin::pin!(tokio::time::timeout(NEWS_WAIT, known));
    match select(waited, std::pin::pin!(relay::failure(&captured.stream))).await {
        Either::Left(_) => Some(stages.snapshot()),
        Either::Right(((), _)) => None,
    }
}

async fn through_tunnel(
    captured: Captured,
    stages: &Stages,
    source: &Workload,
    (destination, target): (&Workload, SocketAddr),
    mut labels: FlowLabels,
) {
    let to = SocketAddr::new(target.ip(), HBONE_PORT);
    labels.destination_address = to;
    labels.hbone_address = Some(target);
    labels.path = Path::Tunnel;
    let application = Guarded::new(captured.stream);
    let svid = match stages.identity.svid(&source.identity).await {
        Ok(svid) => svid,
        Err(error) => return stages.metrics.refuse(labels, Reason::NoIdentity, &error),
    };
    let route = Route {
        source: captured.source.ip(),
        pod: captured.pod,
        svid,
        expected: destination.identity.clone(),
        to,
    };
    let trace = TraceParent {
        trace_id: rand::random::<u128>() | 1,
        parent_id: rand::random::<u64>() | 1,
        sampled: stages.metrics.draws(rand::random()),
    };
    let request = hbone::request(captured.source, target, trace);
    let open = std::pin::pin!(stages.pool.open(&route, &request));
    let opened = match select(open, std::pin::pin!(relay::failure(application.socket()))).await {
        Either::Left((opened, _)) => opened,
        Either::Right(((), _)) => Err(StreamError::ApplicationReset),
    };
    let stream = match opened {
        Ok(stream) => stream,
        Err(error) => {
            let (metrics, reason) = (&stages.metrics, error.reason());
            return metrics.refuse_traced(labels, trace.client(), reason, &error);
        }
    };
    // Only now has the handshake proved both.
    labels.source_principal = Some(source.identity.clone());
    labels.destination_principal = Some(destination.identity.clone());
    labels.security = Security::MutualTls;
    let flow = stages.metrics.open(labels).traced(trace.client());
    if let Some(took) = stream.handshake() {
        flow.handshake(took);
    }
    let (send, receive, place) = stream.into_parts();
    let ended = relay::stream(application.socket(), send, receive, &flow).await;
    close(flow, ended.map_err(|seen| place.explain(seen)), [application]);
}

async fn passthrough(captured: Captured, to: SocketAddr, stages: &Stages, labels: FlowLabels) {
    let application = Guarded::new(captured.stream);
    let other = match captured.pod.connect(to).await {
        Ok(other) => Guarded::new(other),
        Err(error) => {
            let error = StreamError::connect(to, error);
            return stages.metrics.refuse(labels, error.reason(), &error);
        }
    };
    let flow = stages.metrics.open(labels);
    let ended = relay::sockets(application.socket(), other.socket(), &flow).await;
    close(flow, ended, [application, other]);
}

/// A connection from outside to a local workload that is not HBONE.
pub async fn plaintext(captured: Captured, stages: &Stages) {
    let snapshot = stages.snapshot();
    let destination = current(&snapshot, &captured.pod);
    let (source, to) = (captured.source, captured.original_dst);
    let from_node = captured.from_node;
    let labels = FlowLabels {
        source: snapshot.by_address(source.ip()).map(|w| party(w)).unwrap_or_default(),
        destination: party(&destination),
        from_node,
        service: snapshot.services().behind(to).map(|s| dialled(s)),
        ..FlowLabels::unknown(Reporter::Destination, source, to)
    };
    let decide = |snapshot: &Snapshot, decide: Decide| {
        let destination = &current(snapshot, &captured.pod);
        decide(snapshot, &InboundFlow { destination, to, source, peer: None, from_node })
    };
    let decision = decide(&snapshot, at_first);
    stages.metrics.decided(Reporter::Destination, decision.labels());
    if let Inbound::Refuse(refusal) = decision {
        refused(stages, labels, &refusal);
        return reset(captured.stream);
    }
    let outside = Guarded::new(captured.stream);
    let application = match captured.pod.deliver(source.ip(), to, Via::Plaintext).await {
        Ok(application) => Guarded::new(application),
        Err(error) => {
            let error = StreamError::connect(to, error);
            return stages.metrics.refuse(labels, error.reason(), &error);
        }
    };
    let flow = stages.metrics.open(labels);
    let relayed = relay::sockets(application.socket(), outside.socket(), &flow);
    match until_refused(relayed, stages, &captured.pod, decide).await {
        Ok(ended) => close(flow, ended, [application, outside]),
        Err(refusal) => flow.close(Reason::PolicyChanged, Some(&refusal)),
    }
}

/// A connection from outside to a local workload's HBONE port: many flows.
pub async fn hbone(captured: Captured, stages: Rc<Stages>) {
    let identity = captured.pod.workload().identity.clone();
    let (source, to) = (captured.source, captured.original_dst);
    let early = |reason, error: &(dyn std::error::Error + 'static)| {
        stages.metrics.fail_early(&arriving(&stages, &captured.pod, source, to), reason, error);
    };
    let svid = match stages.identity.svid(&identity).await {
        Ok(svid) => svid,
        Err(error) => {
            early(Reason::NoIdentity, &error);
            return reset(captured.stream);
        }
    };
    // Tunnels say themselves whether what they carry is whole.
    close_in_order(&captured.stream);
    let serve = |incoming| {
        let flow = Tunnelled { pod: Arc::clone(&captured.pod), source, connection: to };
        flow.serve(incoming, Rc::clone(&stages))
    };
    let served = stages.server.run(captured.stream, source, svid, &stages.drain, serve).await;
    if let Err(error) = served {
        early(error.reason(), &error);
    }
}

/// A connection whose original destination the kernel could not tell.
pub fn lost(stages: &Stages, lost: &Lost) {
    #[derive(Debug, thiserror::Error)]
    #[error(
        "no original destination for this connection; if this stays, see culvert_capture_events_total"
    )]
    struct NoOriginalDestination;
    let reason = Reason::NoOriginalDestination;
    let labels = FlowLabels::unknown(Reporter::Source, lost.source, lost.source);
    stages.metrics.fail_early(&labels, reason, &NoOriginalDestination);
}

/// What the addresses of a connection from outside tell of its ends; they prove nothing.
fn arriving(stages: &Stages, pod: &Pod, source: SocketAddr, to: SocketAddr) -> FlowLabels {
    let snapshot = stages.snapshot();
    FlowLabels {
        source: snapshot.by_address(source.ip()).map(|w| party(w)).unwrap_or_default(),
        destination: party(&current(&snapshot, pod)),
        ..FlowLabels::unknown(Reporter::Destination, source, to)
    }
}

/// One flow of an accepted HBONE connection.
struct Tunnelled {
    pod: Arc<Pod>,
    /// The connection's other end: the source workload, whose address the application is to see.
    source: SocketAddr,
    /// Our end of the connection.
    connection: SocketAddr,
}

impl Tunnelled {
    async fn serve(self, mut incoming: Incoming, stages: Rc<Stages>) {
        let to = match self.target(&incoming) {
            Ok(to) => to,
            Err((reason, error)) => {
                let labels = arriving(&stages, &self.pod, self.source, self.connection);
                stages.metrics.fail_early(&labels, reason, &error);
                return incoming.refuse(Refused::BadRequest);
            }
        };
        let snapshot = stages.snapshot();
        let peer = incoming.peer.clone();
        let labels = self.labels(&snapshot, &peer, to);
        let trace: Option<Trace> = incoming.trace().and_then(|asked| asked.server(rand::random()));
        let decide = |snapshot: &Snapshot, decide: Decide| {
            let destination = &current(snapshot, &self.pod);
            let (source, peer) = (self.source, Some(&peer));
            decide(snapshot, &InboundFlow { destination, to, source, peer, from_node: false })
        };
        let decision = decide(&snapshot, at_first);
        stages.metrics.decided(Reporter::Destination, decision.labels());
        if let Inbound::Refuse(refusal) = decision {
            stages.metrics.refuse_traced(labels, trace, refusal.reason, &refusal);
            return incoming.refuse(Refused::Denied);
        }
        let delivered = {
            let deliver = std::pin::pin!(self.pod.deliver(self.source.ip(), to, Via::Tunnel));
            match select(deliver, std::pin::pin!(incoming.given_up())).await {
                Either::Left((delivered, _)) => {
                    delivered.map_err(|error| StreamError::connect(to, error))
                }
                Either::Right(((), _)) => Err(StreamError::PeerReset),
            }
        };
        let application = match delivered {
            Ok(application) => Guarded::new(application),
            Err(error) => {
                stages.metrics.refuse_traced(labels, trace, error.reason(), &error);
                return incoming.refuse(Refused::Unavailable);
            }
        };
        let (cut, handshake) = (incoming.cut(), incoming.handshake);
        let (send, receive) = match incoming.accept() {
            Ok(stream) => stream,
            Err(error) => return stages.metrics.refuse(labels, error.reason(), &error),
        };
        let flow = stages.metrics.open(labels).traced(trace);
        if let Some(took) = handshake {
            flow.handshake(took);
        }
        let relayed = relay::stream(application.socket(), send, receive, &flow);
        match until_refused(relayed, &stages, &self.pod, decide).await {
            Ok(ended) => close(flow, ended.map_err(|seen| cut.explain(seen)), [application]),
            Err(refusal) => flow.close(Reason::PolicyChanged, Some(&refusal)),
        }
    }

    /// Where the request goes; only ever to the workload that the connection arrived at.
    fn target(&self, incoming: &Incoming) -> Result<SocketAddr, (Reason, TargetError)> {
        let to =
            incoming.target().map_err(|error| (Reason::BadRequest, TargetError::Request(error)))?;
        let workload = self.pod.workload();
        // The very address that the connection came to: another of the same workload may be of
        // the other family, and then the source could not be shown.
        if to.ip() != self.connection.ip() {
            let workload = workload.key().to_string();
            return Err((Reason::WrongDestination, TargetError::Elsewhere { to, workload }));
        }
        if ILLEGAL_PORTS.contains(&to.port()) {
            return Err((Reason::IllegalPort, TargetError::IllegalPort { to }));
        }
        Ok(to)
    }

    fn labels(&self, snapshot: &Snapshot, peer: &SpiffeId, to: SocketAddr) -> FlowLabels {
        let destination = current(snapshot, &self.pod);
        // The address alone proves nothing: name a workload only if it is the peer's.
        let source = snapshot.by_address(self.source.ip()).filter(|w| w.identity == *peer);
        FlowLabels {
            source: source.map(|workload| party(workload)).unwrap_or_default(),
            destination: party(&destination),
            service: snapshot.services().behind(to).map(|s| dialled(s)),
            source_principal: Some(peer.clone()),
            destination_principal: Some(destination.identity.clone()),
            security: Security::MutualTls,
            path: Path::Tunnel,
            hbone_address: Some(to),
            ..FlowLabels::unknown(Reporter::Destination, self.source, self.connection)
        }
    }
}

/// Why a request is not for us.
#[derive(Debug, thiserror::Error)]
enum TargetError {
    #[error(transparent)]
    Request(hbone::BadRequest),
    #[error(
        "request is for {to}, not the address of {workload} that it came to; an agent forwards to no third place"
    )]
    Elsewhere { to: SocketAddr, workload: String },
    #[error("request is for {to}, a port of the mesh itself")]
    IllegalPort { to: SocketAddr },
}

/// One of the ways to ask about an inbound flow.
type Decide = fn(&Snapshot, &InboundFlow<'_>) -> Inbound;

/// Decides a flow that has just come, and tells of policies in a dry run that would refuse it.
fn at_first(snapshot: &Snapshot, flow: &InboundFlow<'_>) -> Inbound {
    let decision = policy::inbound(snapshot, flow);
    if let (Inbound::Allow(_), Some(rule)) = (&decision, policy::would_refuse(snapshot, flow)) {
        let peer = flow.peer.map_or("none", SpiffeId::as_str);
        tracing::info!(
            source = %flow.source, to = %flow.to, peer, %rule,
            "a policy in a dry run would refuse"
        );
    }
    decision
}

/// Runs `relayed`, and ends it as soon as a new snapshot refuses the flow.
async fn until_refused<T>(
    relayed: impl Future<Output = T>,
    stages: &Stages,
    pod: &Pod,
    decide: impl Fn(&Snapshot, Decide) -> Inbound,
) -> Result<T, Refusal> {
    let mut snapshots = stages.snapshots.clone();
    let refusal = async {
        let mut last = None;
        loop {
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            // Most snapshots are about other pods, and there may be many flows.
            let decisive = (Arc::clone(snapshot.policies()), current(&snapshot, pod));
            let same = last.as_ref().is_some_and(|(policies, workload)| {
                Arc::ptr_eq(policies, &decisive.0) && Arc::ptr_eq(workload, &decisive.1)
            });
            if !same && let Inbound::Refuse(refusal) = decide(&snapshot, policy::inbound) {
                return refusal;
            }
            last = Some(decisive);
            // The snapshots' source ends only with the agent.
            if snapshots.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    match select(std::pin::pin!(relayed), std::pin::pin!(refusal)).await {
        Either::Left((ended, _)) => Ok(ended),
        Either::Right((refusal, _)) => Err(refusal),
    }
}

/// Counts and logs the end of a flow, and closes its sockets in order if it ended in order.
fn close<const N: usize>(flow: OpenFlow, ended: Result<(), StreamError>, sockets: [Guarded; N]) {
    match ended {
        Ok(()) => {
            sockets.into_iter().for_each(Guarded::complete);
            flow.close(Reason::Ok, None);
        }
        Err(error) => flow.close(error.reason(), Some(&error)),
    }
}

fn refused(stages: &Stages, labels: FlowLabels, refusal: &Refusal) {
    stages.metrics.refuse(labels, refusal.reason, refusal);
}

/// The pod's workload as the snapshot has it now: labels may have changed since it was enrolled.
fn current(snapshot: &Snapshot, pod: &Pod) -> Arc<Workload> {
    let enrolled = pod.workload();
    Arc::clone(snapshot.by_key(&enrolled.key()).unwrap_or(enrolled))
}

fn party(workload: &Workload) -> Party {
    Party::workload(&workload.namespace, &workload.name, &workload.labels)
}

/// The Service that was dialled or, at the destination, which is not told, the one that it stands
/// behind.
fn dialled(service: &Service) -> ServiceName {
    ServiceName::new(&service.namespace, &service.name)
}
