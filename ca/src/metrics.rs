//! What can be watched of the authority.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::audit::Rule;
use crate::authority::Authority;
use crate::state::Phase;

/// Collectors of the authority. Cloning shares them.
#[derive(Clone)]
pub(crate) struct CaMetrics {
    issued: IntCounter,
    jwt_svids: IntCounter,
    refused: IntCounterVec,
    followers: IntGauge,
    lives_clamped: IntCounter,
    connections_refused: IntCounterVec,
    root_end: IntGauge,
    issuing_end: IntGauge,
    roots: IntGaugeVec,
    sequence: IntGauge,
    step_age: IntGauge,
    holding_nodes: IntGauge,
    cacerts_refused: IntGauge,
    confirmed: IntGauge,
    leads: IntGauge,
}

impl CaMetrics {
    /// Makes the collectors and registers them.
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            issued: IntCounter::new(
                "culvert_ca_certificates_issued_total",
                "Certificates issued to nodes for their workloads.",
            )?,
            jwt_svids: IntCounter::new("culvert_ca_jwt_svids_signed_total", "JWT-SVIDs signed.")?,
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
            lives_clamped: IntCounter::new(
                "culvert_ca_lifetimes_clamped_total",
                "Certificates issued for another life than was wished for.",
            )?,
            connections_refused: IntCounterVec::new(
                Opts::new(
                    "culvert_ca_connections_refused_total",
                    "Connections closed before their handshake, by the limit that was reached.",
                ),
                &["limit"],
            )?,
            root_end: IntGauge::new(
                "culvert_ca_root_expiry_seconds",
                "End of the root certificate, in seconds since 1970.",
            )?,
            issuing_end: IntGauge::new(
                "culvert_ca_issuing_expiry_seconds",
                "End of the issuing certificate, in seconds since 1970.",
            )?,
            roots: IntGaugeVec::new(
                Opts::new("culvert_ca_roots", "Roots, by the phase of their rotation."),
                &["phase"],
            )?,
            sequence: IntGauge::new(
                "culvert_ca_bundle_sequence",
                "Sequence number of the trust bundle.",
            )?,
            step_age: IntGauge::new(
                "culvert_ca_rotation_step_age_seconds",
                "Seconds since the last step of a root rotation.",
            )?,
            holding_nodes: IntGauge::new(
                "culvert_ca_rotation_holding_nodes",
                "Nodes that hold the next step: alive, and without the trust bundle it needs.",
            )?,
            cacerts_refused: IntGauge::new(
                "culvert_ca_cacerts_refused",
                "1 while plugged-in CA files cannot be used and what was in use stays, else 0.",
            )?,
            confirmed: IntGauge::new(
                "culvert_ca_store_confirmed_seconds",
                "When the store was last read whole, in seconds since 1970.",
            )?,
            leads: IntGauge::new(
                "culvert_ca_leads",
                "1 while this replica moves the rotation of roots on and publishes them, else 0.",
            )?,
        };
        // Present from the start: a first refusal is a rise only if there was a zero before.
        for limit in ["connections", "address"] {
            metrics.connections_refused.with_label_values(&[limit]);
        }
        registry.register(Box::new(metrics.issued.clone()))?;
        registry.register(Box::new(metrics.jwt_svids.clone()))?;
        registry.register(Box::new(metrics.refused.clone()))?;
        registry.register(Box::new(metrics.followers.clone()))?;
        registry.register(Box::new(metrics.lives_clamped.clone()))?;
        registry.register(Box::new(metrics.connections_refused.clone()))?;
        registry.register(Box::new(metrics.root_end.clone()))?;
        registry.register(Box::new(metrics.issuing_end.clone()))?;
        registry.register(Box::new(metrics.roots.clone()))?;
        registry.register(Box::new(metrics.sequence.clone()))?;
        registry.register(Box::new(metrics.step_age.clone()))?;
        registry.register(Box::new(metrics.holding_nodes.clone()))?;
        registry.register(Box::new(metrics.cacerts_refused.clone()))?;
        registry.register(Box::new(metrics.confirmed.clone()))?;
        registry.register(Box::new(metrics.leads.clone()))?;
        Ok(metrics)
    }

    pub(crate) fn issued(&self) {
        self.issued.inc();
    }

    pub(crate) fn signed_jwt(&self) {
        self.jwt_svids.inc();
    }

    pub(crate) fn refused(&self, rule: Rule) {
        self.refused.with_label_values(&[rule.label()]).inc();
    }

    pub(crate) fn followers(&self, now: u64) {
        self.followers.set(i64::try_from(now).unwrap_or(i64::MAX));
    }

    pub(crate) fn life_clamped(&self) {
        self.lives_clamped.inc();
    }

    /// Counts a connection that was closed for `limit`: `connections` or `address`.
    pub(crate) fn connection_refused(&self, limit: &'static str) {
        self.connections_refused.with_label_values(&[limit]).inc();
    }

    pub(crate) fn ends(&self, authority: &Authority) {
        let (root, issuing) = authority.ends();
        self.root_end.set(root);
        self.issuing_end.set(issuing);
        let figures = authority.figures();
        for (phase, count) in Phase::ALL.into_iter().zip(figures.phases) {
            self.roots
                .with_label_values(&[phase.label()])
                .set(count.try_into().unwrap_or(i64::MAX));
        }
        self.sequence.set(figures.sequence.try_into().unwrap_or(i64::MAX));
        self.step_age.set(figures.step_age);
        self.holding_nodes.set(figures.holding_nodes.try_into().unwrap_or(i64::MAX));
        self.cacerts_refused.set(i64::from(figures.source_refused));
        self.confirmed.set(figures.confirmed);
        self.leads.set(i64::from(authority.leads()));
    }
}
