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
pub struct Steered {
    workloads: BTreeMap<WorkloadKey, Arc<Workload>>,
    complete: bool,
}

impl Steered {
    /// Whether what is not in here is not steered. False until the agent has enrolled its first
    /// workloads, for an agent before this one may have left them steered; and while another agent
    /// of the node acts.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// The same, of which it is not known whether it is all.
    #[must_use]
    pub fn incomplete(self) -> Self {
        Self { complete: false, ..self }
    }

    /// Whether a workload of this name is steered.
    pub fn contains(&self, key: &WorkloadKey) -> bool {
        self.workloads.contains_key(key)
    }

    /// The workload of this name, if it is steered.
    pub fn workload(&self, key: &WorkloadKey) -> Option<&Arc<Workload>> {
        self.workloads.get(key)
    }

    /// All names, in order.
    pub fn keys(&self) -> impl Iterator<Item = &WorkloadKey> {
        self.workloads.keys()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.workloads.len()
    }

    /// Whether nothing is steered.
    pub fn is_empty(&self) -> bool {
        self.workloads.is_empty()
    }
}

impl FromIterator<Arc<Workload>> for Steered {
    fn from_iter<I: IntoIterator<Item = Arc<Workload>>>(workloads: I) -> Self {
        let workloads = workloads.into_iter().map(|workload| (workload.key(), workload)).collect();
        Self { workloads, complete: true }
    }
}
