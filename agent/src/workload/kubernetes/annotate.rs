//! [`Annotator`]: tells the cluster which pods of this node are steered.
//!
//! ```text
//!  enrolment ─ steered ─┐
//!                       ├─▶ differs from what the pod bears? ─▶ PATCH pods/NAME/status
//!  State ─── marks ─────┘
//! ```
//!
//! Agents of other nodes send to a pod through a tunnel once it bears the annotation. So it comes
//! after the pod is steered; and it goes first: [`super::state::State`] keeps a pod that is no
//! longer wanted enrolled until the annotation is seen to be gone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use prometheus::IntCounterVec;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::objects::{Pod, REDIRECTION};
use super::state::Mark;
use super::watch::describe;
use crate::observe::{Metrics, RegisterError};
use crate::workload::{Steered, WorkloadKey};

/// Patches under way at one time.
const AT_ONCE: usize = 8;
/// How long one may take.
const PATCH: Duration = Duration::from_secs(10);
/// How soon a pod is looked at again after a patch, whether it failed or the watch is late.
const AGAIN: Duration = Duration::from_secs(2);

/// Writes the annotation. Joined by the source of the marks, which see it come back.
pub struct Annotator {
    client: Client,
    marks: watch::Receiver<Vec<Mark>>,
    patches: IntCounterVec,
    /// Pods that were patched a moment ago, and what came of it is not seen yet.
    recent: HashMap<WorkloadKey, (bool, Instant)>,
    running: JoinSet<(WorkloadKey, Result<(), PatchError>)>,
    /// Whether the last patch failed; it is told once.
    failing: bool,
}

/// Why an annotation could not be written.
#[derive(Debug, thiserror::Error)]
enum PatchError {
    #[error("the API server did not answer in time")]
    TimedOut,
    #[error("the API server refused the annotation; may the agent patch pods/status?")]
    Refused(#[source] kube::Error),
}

impl Annotator {
    pub(super) fn new(
        client: Client,
        marks: watch::Receiver<Vec<Mark>>,
        metrics: &Metrics,
    ) -> Result<Self, RegisterError> {
        let patches = metrics.counters(
            "culvert_workload_annotations_total",
            "Annotations written to pods of this node, by whether they came, went or failed.",
            &["result"],
        )?;
        for result in ["enabled", "removed", "failed"] {
            patches.with_label_values(&[result]);
        }
        Ok(Self {
            client,
            marks,
            patches,
            recent: HashMap::new(),
            running: JoinSet::new(),
            failing: false,
        })
    }

    /// Which pods bear the annotation, as the API server tells it.
    pub fn annotated(&self) -> Annotated {
        Annotated(self.marks.clone())
    }

    /// Keeps the annotations equal to what is steered, until `stop` is cancelled. They stay when
    /// it ends: the agent that comes next finds the pods steered.
    ///
    /// Cancel safe: dropped, patches under way are given up.
    pub async fn run(
        mut self,
        mut steered: watch::Receiver<Arc<Steered>>,
        stop: CancellationToken,
    ) {
        let mut ended = false;
        loop {
            let again = self.start(&steered.borrow_and_update().clone());
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(patched) = self.running.join_next() => self.patched(patched),
                // Whoever tells ends only with the agent.
                changed = self.marks.changed(), if !ended => ended = changed.is_err(),
                changed = steered.changed(), if !ended => ended = changed.is_err(),
                () = super::source::until(again) => {}
            }
        }
    }

    /// Begins what patches there is room for. Returns when to look again.
    fn start(&mut self, steered: &Steered) -> Option<Instant> {
        let now = Instant::now();
        self.recent.retain(|_, (_, until)| *until > now);
        if !steered.is_complete() {
            // An agent before this one, or the one that acts, may have steered what is not in it.
            return self.recent.values().map(|(_, until)| *until).min();
        }
        let marks = self.marks.borrow_and_update().clone();
        for mark in marks {
            let is_steered = steered.workload(&mark.key).is_some_and(|pod| pod.uid == mark.uid);
            let wanted = mark.wanted && is_steered;
            let waits = self.recent.get(&mark.key).is_some_and(|(last, _)| *last == wanted);
            if wanted == mark.redirected || waits || self.running.len() >= AT_ONCE {
                continue;
            }
            self.recent.insert(mark.key.clone(), (wanted, now + PATCH + AGAIN));
            self.running.spawn(patch(self.client.clone(), mark, wanted));
        }
        self.recent.values().map(|(_, until)| *until).min()
    }

    fn patched(
        &mut self,
        ended: Result<(WorkloadKey, Result<(), PatchError>), tokio::task::JoinError>,
    ) {
        let (key, result) = match ended {
            Ok(ended) => ended,
            Err(error) => return tracing::error!(%error, "a patch panicked"),
        };
        let again = Instant::now() + AGAIN;
        let enabled = self.recent.get_mut(&key).is_some_and(|(enabled, until)| {
            *until = again;
            *enabled
        });
        let label = match (&result, enabled) {
            (Ok(()), true) => "enabled",
            (Ok(()), false) => "removed",
            (Err(_), _) => "failed",
        };
        self.patches.with_label_values(&[label]).inc();
        let failed = std::mem::replace(&mut self.failing, result.is_err());
        match result {
            Ok(()) => tracing::debug!(pod = %key, enabled, "annotation written"),
            Err(error) if !failed => {
                let error = describe(&error);
                tracing::warn!(pod = %key, error, "annotation not written; tried again");
            }
            Err(_) => {}
        }
    }
}

/// The pods of this node that bear the annotation.
pub struct Annotated(watch::Receiver<Vec<Mark>>);

impl Annotated {
    /// Waits until there are none, but no longer than `limit`: the API server may not be asked, or
    /// refuse.
    pub async fn until_none(mut self, limit: Duration) {
        let none = self.0.wait_for(|marks| marks.iter().all(|mark| !mark.redirected));
        if !matches!(tokio::time::timeout(limit, none).await, Ok(Ok(_))) {
            tracing::warn!("annotations of this node's pods stay behind");
        }
    }
}

async fn patch(client: Client, mark: Mark, wanted: bool) -> (WorkloadKey, Result<(), PatchError>) {
    let pods = Api::<Pod>::namespaced(client, mark.key.namespace());
    let value = wanted.then_some("enabled");
    // With its UID, so that another pod of that name is not met: the API server refuses.
    let change = json!({"metadata": {"uid": mark.api_uid, "annotations": {REDIRECTION: value}}});
    let (parameters, change) = (PatchParams::default(), Patch::Merge(&change));
    let patch = pods.patch_status(mark.key.name(), &parameters, &change);
    let result = match tokio::time::timeout(PATCH, patch).await {
        Ok(Ok(_)) => Ok(()),
        // It is gone, or another one is there; the watch will tell.
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Ok(()),
        Ok(Err(error)) => Err(PatchError::Refused(error)),
        Err(_) => Err(PatchError::TimedOut),
    };
    (mark.key, result)
}
