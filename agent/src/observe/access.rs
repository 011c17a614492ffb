//! The access log: one line a connection, in ztunnel's fields and order.
//!
//! Source: istio/ztunnel `src/proxy/metrics.rs`. Culvert adds `reason` at the end of a failure.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use tracing::Level;
use tracing::field::display;

use super::labels::{FlowLabels, Reporter};
use super::reason::Reason;

/// Bytes of the local workload.
#[derive(Clone, Copy)]
pub(super) struct Bytes {
    pub(super) sent: u64,
    pub(super) received: u64,
}

macro_rules! flow_event {
    ($level:expr, $labels:expr, $($rest:tt)*) => {
        tracing::event!(
            target: "access",
            parent: None,
            $level,
            src.addr = %$labels.source_address,
            src.workload = $labels.source.name(),
            src.namespace = $labels.source.namespace(),
            src.identity = $labels.proven($labels.source_principal.as_ref()),
            dst.addr = %$labels.destination_address,
            dst.hbone_addr = $labels.hbone_address.map(display),
            dst.workload = $labels.destination.name(),
            dst.namespace = $labels.destination.namespace(),
            dst.identity = $labels.proven($labels.destination_principal.as_ref()),
            direction = $labels.reporter.direction(),
            $($rest)*
        )
    };
}

/// A flow opened.
pub(super) fn opened(labels: &FlowLabels) {
    flow_event!(Level::DEBUG, labels, "connection opened");
}

/// A flow ended.
pub(super) fn complete(
    labels: &FlowLabels,
    bytes: Bytes,
    duration: Duration,
    reason: Reason,
    error: Option<&(dyn Error + 'static)>,
) {
    let duration = display(Millis(duration));
    if !reason.is_failure() {
        flow_event!(
            Level::INFO,
            labels,
            bytes_sent = bytes.sent,
            bytes_recv = bytes.received,
            duration,
            "connection complete"
        );
        return;
    }
    let error = error.map_or_else(|| reason.text().to_owned(), chain);
    flow_event!(
        Level::ERROR,
        labels,
        bytes_sent = bytes.sent,
        bytes_recv = bytes.received,
        duration,
        error,
        reason = reason.label(),
        "connection complete"
    );
}

/// A connection failed before it was a flow.
pub(super) fn failed_early(
    reporter: Reporter,
    source: SocketAddr,
    destination: SocketAddr,
    reason: Reason,
    error: &(dyn Error + 'static),
) {
    tracing::event!(
        target: "access",
        parent: None,
        Level::WARN,
        src.addr = %source,
        dst.addr = %destination,
        direction = reporter.direction(),
        error = chain(error),
        reason = reason.label(),
        "connection failed"
    );
}

/// An error and all that caused it, in one line.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        // Writing to a string cannot fail.
        let _ = write!(text, ": {error}");
        source = error.source();
    }
    text
}

struct Millis(Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0.as_millis())
    }
}
