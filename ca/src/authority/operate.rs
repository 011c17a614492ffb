//! What a person orders: the next root, a step by force, a compromised root out. Each is one change
//! of the state, made with or without a server running; servers follow within a second.

use culvert_spiffe::TrustDomain;
use time::OffsetDateTime;

use super::{AuthorityError, material, stored};
use crate::heard::{self, Nodes};
use crate::rotation::{self, Change, Facts, Hold, Plan, Step};
use crate::state::{Generation, Origin, Phase, State};
use crate::store::Store;

/// Why an order was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum OrderError {
    /// The state cannot be read or written, or a key not made.
    #[error("cannot change the authority's state")]
    Authority(#[from] AuthorityError),
    /// There is no state.
    #[error("there is no authority here; start `culvert ca serve` on it once")]
    Absent,
    /// A rotation is under way.
    #[error("a rotation is under way, its next step: {0}; see `--plan`")]
    UnderWay(Step),
    /// Roots come from an operator's files.
    #[error("roots come from plugged-in files; put the next set there, the server takes it in")]
    Plugged,
    /// No such root.
    #[error("there is no root {0} in the bundle; see `culvert ca status`")]
    Unknown(u64),
    /// It is tainted already.
    #[error("root {0} is tainted already; to have it believed no more: `culvert ca revoke {0}`")]
    Tainted(u64),
    /// It signs.
    #[error("root {0} is the one that signs; taint it first, which puts another in its place")]
    Signs(u64),
    /// The root that signs shares a certificate with it.
    #[error("root {0} has certificates in common with the one that signs; plug in other files")]
    Shared(u64),
    /// No node holds the step.
    #[error("no node holds the next step, {0}; time alone cannot be forced, see `--plan`")]
    NotHeld(Step),
}

/// What is in the store, for a person to see.
pub(crate) struct Sight {
    pub(crate) state: State,
    pub(crate) live: super::Live,
    pub(crate) nodes: Nodes,
    pub(crate) plan: Plan,
}

/// Looks at state and plan.
pub(crate) async fn look(
    store: &dyn Store,
    domain: Option<&TrustDomain>,
    now: OffsetDateTime,
) -> Result<Sight, OrderError> {
    let bytes = store.read(crate::state::DOCUMENT).await.map_err(AuthorityError::from)?;
    let bytes = bytes.ok_or(OrderError::Absent)?.bytes;
    let state = State::parse(&bytes).map_err(AuthorityError::from)?;
    let of_state = domain_of(&state)?;
    let live = super::Live::build(&state, domain.unwrap_or(&of_state))?;
    let nodes = store.read(heard::DOCUMENT).await.map_err(AuthorityError::from)?;
    let nodes: Nodes =
        nodes.and_then(|document| serde_json::from_slice(&document.bytes).ok()).unwrap_or_default();
    let plan = plan(&state, &nodes, &live, now);
    Ok(Sight { state, live, nodes, plan })
}

/// Prepares the next root.
pub(crate) async fn rotate(store: &dyn Store, now: OffsetDateTime) -> Result<Sight, OrderError> {
    order(store, now, |state, domain, _| {
        if state.in_phase(Phase::Prepared).is_some() || state.drained().is_some() {
            return Err(OrderError::UnderWay(next_step(&state, now)));
        }
        if state.active().is_some_and(|active| active.origin == Origin::Plugged) {
            return Err(OrderError::Plugged);
        }
        let change = material::enact(&state, domain, Step::Prepare, now)?;
        Ok(rotation::apply(state, change, now.unix_timestamp()))
    })
    .await
}

/// Overrides the nodes that hold the next step. Time is not overridden: it keeps certificates that
/// are alive.
pub(crate) async fn force(store: &dyn Store, now: OffsetDateTime) -> Result<Sight, OrderError> {
    let plan = look(store, None, now).await?.plan;
    let names = plan.holding_nodes().to_vec();
    if names.is_empty() {
        return Err(OrderError::NotHeld(plan.step));
    }
    order(store, now, |state, _, _| {
        let change = Change::Forced(plan.step, names.clone());
        Ok(rotation::apply(state, change, now.unix_timestamp()))
    })
    .await
}

/// Marks a root as compromised. The one that signs gets a successor, which signs at once.
pub(crate) async fn taint(
    store: &dyn Store,
    generation: u64,
    now: OffsetDateTime,
) -> Result<Sight, OrderError> {
    let seconds = now.unix_timestamp();
    order(store, now, |mut state, domain, _| {
        let phase = in_bundle(&state, generation)?.phase;
        if matches!(phase, Phase::Tainted | Phase::Revoked) {
            return Err(OrderError::Tainted(generation));
        }
        if phase == Phase::Active {
            state = succeed(state, domain, now)?;
        }
        unshared(&state, generation)?;
        Ok(rotation::apply(state, Change::Tainted(generation), seconds))
    })
    .await
}

/// Takes a root out at once: nothing under it is believed from then on.
pub(crate) async fn revoke(
    store: &dyn Store,
    generation: u64,
    now: OffsetDateTime,
) -> Result<Sight, OrderError> {
    order(store, now, |state, _, _| {
        match in_bundle(&state, generation)?.phase {
            Phase::Active => return Err(OrderError::Signs(generation)),
            Phase::Revoked => return Err(OrderError::Unknown(generation)),
            _ => unshared(&state, generation)?,
        }
        Ok(rotation::apply(state, Change::Revoked(generation), now.unix_timestamp()))
    })
    .await
}

/// Lets the prepared root sign, or one made for it.
fn succeed(
    mut state: State,
    domain: &TrustDomain,
    now: OffsetDateTime,
) -> Result<State, OrderError> {
    let seconds = now.unix_timestamp();
    if state.in_phase(Phase::Prepared).is_none() {
        if state.active().is_some_and(|active| active.origin == Origin::Plugged) {
            return Err(OrderError::Plugged);
        }
        let made = material::enact(&state, domain, Step::Prepare, now)?;
        state = rotation::apply(state, made, seconds);
    }
    if let Some(generation) = state.in_phase(Phase::Prepared).map(|one| one.number) {
        let change = material::enact(&state, domain, Step::Activate { generation }, now)?;
        state = rotation::apply(state, change, seconds);
    }
    Ok(state)
}

fn in_bundle(state: &State, generation: u64) -> Result<&Generation, OrderError> {
    state
        .generation(generation)
        .filter(|one| one.phase.standing().is_some())
        .ok_or(OrderError::Unknown(generation))
}

/// What the signing root needs cannot be taken out.
fn unshared(state: &State, generation: u64) -> Result<(), OrderError> {
    let anchors = &in_bundle(state, generation)?.anchors;
    let shared = state
        .active()
        .is_some_and(|active| active.anchors.iter().any(|anchor| anchors.contains(anchor)));
    if shared { Err(OrderError::Shared(generation)) } else { Ok(()) }
}

async fn order(
    store: &dyn Store,
    now: OffsetDateTime,
    mut decide: impl FnMut(State, &TrustDomain, OffsetDateTime) -> Result<State, OrderError>,
) -> Result<Sight, OrderError> {
    let document = store.read(crate::state::DOCUMENT).await.map_err(AuthorityError::from)?;
    let document = document.ok_or(OrderError::Absent)?;
    let state = State::parse(&document.bytes).map_err(AuthorityError::from)?;
    let domain = domain_of(&state)?;
    let mut refused = None;
    stored::replace(store, &domain, (state, document.version), |state| {
        match decide(state, &domain, now) {
            Ok(next) => Ok(Some(next)),
            Err(OrderError::Authority(error)) => Err(error),
            Err(error) => {
                refused = Some(error);
                Ok(None)
            }
        }
    })
    .await?;
    match refused {
        Some(error) => Err(error),
        None => look(store, Some(&domain), now).await,
    }
}

fn domain_of(state: &State) -> Result<TrustDomain, OrderError> {
    let broken = crate::state::StateError::Generation { generation: 0, part: "trust domain" };
    Ok(state.trust_domain.parse().map_err(|_| AuthorityError::from(broken))?)
}

/// The plan as a server has it, but for what only a server knows: how evenly its clock runs.
fn plan(state: &State, nodes: &Nodes, live: &super::Live, now: OffsetDateTime) -> Plan {
    let facts = Facts {
        nodes,
        steady_since: i64::MIN,
        root_end: live.root_end.unix_timestamp(),
        source: state.active().map_or(Origin::Made, |active| active.origin),
    };
    rotation::plan(state, &facts, now.unix_timestamp())
}

fn next_step(state: &State, now: OffsetDateTime) -> Step {
    let facts = Facts {
        nodes: &Nodes::default(),
        steady_since: i64::MIN,
        root_end: i64::MAX,
        source: Origin::Made,
    };
    rotation::plan(state, &facts, now.unix_timestamp()).step
}

/// What holds a step, for a person.
pub(crate) fn describe(hold: &Hold) -> String {
    let at = |seconds: &i64| crate::cli::moment(*seconds);
    match hold {
        Hold::Clock { last_step } => {
            format!("the clock is earlier than the last step ({}); set it right", at(last_step))
        }
        Hold::Unsteady { until } => {
            format!("the clock jumped; it must run evenly until {}", at(until))
        }
        Hold::Early { until, why } => format!("not before {}: {}", at(until), why.text()),
        Hold::Operator => "the operator's files say which root comes next".to_owned(),
        Hold::Nodes { sequence, names } => format!(
            "{} nodes have not acknowledged bundle {sequence}: {}",
            names.len(),
            names.join(", ")
        ),
    }
}
