//! The life of one identity on this node, decided purely: no clock, no task, no random source.
//!
//! ```text
//!            failed            issued
//!  BackingOff ◀──── Asking ─────────────▶ Held ──60..70 % of life──▶ Renewing ─┐ issued
//!      └───wait────▶  ▲ ▲                   ▲                        │    ▲    │
//!                     │ └─── end of life ───┼────────────────────────┤    │    │
//!                     │                     └────────────────────────┼────┼────┘
//!                     └────── end of life ── RetryingRenewal ◀─failed┘    │
//!                                                 └────────wait───────────┘
//! ```
//!
//! A tainted root brings the renewal of what is held forward; a revoked one takes it away at once.
//! A wait also ends when the authority, having been away, answers anybody on this node.
//!
//! Beside it runs the use: in use, or lingering since the last reference went; at the end of the
//! linger everything is wiped.

use std::time::{Duration, SystemTime};

/// How long an identity without references is kept, for pods that are replaced.
pub const LINGER: Duration = Duration::from_mins(2);

/// Over how long the certificates under a tainted root are replaced, at most. They must be gone in
/// five minutes; the last of them is for requests that fail.
pub const REISSUE_SPREAD: Duration = Duration::from_mins(4);

/// Bound of the first wait after a failure; doubled by each further one.
const BACKOFF_FIRST: Duration = Duration::from_millis(500);
/// Bound of every wait after a failure.
const BACKOFF_MOST: Duration = Duration::from_mins(1);
/// Bound of a wait when a tenth of the certificate's life, or less, is left.
const BACKOFF_AT_LAST: Duration = Duration::from_secs(15);
/// No wait is shorter: a drawn zero would turn a refusal into a loop.
const BACKOFF_LEAST: Duration = Duration::from_millis(50);

/// When a certificate was received, and its last moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// When it was received; its life is counted from here, not from its back-dated beginning.
    pub from: SystemTime,
    /// Its end.
    pub until: SystemTime,
}

impl Lease {
    fn life(&self) -> Duration {
        self.until.duration_since(self.from).unwrap_or_default()
    }

    fn is_over(&self, now: SystemTime) -> bool {
        now >= self.until
    }

    /// A moment drawn evenly over the time in which all that rests on a tainted root is replaced;
    /// of a short life no more than a quarter.
    fn reissue(&self, now: SystemTime, draw: Draw) -> SystemTime {
        now + REISSUE_SPREAD.min(self.life() / 4).mul_f64(draw.0)
    }

    /// A moment drawn evenly between 60 % and 70 % of life: at least 30 % is left when the
    /// authority dies, and a fleet started together does not come back together.
    fn renewal(&self, draw: Draw) -> SystemTime {
        self.from + self.life().mul_f64(0.6 + 0.1 * draw.0)
    }
}

/// A random number in `[0, 1)`, drawn by the executor.
#[derive(Clone, Copy, Debug)]
pub struct Draw(pub f64);

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The moment of [`State::wake_at`] came, or the executor looked at the clock anyway.
    Woke,
    /// The request under way brought a certificate.
    Issued(Lease),
    /// The request under way failed.
    Failed,
    /// The request was not made, as the authority is away; it may be made after this time.
    HeldBack(Duration),
    /// The last reference went.
    Released,
    /// A reference came after the last one had gone.
    Referenced,
    /// The root that the held certificate rests on is tainted.
    Tainted,
    /// The held certificate rests on no root that is believed.
    Revoked,
    /// The authority can be reached again.
    Reachable,
}

/// What the executor must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the authority for a certificate; answer with `Issued` or `Failed`.
    Ask,
    /// Stop handing out the certificate held: its life is over, or nobody believes it.
    Withdraw,
    /// Forget the identity, and end.
    Wipe,
}

/// Where an identity stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing is held, a request is under way.
    Asking {
        /// How many have failed in a row.
        failures: u32,
    },
    /// Nothing is held, the next request waits.
    BackingOff {
        /// How many have failed in a row.
        failures: u32,
        /// When to ask again.
        at: SystemTime,
    },
    /// A certificate is held and is good.
    Held {
        /// Its life.
        lease: Lease,
        /// When to ask for the next.
        renew_at: SystemTime,
    },
    /// A certificate is held, a request for the next is under way.
    Renewing {
        /// Life of the held one.
        lease: Lease,
        /// How many have failed in a row.
        failures: u32,
    },
    /// A certificate is held, the next request waits.
    RetryingRenewal {
        /// Life of the held one.
        lease: Lease,
        /// How many have failed in a row.
        failures: u32,
        /// When to ask again.
        at: SystemTime,
    },
}

/// Whether anybody needs the identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// There are references.
    InUse,
    /// There are none any more.
    Lingering {
        /// When it is wiped.
        until: SystemTime,
    },
}

/// One identity: where it stands and whether it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Where it stands.
    pub phase: Phase,
    /// Whether it is needed.
    pub usage: Usage,
}

impl State {
    /// A new identity, in use; the executor asks at once.
    pub const fn start() -> (Self, Action) {
        let phase = Phase::Asking { failures: 0 };
        (Self { phase, usage: Usage::InUse }, Action::Ask)
    }

    /// The next moment at which `Woke` is due, if time alone can change anything.
    pub fn wake_at(&self) -> Option<SystemTime> {
        let phase = match self.phase {
            Phase::Asking { .. } => None,
            Phase::BackingOff { at, .. } => Some(at),
            Phase::Held { lease, renew_at } => Some(renew_at.min(lease.until)),
            Phase::Renewing { lease, .. } => Some(lease.until),
            Phase::RetryingRenewal { lease, at, .. } => Some(at.min(lease.until)),
        };
        match (phase, self.usage) {
            (Some(phase), Usage::Lingering { until }) => Some(phase.min(until)),
            (None, Usage::Lingering { until }) => Some(until),
            (phase, Usage::InUse) => phase,
        }
    }

    /// Decides what an event means. An event that does not fit the phase changes nothing.
    #[must_use]
    pub fn step(self, event: Event, now: SystemTime, draw: Draw) -> (Self, Vec<Action>) {
        match event {
            Event::Released => {
                (Self { usage: Usage::Lingering { until: now + LINGER }, ..self }, vec![])
            }
            Event::Referenced => (Self { usage: Usage::InUse, ..self }, vec![]),
            Event::Woke => self.woke(now),
            Event::Reachable => self.reachable(),
            Event::HeldBack(wait) => {
                let phase = held_back(self.phase, now + wait.max(BACKOFF_LEAST));
                (Self { phase, ..self }, vec![])
            }
            Event::Issued(lease) => match self.phase {
                Phase::Asking { .. } | Phase::Renewing { .. } => {
                    let phase = Phase::Held { lease, renew_at: lease.renewal(draw) };
                    (Self { phase, ..self }, vec![])
                }
                Phase::BackingOff { .. } | Phase::Held { .. } | Phase::RetryingRenewal { .. } => {
                    (self, vec![])
                }
            },
            Event::Failed => (Self { phase: failed(self.phase, now, draw), ..self }, vec![]),
            Event::Tainted => (Self { phase: tainted(self.phase, now, draw), ..self }, vec![]),
            Event::Revoked => {
                let (phase, actions) = revoked(self.phase);
                (Self { phase, ..self }, actions)
            }
        }
    }

    /// What waits after failures waits no longer.
    fn reachable(self) -> (Self, Vec<Action>) {
        let phase = match self.phase {
            Phase::BackingOff { failures, .. } => Phase::Asking { failures },
            Phase::RetryingRenewal { lease, failures, .. } => Phase::Renewing { lease, failures },
            Phase::Asking { .. } | Phase::Held { .. } | Phase::Renewing { .. } => {
                return (self, vec![]);
            }
        };
        (Self { phase, ..self }, vec![Action::Ask])
    }

    fn woke(self, now: SystemTime) -> (Self, Vec<Action>) {
        if let Usage::Lingering { until } = self.usage
            && now >= until
        {
            return (self, vec![Action::Wipe]);
        }
        let (phase, actions) = match self.phase {
            Phase::BackingOff { failures, at } if is_over(at, now) => {
                (Phase::Asking { failures }, vec![Action::Ask])
            }
            // The machine slept through it all.
            Phase::Held { lease, .. } if lease.is_over(now) => {
                (Phase::Asking { failures: 0 }, vec![Action::Withdraw, Action::Ask])
            }
            Phase::Held { lease, renew_at } if now >= renew_at => {
                (Phase::Renewing { lease, failures: 0 }, vec![Action::Ask])
            }
            // The request under way goes on, only the certificate goes.
            Phase::Renewing { lease, failures } if lease.is_over(now) => {
                (Phase::Asking { failures }, vec![Action::Withdraw])
            }
            Phase::RetryingRenewal { lease, failures, at } if lease.is_over(now) => {
                (Phase::BackingOff { failures, at }, vec![Action::Withdraw])
            }
            Phase::RetryingRenewal { lease, failures, at } if is_over(at, now) => {
                (Phase::Renewing { lease, failures }, vec![Action::Ask])
            }
            early => (early, vec![]),
        };
        (Self { phase, ..self }, actions)
    }
}

/// What is due already, or under way, stays as it is; the executor looks at each new certificate.
fn tainted(phase: Phase, now: SystemTime, draw: Draw) -> Phase {
    match phase {
        Phase::Held { lease, renew_at } => {
            Phase::Held { lease, renew_at: renew_at.min(lease.reissue(now, draw)) }
        }
        other @ (Phase::Asking { .. }
        | Phase::BackingOff { .. }
        | Phase::Renewing { .. }
        | Phase::RetryingRenewal { .. }) => other,
    }
}

fn revoked(phase: Phase) -> (Phase, Vec<Action>) {
    match phase {
        Phase::Held { .. } | Phase::RetryingRenewal { .. } => {
            (Phase::Asking { failures: 0 }, vec![Action::Withdraw, Action::Ask])
        }
        // The request under way goes on; its answer is checked against the new roots.
        Phase::Renewing { failures, .. } => (Phase::Asking { failures }, vec![Action::Withdraw]),
        nothing @ (Phase::Asking { .. } | Phase::BackingOff { .. }) => (nothing, vec![]),
    }
}

fn failed(phase: Phase, now: SystemTime, draw: Draw) -> Phase {
    match phase {
        Phase::Asking { failures } => Phase::BackingOff {
            failures: failures.saturating_add(1),
            at: now + backoff(failures, BACKOFF_MOST, draw),
        },
        Phase::Renewing { lease, failures } => {
            let left = lease.until.duration_since(now).unwrap_or_default();
            let most = if left * 10 <= lease.life() { BACKOFF_AT_LAST } else { BACKOFF_MOST };
            Phase::RetryingRenewal {
                lease,
                failures: failures.saturating_add(1),
                at: now + backoff(failures, most, draw),
            }
        }
        waiting @ (Phase::BackingOff { .. }
        | Phase::Held { .. }
        | Phase::RetryingRenewal { .. }) => waiting,
    }
}

/// As after a failure, but nothing was learnt by it, so later waits get no longer.
fn held_back(phase: Phase, at: SystemTime) -> Phase {
    match phase {
        Phase::Asking { failures } => Phase::BackingOff { failures, at },
        Phase::Renewing { lease, failures } => Phase::RetryingRenewal { lease, failures, at },
        waiting @ (Phase::BackingOff { .. }
        | Phase::Held { .. }
        | Phase::RetryingRenewal { .. }) => waiting,
    }
}

/// Whether a wait after a failure is over. One that has longer to go than any wait is, was begun by
/// a clock that has been set back since: to wait on would be to wait for days.
fn is_over(at: SystemTime, now: SystemTime) -> bool {
    now >= at || at > now + BACKOFF_MOST
}

/// Full jitter: anything up to a bound that doubles with each failure.
fn backoff(failures: u32, most: Duration, draw: Draw) -> Duration {
    let bound = BACKOFF_FIRST.saturating_mul(2_u32.saturating_pow(failures.min(16))).min(most);
    bound.mul_f64(draw.0).max(BACKOFF_LEAST)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: Duration = Duration::from_hours(24);
    const NOON: SystemTime = SystemTime::UNIX_EPOCH;

    fn at(seconds: u64) -> SystemTime {
        NOON + Duration::from_secs(seconds)
    }

    fn lease() -> Lease {
        Lease { from: NOON, until: NOON + DAY }
    }

    fn held(draw: f64) -> State {
        State::start().0.step(Event::Issued(lease()), NOON, Draw(draw)).0
    }

    #[test]
    fn renewal_is_drawn_between_60_and_70_percent_of_life() {
        assert_eq!(held(0.0).wake_at(), Some(NOON + DAY.mul_f64(0.6)));
        assert!(held(0.999_999).wake_at().unwrap() < NOON + DAY.mul_f64(0.7));
        let (state, actions) = held(0.0).step(Event::Woke, NOON + DAY.mul_f64(0.6), Draw(0.0));
        assert_eq!(actions, [Action::Ask]);
        assert!(matches!(state.phase, Phase::Renewing { .. }));
    }

    #[test]
    fn failed_renewal_keeps_the_certificate_to_its_end() {
        let renew_at = NOON + DAY.mul_f64(0.6);
        let (state, _) = held(0.0).step(Event::Woke, renew_at, Draw(0.0));
        let (state, actions) = state.step(Event::Failed, renew_at, Draw(0.5));
        assert_eq!(actions, []);
        assert_eq!(state.wake_at(), Some(renew_at + Duration::from_millis(250)));
        let (state, actions) = state.step(Event::Woke, NOON + DAY, Draw(0.5));
        assert_eq!(actions, [Action::Withdraw]);
        assert!(matches!(state.phase, Phase::BackingOff { failures: 1, .. }));
    }

    #[test]
    fn machine_that_slept_past_the_end_asks_anew() {
        let (state, actions) = held(0.3).step(Event::Woke, NOON + DAY * 3, Draw(0.0));
        assert_eq!(actions, [Action::Withdraw, Action::Ask]);
        assert_eq!(state.phase, Phase::Asking { failures: 0 });
    }

    #[test]
    fn wait_after_a_failure_ends_when_the_clock_was_set_back() {
        let ahead = NOON + DAY * 3;
        let (state, _) = State::start().0.step(Event::Failed, ahead, Draw(0.5));
        let (same, actions) = state.step(Event::Woke, ahead, Draw(0.0));
        assert_eq!((same, actions), (state, vec![]), "not over yet");
        let (state, actions) = state.step(Event::Woke, NOON, Draw(0.0));
        assert_eq!(actions, [Action::Ask]);
        assert_eq!(state.phase, Phase::Asking { failures: 1 });

        let phase = Phase::RetryingRenewal { lease: lease(), failures: 1, at: ahead };
        let state = State { phase, usage: Usage::InUse };
        assert_eq!(state.step(Event::Woke, NOON, Draw(0.0)).1, [Action::Ask]);
    }

    #[test]
    fn waits_double_up_to_a_minute_and_to_15_s_at_last() {
        let most = Draw(1.0);
        assert_eq!(backoff(0, BACKOFF_MOST, most), Duration::from_millis(500));
        assert_eq!(backoff(3, BACKOFF_MOST, most), Duration::from_secs(4));
        assert_eq!(backoff(40, BACKOFF_MOST, most), Duration::from_mins(1));
        assert_eq!(backoff(40, BACKOFF_MOST, Draw(0.0)), BACKOFF_LEAST);

        let late = NOON + DAY.mul_f64(0.95);
        let state =
            State { phase: Phase::Renewing { lease: lease(), failures: 20 }, usage: Usage::InUse };
        let (state, _) = state.step(Event::Failed, late, most);
        assert_eq!(state.wake_at(), Some(late + BACKOFF_AT_LAST));
    }

    #[test]
    fn unused_identity_is_wiped_after_the_linger_and_not_when_used_again() {
        let (released, _) = held(0.0).step(Event::Released, at(10), Draw(0.0));
        assert_eq!(released.wake_at(), Some(at(10) + LINGER));
        let (_, actions) = released.step(Event::Woke, at(10) + LINGER, Draw(0.0));
        assert_eq!(actions, [Action::Wipe]);

        let (used, _) = released.step(Event::Referenced, at(20), Draw(0.0));
        let (_, actions) = used.step(Event::Woke, at(10) + LINGER, Draw(0.0));
        assert_eq!(actions, []);
    }

    #[test]
    fn tainted_root_brings_the_renewal_forward_spread_over_four_minutes_and_never_back() {
        let whole = |draw| {
            let (state, actions) = held(0.0).step(Event::Tainted, at(60), Draw(draw));
            assert_eq!(actions, []);
            state.wake_at().unwrap()
        };
        assert_eq!(whole(0.0), at(60));
        assert_eq!(whole(0.5), at(60) + REISSUE_SPREAD / 2);
        assert!(whole(0.999_999) < at(60) + REISSUE_SPREAD);

        let almost_due = NOON + DAY.mul_f64(0.6) - Duration::from_secs(1);
        let (state, _) = held(0.0).step(Event::Tainted, almost_due, Draw(0.9));
        assert_eq!(state.wake_at(), Some(NOON + DAY.mul_f64(0.6)));
    }

    #[test]
    fn tainted_root_of_a_short_life_leaves_time_before_its_end() {
        let lease = Lease { from: NOON, until: at(40) };
        let (state, _) = State::start().0.step(Event::Issued(lease), NOON, Draw(0.5));
        let (state, _) = state.step(Event::Tainted, at(1), Draw(0.999_999));
        assert!(state.wake_at().unwrap() < at(11));
    }

    #[test]
    fn revoked_root_takes_the_certificate_away_and_asks_at_once() {
        let (state, actions) = held(0.5).step(Event::Revoked, at(60), Draw(0.5));
        assert_eq!(actions, [Action::Withdraw, Action::Ask]);
        assert_eq!(state.phase, Phase::Asking { failures: 0 });

        let (state, _) = held(0.0).step(Event::Woke, NOON + DAY.mul_f64(0.6), Draw(0.0));
        let (state, actions) = state.step(Event::Revoked, NOON + DAY.mul_f64(0.6), Draw(0.0));
        assert_eq!(actions, [Action::Withdraw], "one request at a time");
        assert_eq!(state.phase, Phase::Asking { failures: 0 });
    }

    #[test]
    fn authority_that_is_back_is_asked_at_once_by_those_who_waited() {
        let (state, _) = State::start().0.step(Event::Failed, at(0), Draw(1.0));
        let (state, actions) = state.step(Event::Reachable, at(0), Draw(0.0));
        assert_eq!(
            (state.phase, &actions[..]),
            (Phase::Asking { failures: 1 }, &[Action::Ask][..])
        );

        let renewing = held(0.0).step(Event::Woke, NOON + DAY.mul_f64(0.6), Draw(0.0)).0;
        let retrying = renewing.step(Event::Failed, NOON + DAY.mul_f64(0.6), Draw(1.0)).0;
        let (state, actions) = retrying.step(Event::Reachable, NOON + DAY.mul_f64(0.6), Draw(0.0));
        assert_eq!(actions, [Action::Ask]);
        assert!(matches!(state.phase, Phase::Renewing { failures: 1, .. }));

        for content in [State::start().0, held(0.0), renewing] {
            assert_eq!(content.step(Event::Reachable, NOON, Draw(0.0)), (content, vec![]));
        }
    }

    #[test]
    fn request_that_was_held_back_is_made_when_its_time_comes_and_is_no_failure() {
        let wait = Duration::from_secs(3);
        let (state, _) = State::start().0.step(Event::HeldBack(wait), at(0), Draw(0.0));
        assert_eq!(state.phase, Phase::BackingOff { failures: 0, at: at(3) });
        let (state, actions) = state.step(Event::Woke, at(3), Draw(0.0));
        assert_eq!(
            (state.phase, &actions[..]),
            (Phase::Asking { failures: 0 }, &[Action::Ask][..])
        );
        let (state, _) = state.step(Event::HeldBack(Duration::ZERO), at(3), Draw(0.0));
        assert_eq!(state.wake_at(), Some(at(3) + BACKOFF_LEAST));
    }

    #[test]
    fn clock_that_is_set_moves_no_deadline_past_the_end() {
        // Received while the clock was an hour ahead, then set right: still before 70 % of what
        // was left by that clock, so before the end by any.
        let early = lease().from - Duration::from_hours(1);
        let state = held(0.999_999);
        assert_eq!(state.step(Event::Woke, early, Draw(0.0)), (state, vec![]));
        assert!(state.wake_at().unwrap() < lease().until - DAY.mul_f64(0.29));
        // Set ahead, past the moment of renewal, or past the end.
        let (_, actions) = state.step(Event::Woke, NOON + DAY.mul_f64(0.8), Draw(0.0));
        assert_eq!(actions, [Action::Ask]);
        let (_, actions) = state.step(Event::Woke, NOON + DAY * 2, Draw(0.0));
        assert_eq!(actions, [Action::Withdraw, Action::Ask]);
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            1 => Just(Event::Tainted),
            1 => Just(Event::Revoked),
            3 => Just(Event::Woke),
            1 => Just(Event::Reachable),
            1 => Just(Event::HeldBack(Duration::from_secs(5))),
            1 => Just(Event::Failed),
            1 => Just(Event::Released),
            1 => Just(Event::Referenced),
            2 => (1u64..100_000).prop_map(|life| Event::Issued(Lease {
                from: NOON,
                until: at(life),
            })),
        ]
    }

    proptest! {
        /// Whatever happens: one request at a time, no life over that is still served after a look
        /// at the clock, and nothing that waits for ever without a request under way.
        #[test]
        fn stays_in_its_drawing(
            events in proptest::collection::vec((event(), 0u64..50_000, 0.0f64..1.0), 1..60),
        ) {
            let (mut state, _) = State::start();
            let mut now = NOON;
            for (event, pause, draw) in events {
                now += Duration::from_secs(pause);
                let event = match event {
                    Event::Issued(Lease { until, .. }) => {
                        let life = until.duration_since(NOON).unwrap();
                        Event::Issued(Lease { from: now, until: now + life })
                    }
                    other => other,
                };
                let asking = |phase| matches!(phase, Phase::Asking { .. } | Phase::Renewing { .. });
                let before = state.phase;
                let (next, actions) = state.step(event, now, Draw(draw));
                if actions.contains(&Action::Ask) {
                    prop_assert!(!asking(before) && asking(next.phase));
                }
                if event == Event::Woke && !actions.contains(&Action::Wipe) {
                    match next.phase {
                        Phase::Held { lease, .. }
                        | Phase::Renewing { lease, .. }
                        | Phase::RetryingRenewal { lease, .. } => prop_assert!(now < lease.until),
                        Phase::Asking { .. } | Phase::BackingOff { .. } => {}
                    }
                }
                match (event, next.phase) {
                    (Event::Tainted, Phase::Held { renew_at, .. }) => {
                        prop_assert!(renew_at <= now + REISSUE_SPREAD);
                    }
                    (Event::Revoked, Phase::Asking { .. } | Phase::BackingOff { .. }) => {}
                    (Event::Revoked, served) => prop_assert!(false, "serves {served:?}"),
                    _ => {}
                }
                prop_assert!(asking(next.phase) || next.wake_at().is_some());
                if actions.contains(&Action::Wipe) {
                    break;
                }
                state = next;
            }
        }
    }
}
