//! What can be watched of the authority.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::audit::Rule;
use crate::authority::Authority;

/// Collectors of the authority. Cloning shares them.
#[derive(Clone)]
pub(crate) struct CaMetrics {
    issued: IntCounter,
    refused: IntCounterVec,
    followers: IntGauge,
    root_end: IntGauge,
    issuing_end: IntGauge,
}

impl CaMetrics {
    /// Makes the collectors and registers them.
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            issued: IntCounter::new(
                "culvert_ca_certificates_issued_total",
                "Certificates issued to nodes for their workloads.",
            )?,
            refused: IntCounterVec::new(
                Opts::new(
                    "culvert_ca_requests_refused_total",
                    "Requests refused, by the rule that refused.",
                ),
                &["rule"],
            )?,
            followers: IntGauge::new(
                "culvert_ca_bundle_followers",
                "Agents and others that follow the trust bundle now.",
            )?,
            root_end: IntGauge::new(
                "culvert_ca_root_expiry_seconds",
                "End of the root certificate, in seconds since 1970.",
            )?,
            issuing_end: IntGauge::new(
                "culvert_ca_issuing_expiry_seconds",
                "End of the issuing certificate, in seconds since 1970.",
            )?,
        };
        registry.register(Box::new(metrics.issued.clone()))?;
        registry.register(Box::new(metrics.refused.clone()))?;
        registry.register(Box::new(metrics.followers.clone()))?;
        registry.register(Box::new(metrics.root_end.clone()))?;
        registry.register(Box::new(metrics.issuing_end.clone()))?;
        Ok(metrics)
    }

    pub(crate) fn issued(&self) {
        self.issued.inc();
    }

    pub(crate) fn refused(&self, rule: Rule) {
        self.refused.with_label_values(&[rule.label()]).inc();
    }

    pub(crate) fn followers(&self, now: u64) {
        self.followers.set(i64::try_from(now).unwrap_or(i64::MAX));
    }

    pub(crate) fn ends(&self, authority: &Authority) {
        let (root, issuing) = authority.ends();
        self.root_end.set(root);
        self.issuing_end.set(issuing);
    }
}
