//! The access log: one line a connection, in ztunnel's fields and order.
//!
//! Source: istio/ztunnel `src/proxy/metrics.rs`. Culvert adds `reason` and `fix` at the end of a
//! failure.
//!
//! ```text
//!  clean end ─▶ sampled? ─▶ maxPerSecond ─┐
//!  failure of a flow ─────▶ maxPerSecond ─┼─▶ line     the rest: culvert_observe_unlogged_total
//!  refused, or never a flow ▶ 100 a second┘
//! ```
//!
//! Three limits, so that whoever floods the tunnel port cannot keep the line of a flow that fails
//! out of the log, nor busy flows those of both.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::time::Duration;

use prometheus::IntCounterVec;
use tracing::Level;
use tracing::field::display;

use super::labels::{FlowLabels, Reporter};
use super::limit::RateLimit;
use super::log::ACCESS;
use super::reason::Reason;
use crate::config::AccessLog as Settings;

/// Lines a second for what was refused at once or never became a flow: who floods the tunnel port
/// must not be able to flood the disk.
const EARLY_LINES_A_SECOND: u32 = 100;
/// Why a line was not written: too many in this second.
const LIMIT: &str = "limit";
/// Why a line was not written: it was not drawn.
const SAMPLE: &str = "sample";

/// Bytes of the local workload.
#[derive(Clone, Copy)]
pub(super) struct Bytes {
    pub(super) sent: u64,
    pub(super) received: u64,
}

/// How a flow came to its end.
#[derive(Clone, Copy)]
pub(super) struct Ended<'a> {
    pub(super) reason: Reason,
    pub(super) error: Option<&'a (dyn Error + 'static)>,
    /// Whether it was refused, or failed, as soon as it came.
    pub(super) at_once: bool,
}

/// Decides which ends of flows are written, and writes them.
pub(super) struct AccessLog {
    settings: Settings,
    clean: RateLimit,
    failed: RateLimit,
    early: RateLimit,
    unlogged: IntCounterVec,
}

macro_rules! flow_event {
    ($level:expr, $labels:expr, $($rest:tt)*) => {
        tracing::event!(
            target: ACCESS,
            parent: None,
            $level,
            src.addr = %$labels.source_address,
            src.workload = $labels.source.name(),
            src.namespace = $labels.source.namespace(),
            src.identity = $labels.proven($labels.source_principal.as_ref()),
            dst.addr = %$labels.destination_address,
            dst.hbone_addr = $labels.hbone_address.map(display),
            dst.service = $labels.service.as_ref().map(|service| service.host.as_str()),
            dst.workload = $labels.destination.name(),
            dst.namespace = $labels.destination.namespace(),
            dst.identity = $labels.proven($labels.destination_principal.as_ref()),
            direction = $labels.reporter.direction(),
            $($rest)*
        )
    };
}

impl AccessLog {
    /// `unlogged` has the labels `direction` and `cause`.
    pub(super) fn new(settings: Settings, unlogged: IntCounterVec) -> Self {
        for reporter in [Reporter::Source, Reporter::Destination] {
            for cause in [LIMIT, SAMPLE] {
                // Present from the start, so that an alert on them can tell zero from absent.
                unlogged.with_label_values(&[reporter.direction(), cause]);
            }
        }
        let (clean, failed) = (settings.max_per_second, settings.max_per_second);
        Self {
            settings,
            clean: RateLimit::new(clean),
            failed: RateLimit::new(failed),
            early: RateLimit::new(EARLY_LINES_A_SECOND),
            unlogged,
        }
    }

    /// A flow ended.
    pub(super) fn complete(
        &self,
        labels: &FlowLabels,
        bytes: Bytes,
        duration: Duration,
        ended: Ended<'_>,
    ) {
        let Ended { reason, error, at_once } = ended;
        if !self.admits(labels.reporter, reason, at_once) {
            return;
        }
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
        flow_event!(
            Level::ERROR,
            labels,
            bytes_sent = bytes.sent,
            bytes_recv = bytes.received,
            duration,
            error = error.map_or_else(|| reason.text().to_owned(), chain),
            reason = reason.label(),
            fix = reason.fix(),
            "connection complete"
        );
    }

    /// A connection failed before it was a flow.
    pub(super) fn failed_early(
        &self,
        labels: &FlowLabels,
        reason: Reason,
        error: &(dyn Error + 'static),
    ) {
        if self.admits(labels.reporter, reason, true) {
            flow_event!(
                Level::WARN,
                labels,
                error = chain(error),
                reason = reason.label(),
                fix = reason.fix(),
                "connection failed"
            );
        }
    }

    /// Whether this end is to be written; counts it if it is not.
    fn admits(&self, reporter: Reporter, reason: Reason, at_once: bool) -> bool {
        let sample = self.settings.sample;
        if !self.settings.enabled {
            return false;
        }
        let cause = if reason.is_failure() {
            let limit = if at_once { &self.early } else { &self.failed };
            (!limit.admit()).then_some(LIMIT)
        } else if sample < 1.0 && rand::random::<f64>() >= sample {
            Some(SAMPLE)
        } else {
            (!self.clean.admit()).then_some(LIMIT)
        };
        if let Some(cause) = cause {
            self.unlogged.with_label_values(&[reporter.direction(), cause]).inc();
        }
        cause.is_none()
    }
}

/// A flow opened.
pub(super) fn opened(labels: &FlowLabels) {
    flow_event!(Level::DEBUG, labels, "connection opened");
}

/// An error and all that caused it, in one line.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
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
