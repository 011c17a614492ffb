//! So many a second, and no more.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Admits a fixed number of events in each second since it was made. Lock-free.
pub struct RateLimit {
    a_second: u32,
    start: Instant,
    // The second in the upper half, how many were admitted in it in the lower.
    state: AtomicU64,
}

impl RateLimit {
    /// Admits `a_second` of them.
    pub fn new(a_second: u32) -> Self {
        Self { a_second, start: Instant::now(), state: AtomicU64::new(0) }
    }

    /// Whether one more may pass now.
    pub fn admit(&self) -> bool {
        self.admit_in(self.start.elapsed().as_secs())
    }

    fn admit_in(&self, second: u64) -> bool {
        let next = |state: u64| {
            let admitted = if state >> 32 == second { state & u64::from(u32::MAX) } else { 0 };
            (admitted < u64::from(self.a_second)).then_some((second << 32) | (admitted + 1))
        };
        self.state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_second_admits_its_number_and_no_more() {
        let limit = RateLimit::new(3);
        for second in [0, 1, 7] {
            assert_eq!((0..10).filter(|_| limit.admit_in(second)).count(), 3);
        }
    }
}
