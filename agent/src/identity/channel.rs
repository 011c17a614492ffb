//! [`CaChannel`]: whether the authority can be reached, and so who may try.
//!
//! ```text
//!            no answer                    probe failed: wait doubles, up to 15 s
//!   Up ──────────────────▶ Down ◀───────────────────────┐
//!    ▲                       └── wait over: one probe ──┤
//!    └──────────── any answer, also a refusal ──────────┘
//! ```
//!
//! When the authority is away, not every identity of the node knocks at its door: one does, at a
//! time that is drawn, and the others are held back without a packet.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::state::Draw;

/// Bound of the first wait after a failure; doubled by each further one.
const WAIT_FIRST: Duration = Duration::from_millis(500);
/// Bound of every wait: what a certificate in the last tenth of its life is owed.
const WAIT_MOST: Duration = Duration::from_secs(15);
/// No wait is shorter: a drawn zero would turn a refusal into a loop.
const WAIT_LEAST: Duration = Duration::from_millis(50);

/// The way to the authority, shared by all that ask on this node.
pub(crate) struct CaChannel {
    /// Guards what was last seen of it; held for a look or a change.
    standing: Mutex<Standing>,
    /// How many times it has come up again.
    recoveries: watch::Sender<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// The last request was answered, or there was none yet.
    Up,
    /// Nobody tries before `next`.
    Down { failures: u32, next: Instant },
    /// One tries.
    Probing { failures: u32 },
}

/// Leave to ask the authority once. Dropped unused, it lets another one try.
#[must_use]
pub(crate) struct Turn<'a> {
    channel: &'a CaChannel,
    probe: bool,
    reported: bool,
}

/// The authority is away, and it is not this identity's turn to try; one may try after this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeldBack(pub(crate) Duration);

impl CaChannel {
    pub(crate) fn new() -> Self {
        Self { standing: Mutex::new(Standing::Up), recoveries: watch::Sender::new(0) }
    }

    /// Asks for leave to make one request now.
    pub(crate) fn enter(&self, now: Instant) -> Result<Turn<'_>, HeldBack> {
        let mut standing = self.standing();
        let probe = match *standing {
            Standing::Up => false,
            Standing::Down { failures, next } if now >= next => {
                *standing = Standing::Probing { failures };
                true
            }
            Standing::Down { next, .. } => return Err(HeldBack(next - now)),
            Standing::Probing { .. } => return Err(HeldBack(WAIT_FIRST)),
        };
        Ok(Turn { channel: self, probe, reported: false })
    }

    /// Changes each time that the authority is there again.
    pub(crate) fn recoveries(&self) -> watch::Receiver<u64> {
        self.recoveries.subscribe()
    }

    /// Whether the last request was answered.
    pub(crate) fn is_up(&self) -> bool {
        *self.standing() == Standing::Up
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    /// The authority answered, be it with a refusal.
    pub(crate) fn answered(mut self) {
        self.reported = true;
        let before = std::mem::replace(&mut *self.channel.standing(), Standing::Up);
        if before != Standing::Up {
            self.channel.recoveries.send_modify(|count| *count += 1);
        }
    }

    /// The authority did not answer.
    pub(crate) fn unanswered(mut self, now: Instant, draw: Draw) {
        self.reported = true;
        let mut standing = self.channel.standing();
        let failures = match *standing {
            Standing::Up => 0,
            Standing::Probing { failures } if self.probe => failures.saturating_add(1),
            // Sent before it was known to be down; says nothing new.
            Standing::Down { .. } | Standing::Probing { .. } => return,
        };
        *standing = Standing::Down { failures, next: now + wait(failures, draw) };
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.probe && !self.reported {
            let mut standing = self.channel.standing();
            if let Standing::Probing { failures } = *standing {
                *standing = Standing::Down { failures, next: Instant::now() };
            }
        }
    }
}

/// Full jitter, so that the nodes of a mesh do not come together.
fn wait(failures: u32, draw: Draw) -> Duration {
    let bound = WAIT_FIRST.saturating_mul(2_u32.saturating_pow(failures.min(16))).min(WAIT_MOST);
    bound.mul_f64(draw.0).max(WAIT_LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Draw = Draw(1.0);

    fn after(ms: u64, from: Instant) -> Instant {
        from + Duration::from_millis(ms)
    }

    #[test]
    fn one_probes_at_a_time_and_the_others_are_held_back() {
        let (channel, start) = (CaChannel::new(), Instant::now());
        channel.enter(start).ok().unwrap().unanswered(start, MOST);
        assert!(!channel.is_up());
        let held = channel.enter(after(499, start)).err();
        assert_eq!(held, Some(HeldBack(Duration::from_millis(1))));
        let probe = channel.enter(after(500, start)).ok().unwrap();
        for later in [500, 5_000, 500_000] {
            assert!(channel.enter(after(later, start)).is_err(), "one is under way");
        }
        probe.unanswered(after(600, start), MOST);
        assert!(channel.enter(after(1_599, start)).is_err());
        assert!(channel.enter(after(1_600, start)).is_ok());
    }

    #[test]
    fn waits_grow_to_fifteen_seconds_and_not_further() {
        let (channel, mut now) = (CaChannel::new(), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..8 {
            channel.enter(now).ok().unwrap().unanswered(now, MOST);
            let Standing::Down { next, .. } = *channel.standing() else { panic!("down") };
            waits.push((next - now).as_millis());
            now = next;
        }
        assert_eq!(waits, [500, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000, 15_000]);
        assert_eq!(wait(5, Draw(0.0)), WAIT_LEAST);
    }

    #[test]
    fn any_answer_opens_the_way_for_all_and_tells_them_once() {
        let (channel, start) = (CaChannel::new(), Instant::now());
        let mut recoveries = channel.recoveries();
        let (first, second) =
            (channel.enter(start).ok().unwrap(), channel.enter(start).ok().unwrap());
        first.unanswered(start, MOST);
        assert!(!recoveries.has_changed().unwrap());
        second.answered();
        assert!(channel.is_up() && recoveries.has_changed().unwrap());
        recoveries.mark_unchanged();
        channel.enter(start).ok().unwrap().answered();
        assert!(!recoveries.has_changed().unwrap(), "it was up already");
    }

    #[test]
    fn requests_that_were_under_way_do_not_lengthen_the_wait() {
        let (channel, start) = (CaChannel::new(), Instant::now());
        let turns: Vec<_> = (0..16).map(|_| channel.enter(start).ok().unwrap()).collect();
        for turn in turns {
            turn.unanswered(start, MOST);
        }
        assert!(channel.enter(after(500, start)).is_ok());
    }

    #[test]
    fn probe_that_is_given_up_lets_another_one_try() {
        let (channel, start) = (CaChannel::new(), Instant::now());
        channel.enter(start).ok().unwrap().unanswered(start, MOST);
        let probe = channel.enter(after(500, start)).ok().unwrap();
        drop(probe);
        assert!(channel.enter(after(60_000, start)).is_ok());
    }
}
