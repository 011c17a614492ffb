//! One flow from its opening to its end.

use std::cell::RefCell;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use culvert_spiffe::SpiffeId;

use super::access::{self, Ended};
use super::along::{Along, Place};
use super::labels::{FlowLabels, Party, Reporter};
use super::metrics::Inner;
use super::open::{End, FlowView};
use super::reason::Reason;
use super::series::Series;
use super::traces::{Done, Trace};

/// A flow that is counted as opened. `Open -> Closed`, by [`OpenFlow::close`] or by dropping it.
///
/// Its series is looked up once; counting bytes is two relaxed additions.
pub struct OpenFlow {
    metrics: Arc<Inner>,
    state: Arc<FlowState>,
    // Of the flow's own task alone; borrowed for one call.
    http: RefCell<Option<Along>>,
    trace: Option<Trace>,
    closed: bool,
}

/// What is known of an open flow, shared with who asks what is open.
pub(super) struct FlowState {
    pub(super) id: u64,
    labels: FlowLabels,
    opened: SystemTime,
    started: Instant,
    sent: AtomicU64,
    received: AtomicU64,
    requests: AtomicU64,
    /// Microseconds after the opening, and 1; 0 as long as nothing was asked.
    first_request: AtomicU64,
    series: Arc<Series>,
}

impl OpenFlow {
    pub(super) fn new(metrics: Arc<Inner>, labels: FlowLabels) -> Self {
        let opened = SystemTime::now();
        let series = metrics.series.begin(&labels, millis(opened));
        metrics.open.with_label_values(&[labels.reporter.direction()]).inc();
        access::opened(&labels);
        let http = RefCell::new(metrics.read_http.reader(&labels).map(Along::new));
        let state = Arc::new(FlowState {
            id: metrics.flows.number(),
            labels,
            opened,
            started: Instant::now(),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            first_request: AtomicU64::new(0),
            series,
        });
        metrics.flows.add(Arc::clone(&state));
        Self { metrics, state, http, trace: None, closed: false }
    }

    /// Says where this flow's span is to be recorded, if it is to be.
    #[must_use = "the flow is handed back"]
    pub fn traced(mut self, trace: Option<Trace>) -> Self {
        self.trace = trace;
        self
    }

    /// Counts bytes that the local workload sent.
    pub fn sent(&self, bytes: &[u8]) {
        let state = &*self.state;
        // A `usize` is at most 64 bits wide on every platform that Linux runs on.
        let length = bytes.len() as u64;
        let first = state.sent.fetch_add(length, Ordering::Relaxed) == 0;
        match state.labels.reporter {
            Reporter::Source => {
                state.request(length, first);
                self.asked(bytes);
            }
            Reporter::Destination => {
                state.response(length, first);
                self.answered(bytes);
            }
        }
    }

    /// Counts bytes that the local workload received.
    pub fn received(&self, bytes: &[u8]) {
        let state = &*self.state;
        // As above.
        let length = bytes.len() as u64;
        let first = state.received.fetch_add(length, Ordering::Relaxed) == 0;
        match state.labels.reporter {
            Reporter::Source => {
                state.response(length, first);
                self.answered(bytes);
            }
            Reporter::Destination => {
                state.request(length, first);
                self.asked(bytes);
            }
        }
    }

    fn asked(&self, bytes: &[u8]) {
        if let Some(http) = &mut *self.http.borrow_mut() {
            http.request(bytes, self.place());
        }
    }

    fn answered(&self, bytes: &[u8]) {
        if let Some(http) = &mut *self.http.borrow_mut() {
            http.response(bytes, self.place());
        }
    }

    fn record(&self, reason: Reason) {
        let (Some(trace), Some(traces)) = (self.trace, self.metrics.traces.get()) else { return };
        let state = &*self.state;
        traces.record(&Done {
            trace,
            labels: &state.labels,
            opened: state.opened,
            // By the monotonic clock: no span may end before it began.
            closed: state.opened + state.started.elapsed(),
            sent: state.sent.load(Ordering::Relaxed),
            received: state.received.load(Ordering::Relaxed),
            requests: state.requests.load(Ordering::Relaxed),
            reason,
        });
    }

    fn place(&self) -> Place<'_> {
        Place {
            metrics: &self.metrics.http,
            series: &self.state.series,
            requests: &self.state.requests,
        }
    }

    /// Says how long the handshake took that this flow had to wait for.
    pub fn handshake(&self, took: Duration) {
        self.state.series.handshake.observe(took);
    }

    /// What was said of the flow when it opened.
    pub fn labels(&self) -> &FlowLabels {
        &self.state.labels
    }

    /// Counts the flow as closed and writes its line of the access log.
    ///
    /// A `reason` other than [`Reason::Ok`] counts as failed. The line carries `error` with its
    /// whole chain, or the reason's own text.
    pub fn close(mut self, reason: Reason, error: Option<&(dyn Error + 'static)>) {
        self.finish(Ended { reason, error, at_once: false });
    }

    /// As [`Self::close`], of a flow that was refused, or failed, as soon as it came.
    pub(super) fn refuse(mut self, reason: Reason, error: &(dyn Error + 'static)) {
        self.finish(Ended { reason, error: Some(error), at_once: true });
    }

    fn finish(&mut self, ended: Ended<'_>) {
        if !self.count(ended.reason) {
            return;
        }
        let state = &*self.state;
        let bytes = access::Bytes {
            sent: state.sent.load(Ordering::Relaxed),
            received: state.received.load(Ordering::Relaxed),
        };
        self.metrics.access.complete(&state.labels, bytes, state.started.elapsed(), ended);
        self.metrics.troubles.failed(&state.labels, ended.reason, ended.error);
    }

    /// Counts the end, once; whether this was the time.
    fn count(&mut self, reason: Reason) -> bool {
        if std::mem::replace(&mut self.closed, true) {
            return false;
        }
        if let Some(http) = &mut *self.http.borrow_mut() {
            http.end(self.state.labels.reporter, reason, self.place());
        }
        self.record(reason);
        self.metrics.flows.remove(self.state.id);
        self.state.series.end(reason, millis(SystemTime::now()));
        let direction = self.state.labels.reporter.direction();
        self.metrics.open.with_label_values(&[direction]).dec();
        if reason.is_failure() {
            self.metrics.failures.with_label_values(&[direction, reason.label()]).inc();
        }
        true
    }
}

impl Drop for OpenFlow {
    fn drop(&mut self) {
        self.finish(Ended { reason: Reason::Abandoned, error: None, at_once: false });
    }
}

impl FlowState {
    fn request(&self, length: u64, first: bool) {
        if first {
            self.first_request.store(self.elapsed() + 1, Ordering::Relaxed);
        }
        self.series.request.fetch_add(length, Ordering::Relaxed);
    }

    fn response(&self, length: u64, first: bool) {
        if first {
            // Who speaks unasked answers the opening.
            let asked = self.first_request.load(Ordering::Relaxed).saturating_sub(1);
            let took = Duration::from_micros(self.elapsed().saturating_sub(asked));
            self.series.first_byte.observe(took);
        }
        self.series.response.fetch_add(length, Ordering::Relaxed);
    }

    /// Microseconds since the opening.
    fn elapsed(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX - 1)
    }

    pub(super) fn view(&self) -> FlowView {
        let labels = &self.labels;
        FlowView {
            id: self.id,
            reporter: labels.reporter,
            source: end(&labels.source, labels.source_principal.as_ref()),
            source_address: labels.source_address,
            destination: end(&labels.destination, labels.destination_principal.as_ref()),
            destination_address: labels.destination_address,
            hbone_address: labels.hbone_address,
            service: labels.service.clone(),
            security: labels.security,
            path: labels.path,
            opened: self.opened,
            sent: self.sent.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
            requests: self.requests.load(Ordering::Relaxed),
        }
    }
}

/// One end as plain data, by its pod.
fn end(party: &Party, identity: Option<&SpiffeId>) -> End {
    End {
        namespace: party.namespace().map(str::to_owned),
        workload: party.name().map(str::to_owned),
        owner: party.workload_name().map(str::to_owned),
        identity: identity.cloned(),
    }
}

/// Milliseconds since 1970; a clock before it is a clock at it.
pub(super) fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
