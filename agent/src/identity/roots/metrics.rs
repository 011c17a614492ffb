//! What can be watched of the trust bundle.

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::{BundleInForce, Standing};

/// What became of a bundle that the authority sent, as the metric has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is in force now.
    Taken,
    /// It was in force already.
    Same,
    /// A newer one is in force.
    Older,
    /// It is not put in force.
    Refused,
    /// It is in force, but could not be written to disk.
    Unkept,
}

impl Outcome {
    const ALL: [Self; 5] = [Self::Taken, Self::Same, Self::Older, Self::Refused, Self::Unkept];

    const fn label(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Same => "same",
            Self::Older => "older",
            Self::Refused => "refused",
            Self::Unkept => "unkept",
        }
    }
}

/// Collectors of the trust bundle. Cloning shares them.
#[derive(Clone, Debug)]
pub(crate) struct BundleMetrics {
    sequence: IntGauge,
    offers: IntCounterVec,
    connected: IntGauge,
    roots: IntGaugeVec,
}

impl BundleMetrics {
    /// Makes the collectors and registers them.
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            sequence: IntGauge::new(
                "culvert_identity_bundle_sequence",
                "Number of the trust bundle in force; 0 as long as the authority has pushed none.",
            )?,
            offers: IntCounterVec::new(
                Opts::new(
                    "culvert_identity_bundle_offers_total",
                    "Trust bundles that the authority sent, by what became of them.",
                ),
                &["result"],
            )?,
            connected: IntGauge::new(
                "culvert_identity_bundle_connected",
                "Whether the authority's trust bundle is being followed.",
            )?,
            roots: IntGaugeVec::new(
                Opts::new(
                    "culvert_identity_bundle_roots",
                    "Roots that the trust bundle in force names, by what they are good for.",
                ),
                &["standing"],
            )?,
        };
        registry.register(Box::new(metrics.sequence.clone()))?;
        registry.register(Box::new(metrics.offers.clone()))?;
        registry.register(Box::new(metrics.connected.clone()))?;
        registry.register(Box::new(metrics.roots.clone()))?;
        for outcome in Outcome::ALL {
            metrics.offers.with_label_values(&[outcome.label()]);
        }
        Ok(metrics)
    }

    pub(crate) fn offered(&self, outcome: Outcome) {
        self.offers.with_label_values(&[outcome.label()]).inc();
    }

    pub(crate) fn connected(&self, connected: bool) {
        self.connected.set(connected.into());
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connected.get() != 0
    }

    pub(crate) fn shows(&self, bundle: &BundleInForce) {
        self.sequence.set(i64::try_from(bundle.sequence()).unwrap_or(i64::MAX));
        for standing in Standing::ALL {
            let count = bundle.roots().iter().filter(|root| root.standing == standing).count();
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.roots.with_label_values(&[standing.label()]).set(count);
        }
    }
}
