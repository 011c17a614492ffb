//! [`Steered`]: what of this node the kernel steers at this moment.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Workload, WorkloadKey};

/// The workloads of this node that are steered, as the agent knows them.
///
/// A name alone may still mean the pod of that name before this one, which is steered until the
/// agent has heard that it is gone: whoever waits for a certain pod looks at the addresses, the
/// namespace or the UID that [`Steered::get`] tells as well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steered(BTreeMap<WorkloadKey, Arc<Workload>>);

impl Steered {
    /// Whether a workload of this name is steered.
    pub fn contains(&self, key: &WorkloadKey) -> bool {
        self.0.contains_key(key)
    }

    /// The workload of this name, if it is steered.
    pub fn get(&self, key: &WorkloadKey) -> Option<&Arc<Workload>> {
        self.0.get(key)
    }

    /// All names, in order.
    pub fn keys(&self) -> impl Iterator<Item = &WorkloadKey> {
        self.0.keys()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is steered.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Arc<Workload>> for Steered {
    fn from_iter<I: IntoIterator<Item = Arc<Workload>>>(workloads: I) -> Self {
        Self(workloads.into_iter().map(|workload| (workload.key(), workload)).collect())
    }
}
