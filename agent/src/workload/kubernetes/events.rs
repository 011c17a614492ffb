//! [`Events`]: writes troubles of this node's pods as Events on them.
//!
//! ```text
//!  observe ─ Trouble ─▶ a pod of this node? ─▶ POST events, or PATCH the one of before
//! ```
//!
//! `kubectl describe pod` shows them. What may be written is bounded where it comes from
//! ([`Metrics::troubles`]): at most one in five minutes for each pod and reason, five a second
//! altogether.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use prometheus::IntCounterVec;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::state::Mark;
use super::watch::describe;
use crate::observe::{Metrics, RegisterError, Trouble};

/// How long one may take.
const WRITE: Duration = Duration::from_secs(10);
/// Most bytes of a note; the API server refuses longer ones.
const NOTE: usize = 1024;
/// Who reports, as the API server wants it: a qualified name.
const CONTROLLER: &str = "culvert.io/agent";

/// Writes Events on pods of this node.
pub struct Events {
    recorder: Recorder,
    marks: watch::Receiver<Vec<Mark>>,
    troubles: mpsc::Receiver<Trouble>,
    written: IntCounterVec,
    /// Whether the last one failed; it is told once.
    failing: bool,
}

/// Why an Event could not be written.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error("the API server did not answer in time")]
    TimedOut,
    #[error("the API server refused the Event; may the agent create and patch events.k8s.io?")]
    Refused(#[source] kube::Error),
}

impl Events {
    pub(super) fn new(
        client: Client,
        node: &str,
        marks: watch::Receiver<Vec<Mark>>,
        metrics: &Metrics,
    ) -> Result<Self, RegisterError> {
        let written = metrics.counters(
            "culvert_workload_events_total",
            "Events written on pods of this node, by whether they were written or failed.",
            &["result"],
        )?;
        for result in ["written", "failed"] {
            written.with_label_values(&[result]);
        }
        let reporter =
            Reporter { controller: CONTROLLER.to_owned(), instance: Some(node.to_owned()) };
        let recorder = Recorder::new(client, reporter);
        Ok(Self { recorder, marks, troubles: metrics.troubles(), written, failing: false })
    }

    /// Writes what comes until `stop` is cancelled; one after the other, so that a slow API server
    /// is not asked for more.
    ///
    /// Cancel safe: dropped, the one under way may or may not be written.
    pub async fn run(mut self, stop: CancellationToken) {
        let all = async {
            while let Some(trouble) = self.troubles.recv().await {
                self.write(trouble).await;
            }
        };
        stop.run_until_cancelled(all).await;
    }

    async fn write(&mut self, trouble: Trouble) {
        // The pod may have gone meanwhile, or never was one.
        let Some(regarding) = self.pod(&trouble) else { return };
        let Trouble { namespace, workload, reason, action, note } = trouble;
        let event = Event {
            type_: EventType::Warning,
            reason: reason.to_owned(),
            note: Some(cut(note)),
            action: action.to_owned(),
            secondary: None,
        };
        let publish = self.recorder.publish(&event, &regarding);
        let result = match tokio::time::timeout(WRITE, publish).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(WriteError::Refused(error)),
            Err(_) => Err(WriteError::TimedOut),
        };
        let label = if result.is_ok() { "written" } else { "failed" };
        self.written.with_label_values(&[label]).inc();
        let failed = std::mem::replace(&mut self.failing, result.is_err());
        if let Err(error) = result
            && !failed
        {
            let error = describe(&error);
            tracing::warn!(
                pod = format!("{namespace}/{workload}"),
                reason,
                error,
                "Event not written; the log has what it says"
            );
        }
    }

    fn pod(&self, trouble: &Trouble) -> Option<ObjectReference> {
        let marks = self.marks.borrow();
        let is = |mark: &&Mark| {
            mark.key.namespace() == trouble.namespace && mark.key.name() == trouble.workload
        };
        let mark = marks.iter().find(is)?;
        Some(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(trouble.namespace.clone()),
            name: Some(trouble.workload.clone()),
            uid: Some(mark.api_uid.clone()),
            ..ObjectReference::default()
        })
    }
}

/// The note, no longer than may be.
fn cut(mut note: String) -> String {
    if note.len() > NOTE {
        let end = note.floor_char_boundary(NOTE - '…'.len_utf8());
        note.truncate(end);
        note.push('…');
    }
    note
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn note_is_as_long_as_may_be() {
        assert_eq!(cut("short".to_owned()), "short");
        let long = cut("é".repeat(NOTE));
        assert!(long.len() <= NOTE && long.ends_with("é…"), "{}", long.len());
    }
}
