//! What can be watched of the roots.

use super::live::Live;
use crate::rotation::Plan;
use crate::state::{Phase, State};

/// Figures of the last look. Times are seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// How many roots are in each phase, in the order of [`Phase::ALL`].
    pub phases: [usize; Phase::ALL.len()],
    /// Sequence number of the trust bundle.
    pub sequence: u64,
    /// Seconds since the last step of a rotation.
    pub step_age: i64,
    /// Nodes that hold the next step.
    pub holding_nodes: usize,
    /// Whether the operator's files were refused the last time they were looked at.
    pub source_refused: bool,
    /// End of the root in use.
    pub root_end: i64,
    /// End of the issuing certificate in use.
    pub issuing_end: i64,
    /// When the store was last read whole.
    pub confirmed: i64,
}

impl Figures {
    pub(super) fn of(state: &State, plan: &Plan, live: &Live, now: i64) -> Self {
        let count = |phase| state.generations.iter().filter(|one| one.phase == phase).count();
        Self {
            phases: Phase::ALL.map(count),
            sequence: state.sequence,
            step_age: now.saturating_sub(state.stepped_at).max(0),
            holding_nodes: plan.holding_nodes().len(),
            source_refused: false,
            root_end: live.root_end.unix_timestamp(),
            issuing_end: live.signer.not_after.unix_timestamp(),
            confirmed: now,
        }
    }
}
