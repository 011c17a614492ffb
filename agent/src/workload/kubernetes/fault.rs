//! What is wrong with an object of the API server. It is told, and harms nobody else.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use culvert_ca::enrolment::Malformed;
use culvert_spiffe::SpiffeIdError;
use prometheus::IntGaugeVec;

use super::kind::Kind;
use crate::observe::{Metrics, RegisterError};
use crate::workload::WorkloadKey;

/// What is wrong with one object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// A label whose value means nothing.
    #[error(transparent)]
    Label(Malformed),
    /// An address that no pod can have.
    #[error("{address:?} is no address of a pod; it is left out")]
    Address {
        /// As it stands there.
        address: String,
    },
    /// Two pods have one address: the older one has mostly ended, and nobody has said so yet.
    #[error("address {address} belongs to {by} too, which has it now; this pod is left without")]
    AddressTaken {
        /// The address.
        address: IpAddr,
        /// Who has it.
        by: WorkloadKey,
    },
    /// A namespace or a name that Kubernetes does not have.
    #[error("its name is none that Kubernetes would give; it is left out")]
    Name,
    /// Its service account makes no identity.
    #[error("its service account makes no identity, so it is left out; {source}")]
    Identity {
        /// What is wrong with it.
        source: SpiffeIdError,
    },
    /// The UID is none.
    #[error("its UID is none; it gets no identity from the Workload API")]
    Uid,
}

impl Fault {
    /// The text of a metric's label.
    pub(super) const fn reason(&self) -> &'static str {
        match self {
            Self::Label(_) => "bad_label",
            Self::Address { .. } => "bad_address",
            Self::AddressTaken { .. } => "address_taken",
            Self::Name => "bad_name",
            Self::Identity { .. } => "bad_identity",
            Self::Uid => "bad_uid",
        }
    }
}

const REASONS: [&str; 6] =
    ["bad_label", "bad_address", "address_taken", "bad_name", "bad_identity", "bad_uid"];

/// The faults of all objects. Each is told once, when it comes.
pub(super) struct Faults {
    of_objects: BTreeMap<(Kind, WorkloadKey), Vec<Fault>>,
    /// Of pods that claim an address of another.
    conflicts: BTreeMap<WorkloadKey, Vec<Fault>>,
    gauge: IntGaugeVec,
}

impl Faults {
    /// Without a fault.
    ///
    /// # Errors
    ///
    /// [`RegisterError`] when the metric's name is taken.
    pub(super) fn new(metrics: &Metrics) -> Result<Self, RegisterError> {
        let gauge = metrics.gauges(
            "culvert_workload_faulty_objects",
            "Faults in objects of the API server, by what is wrong.",
            &["reason"],
        )?;
        for reason in REASONS {
            gauge.with_label_values(&[reason]);
        }
        Ok(Self { of_objects: BTreeMap::new(), conflicts: BTreeMap::new(), gauge })
    }

    /// These are the faults of an object now, instead of those that it had.
    pub(super) fn set(&mut self, kind: Kind, key: &WorkloadKey, faults: Vec<Fault>) {
        let before = self.of_objects.remove(&(kind, key.clone())).unwrap_or_default();
        self.tell(kind, key, &before, &faults);
        if !faults.is_empty() {
            self.of_objects.insert((kind, key.clone()), faults);
        }
    }

    /// These are all objects of a kind that there are.
    pub(super) fn keep(&mut self, kind: Kind, listed: &HashSet<WorkloadKey>) {
        let gone = |(of, key): &&(Kind, WorkloadKey)| *of == kind && !listed.contains(key);
        let gone: Vec<_> = self.of_objects.keys().filter(gone).cloned().collect();
        for (kind, key) in gone {
            self.set(kind, &key, Vec::new());
        }
    }

    /// These are all pods that claim an address of another.
    pub(super) fn set_conflicts(&mut self, conflicts: BTreeMap<WorkloadKey, Vec<Fault>>) {
        let before = std::mem::take(&mut self.conflicts);
        let none = Vec::new();
        for (key, faults) in &conflicts {
            self.tell(Kind::Pods, key, before.get(key).unwrap_or(&none), faults);
        }
        for (key, faults) in before.iter().filter(|(key, _)| !conflicts.contains_key(key)) {
            self.tell(Kind::Pods, key, faults, &none);
        }
        self.conflicts = conflicts;
    }

    fn tell(&self, kind: Kind, key: &WorkloadKey, before: &[Fault], now: &[Fault]) {
        for fault in before {
            self.gauge.with_label_values(&[fault.reason()]).dec();
        }
        for fault in now {
            self.gauge.with_label_values(&[fault.reason()]).inc();
            if !before.contains(fault) {
                let (kind, reason) = (kind.label(), fault.reason());
                tracing::warn!(kind, object = %key, reason, error = %fault, "object is faulty");
            }
        }
    }
}
