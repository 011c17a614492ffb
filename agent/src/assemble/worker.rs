//! Workers: one thread and one event loop a core, a flow handled on one of them from its first
//! byte to its last.
//!
//! ```text
//!  enrolment ── Serve ──▶ worker ── a task a listener ── a task a flow ──▶ pipeline
//! ```
//!
//! Control work (authority, files, metrics) runs elsewhere and never delays a flow.

use std::{io, rc::Rc, sync::Arc, thread, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::{JoinError, JoinSet, LocalSet},
};
use tokio_util::sync::CancellationToken;

use crate::{
    capture::{Acceptor, Captured, Kind, Listener, Lost, Pod, reset},
    identity::IdentityStore,
    observe::{Metrics, Pulse, Pulses},
    pipeline::{self, Stages},
    tunnel::{Limits, Pool, Server, TunnelMetrics},
    workload::Snapshot,
};

/// Workloads that wait to be served, a worker; more make the enrolment wait.
const QUEUE: usize = 256;
/// Flows of one workload on one listener of one worker; more wait in the kernel's backlog.
const FLOWS_PER_LISTENER: usize = 16_384;

/// A workload to be served from now on.
pub(super) struct Serve {
    pub(super) pod: Arc<Pod>,
    pub(super) listeners: Vec<Listener>,
    /// Cancelled when the workload leaves the mesh: its flows are reset.
    pub(super) live: CancellationToken,
    /// Cancelled when these listeners have others in their place: they close, their flows go on.
    pub(super) retired: CancellationToken,
}

/// What every worker is given.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(super) identity: IdentityStore,
    pub(super) metrics: Metrics,
    pub(super) tunnel: TunnelMetrics,
    pub(super) limits: Limits,
    pub(super) pulses: Pulses,
    /// Cancelled when the agent is told to stop: no new flows, those that run get
    /// [`Limits::drain`].
    pub(super) drain: CancellationToken,
}

/// The worker threads.
pub(super) struct Workers {
    queues: Vec<mpsc::Sender<Serve>>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Workers {
    /// Starts `count` workers.
    pub(super) fn start(count: u16, shared: &Shared) -> io::Result<Self> {
        let (mut queues, mut threads) = (Vec::new(), Vec::new());
        for worker in 0..count {
            let (queue, work) = mpsc::channel(QUEUE);
            let shared = shared.clone();
            let name = format!("worker-{worker}");
            let pulse = shared.pulses.add(&name);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let thread = thread::Builder::new()
                .name(name)
                .spawn(move || LocalSet::new().block_on(&runtime, run(shared, work, pulse)))?;
            queues.push(queue);
            threads.push(thread);
        }
        Ok(Self { queues, threads })
    }

    /// Hands each worker its listeners of a newly enrolled workload.
    ///
    /// # Errors
    /// A worker has died.
    pub(super) async fn serve(
        &self,
        pod: &Arc<Pod>,
        listeners: Vec<Listener>,
        live: &CancellationToken,
        retired: &CancellationToken,
    ) -> anyhow::Result<()> {
        let mut shares: Vec<Vec<Listener>> = self.queues.iter().map(|_| Vec::new()).collect();
        for listener in listeners {
            shares[usize::from(listener.worker)].push(listener);
        }
        for (queue, listeners) in self.queues.iter().zip(shares) {
            let (pod, live, retired) = (Arc::clone(pod), live.clone(), retired.clone());
            let serve = Serve { pod, listeners, live, retired };
            queue.send(serve).await.map_err(|_| anyhow::anyhow!("a worker has died"))?;
        }
        Ok(())
    }

    /// Waits until a worker ends; none does before the agent is told to stop, unless it panicked.
    pub(super) async fn ended(&self) {
        let ends = self.queues.iter().map(|queue| Box::pin(queue.closed()));
        futures_util::future::select_all(ends).await;
    }

    /// Waits for all workers; cancel [`Shared::drain`] first. Bounded by the drain time.
    pub(super) async fn join(self) {
        drop(self.queues);
        for thread in self.threads {
            let name = thread.thread().name().unwrap_or("worker").to_owned();
            let joined = tokio::task::spawn_blocking(move || thread.join());
            if !matches!(joined.await, Ok(Ok(()))) {
                tracing::error!(name, "a worker panicked; its flows were reset");
            }
        }
    }
}

async fn run(shared: Shared, mut work: mpsc::Receiver<Serve>, pulse: Pulse) {
    // Ends with this function, so also beats while flows drain.
    let mut beating = JoinSet::new();
    beating.spawn_local(pulse.run());
    let limits = Rc::new(shared.limits.clone());
    let stages = Rc::new(Stages {
        snapshots: shared.snapshots,
        identity: shared.identity,
        metrics: shared.metrics,
        pool: Pool::new(Rc::clone(&limits), shared.tunnel.clone()),
        server: Server::new(Rc::clone(&limits), shared.tunnel),
        drain: shared.drain.clone(),
    });
    let mut tasks = JoinSet::new();
    {
        let stages = Rc::clone(&stages);
        let drain = shared.drain.clone();
        tasks.spawn_local(async move {
            drain.run_until_cancelled(stages.pool.sweep()).await;
        });
    }
    loop {
        tokio::select! {
            biased;
            () = shared.drain.cancelled() => break,
            serve = work.recv() => match serve {
                Some(serve) => begin(&mut tasks, &stages, serve),
                None => break,
            },
            Some(ended) = tasks.join_next() => report(ended),
        }
    }
    stages.pool.drain();
    let all = async {
        while let Some(ended) = tasks.join_next().await {
            report(ended);
        }
        stages.pool.closed().await;
    };
    // A moment more than the flows themselves are given.
    if tokio::time::timeout(limits.drain + Duration::from_secs(1), all).await.is_err() {
        tracing::warn!(listeners = tasks.len(), "flows did not end in time and are reset");
    }
}

fn begin(tasks: &mut JoinSet<()>, stages: &Rc<Stages>, serve: Serve) {
    for listener in serve.listeners {
        match Acceptor::new(Arc::clone(&serve.pod), listener) {
            Ok(acceptor) => {
                let (live, retired) = (serve.live.clone(), serve.retired.clone());
                tasks.spawn_local(accept(acceptor, Rc::clone(stages), live, retired));
            }
            Err(error) => {
                tracing::error!(pod = ?serve.pod, %error, "cannot serve a listener");
            }
        }
    }
}

/// Accepts until the workload leaves, the agent drains or another listener has taken the place of
/// this one, then waits for the flows.
async fn accept(
    acceptor: Acceptor,
    stages: Rc<Stages>,
    live: CancellationToken,
    retired: CancellationToken,
) {
    let kind = acceptor.kind();
    let addresses = acceptor.pod().workload().addresses.clone();
    let serve = async {
        let mut flows = JoinSet::new();
        loop {
            tokio::select! {
                // Flows that ended make room before new ones are taken.
                biased;
                () = stages.drain.cancelled() => break,
                () = retired.cancelled() => break,
                Some(ended) = flows.join_next() => report(ended),
                next = acceptor.next(), if flows.len() < FLOWS_PER_LISTENER => {
                    take(&mut flows, kind, next, &stages);
                }
            }
        }
        // Closed now: new connections are refused while those that run go on.
        for waiting in acceptor.close() {
            take(&mut flows, kind, waiting, &stages);
        }
        while let Some(ended) = flows.join_next().await {
            report(ended);
        }
    };
    // Dropping the set aborts the flows, and each resets its sockets as it goes.
    if live.run_until_cancelled(serve).await.is_none() {
        stages.pool.leave(&addresses);
    }
}

/// Begins a flow, or resets it where nobody knows where it wants to go.
fn take(flows: &mut JoinSet<()>, kind: Kind, next: Result<Captured, Lost>, stages: &Rc<Stages>) {
    match next {
        Ok(captured) => {
            let stages = Rc::clone(stages);
            flows.spawn_local(async move {
                match kind {
                    Kind::Outbound => pipeline::outbound(captured, &stages).await,
                    Kind::Plaintext => pipeline::plaintext(captured, &stages).await,
                    Kind::Hbone => pipeline::hbone(captured, stages).await,
                }
            });
        }
        Err(lost) => {
            pipeline::lost(stages, &lost);
            reset(lost.stream);
        }
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a flow's task panicked; its sockets were reset");
    }
}
