//! Durations in buckets of fixed bounds, from which quantiles can be told.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// How many buckets; each ends at half as much again as the one before it.
const BUCKETS: usize = 32;
/// Where the first bucket ends, in microseconds. The last one then ends at 14 s.
const FIRST: f64 = 50.0;
/// What one bucket's end is to the next one's.
const FACTOR: f64 = 1.5;

/// How many durations were of about which length. Lock-free, 128 bytes.
#[derive(Debug, Default)]
pub(in super::super) struct Buckets([AtomicU32; BUCKETS]);

/// Of many durations, how long half of them took at most, and how long 99 of a hundred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantiles {
    /// Half of them were no longer.
    pub p50: Duration,
    /// 99 of a hundred were no longer.
    pub p99: Duration,
}

impl Buckets {
    /// Counts one duration. What is longer than the last bucket counts there.
    pub(in super::super) fn observe(&self, duration: Duration) {
        let mut end = FIRST;
        let micros = duration.as_secs_f64() * 1e6;
        let mut bucket = 0;
        while micros > end && bucket + 1 < BUCKETS {
            bucket += 1;
            end *= FACTOR;
        }
        self.0[bucket].fetch_add(1, Ordering::Relaxed);
    }

    /// The quantiles of all that was counted; nothing when that is nothing.
    pub(in super::super) fn quantiles(&self) -> Option<Quantiles> {
        let counts: [u64; BUCKETS] =
            std::array::from_fn(|at| u64::from(self.0[at].load(Ordering::Relaxed)));
        let total: u64 = counts.iter().sum();
        let at = |hundredths: u64| quantile(&counts, (total * hundredths).div_ceil(100));
        (total > 0).then(|| Quantiles { p50: at(50), p99: at(99) })
    }
}

/// How long the `rank`th shortest took at most, taken as spread evenly over its bucket.
fn quantile(counts: &[u64; BUCKETS], rank: u64) -> Duration {
    let (mut start, mut end, mut below) = (0.0, FIRST, 0);
    for count in counts {
        if below + count >= rank && *count > 0 {
            #[expect(clippy::cast_precision_loss, reason = "a share of a bucket, not a count")]
            let share = (rank - below) as f64 / *count as f64;
            return Duration::from_secs_f64((start + (end - start) * share) / 1e6);
        }
        below += count;
        start = end;
        end *= FACTOR;
    }
    Duration::from_secs_f64(start / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_bucket_of_the_truth() {
        let buckets = Buckets::default();
        assert_eq!(buckets.quantiles(), None);
        for millis in 1..=1000 {
            buckets.observe(Duration::from_millis(millis));
        }
        let Quantiles { p50, p99 } = buckets.quantiles().unwrap();
        let near = |found: Duration, millis: f64| {
            let ratio = found.as_secs_f64() * 1000.0 / millis;
            assert!((1.0 / FACTOR..=FACTOR).contains(&ratio), "{found:?} for {millis} ms");
        };
        near(p50, 500.0);
        near(p99, 990.0);
    }

    #[test]
    fn what_is_longer_than_all_buckets_counts_in_the_last() {
        let buckets = Buckets::default();
        buckets.observe(Duration::from_secs(3600));
        buckets.observe(Duration::ZERO);
        let Quantiles { p50, p99 } = buckets.quantiles().unwrap();
        assert!(p50 <= Duration::from_micros(50), "{p50:?}");
        assert!(p99 > Duration::from_secs(9), "{p99:?}");
    }
}
