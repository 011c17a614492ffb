//! What can be watched of identities and handshakes.

use std::time::Duration;

use culvert_spiffe::SpiffeId;
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

use super::ca_client::IssueError;
use super::handshake::Role;
use super::svid::Svid;
use crate::observe::Reason;

/// Seconds: from what a lab takes to what a pod's first connection waits at most.
const WAIT_BUCKETS: [f64; 9] = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0];

/// Seconds: from a resumed handshake on one node to one that is about to be given up.
const HANDSHAKE_BUCKETS: [f64; 12] =
    [0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0];

/// Collectors of the identity stage. Cloning shares them.
///
/// `identity` labels are bounded by the identities of this node's workloads.
#[derive(Clone, Debug)]
pub(crate) struct IdentityMetrics {
    expiry: IntGaugeVec,
    issuance: IntCounterVec,
    waits: Histogram,
    handshakes: IntCounterVec,
    handshake_times: HistogramVec,
    reachable: IntGauge,
    clock_offset: Gauge,
}

impl IdentityMetrics {
    /// Makes the collectors and registers them.
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            expiry: IntGaugeVec::new(
                Opts::new(
                    "culvert_identity_svid_expiry_seconds",
                    "End of the SVID held for an identity, in seconds since 1970.",
                ),
                &["identity"],
            )?,
            issuance: IntCounterVec::new(
                Opts::new(
                    "culvert_identity_issuance_total",
                    "Certificates asked of the authority, by what for and how it ended.",
                ),
                &["kind", "result"],
            )?,
            waits: Histogram::with_opts(
                HistogramOpts::new(
                    "culvert_identity_first_svid_seconds",
                    "Time from the first need of an identity to its SVID; renewals do not count.",
                )
                .buckets(WAIT_BUCKETS.to_vec()),
            )?,
            handshakes: IntCounterVec::new(
                Opts::new(
                    "culvert_identity_handshakes_total",
                    "Mutual TLS handshakes of tunnels, by our role and how they ended.",
                ),
                &["role", "reason"],
            )?,
            handshake_times: HistogramVec::new(
                HistogramOpts::new(
                    "culvert_identity_handshake_seconds",
                    "Time that mutual TLS handshakes took which succeeded, by our role.",
                )
                .buckets(HANDSHAKE_BUCKETS.to_vec()),
                &["role"],
            )?,
            clock_offset: Gauge::new(
                "culvert_identity_clock_offset_seconds",
                "By how much this node's clock is ahead of the authority's, to about a second.",
            )?,
            reachable: IntGauge::new(
                "culvert_identity_authority_reachable",
                "Whether the authority answered the last request, 1 or 0.",
            )?,
        };
        metrics.reachable.set(1);
        registry.register(Box::new(metrics.expiry.clone()))?;
        registry.register(Box::new(metrics.issuance.clone()))?;
        registry.register(Box::new(metrics.waits.clone()))?;
        registry.register(Box::new(metrics.handshakes.clone()))?;
        registry.register(Box::new(metrics.handshake_times.clone()))?;
        registry.register(Box::new(metrics.reachable.clone()))?;
        registry.register(Box::new(metrics.clock_offset.clone()))?;
        for role in [Role::Server, Role::Client] {
            metrics.handshake_times.with_label_values(&[role.label()]);
        }
        Ok(metrics)
    }

    pub(crate) fn handshake(&self, role: Role, reason: Reason, took: Duration) {
        self.handshakes.with_label_values(&[role.label(), reason.label()]).inc();
        if reason == Reason::Ok {
            let times = self.handshake_times.with_label_values(&[role.label()]);
            times.observe(took.as_secs_f64());
        }
    }

    pub(crate) fn clock_offset(&self, seconds: f64) {
        self.clock_offset.set(seconds);
    }

    pub(crate) fn reachable(&self, is: bool) {
        self.reachable.set(i64::from(is));
    }

    pub(crate) fn asked(&self, renewal: bool, result: Result<(), &IssueError>) {
        let kind = if renewal { "renewal" } else { "first" };
        let result = result.map_or_else(IssueError::label, |()| "ok");
        self.issuance.with_label_values(&[kind, result]).inc();
    }

    pub(crate) fn waited(&self, time: Duration) {
        self.waits.observe(time.as_secs_f64());
    }

    pub(crate) fn holds(&self, svid: &Svid) {
        let end = i64::try_from(svid.not_after().as_secs()).unwrap_or(i64::MAX);
        self.expiry.with_label_values(&[svid.id().as_str()]).set(end);
    }

    pub(crate) fn holds_no_more(&self, id: &SpiffeId) {
        // An error only says that no certificate was ever held for it.
        let _ = self.expiry.remove_label_values(&[id.as_str()]);
    }
}
