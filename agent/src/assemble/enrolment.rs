//! Keeps what is enrolled equal to what the snapshot says.

use std::{collections::HashMap, sync::Arc, time::Duration};

use prometheus::{IntCounter, IntGauge};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::worker::Workers;
use crate::{
    capture::{Capture, Turn},
    explain::Pods,
    identity::{IdentityHold, IdentityStore},
    observe::{Metrics, Readiness},
    policy,
    workload::{Snapshot, Steered, Workload, WorkloadKey},
};

/// How soon an enrolment that failed is tried again: most often a pod's namespace is not there
/// yet, or not any more.
const RETRY: Duration = Duration::from_secs(2);
/// How often it is looked whether a pod was made anew under the same path, which no file tells.
const LOOK: Duration = Duration::from_secs(1);

/// How often the agent that acts looks whether another one wants to, and the one that stands by
/// whether the other is gone.
const TURN: Duration = Duration::from_millis(100);

/// What of the kernel an enrolment is given: the programs, and the right to change them.
pub(super) struct Kernel {
    pub(super) capture: Capture,
    pub(super) turn: Turn,
}

/// Why the waiting has ended.
enum Woken {
    /// The agent is to stop.
    Stop,
    /// Something has changed, or is to be tried again.
    Look,
    /// Another agent wants to act.
    Wanted,
}

/// A workload that is in.
struct Local {
    workload: Arc<Workload>,
    live: CancellationToken,
    /// Cancelled when its listeners have others in their place.
    retired: CancellationToken,
    /// Keeps its SVID renewed.
    _identity: IdentityHold,
}

/// Enrols and releases workloads of one node.
pub(super) struct Enrolment {
    node: String,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    capture: Capture,
    turn: Turn,
    identity: IdentityStore,
    workers: Arc<Workers>,
    steered: watch::Sender<Arc<Steered>>,
    enrolled: IntGauge,
    missing: IntGauge,
    failures: IntCounter,
    acting: IntGauge,
    pods: Pods,
}

impl Enrolment {
    /// Nothing is enrolled before [`Self::run`]. Through `steered` is told what is.
    ///
    /// # Errors
    /// A metric's name is taken.
    pub(super) fn new(
        node: &str,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        (kernel, identity): (Kernel, IdentityStore),
        (workers, steered): (&Arc<Workers>, watch::Sender<Arc<Steered>>),
        metrics: &Metrics,
    ) -> anyhow::Result<Self> {
        let enrolled = IntGauge::new(
            "culvert_capture_enrolled_workloads",
            "Workloads of this node whose traffic is captured",
        )?;
        let failures = IntCounter::new(
            "culvert_capture_enrol_failures_total",
            "Attempts to enrol a workload that failed; each is tried again",
        )?;
        let missing = IntGauge::new(
            "culvert_capture_missing_workloads",
            "Workloads of this node that should be enrolled and could not be; all are refused",
        )?;
        let acting = IntGauge::new(
            "culvert_capture_acting",
            "1 while this agent is the one of its node that enrols; 0 once another has taken over",
        )?;
        acting.set(1);
        metrics.register(acting.clone())?;
        metrics.register(enrolled.clone())?;
        metrics.register(missing.clone())?;
        metrics.register(failures.clone())?;
        let (node, workers) = (node.to_owned(), Arc::clone(workers));
        let Kernel { capture, turn } = kernel;
        Ok(Self {
            node,
            snapshots,
            capture,
            turn,
            identity,
            workers,
            steered,
            enrolled,
            missing,
            failures,
            acting,
            pods: Pods::default(),
        })
    }

    /// Tells these of every workload that is enrolled.
    pub(super) fn with_pods(self, pods: Pods) -> Self {
        Self { pods, ..self }
    }

    /// What is steered, from now on: a workload comes in once all its connections are captured,
    /// and is out before the first of them is not.
    ///
    /// Its end says nothing of the workloads: they stay enrolled for the next agent.
    pub(super) fn steered(&self) -> watch::Receiver<Arc<Steered>> {
        self.steered.subscribe()
    }

    /// The other end of it, to correct what is told once this has ended.
    pub(super) fn told(&self) -> watch::Sender<Arc<Steered>> {
        self.steered.clone()
    }

    /// Follows the snapshots until `cancel`; `ready` is told once the first one has been acted
    /// upon. Everything stays enrolled when it returns.
    ///
    /// # Errors
    /// A worker died, or the source of the snapshots ended.
    pub(super) async fn run(
        mut self,
        ready: watch::Sender<Readiness>,
        cancel: CancellationToken,
    ) -> anyhow::Result<()> {
        let mut locals = HashMap::new();
        let (mut first, mut swept) = (true, false);
        loop {
            let snapshot = Arc::clone(&self.snapshots.borrow_and_update());
            let failed = self.reconcile(&snapshot, &mut locals).await?;
            // Not before all are in: what an earlier agent left keeps a workload that could not be
            // enrolled refused; without it, its traffic would go past the mesh.
            if !swept && failed == 0 {
                let removed = self.capture.sweep().await?;
                tracing::debug!(removed, "remains of an earlier agent removed");
                swept = true;
            }
            if first {
                tracing::info!(enrolled = locals.len(), failed, "first workloads enrolled");
                first = false;
                ready.send_replace(Readiness::Ready);
            }
            match self.wait(failed, &locals, &cancel).await? {
                Woken::Stop => return Ok(()),
                Woken::Look => {}
                Woken::Wanted => {
                    if !self.stand_by(&cancel).await {
                        return Ok(());
                    }
                    self.resume(&mut locals).await?;
                    swept = false;
                }
            }
        }
    }

    /// Waits until there is something to be done.
    async fn wait(
        &mut self,
        failed: usize,
        locals: &HashMap<WorkloadKey, Local>,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Woken> {
        let every = if failed > 0 { RETRY } else { LOOK };
        let mut look = Instant::now() + every;
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Ok(Woken::Stop),
                () = tokio::time::sleep(TURN) => {
                    if self.turn.is_wanted() {
                        return Ok(Woken::Wanted);
                    }
                    if Instant::now() >= look {
                        if failed > 0 || locals.keys().any(|key| self.capture.is_replaced(key)) {
                            return Ok(Woken::Look);
                        }
                        look = Instant::now() + every;
                    }
                }
                changed = self.snapshots.changed() => {
                    changed?;
                    // Before anything is done about it: it may be the other one's to do.
                    return Ok(if self.turn.is_wanted() { Woken::Wanted } else { Woken::Look });
                }
            }
        }
    }

    /// Lets another agent act, and serves on what this one has. Returns whether this one acts
    /// again, because the other has ended; otherwise it is to stop.
    async fn stand_by(&mut self, cancel: &CancellationToken) -> bool {
        self.turn.step_back();
        self.steered.send_modify(|told| *told = Arc::new(Steered::clone(told).incomplete()));
        self.acting.set(0);
        tracing::info!("another agent takes over; this one serves on what it has");
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return false,
                () = tokio::time::sleep(TURN) => {
                    if self.turn.try_resume() {
                        break;
                    }
                }
            }
        }
        self.acting.set(1);
        tracing::warn!("the agent that took over has ended; this one acts again");
        true
    }

    /// Puts everything of this agent back into the kernel.
    async fn resume(&mut self, locals: &mut HashMap<WorkloadKey, Local>) -> anyhow::Result<()> {
        self.capture.resume()?;
        let snapshot = Arc::clone(&self.snapshots.borrow());
        let node = self.node.clone();
        for workload in snapshot.local(&node).filter(|workload| workload.enrolled) {
            let key = workload.key();
            let Some(local) = locals.get_mut(&key) else { continue };
            if !same_place(workload, &local.workload) || self.capture.is_replaced(&key) {
                continue; // released by the next reconciliation
            }
            let accepts_plaintext = policy::accepts_plaintext_everywhere(&snapshot, workload);
            match self.capture.put_back(&key, accepts_plaintext).await {
                Ok(Some(enrolled)) => {
                    let fresh = CancellationToken::new();
                    let (pod, listeners) = (&enrolled.pod, enrolled.listeners);
                    self.workers.serve(pod, listeners, &local.live, &fresh).await?;
                    std::mem::replace(&mut local.retired, fresh).cancel();
                }
                Ok(None) => {}
                Err(error) => {
                    let error = anyhow::Error::new(error);
                    tracing::error!(workload = %key, error = format!("{error:#}"), "workload not put back; enrolled anew");
                    if let Some(local) = locals.remove(&key) {
                        self.release(&key, &local).await;
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns how many workloads should be enrolled and could not be.
    async fn reconcile(
        &mut self,
        snapshot: &Snapshot,
        locals: &mut HashMap<WorkloadKey, Local>,
    ) -> anyhow::Result<usize> {
        let node = self.node.clone();
        let wanted: HashMap<_, _> = snapshot
            .local(&node)
            .filter(|workload| workload.enrolled)
            .map(|workload| (workload.key(), workload))
            .collect();
        // What is new to the mesh must be steered before anybody is told to expect it; what has
        // left may be steered a moment longer, the agent passes it through.
        if let Err(error) = self.capture.set_destinations(snapshot) {
            tracing::error!(%error, "the kernel's view of the mesh is out of date");
        }
        let leaving: Vec<_> = locals
            .iter()
            .filter(|(key, local)| {
                wanted.get(key).is_none_or(|now| !same_place(now, &local.workload))
                    || self.capture.is_replaced(key)
            })
            .map(|(key, _)| key.clone())
            .collect();
        let left: Vec<_> = leaving.iter().filter_map(|key| locals.remove_entry(key)).collect();
        self.tell(locals, false);
        for (key, local) in &left {
            self.release(key, local).await;
        }
        let unwanted: Vec<_> =
            self.capture.fenced().filter(|key| !wanted.contains_key(key)).cloned().collect();
        for key in unwanted {
            self.capture.release(&key).await;
        }
        let mut failed = 0;
        for (key, workload) in wanted {
            let accepts_plaintext = policy::accepts_plaintext_everywhere(snapshot, workload);
            if let Some(local) = locals.get_mut(&key) {
                local.workload = Arc::clone(workload);
                if let Err(error) = self.capture.set_accepts_plaintext(&key, accepts_plaintext) {
                    tracing::error!(workload = %key, %error, "policy for an absent agent not updated");
                }
                continue;
            }
            // Nothing has gone wrong: a pod of the cluster comes before its namespace, and stays
            // for a moment after it.
            if workload.netns.is_none() {
                tracing::debug!(workload = %key, "no network namespace yet, or not any more");
                failed += 1;
                continue;
            }
            match self.enrol(workload, accepts_plaintext).await? {
                Some(local) => drop(locals.insert(key, local)),
                None => failed += 1,
            }
            // After each, not after all: somebody may hold back the start of this very pod.
            self.tell(locals, false);
        }
        self.tell(locals, true);
        self.enrolled.set(i64::try_from(locals.len()).unwrap_or(i64::MAX));
        self.missing.set(i64::try_from(failed).unwrap_or(i64::MAX));
        Ok(failed)
    }

    /// Says what is steered; `complete` as in [`Steered::is_complete`].
    fn tell(&self, locals: &HashMap<WorkloadKey, Local>, complete: bool) {
        self.steered.send_if_modified(|told| {
            let workloads = locals.values().map(|local| Arc::clone(&local.workload));
            let mut steered: Steered = workloads.collect();
            // Once everything was known, a change leaves it so.
            if !complete && !told.is_complete() {
                steered = steered.incomplete();
            }
            let changed = **told != steered;
            if changed {
                *told = Arc::new(steered);
            }
            changed
        });
    }

    async fn enrol(
        &mut self,
        workload: &Arc<Workload>,
        accepts_plaintext: bool,
    ) -> anyhow::Result<Option<Local>> {
        // First of all, so that the certificate is there before the first connection.
        let identity = self.identity.hold(&workload.identity, workload.key());
        match self.capture.enrol(workload, accepts_plaintext).await {
            Ok(enrolled) => {
                let live = CancellationToken::new();
                let retired = CancellationToken::new();
                self.workers.serve(&enrolled.pod, enrolled.listeners, &live, &retired).await?;
                self.pods.put(&enrolled.pod);
                tracing::info!(workload = %workload.key(), identity = %workload.identity, "workload enrolled");
                let workload = Arc::clone(workload);
                Ok(Some(Local { workload, live, retired, _identity: identity }))
            }
            Err(error) => {
                self.failures.inc();
                let error = anyhow::Error::new(error);
                tracing::error!(workload = %workload.key(), error = format!("{error:#}"), "workload not enrolled, so refused; will be tried again");
                Ok(None)
            }
        }
    }

    async fn release(&mut self, key: &WorkloadKey, local: &Local) {
        self.capture.release(key).await;
        local.live.cancel();
        tracing::info!(workload = %key, "workload released");
    }
}

/// Whether nothing has changed that the kernel was told. Labels are read anew for each flow.
fn same_place(now: &Workload, then: &Workload) -> bool {
    let other_pod = now.uid.is_some() && then.uid.is_some() && now.uid != then.uid;
    !other_pod
        && now.addresses == then.addresses
        && now.netns == then.netns
        && now.identity == then.identity
}
