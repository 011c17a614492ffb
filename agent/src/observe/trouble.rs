//! What somebody must look after, told once in a while to who writes it on the pod concerned.
//!
//! ```text
//!  failed flow, identity without certificate ─▶ told of this pod lately? ─▶ queue ─▶ Event
//! ```
//!
//! Whoever fails a flow never waits: the table is looked at under a lock that is held for a
//! moment, and what finds the queue full is counted and dropped.

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use prometheus::IntCounterVec;
use tokio::sync::mpsc;

use super::access::chain;
use super::labels::{FlowLabels, Party, Reporter};
use super::limit::RateLimit;
use super::metrics::Metrics;
use super::reason::Reason;

/// For how long nothing more is told of one pod for one cause.
const QUIET: Duration = Duration::from_mins(5);
/// Most pods and causes that are remembered.
const REMEMBERED: usize = 4096;
/// Troubles that wait to be written.
const QUEUE: usize = 256;
/// Troubles a second, of all pods.
const A_SECOND: u32 = 5;

/// What became of a trouble: it goes to who writes it.
const RAISED: &str = "raised";
/// The same was told lately.
const HELD_BACK: &str = "held_back";
/// There are too many.
const DROPPED: &str = "dropped";

/// Something about a local workload that somebody must look after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The workload's namespace.
    pub namespace: String,
    /// The workload's name.
    pub workload: String,
    /// Why, as one word: the `reason` of an Event.
    pub reason: &'static str,
    /// What was done, or could not be: the `action` of an Event.
    pub action: &'static str,
    /// What happened between whom, and how to mend it.
    pub note: String,
}

/// Decides which troubles are told, and tells them.
pub(super) struct Troubles {
    told: OnceLock<mpsc::Sender<Trouble>>,
    /// Guards what was told lately; held for one look.
    recent: Mutex<Recent>,
    limit: RateLimit,
    counts: IntCounterVec,
}

#[derive(Default)]
struct Recent {
    /// Keyed by strings of strangers' pods; two that meet cost the second its Event.
    hasher: RandomState,
    /// When each was told last, and how often it was not told since.
    last: HashMap<u64, (Instant, u64)>,
}

impl Troubles {
    pub(super) fn new(counts: IntCounterVec) -> Self {
        for result in [RAISED, HELD_BACK, DROPPED] {
            counts.with_label_values(&[result]);
        }
        let (told, recent) = (OnceLock::new(), Mutex::default());
        Self { told, recent, limit: RateLimit::new(A_SECOND), counts }
    }

    /// A flow of a local workload failed, or never began.
    pub(super) fn failed(
        &self,
        labels: &FlowLabels,
        reason: Reason,
        error: Option<&(dyn Error + 'static)>,
    ) {
        let (local, action) = match labels.reporter {
            Reporter::Source => (&labels.source, "OpenConnection"),
            Reporter::Destination => (&labels.destination, "AcceptConnection"),
        };
        let (Some(event), Some(namespace), Some(workload)) =
            (reason.event(), local.namespace(), local.name())
        else {
            return;
        };
        self.raise(namespace, workload, (event, action), || {
            let error = error.map_or_else(|| reason.text().to_owned(), chain);
            let fix = reason.fix().map(|fix| format!(". To mend it: {fix}")).unwrap_or_default();
            format!("connection from {} failed: {error}{fix}", Ends(labels))
        });
    }

    /// Tells it, unless it was told lately, nobody listens, or too many are told.
    pub(super) fn raise(
        &self,
        namespace: &str,
        workload: &str,
        (reason, action): (&'static str, &'static str),
        note: impl FnOnce() -> String,
    ) {
        let Some(told) = self.told.get() else { return };
        let what = (namespace, workload, reason);
        let result = match self.due(what, Instant::now()) {
            Ok(again) => {
                let tell = || {
                    let mut note = note();
                    if again > 0 {
                        note.insert_str(0, &format!("({again} more like it before) "));
                    }
                    let (namespace, workload) = (namespace.to_owned(), workload.to_owned());
                    told.try_send(Trouble { namespace, workload, reason, action, note }).is_ok()
                };
                if self.limit.admit() && tell() {
                    RAISED
                } else {
                    self.forget(what);
                    DROPPED
                }
            }
            Err(why) => why,
        };
        self.counts.with_label_values(&[result]).inc();
    }

    /// How often it was not told since it was told last; or why it is not to be told now.
    fn due(&self, what: (&str, &str, &str), now: Instant) -> Result<u64, &'static str> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let key = recent.hasher.hash_one(what);
        if let Some((last, held)) = recent.last.get_mut(&key) {
            if now.saturating_duration_since(*last) < QUIET {
                *held += 1;
                return Err(HELD_BACK);
            }
            *last = now;
            return Ok(std::mem::take(held));
        }
        if recent.last.len() >= REMEMBERED {
            recent.last.retain(|_, (last, _)| now.saturating_duration_since(*last) < QUIET);
        }
        if recent.last.len() >= REMEMBERED {
            return Err(DROPPED);
        }
        recent.last.insert(key, (now, 0));
        Ok(0)
    }

    /// It was not told after all.
    fn forget(&self, what: (&str, &str, &str)) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let key = recent.hasher.hash_one(what);
        recent.last.remove(&key);
    }
}

/// Both ends of a flow, as far as they are known.
struct Ends<'a>(&'a FlowLabels);

impl fmt::Display for Ends<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = |party: &Party, address: SocketAddr| match (party.namespace(), party.name()) {
            (Some(namespace), Some(name)) => format!("{namespace}/{name} ({address})"),
            _ => address.to_string(),
        };
        let Self(labels) = self;
        let destination = labels.hbone_address.unwrap_or(labels.destination_address);
        let source = end(&labels.source, labels.source_address);
        write!(f, "{source} to {}", end(&labels.destination, destination))
    }
}

impl Metrics {
    /// The troubles of local workloads, from now on. Whoever asks first has them; who asks later
    /// gets none.
    pub fn troubles(&self) -> mpsc::Receiver<Trouble> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        // The second sender is dropped, and its receiver ends at once.
        let _ = self.troubles_of().told.set(sender);
        receiver
    }

    /// Tells of a trouble that is no flow's. At most once in five minutes for each workload and
    /// reason.
    pub fn trouble(
        &self,
        namespace: &str,
        workload: &str,
        (reason, action): (&'static str, &'static str),
        note: impl FnOnce() -> String,
    ) {
        self.troubles_of().raise(namespace, workload, (reason, action), note);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{labels, value};
    use super::*;

    fn failing() -> (Metrics, mpsc::Receiver<Trouble>) {
        let metrics = Metrics::new().unwrap();
        let troubles = metrics.troubles();
        (metrics, troubles)
    }

    #[test]
    fn failed_flow_is_told_once_with_both_ends_and_the_fix() {
        let (metrics, mut troubles) = failing();
        for _ in 0..1000 {
            let error = std::io::Error::other("rule 7");
            metrics.refuse(labels(Reporter::Destination), Reason::PlaintextRefused, &error);
        }
        metrics.open(labels(Reporter::Destination)).close(Reason::Ok, None);
        metrics.open(labels(Reporter::Destination)).close(Reason::PeerReset, None);
        let told = troubles.try_recv().unwrap();
        assert_eq!((&*told.namespace, &*told.workload), ("default", "b1"));
        assert_eq!((told.reason, told.action), ("PlaintextRefused", "AcceptConnection"));
        for part in ["default/a1 (10.1.1.2:40000)", "default/b1 (10.1.2.2:80)", "rule 7", "label"] {
            assert!(told.note.contains(part), "{part} in {}", told.note);
        }
        assert!(troubles.try_recv().is_err(), "the others are held back");
        let held = value(&metrics, "culvert_observe_troubles_total", &["held_back"]);
        assert_eq!(held.as_deref(), Some("999"));
    }

    #[test]
    fn local_workload_is_the_one_that_is_told_of() {
        let (metrics, mut troubles) = failing();
        metrics.open(labels(Reporter::Source)).close(Reason::PolicyDenied, None);
        let told = troubles.try_recv().unwrap();
        assert_eq!((&*told.workload, told.action), ("a1", "OpenConnection"));
    }

    #[test]
    fn what_goes_on_is_told_again_after_the_quiet_with_how_often_it_was_not() {
        let (metrics, _troubles) = failing();
        let troubles = metrics.troubles_of();
        let (what, start) = (("default", "b1", "PolicyDenied"), Instant::now());
        assert_eq!(troubles.due(what, start), Ok(0));
        assert_eq!(troubles.due(what, start + QUIET / 2), Err(HELD_BACK));
        assert_eq!(troubles.due(("default", "b2", "PolicyDenied"), start), Ok(0));
        assert_eq!(troubles.due(what, start + QUIET), Ok(1));
    }

    #[test]
    fn memory_and_queue_are_bounded() {
        let (metrics, mut told) = failing();
        let troubles = metrics.troubles_of();
        let start = Instant::now();
        for n in 0..2 * REMEMBERED {
            let due = troubles.due(("default", &n.to_string(), "PolicyDenied"), start);
            assert_eq!(due.is_ok(), n < REMEMBERED, "{n}");
        }
        assert_eq!(troubles.due(("default", "new", "PolicyDenied"), start + QUIET), Ok(0));
        for n in 0..2 * QUEUE {
            metrics.trouble("d", &n.to_string(), ("X", "Y"), String::new);
        }
        let count = std::iter::from_fn(|| told.try_recv().ok()).count();
        assert!((1..=3 * usize::try_from(A_SECOND).unwrap()).contains(&count), "{count}");
    }

    #[test]
    fn nobody_listens_and_nothing_is_kept() {
        let metrics = Metrics::new().unwrap();
        metrics.open(labels(Reporter::Source)).close(Reason::PolicyDenied, None);
        assert!(metrics.troubles_of().recent.lock().unwrap().last.is_empty());
    }
}
