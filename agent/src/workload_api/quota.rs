//! [`Quota`]: how much of a thing each caller may have at a time, and all together.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::workload::WorkloadKey;

/// Whose share something is taken from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Share {
    /// A workload's, however many processes it has.
    Workload(WorkloadKey),
    /// That of everybody who is no enrolled workload, all together: a namespace can be made by any
    /// process, so a share for each would be no bound.
    Strangers,
}

/// So many at a time for each share, and for all.
pub(super) struct Quota {
    each: usize,
    all: usize,
    /// Guards who has how many; shares without any are not in it. Held for a look-up.
    taken: Mutex<HashMap<Share, usize>>,
}

/// One of them, until it is dropped.
pub(super) struct Place {
    quota: Arc<Quota>,
    share: Share,
}

impl Quota {
    pub(super) fn new(each: usize, all: usize) -> Arc<Self> {
        Arc::new(Self { each, all, taken: Mutex::default() })
    }

    /// Takes one; none when the share or the whole is used up.
    pub(super) fn take(self: &Arc<Self>, share: &Share) -> Option<Place> {
        let mut taken = self.taken();
        // At most `all` entries, so the sum is short.
        if taken.values().sum::<usize>() >= self.all {
            return None;
        }
        let own = taken.entry(share.clone()).or_default();
        if *own >= self.each {
            return None;
        }
        *own += 1;
        Some(Place { quota: Arc::clone(self), share: share.clone() })
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<Share, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.quota.taken();
        if let Some(own) = taken.get_mut(&self.share) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.share);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(name: &str) -> Share {
        Share::Workload(WorkloadKey::new("default", name))
    }

    #[test]
    fn one_caller_cannot_take_the_share_of_another() {
        let quota = Quota::new(2, 10);
        let greedy: Vec<_> = (0..9).filter_map(|_| quota.take(&workload("greedy"))).collect();
        assert_eq!(greedy.len(), 2);
        let strangers: Vec<_> = (0..9).filter_map(|_| quota.take(&Share::Strangers)).collect();
        assert_eq!(strangers.len(), 2);
        assert!(quota.take(&workload("modest")).is_some());
    }

    #[test]
    fn all_together_are_bounded_and_places_come_back() {
        let quota = Quota::new(2, 3);
        let names = ["a", "b", "c"].map(workload);
        let mut places: Vec<_> = names.iter().filter_map(|share| quota.take(share)).collect();
        assert_eq!(places.len(), 3);
        assert!(quota.take(&workload("d")).is_none());
        places.pop();
        assert!(quota.take(&workload("d")).is_some());
        places.clear();
        assert!(quota.taken().is_empty(), "no entry is left behind");
    }
}
