//! When a key of JWT-SVIDs is published, signs, and goes. Pure: the time is given.
//!
//! ```text
//!  key 1   ├─published, signs──────────────────┤─published──────┤
//!  key 2                     ├─published─lead──┤─signs──────────────── …
//!                                                    ▲ longest token and a margin
//! ```
//!
//! So a verifier knows a key before it meets its first token, and until its last one is over.

use std::time::Duration;

/// How far clocks of verifiers may be behind; kept beside the longest token of a key that retires.
const MARGIN_SECONDS: i64 = 5 * 60;

/// How long keys and tokens live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JwtTimes {
    /// How long a key signs.
    pub turnover: Duration,
    /// How long a key is published before it signs: longer than news takes to every agent.
    pub lead: Duration,
    /// Life of a token for which none is wished.
    pub default_ttl: Duration,
    /// Longest life of a token.
    pub max_ttl: Duration,
}

/// When a key does what, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyTimes {
    pub(super) published: i64,
    pub(super) signs_from: i64,
}

/// What is to be done about the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing.
    Keep,
    /// Make a key and publish it.
    Make(KeyTimes),
    /// The oldest key's tokens are over: forget it.
    DropOldest,
}

impl JwtTimes {
    /// The life of a token for a wish in seconds; 0 or less is no wish.
    pub(super) fn grant(&self, wish_seconds: i64) -> Duration {
        let wish = match u64::try_from(wish_seconds) {
            Ok(0) | Err(_) => self.default_ttl,
            Ok(seconds) => Duration::from_secs(seconds),
        };
        wish.min(self.max_ttl)
    }

    /// The next thing to do about `keys`, the oldest first. To be asked again until it is nothing.
    pub(super) fn step(&self, keys: &[KeyTimes], now: i64) -> Step {
        let Some(newest) = keys.last() else {
            // Nobody has verified anything yet, so there is nothing to wait for.
            return Step::Make(KeyTimes { published: now, signs_from: now });
        };
        if let [_, second, ..] = keys
            && second.signs_from + seconds(self.max_ttl) + MARGIN_SECONDS <= now
        {
            return Step::DropOldest;
        }
        let turns = newest.signs_from + seconds(self.turnover) - seconds(self.lead);
        // A key that does not sign yet has no successor, however the clock jumps.
        if turns <= now && newest.signs_from <= now {
            return Step::Make(KeyTimes { published: now, signs_from: now + seconds(self.lead) });
        }
        Step::Keep
    }
}

/// Which of the keys signs: the newest whose time has come; with a clock that went back before all
/// of them, the one that is known longest.
pub(super) fn signer(keys: &[KeyTimes], now: i64) -> Option<usize> {
    let come = keys.iter().rposition(|key| key.signs_from <= now);
    come.or_else(|| (!keys.is_empty()).then_some(0))
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: JwtTimes = JwtTimes {
        turnover: Duration::from_secs(1000),
        lead: Duration::from_secs(100),
        default_ttl: Duration::from_secs(50),
        max_ttl: Duration::from_secs(200),
    };

    fn settle(keys: &mut Vec<KeyTimes>, now: i64) {
        loop {
            match TIMES.step(keys, now) {
                Step::Keep => return,
                Step::Make(times) => keys.push(times),
                Step::DropOldest => drop(keys.remove(0)),
            }
        }
    }

    #[test]
    fn every_token_verifies_with_news_as_old_as_the_lead_from_first_to_last_second() {
        let mut keys = Vec::new();
        let mut published: Vec<Vec<i64>> = Vec::new();
        let mut uses: Vec<(i64, i64)> = Vec::new();
        for now in 0..10_000_i64 {
            settle(&mut keys, now);
            assert!(keys.len() <= 3, "{keys:?}");
            published.push(keys.iter().map(|key| key.published).collect());
            let signer = keys[signer(&keys, now).unwrap()];
            uses.push((now, signer.published));
            // A verifier with news of `lead` ago knows the key that signs now.
            let old_news = &published[usize::try_from((now - 100).max(0)).unwrap()];
            assert!(old_news.contains(&signer.published), "at {now}: {signer:?}");
            // A token of 200 seconds ago, the longest, still verifies.
            let (_, key) = uses[usize::try_from((now - 200).max(0)).unwrap()];
            assert!(published[published.len() - 1].contains(&key), "at {now}");
        }
        let (first, last) = (uses[0].1, uses[9_999].1);
        assert!(first < last, "keys turn over");
    }

    #[test]
    fn clock_that_jumps_makes_no_heap_of_keys() {
        let mut keys = Vec::new();
        for now in [1_000_000, 10, 1_000_050, 9_000_000, 20, 9_000_001, 9_000_200] {
            settle(&mut keys, now);
            assert!(keys.len() <= 3, "at {now}: {keys:?}");
            assert!(signer(&keys, now).is_some());
        }
    }

    #[test]
    fn wishes_are_granted_within_bounds() {
        for (wish, granted) in [(0, 50), (-1, 50), (10, 10), (200, 200), (i64::MAX, 200)] {
            assert_eq!(TIMES.grant(wish), Duration::from_secs(granted));
        }
    }
}
