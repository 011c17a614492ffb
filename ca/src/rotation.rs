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

use crate::heard::Nodes;
use crate::state::{FORCED_KEPT, REMOVED_KEPT};
use crate::state::{Forced, Generation, Issuing, Origin, Phase, State};

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
    let due = |one: &&Generation| {
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
    if step == Step::Prepare && facts.source == Origin::Plugged {
        holds.push(Hold::Operator);
    } else if now < until {
        holds.push(Hold::Early { until, why });
    }
    if let Step::Activate { .. } | Step::Remove { .. } = step {
        let steady = facts.steady_since.saturating_add(timing.wait);
        if now < steady {
            holds.push(Hold::Unsteady { until: steady });
        }
        holds.extend(held_by_nodes(state, step, facts.nodes, now));
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
    let kept = |one: &&Generation| one.phase == Phase::Removed && one.key.is_some();
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
    let late = |node: &crate::heard::Node| {
        node.follows() && node.is_live(now, state.largest_ttl) && node.in_force < signs.announced
    };
    let names: Vec<_> =
        nodes.nodes.iter().filter(|(_, node)| late(node)).map(|(name, _)| name.clone()).collect();
    (!names.is_empty()).then_some(Hold::Nodes { sequence: signs.announced, names })
}

/// What is done to a state. Material that must be made for it comes with it.
#[derive(Debug)]
pub enum Change {
    /// A root joins the bundle.
    Prepared(Made),
    /// A prepared root signs, and the one before it drains.
    Activated {
        /// Which.
        generation: u64,
        /// Its root's key, signed by the root before it.
        cross: Option<String>,
        /// What signs leaves; `None` when it was prepared with it.
        issuing: Option<Issuing>,
    },
    /// The active root signs with another issuing certificate.
    Reissued(Issuing),
    /// A root that signs no more is compromised.
    Tainted(u64),
    /// A root that signs no more is out at once.
    Revoked(u64),
    /// A drained root is out.
    Removed(u64),
    /// A removed root is out for good.
    KeyDestroyed(u64),
    /// A person overrides nodes.
    Forced(Step, Vec<String>),
    /// Nodes have seen this number: the store was put back to an older day.
    Overtaken(u64),
}

/// A root that was just made or plugged in.
#[derive(Debug)]
pub struct Made {
    /// Who made it.
    pub origin: Origin,
    /// Its root certificates, PEM.
    pub anchors: Vec<String>,
    /// Its key, when we made it.
    pub key: Option<crate::state::KeyPem>,
    /// What signs leaves, when it was plugged in.
    pub issuing: Option<Issuing>,
}

/// The state after a change. What the change names must be there, and fit; else nothing changes.
#[must_use]
pub fn apply(mut state: State, change: Change, now: i64) -> State {
    match change {
        Change::Reissued(issuing) => {
            state.last_issuing = state.last_issuing.max(issuing.number);
            if let Some(active) = in_phase_mut(&mut state, Phase::Active) {
                active.issuing = Some(issuing);
            }
            // No step of a rotation: any clock will do.
            return state;
        }
        Change::Prepared(made) => prepare(&mut state, made, now),
        Change::Activated { generation, cross, issuing } => {
            activate(&mut state, generation, cross, issuing, now);
        }
        Change::Tainted(generation) => {
            // Its key, that somebody else may have, is of no more use to us.
            leave(&mut state, generation, Phase::Tainted, now, true);
        }
        Change::Revoked(generation) => leave(&mut state, generation, Phase::Revoked, now, true),
        Change::Removed(generation) => leave(&mut state, generation, Phase::Removed, now, false),
        Change::KeyDestroyed(generation) => {
            if let Some(one) = find(&mut state, generation) {
                one.key = None;
            }
        }
        Change::Forced(step, nodes) => {
            state.forced.push(Forced { at: now, step: step.to_string(), nodes });
            let surplus = state.forced.len().saturating_sub(FORCED_KEPT);
            state.forced.drain(..surplus);
        }
        Change::Overtaken(seen) => overtake(&mut state, seen),
    }
    state.stepped_at = state.stepped_at.max(now);
    state
}

/// Numbers begin anew above what nodes have seen, and all of it must be acknowledged again: what
/// they saw under those numbers may have been another bundle.
fn overtake(state: &mut State, seen: u64) {
    state.sequence = state.sequence.max(seen) + 1;
    for one in &mut state.generations {
        if one.phase.standing().is_some() {
            one.announced = state.sequence;
        }
    }
}

fn prepare(state: &mut State, made: Made, now: i64) {
    state.sequence += 1;
    if let Some(issuing) = &made.issuing {
        state.last_issuing = state.last_issuing.max(issuing.number);
    }
    let first = state.generations.is_empty();
    let generation = Generation {
        number: state.next_number(),
        origin: made.origin,
        phase: if first { Phase::Active } else { Phase::Prepared },
        since: now,
        made: now,
        announced: state.sequence,
        anchors: made.anchors,
        key: made.key,
        cross: None,
        issuing: made.issuing,
    };
    state.generations.push(generation);
}

fn activate(
    state: &mut State,
    generation: u64,
    cross: Option<String>,
    issuing: Option<Issuing>,
    now: i64,
) {
    if state.generation(generation).is_none_or(|one| one.phase != Phase::Prepared) {
        return;
    }
    if let Some(before) = in_phase_mut(state, Phase::Active) {
        before.phase = Phase::Draining;
        before.since = now;
        before.issuing = None;
    }
    if let Some(issuing) = &issuing {
        state.last_issuing = state.last_issuing.max(issuing.number);
    }
    if let Some(one) = find(state, generation) {
        one.phase = Phase::Active;
        one.since = now;
        one.cross = cross;
        one.issuing = issuing.or(one.issuing.take());
    }
}

/// Moves a generation that signs no more (or not yet) one phase on.
fn leave(state: &mut State, generation: u64, phase: Phase, now: i64, destroy: bool) {
    let Some(one) = find(state, generation) else { return };
    if one.phase == Phase::Active {
        return;
    }
    // A drain that is under way is not begun again.
    if !(one.phase.drains() && phase.drains()) {
        one.since = now;
    }
    one.phase = phase;
    one.issuing = None;
    if destroy {
        one.key = None;
    }
    state.sequence += 1;
    let removed = |one: &Generation| one.phase == Phase::Removed && one.key.is_none();
    while state.generations.iter().filter(|one| removed(one)).count() > REMOVED_KEPT {
        let oldest = state.generations.iter().position(removed);
        oldest.map(|at| state.generations.remove(at));
    }
}

fn find(state: &mut State, generation: u64) -> Option<&mut Generation> {
    state.generations.iter_mut().find(|one| one.number == generation)
}

fn in_phase_mut(state: &mut State, phase: Phase) -> Option<&mut Generation> {
    state.generations.iter_mut().find(|one| one.phase == phase)
}
