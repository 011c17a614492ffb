//! OpenTelemetry traces: one span a flow at each end, joined by the HBONE request between them.
//!
//! ```text
//!  source        TraceParent::draw ─▶ traceparent of the CONNECT ─▶ destination
//!   client span ◀──┘                                                └──▶ server span, its child
//!        └──▶ bounded queue ─▶ Exporter ─▶ OTLP/gRPC ─▶ collector
//! ```
//!
//! Whether a flow is traced is drawn once, at the source, and said in the `traceparent`. A queue
//! that is full loses spans and counts them; no flow ever waits for a collector.

mod export;
mod span;
#[cfg(test)]
mod tests;

use std::fmt;

use opentelemetry_sdk::trace::SpanData;
use prometheus::{IntCounter, IntCounterVec};
use tokio::sync::mpsc;

use super::Metrics;
use super::metrics::RegisterError;

pub use export::{Exporter, TracesError};
pub(super) use span::Done;

/// Spans that may wait for the collector, about a kilobyte each.
const QUEUE: usize = 4096;

/// The W3C trace context of one flow, as it stands in a `traceparent` of version 00.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// Not zero.
    pub trace_id: u128,
    /// The span that the request comes from. Not zero.
    pub parent_id: u64,
    /// Whether that span is recorded, and the ones below it are to be.
    pub sampled: bool,
}

impl TraceParent {
    /// Reads a `traceparent` header. None if it is not one, or of no known version.
    ///
    /// Source: W3C Trace Context, section 3.2.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let [version, trace_id, parent_id, flags] =
            [parts.next()?, parts.next()?, parts.next()?, parts.next()?];
        let sized = version == "00"
            && (trace_id.len(), parent_id.len(), flags.len()) == (32, 16, 2)
            && parts.next().is_none();
        // `from_str_radix` would take a sign.
        let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-'));
        if !sized || !digits {
            return None;
        }
        let found = Self {
            trace_id: u128::from_str_radix(trace_id, 16).ok()?,
            parent_id: u64::from_str_radix(parent_id, 16).ok()?,
            sampled: u8::from_str_radix(flags, 16).ok()? & 1 == 1,
        };
        (found.trace_id != 0 && found.parent_id != 0).then_some(found)
    }

    /// The span of the flow's source, if it is to be recorded: the one that the request names.
    pub fn client(self) -> Option<Trace> {
        self.sampled.then_some(Trace { whole: self.trace_id, own: self.parent_id, parent: None })
    }

    /// The span of the flow's destination, if it is to be recorded: `own`, below the source's.
    pub fn server(self, own: u64) -> Option<Trace> {
        self.sampled.then_some(Trace {
            whole: self.trace_id,
            own: own | 1,
            parent: Some(self.parent_id),
        })
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trace_id, parent_id, sampled } = self;
        write!(f, "00-{trace_id:032x}-{parent_id:016x}-{:02x}", u8::from(*sampled))
    }
}

/// The place of one flow's span in its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The trace.
    whole: u128,
    /// The span.
    own: u64,
    /// The span above it.
    parent: Option<u64>,
}

/// Takes the spans of flows that have ended.
pub(super) struct Traces {
    /// Of a million flows, how many are recorded.
    millionths: u32,
    queue: mpsc::Sender<SpanData>,
    dropped: IntCounter,
}

impl Traces {
    /// Whether the flow with this random number is to be recorded.
    pub(super) fn draws(&self, random: u32) -> bool {
        random % 1_000_000 < self.millionths
    }

    /// Hands a span over, or loses it.
    pub(super) fn record(&self, ended: &Done<'_>) {
        if self.queue.try_send(ended.data()).is_err() {
            self.dropped.inc();
        }
    }
}

/// Turns traces on: from now on `metrics` records the spans of `millionths` of a million flows, and
/// of those that a source asks for. What is returned must be run.
///
/// # Errors
/// [`TracesError`]: an endpoint that is no address, or traces are on already.
pub fn trace(
    metrics: &Metrics,
    node: &str,
    endpoint: &str,
    millionths: u32,
) -> Result<Exporter, TracesError> {
    let spans = counters(metrics)?;
    let (queue, waiting) = mpsc::channel(QUEUE);
    let exporter = Exporter::new(node, endpoint, waiting, &spans)?;
    let dropped = spans.with_label_values(&["dropped"]);
    metrics.record(Traces { millionths, queue, dropped });
    Ok(exporter)
}

fn counters(metrics: &Metrics) -> Result<IntCounterVec, RegisterError> {
    metrics.counters(
        "culvert_observe_spans_total",
        "Spans of flows, by whether the collector took them.",
        &["result"],
    )
}
