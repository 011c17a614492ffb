//! Where all series are found by their labels, and how many there may be.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use prometheus::IntCounter;

use super::super::labels::{FlowLabels, Party, Reporter, Security, UNKNOWN};
use super::{Key, Series};

/// Parts that are locked apart, so that a scrape or a new series never keeps many flows waiting.
const SHARDS: usize = 64;

/// How many there are of each.
const REPORTERS: usize = Reporter::Destination as usize + 1;
/// Likewise.
const SECURITIES: usize = Security::Unknown as usize + 1;

/// How many series there may be, and what they say of where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeriesSettings {
    /// Sets of labels that are kept. What is beyond them is counted together.
    pub most: usize,
    /// The `source_cluster` and `destination_cluster` of every workload that is known.
    pub cluster: Option<String>,
}

impl SeriesSettings {
    /// Sets of labels that are kept unless somebody says otherwise: a full node of 100 workloads
    /// that each call 100 others and are called by as many has 20,000.
    pub const MOST: usize = 25_000;
}

impl Default for SeriesSettings {
    fn default() -> Self {
        Self { most: Self::MOST, cluster: None }
    }
}

/// How long series are kept that nothing is counted in.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Rest {
    /// Of a workload that is gone.
    pub(in super::super) departed: Duration,
    /// Of any, while more than three quarters of all that there may be are there.
    pub(in super::super) crowded: Duration,
}

/// One part: the series by the hash of their labels.
type Shard = HashMap<u64, Vec<Arc<Series>>>;

/// All series.
pub(in super::super) struct Table {
    // Each guards its part of the series. Held to find one, to add one, to copy the handles of
    // all or to take some away; never while text is written.
    shards: [RwLock<Shard>; SHARDS],
    hasher: RandomState,
    count: AtomicUsize,
    settings: OnceLock<SeriesSettings>,
    /// What has no series of its own.
    rest: [OnceLock<Arc<Series>>; REPORTERS * SECURITIES],
    overflow: IntCounter,
}

impl Table {
    /// An empty one, that counts in `overflow` the flows it had no series of their own for.
    pub(in super::super) fn new(overflow: IntCounter) -> Self {
        Self {
            shards: [(); SHARDS].map(|()| RwLock::default()),
            hasher: RandomState::new(),
            count: AtomicUsize::new(0),
            settings: OnceLock::new(),
            rest: [const { OnceLock::new() }; REPORTERS * SECURITIES],
            overflow,
        }
    }

    /// Sets them. Only the first call does, and only before the first flow.
    pub(in super::super) fn set(&self, settings: SeriesSettings) {
        // Already set means already used: text that is made does not change.
        let _ = self.settings.set(settings); // reason: see above
    }

    fn settings(&self) -> &SeriesSettings {
        self.settings.get_or_init(SeriesSettings::default)
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
        let SeriesSettings { most, .. } = *self.settings();
        if self.len() >= most {
            return self.overflow(labels, now);
        }
        // Made before the lock is taken: writing the labels is most of the work.
        let series = Arc::new(Series::new(labels, self.cluster()));
        let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = found(&shard) {
            return series;
        }
        let room = |count: usize| (count < most).then_some(count + 1);
        if self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_err() {
            return self.overflow(labels, now);
        }
        series.begin(labels, now);
        shard.entry(hash).or_default().push(Arc::clone(&series));
        series
    }

    /// The series of all flows that there is none for, of one reporter and security.
    fn overflow(&self, labels: &FlowLabels, now: u64) -> Arc<Series> {
        self.overflow.inc();
        let place = &self.rest[labels.reporter as usize * SECURITIES + labels.security as usize];
        let series = place.get_or_init(|| {
            let (from, to) = (labels.source_address, labels.destination_address);
            let security = labels.security;
            let unknown = FlowLabels { security, ..FlowLabels::unknown(labels.reporter, from, to) };
            Arc::new(Series::new(&unknown, self.cluster()))
        });
        series.begin(labels, now);
        Arc::clone(series)
    }

    fn cluster(&self) -> &str {
        self.settings().cluster.as_deref().unwrap_or(UNKNOWN)
    }

    /// How many series there are, without those of what had none.
    pub(in super::super) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// A handle on every series there is, in no order.
    pub(in super::super) fn all(&self) -> Vec<Arc<Series>> {
        let mut all = Vec::with_capacity(self.len() + self.rest.len());
        all.extend(self.rest.iter().filter_map(OnceLock::get).cloned());
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            all.extend(shard.values().flatten().cloned());
        }
        all
    }

    /// Takes away whole series that nothing is counted in any more. One that comes back counts
    /// from zero, which who scrapes takes for a restart.
    pub(in super::super) fn retire(&self, rest: Rest, now: u64, lives: &dyn Fn(&Party) -> bool) {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let crowded = self.len() > self.settings().most / 4 * 3;
        let stays = |series: &Series| {
            let Some(idle) = series.idle(now) else { return true };
            let departed = || !(lives(&series.source) && lives(&series.destination));
            !(crowded && idle >= millis(rest.crowded))
                && !(idle >= millis(rest.departed) && departed())
        };
        for shard in &self.shards {
            // First looked for among many readers: most often there is nothing to take away.
            let idle = {
                let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
                shard.values().flatten().any(|series| !stays(series))
            };
            if !idle {
                continue;
            }
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            shard.retain(|_, alike| {
                let before = alike.len();
                alike.retain(|series| stays(series));
                self.count.fetch_sub(before - alike.len(), Ordering::Relaxed);
                !alike.is_empty()
            });
        }
    }
}
