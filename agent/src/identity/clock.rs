//! [`AuthorityClock`]: how far this node's clock is from the authority's.
//!
//! A clock that is wrong makes good certificates look expired, or not valid yet. The authority
//! says its time in the `date` of each answer, to the second; so what is known is right to about
//! a second and half the way there and back, which is enough to tell a clock that matters.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tonic::metadata::MetadataMap;

use super::metrics::IdentityMetrics;

/// A clock so far off is told of in the log, long before it matters: certificates begin five
/// minutes before they are issued.
const TOLERATED: Duration = Duration::from_secs(30);
/// Stands for: nothing is known.
const UNKNOWN: i64 = i64::MIN;

/// What the authority's answers told of its clock.
pub(super) struct AuthorityClock {
    /// Milliseconds by which our clock is ahead, or [`UNKNOWN`].
    ahead: AtomicI64,
}

impl Default for AuthorityClock {
    fn default() -> Self {
        Self { ahead: AtomicI64::new(UNKNOWN) }
    }
}

impl AuthorityClock {
    /// Seconds by which our clock is ahead of the authority's; negative when it is behind, none
    /// as long as no answer told.
    pub(super) fn ahead(&self) -> Option<f64> {
        let ahead = self.ahead.load(Ordering::Relaxed);
        // A few days in milliseconds fit a double whole.
        #[expect(clippy::cast_precision_loss, reason = "see above")]
        (ahead != UNKNOWN).then(|| ahead as f64 / 1000.0)
    }

    /// Takes note of an answer to a request that was sent at `sent` and took so long.
    pub(super) fn heard(
        &self,
        answer: &MetadataMap,
        (sent, took): (SystemTime, Duration),
        metrics: &IdentityMetrics,
    ) {
        let Some(ahead) = offset(answer, sent + took / 2) else { return };
        let before = self.ahead.swap(ahead, Ordering::Relaxed);
        metrics.clock_offset(self.ahead().unwrap_or_default());
        let seconds = ahead / 1000;
        match (before != UNKNOWN && is_off(before), is_off(ahead)) {
            (false, true) => tracing::warn!(
                ahead_seconds = seconds,
                "this node's clock and the authority's differ: certificates may look expired or \
                 not valid yet; set the clock that is wrong (chronyc tracking, timedatectl)"
            ),
            (true, false) => {
                tracing::info!(ahead_seconds = seconds, "clock agrees with the authority's again");
            }
            (true, true) | (false, false) => {}
        }
    }
}

fn is_off(ahead: i64) -> bool {
    Duration::from_millis(ahead.unsigned_abs()) > TOLERATED
}

/// Milliseconds by which `now` is ahead of what the answer says.
fn offset(answer: &MetadataMap, now: SystemTime) -> Option<i64> {
    let date = answer.get("date")?.to_str().ok()?;
    let theirs = OffsetDateTime::parse(date, &Rfc2822).ok()?;
    // It is cut off to the second: on average half a second more.
    let ahead = OffsetDateTime::from(now) - theirs - time::Duration::milliseconds(500);
    i64::try_from(ahead.whole_milliseconds()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_of_the_authority_is_read_off_its_answer() {
        let metrics = IdentityMetrics::register(&prometheus::Registry::new()).unwrap();
        let clock = AuthorityClock::default();
        let mut answer = MetadataMap::new();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        clock.heard(&answer, (now, Duration::ZERO), &metrics);
        assert_eq!(clock.ahead(), None, "it says nothing");
        answer.insert("date", "no date".parse().unwrap());
        clock.heard(&answer, (now, Duration::ZERO), &metrics);
        assert_eq!(clock.ahead(), None);
        // RFC 9110's own example.
        answer.insert("date", "Sun, 06 Nov 1994 08:49:37 GMT".parse().unwrap());
        clock.heard(&answer, (now, Duration::from_secs(1)), &metrics);
        assert_eq!(clock.ahead(), Some(0.0));
        clock.heard(&answer, (now + Duration::from_mins(5), Duration::from_secs(1)), &metrics);
        assert_eq!(clock.ahead(), Some(300.0));
        clock.heard(&answer, (now - Duration::from_mins(5), Duration::from_secs(1)), &metrics);
        assert_eq!(clock.ahead(), Some(-300.0));
    }
}
