//! One flow from its opening to its end.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use prometheus::IntCounter;

use super::access;
use super::labels::{FlowLabels, Reporter};
use super::metrics::Inner;
use super::reason::{Reason, ResponseFlags};

/// A flow that is counted as opened. `Open -> Closed`, by [`OpenFlow::close`] or by dropping it.
///
/// The counters are looked up once; counting bytes is two relaxed additions.
pub struct OpenFlow {
    metrics: Arc<Inner>,
    labels: FlowLabels,
    started: Instant,
    sent: AtomicU64,
    received: AtomicU64,
    sent_counter: IntCounter,
    received_counter: IntCounter,
    closed: bool,
}

impl OpenFlow {
    pub(super) fn new(metrics: Arc<Inner>, labels: FlowLabels) -> Self {
        let values = labels.values(ResponseFlags::None);
        metrics.opened.with_label_values(&values).inc();
        metrics.open.with_label_values(&[labels.reporter.direction()]).inc();
        let response = metrics.sent.with_label_values(&values);
        let request = metrics.received.with_label_values(&values);
        // Istio calls the response "sent" whoever reports it (istio/istio issue 32399), so at the
        // source the sense of both is the other way round.
        let (sent_counter, received_counter) = match labels.reporter {
            Reporter::Source => (request, response),
            Reporter::Destination => (response, request),
        };
        access::opened(&labels);
        Self {
            metrics,
            labels,
            started: Instant::now(),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            sent_counter,
            received_counter,
            closed: false,
        }
    }

    /// Counts bytes that the local workload sent.
    pub fn sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
        self.sent_counter.inc_by(bytes);
    }

    /// Counts bytes that the local workload received.
    pub fn received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
        self.received_counter.inc_by(bytes);
    }

    /// What was said of the flow when it opened.
    pub fn labels(&self) -> &FlowLabels {
        &self.labels
    }

    /// Counts the flow as closed and writes its line of the access log.
    ///
    /// A `reason` other than [`Reason::Ok`] counts as failed. The line carries `error` with its
    /// whole chain, or the reason's own text.
    pub fn close(mut self, reason: Reason, error: Option<&(dyn Error + 'static)>) {
        self.finish(reason, error);
    }

    /// Counts the flow as closed, and leaves it at that.
    pub(super) fn close_unlogged(mut self, reason: Reason) {
        self.count(reason);
    }

    fn finish(&mut self, reason: Reason, error: Option<&(dyn Error + 'static)>) {
        if !self.count(reason) {
            return;
        }
        let bytes = access::Bytes {
            sent: self.sent.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
        };
        access::complete(&self.labels, bytes, self.started.elapsed(), reason, error);
    }

    /// Counts the end, once; whether this was the time.
    fn count(&mut self, reason: Reason) -> bool {
        if std::mem::replace(&mut self.closed, true) {
            return false;
        }
        let direction = self.labels.reporter.direction();
        let values = self.labels.values(reason.response_flags());
        self.metrics.closed.with_label_values(&values).inc();
        self.metrics.open.with_label_values(&[direction]).dec();
        if reason.is_failure() {
            self.metrics.failed.with_label_values(&values).inc();
            self.metrics.failures.with_label_values(&[direction, reason.label()]).inc();
        }
        true
    }
}

impl Drop for OpenFlow {
    fn drop(&mut self) {
        self.finish(Reason::Abandoned, None);
    }
}
