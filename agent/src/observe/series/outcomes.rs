//! Requests of HTTP, by how they ended, within one series.
//!
//! A series has one [`Outcome`] for each answer that its flows really got. The lock is taken once
//! for each change of outcome on a flow, not for each request: a flow keeps the last one at hand.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::super::http::{Cut, Exchange, Protocol};

/// Outcomes of one series. Codes are the server's to choose, and it might choose them all.
const OF_ONE_SERIES: usize = 32;
/// Outcomes of all series: each is one line of `istio_requests_total` and 22 of the histogram,
/// so this is 46,000 lines. Istio's histogram is what makes these dear.
pub(in super::super) const OUTCOMES: usize = 2_000;

/// Ends of the histogram's buckets in milliseconds: those of Istio's proxies, so that quantiles
/// can be told across both.
///
/// Source: envoyproxy/envoy `source/common/stats/histogram_impl.cc`.
pub(super) const BOUNDS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1_000.0,
    2_500.0,
    5_000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// What tells outcomes apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct How {
    protocol: Protocol,
    status: Option<u16>,
    grpc_status: Option<u8>,
    cut: Option<Cut>,
}

impl From<&Exchange> for How {
    fn from(exchange: &Exchange) -> Self {
        let Exchange { protocol, status, grpc_status, cut, .. } = *exchange;
        Self { protocol, status, grpc_status, cut }
    }
}

impl How {
    /// The `request_protocol` label.
    pub(super) const fn protocol(self) -> &'static str {
        match self.protocol {
            Protocol::Http => "http",
            Protocol::Grpc => "grpc",
        }
    }

    /// The `response_code` label: 0 if there was none, as Istio's proxies have it.
    pub(super) fn status(self) -> u16 {
        self.status.unwrap_or(0)
    }

    pub(super) const fn grpc_status(self) -> Option<u8> {
        self.grpc_status
    }

    /// The `response_flags` label: the client went away, or the server did.
    pub(super) const fn flags(self) -> &'static str {
        match self.cut {
            None => "-",
            Some(Cut::Client) => "DC",
            Some(Cut::Server) => "UC",
        }
    }
}

/// Requests that ended alike. Lock-free.
pub(in super::super) struct Outcome {
    how: How,
    /// How many took how long, not summed up; the last has no end.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    /// How long they took together, in microseconds.
    micros: AtomicU64,
    // Gives its place back when the series goes.
    _place: Place,
}

impl Outcome {
    /// Whether it is this one.
    pub(in super::super) fn is(&self, how: How) -> bool {
        self.how == how
    }

    /// Counts one request.
    pub(in super::super) fn count(&self, took: Duration) {
        let millis = took.as_secs_f64() * 1e3;
        let bucket = BOUNDS.iter().position(|end| millis <= *end).unwrap_or(BOUNDS.len());
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    pub(super) const fn how(&self) -> How {
        self.how
    }

    /// How many took at most as long as each bound, and how many there were.
    pub(super) fn sums(&self) -> [u64; BOUNDS.len() + 1] {
        let mut sum = 0;
        std::array::from_fn(|at| {
            sum += self.buckets[at].load(Ordering::Relaxed);
            sum
        })
    }

    pub(super) fn micros(&self) -> u64 {
        self.micros.load(Ordering::Relaxed)
    }
}

/// The outcomes of one series.
#[derive(Default)]
pub(in super::super) struct Outcomes(
    // Guards the list, of at most `OF_ONE_SERIES`. Held to look through it or to add one.
    Mutex<Vec<Arc<Outcome>>>,
);

impl Outcomes {
    /// The outcome of requests that ended like this; nothing if there is no place for one more.
    pub(in super::super) fn find(&self, how: How, places: &Arc<Places>) -> Option<Arc<Outcome>> {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = list.iter().find(|outcome| outcome.is(how)) {
            return Some(Arc::clone(known));
        }
        if list.len() == OF_ONE_SERIES {
            return None;
        }
        let outcome = Arc::new(Outcome {
            how,
            buckets: [const { AtomicU64::new(0) }; BOUNDS.len() + 1],
            micros: AtomicU64::new(0),
            _place: places.take()?,
        });
        list.push(Arc::clone(&outcome));
        Some(outcome)
    }

    /// A handle on each.
    pub(super) fn all(&self) -> Vec<Arc<Outcome>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How many outcomes there may be in all series together.
pub(in super::super) struct Places {
    taken: AtomicUsize,
    limit: usize,
}

impl Places {
    pub(in super::super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { taken: AtomicUsize::new(0), limit })
    }

    fn take(self: &Arc<Self>) -> Option<Place> {
        let more = |taken: usize| (taken < self.limit).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Place(Arc::clone(self)))
    }

    /// How many there are.
    #[cfg(test)]
    fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

/// One of them.
struct Place(Arc<Places>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn how(status: u16) -> How {
        How { protocol: Protocol::Http, status: Some(status), grpc_status: None, cut: None }
    }

    #[test]
    fn outcomes_of_one_series_and_of_all_are_bounded_and_given_back() {
        let places = Places::new(OF_ONE_SERIES + 2);
        let (one, other) = (Outcomes::default(), Outcomes::default());
        let found = |outcomes: &Outcomes| {
            (200..600).filter(|code| outcomes.find(how(*code), &places).is_some()).count()
        };
        assert_eq!((found(&one), found(&other)), (OF_ONE_SERIES, 2));
        assert_eq!(places.taken(), OF_ONE_SERIES + 2);
        // What is known already is still found, and counts on.
        one.find(how(200), &places).unwrap().count(Duration::from_millis(7));
        assert_eq!(one.find(how(200), &places).unwrap().sums()[3], 1);
        drop(one);
        assert_eq!(places.taken(), 2);
        assert_eq!(found(&other), OF_ONE_SERIES);
    }

    #[test]
    fn buckets_hold_what_is_not_longer_than_their_end() {
        let outcome = Outcomes::default().find(how(200), &Places::new(1)).unwrap();
        for micros in [500, 501, 1_000, 7_200_000_000] {
            outcome.count(Duration::from_micros(micros));
        }
        let sums = outcome.sums();
        assert_eq!((sums[0], sums[1], sums[2]), (1, 3, 3));
        assert_eq!((sums[BOUNDS.len() - 1], sums[BOUNDS.len()]), (3, 4));
        assert_eq!(outcome.micros(), 7_200_002_001);
    }
}
