//! How roots turn over: which step is next, what holds it, and what the state is after it. Pure:
//! no clock, no store, no key is made here.
//!
//! ```text
//!  Prepare B ── wait, all nodes acknowledge ──▶ Activate B ── leaves of A end ──▶ Remove A
//!                                                                                   │ rollback
//!                                                                                   ▼
//!                                                                             DestroyKey A
//! ```
//!
//! Each step is one replacement of the state document, so that a crash leaves it undone or done.
//! Safety rests on that and on the gates below, not on who runs them: replicas may all try.

use serde::Serialize;

use crate::heard::{Node, Nodes};
use crate::state::{Forced, Origin, Phase, State};

mod change;

pub use change::{Change, Made, apply};

/// How long before its end a root is replaced at the latest, whatever its age.
const ROOT_RESERVE: i64 = 30 * 86400;

/// One step of a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase", tag = "step")]
pub enum Step {
    /// Make the next root and announce it in the bundle.
    Prepare,
    /// Let the prepared root sign.
    Activate {
        /// Which.
        generation: u64,
    },
    /// Take a drained root out of the bundle.
    Remove {
        /// Which.
        generation: u64,
    },
    /// Destroy the key of a removed root.
    DestroyKey {
        /// Which.
        generation: u64,
    },
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Prepare => f.write_str("prepare the next root"),
            Self::Activate { generation } => write!(f, "activate root {generation}"),
            Self::Remove { generation } => write!(f, "remove root {generation}"),
            Self::DestroyKey { generation } => write!(f, "destroy the key of root {generation}"),
        }
    }
}

/// What keeps a step from being made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "hold")]
pub enum Hold {
    /// The clock is earlier than the last step.
    Clock {
        /// When that was.
        last_step: i64,
    },
    /// The clock jumped, and may jump back.
    Unsteady {
        /// Until when it must run evenly.
        until: i64,
    },
    /// It is too early.
    Early {
        /// When it is time.
        until: i64,
        /// What is waited for.
        why: Wait,
    },
    /// The operator's files say which root comes next.
    Operator,
    /// Nodes that are alive have not acknowledged the bundle.
    Nodes {
        /// The number that they must have in force.
        sequence: u64,
        /// Which.
        names: Vec<String>,
    },
}

/// What time is given for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Wait {
    /// The root is young.
    Turnover,
    /// Agents push the bundle on to their connections.
    Followers,
    /// Callers that do not follow the bundle learn roots from their next certificate.
    Answers,
    /// What the root signed may be alive.
    Leaves,
    /// The root may be wanted back.
    Rollback,
}

impl Wait {
    /// For people.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Turnover => "the root in use is young",
            Self::Followers => "agents take the bundle into use",
            Self::Answers => {
                "callers that follow no bundle learn roots from their next certificate"
            }
            Self::Leaves => "certificates under it may be alive",
            Self::Rollback => "it may be wanted back",
        }
    }
}

/// The next step, and what holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The step.
    #[serde(flatten)]
    pub step: Step,
    /// Empty when it is ready.
    pub holds: Vec<Hold>,
}

impl Plan {
    /// Whether nothing holds it.
    pub fn is_ready(&self) -> bool {
        self.holds.is_empty()
    }

    /// The nodes that hold it.
    pub fn holding_nodes(&self) -> &[String] {
        let nodes = self.holds.iter().find_map(|hold| match hold {
            Hold::Nodes { names, .. } => Some(names.as_slice()),
            _ => None,
        });
        nodes.unwrap_or_default()
    }
}

/// What is known beside the state.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// What nodes were heard to do.
    pub nodes: &'a Nodes,
    /// Since when the clock runs evenly, in seconds since 1970.
    pub steady_since: i64,
    /// End of the root that signs, in seconds since 1970.
    pub root_end: i64,
    /// Who makes the next root.
    pub source: Origin,
}

/// The key that is to be destroyed now, if any. Never held by a rotation under way.
pub fn overdue_key(state: &State, now: i64) -> Option<u64> {
    let due = |one: &&crate::state::Generation| {
        one.phase == Phase::Removed
            && one.key.is_some()
            && now >= one.since.saturating_add(state.timing.rollback)
    };
    state.generations.iter().find(due).filter(|_| now >= state.stepped_at).map(|one| one.number)
}

/// The next step and all that holds it.
pub fn plan(state: &State, facts: &Facts<'_>, now: i64) -> Plan {
    let timing = &state.timing;
    let step = next(state);
    let mut holds = Vec::new();
    if now < state.stepped_at {
        holds.push(Hold::Clock { last_step: state.stepped_at });
    }
    let (until, why) = match step {
        Step::Prepare => (turnover(state, facts), Wait::Turnover),
        Step::Activate { generation } => {
            let since = since(state, generation);
            if only_followers(state, facts.nodes, now) {
                (since.saturating_add(timing.wait), Wait::Followers)
            } else {
                (since.saturating_add(state.largest_ttl.max(timing.wait)), Wait::Answers)
            }
        }
        Step::Remove { generation } => {
            let life = state.largest_ttl.saturating_add(timing.drain_margin);
            (since(state, generation).saturating_add(life), Wait::Leaves)
        }
        Step::DestroyKey { generation } => {
            (since(state, generation).saturating_add(timing.rollback), Wait::Rollback)
        }
    };
    // Under a root that is over nobody believes anything, nor reaches the authority to say so.
    let over = matches!(step, Step::Activate { .. }) && facts.root_end <= now;
    if step == Step::Prepare && facts.source == Origin::Plugged {
        holds.push(Hold::Operator);
    } else if now < until && !over {
        holds.push(Hold::Early { until, why });
    }
    if let Step::Activate { .. } | Step::Remove { .. } = step {
        let steady = facts.steady_since.saturating_add(timing.wait);
        if now < steady {
            holds.push(Hold::Unsteady { until: steady });
        }
        if !over {
            holds.extend(held_by_nodes(state, step, facts.nodes, now));
        }
    }
    Plan { step, holds }
}

fn next(state: &State) -> Step {
    if let Some(prepared) = state.in_phase(Phase::Prepared) {
        return Step::Activate { generation: prepared.number };
    }
    if let Some(drained) = state.drained() {
        return Step::Remove { generation: drained.number };
    }
    let kept = |one: &&crate::state::Generation| one.phase == Phase::Removed && one.key.is_some();
    match state.generations.iter().find(kept) {
        Some(removed) => Step::DestroyKey { generation: removed.number },
        None => Step::Prepare,
    }
}

/// When the active root is to be replaced: at its age, before its end; at once if it is an
/// operator's whose files are no longer plugged in.
fn turnover(state: &State, facts: &Facts<'_>) -> i64 {
    match state.active() {
        Some(active) if active.origin == Origin::Made => active
            .made
            .saturating_add(state.timing.root_turnover)
            .min(facts.root_end.saturating_sub(ROOT_RESERVE)),
        _ => i64::MIN,
    }
}

fn since(state: &State, generation: u64) -> i64 {
    state.generation(generation).map_or(i64::MAX, |one| one.since)
}

/// Whether every caller that may be alive follows the bundle.
fn only_followers(state: &State, nodes: &Nodes, now: i64) -> bool {
    nodes.nodes.values().all(|node| node.follows() || !node.is_live(now, state.largest_ttl))
}

/// Live followers must have in force what names the root that (then) signs; else they would refuse
/// what it signs, now or once the cross certificate's root is gone.
fn held_by_nodes(state: &State, step: Step, nodes: &Nodes, now: i64) -> Option<Hold> {
    let signs = match step {
        Step::Activate { generation } => state.generation(generation),
        _ => state.active(),
    }?;
    let text = step.to_string();
    let forced = |one: &Forced| one.step == text && one.at >= signs.made;
    if state.forced.iter().any(forced) {
        return None;
    }
    // Nobody takes a revoked root for good that follows at all.
    if let Step::Remove { generation } = step
        && state.generation(generation)?.phase == Phase::Revoked
    {
        return None;
    }
    let late = |node: &Node| {
        node.follows() && node.is_live(now, state.largest_ttl) && node.in_force < signs.announced
    };
    let names: Vec<_> =
        nodes.nodes.iter().filter(|(_, node)| late(node)).map(|(name, _)| name.clone()).collect();
    (!names.is_empty()).then_some(Hold::Nodes { sequence: signs.announced, names })
}

#[cfg(test)]
mod tests;
