//! What is done to a state, and the state after it.

use super::Step;
use crate::state::{FORCED_KEPT, REMOVED_KEPT};
use crate::state::{Forced, Generation, Issuing, KeyPem, Origin, Phase, State};

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
    pub key: Option<KeyPem>,
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
    if !one.phase.may_become(phase) {
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
