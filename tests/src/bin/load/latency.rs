//! How long each request took.

use std::time::Duration;

/// Times as they come.
#[derive(Default)]
pub(crate) struct Latencies(Vec<u64>);

/// Times in order.
pub(crate) struct Sorted(Vec<u64>);

impl Latencies {
    /// Keeps one.
    pub(crate) fn add(&mut self, time: Duration) {
        self.0.push(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Those of several clients.
    pub(crate) fn joined(all: Vec<Self>) -> Self {
        Self(all.into_iter().flat_map(|one| one.0).collect())
    }

    /// Puts them in order.
    pub(crate) fn sorted(mut self) -> Sorted {
        self.0.sort_unstable();
        Sorted(self.0)
    }
}

impl Sorted {
    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The time that so many of a thousand requests do not exceed (nearest rank), in microseconds.
    pub(crate) fn microseconds(&self, of_thousand: usize) -> Option<f64> {
        let rank = (self.0.len() * of_thousand).div_ceil(1000);
        let nanoseconds = self.0.get(rank.saturating_sub(1))?;
        Some(Duration::from_nanos(*nanoseconds).as_secs_f64() * 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::Latencies;
    use std::time::Duration;

    fn of(microseconds: impl IntoIterator<Item = u64>) -> Latencies {
        let mut latencies = Latencies::default();
        microseconds.into_iter().for_each(|each| latencies.add(Duration::from_micros(each)));
        latencies
    }

    fn close(found: Option<f64>, wanted: f64) -> bool {
        found.is_some_and(|found| (found - wanted).abs() < 1e-6)
    }

    #[test]
    fn percentile_is_a_time_that_was_measured() {
        let sorted = of((1..=200).rev()).sorted();
        assert!(close(sorted.microseconds(500), 100.0));
        assert!(close(sorted.microseconds(990), 198.0));
        assert!(close(sorted.microseconds(999), 200.0));
        assert!(close(sorted.microseconds(0), 1.0));
        assert!(close(sorted.microseconds(1000), 200.0));
    }

    #[test]
    fn one_request_is_every_percentile_and_none_is_none() {
        assert!(close(of([7]).sorted().microseconds(500), 7.0));
        assert!(close(of([7]).sorted().microseconds(999), 7.0));
        assert!(of([]).sorted().microseconds(500).is_none());
    }

    #[test]
    fn clients_count_together() {
        let joined = Latencies::joined(vec![of([3, 1]), of([2])]).sorted();
        assert_eq!(joined.count(), 3);
        assert!(close(joined.microseconds(500), 2.0));
    }
}
