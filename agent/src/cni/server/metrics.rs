//! What can be watched of the agent's end.

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge};

use crate::observe::{Metrics, RegisterError};

/// Upper bounds of the histogram: a start that is held longer than a second is noticed.
const SECONDS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 25.0];

/// Collectors of the agent's end.
pub(super) struct ServerMetrics {
    requests: IntCounterVec,
    waiting: IntGauge,
    held: Histogram,
}

/// A pod that waits; counted until it is dropped.
pub(super) struct Waiting<'a>(&'a IntGauge);

impl ServerMetrics {
    pub(super) fn register(metrics: &Metrics) -> Result<Self, RegisterError> {
        let requests = metrics.counters(
            "culvert_cni_requests_total",
            "Questions of the CNI plugin, by command and by what came of them.",
            &["command", "result"],
        )?;
        for result in ["steered", "left", "failed"] {
            // Present from the start, so that an alert on them can tell zero from absent.
            requests.with_label_values(&["add", result]);
        }
        let waiting = metrics
            .gauge("culvert_cni_waiting", "Pods whose start is held now until they are steered.")?;
        let options = HistogramOpts::new(
            "culvert_cni_hold_seconds",
            "How long the start of a pod was held until it was steered.",
        )
        .buckets(SECONDS.to_vec());
        // The definition is constant, and a test registers it.
        let held = Histogram::with_opts(options).expect("name and buckets are well-formed");
        metrics.register(held.clone())?;
        Ok(Self { requests, waiting, held })
    }

    pub(super) fn answered(&self, command: &'static str, result: &'static str) {
        self.requests.with_label_values(&[command, result]).inc();
    }

    pub(super) fn held(&self, time: Duration) {
        self.held.observe(time.as_secs_f64());
    }

    pub(super) fn waiting(&self) -> Waiting<'_> {
        self.waiting.inc();
        Waiting(&self.waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}
