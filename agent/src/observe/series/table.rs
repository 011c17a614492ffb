//! Where all series are found by their labels.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::super::labels::FlowLabels;
use super::{Key, Series};

/// Parts that are locked apart, so that a scrape or a new series never keeps many flows waiting.
const SHARDS: usize = 64;

/// One part: the series by the hash of their labels.
type Shard = HashMap<u64, Vec<Arc<Series>>>;

/// All series.
pub(in super::super) struct Table {
    // Each guards its part of the series. Held to find one, to add one or to copy the handles of
    // all; never while text is written.
    shards: [RwLock<Shard>; SHARDS],
    hasher: RandomState,
    count: AtomicUsize,
}

impl Table {
    pub(in super::super) fn new() -> Self {
        Self {
            shards: [const { () }; SHARDS].map(|()| RwLock::default()),
            hasher: RandomState::new(),
            count: AtomicUsize::new(0),
        }
    }

    /// The series of a flow that opens now, counted as opened in it. `now` is in milliseconds
    /// since 1970.
    pub(in super::super) fn begin(&self, labels: &FlowLabels, now: u64) -> Arc<Series> {
        let key = Key::from(labels);
        let hash = self.hasher.hash_one(key);
        // The remainder is below the number of shards, which is a `usize`.
        let shard = &self.shards[usize::try_from(hash % SHARDS as u64).unwrap_or(0)];
        let found = |shard: &Shard| {
            let alike = shard.get(&hash)?.iter().find(|series| series.key() == key)?;
            // Under the lock: who takes away what has no open flow must see this one.
            alike.begin(labels, now);
            Some(Arc::clone(alike))
        };
        let known = found(&shard.read().unwrap_or_else(PoisonError::into_inner));
        if let Some(series) = known {
            return series;
        }
        let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = found(&shard) {
            return series;
        }
        let series = Arc::new(Series::new(key));
        series.begin(labels, now);
        shard.entry(hash).or_default().push(Arc::clone(&series));
        self.count.fetch_add(1, Ordering::Relaxed);
        series
    }

    /// How many series there are.
    pub(in super::super) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// A handle on every series there is, in no order.
    pub(in super::super) fn all(&self) -> Vec<Arc<Series>> {
        let mut all = Vec::with_capacity(self.len());
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            all.extend(shard.values().flatten().cloned());
        }
        all
    }
}
