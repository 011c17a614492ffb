//! Follows the store, and does what is due in it: the slow half of the authority.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use culvert_spiffe::TrustDomain;
use time::OffsetDateTime;
use tracing::{info, warn};

use super::live::Live;
use super::stored::{Stored, replace};
use super::{Authority, AuthorityError, Figures, material};
use crate::heard::Shared;
use crate::rotation::{self, Change, Facts, Plan, Step};
use crate::source::{Cacerts, SourceError};
use crate::state::{self, Origin, Phase, State};
use crate::store::Version;

/// Steps made in one go at most; no rotation has as many that are ready at once.
const STEPS: usize = 4;
/// A node's number this far above ours is a fault of the node, not a trace of a lost state.
const CREDIBLE_LEAD: u64 = 1_000_000;
/// Least seconds between two warnings of the same hold.
const WARN_EVERY: i64 = 600;
/// Node names in a warning.
const NAMED: usize = 10;

/// What the care of the store knows.
pub(super) struct Keeper {
    pub(super) state: State,
    pub(super) version: Version,
    pub(super) shared: Shared,
    /// The operator's files, when there are any.
    pub(super) source: Option<Cacerts>,
    warned: Option<(i64, Vec<String>)>,
}

impl Keeper {
    pub(super) fn new(state: State, version: Version, source: Option<Cacerts>) -> Self {
        Self { state, version, shared: Shared::default(), source, warned: None }
    }

    pub(super) fn facts(&self, authority: &Authority) -> Facts<'_> {
        Facts {
            nodes: self.shared.nodes(),
            steady_since: authority.steady_since.load(Ordering::Relaxed),
            root_end: authority.live.load().root_end.unix_timestamp(),
            source: if self.source.is_some() { Origin::Plugged } else { Origin::Made },
        }
    }

    /// Says who holds a step that time would allow: at once, then every ten minutes.
    fn warn(&mut self, plan: &Plan, now: i64) {
        let names = plan.holding_nodes();
        if names.is_empty() || plan.holds.len() > 1 {
            self.warned = None;
            return;
        }
        if self
            .warned
            .as_ref()
            .is_some_and(|(at, before)| before == names && (*at..*at + WARN_EVERY).contains(&now))
        {
            return;
        }
        warn!(
            step = %plan.step,
            nodes = names.len(),
            first = names[..names.len().min(NAMED)].join(","),
            "nodes have not acknowledged the trust bundle, so a step of root rotation waits; \
             repair them, or override with `culvert ca rotate-root --force`"
        );
        self.warned = Some((now, names.to_vec()));
    }
}

impl Authority {
    /// Follows the store and does what is due; see [`Authority::tend`].
    pub(super) async fn keep(&self, now: OffsetDateTime) -> Result<bool, AuthorityError> {
        let mut keeper = self.keeper.lock().await;
        let keeper = &mut *keeper;
        let seconds = now.unix_timestamp();
        let before = self.live.load_full();
        self.follow(keeper).await?;
        self.confirmed.store(seconds, Ordering::Relaxed);
        let life = keeper.state.largest_ttl;
        keeper.shared.exchange(&*self.store, &self.hearing, seconds, life).await?;
        if keeper.shared.was_lost() {
            warn!("what nodes acknowledged was lost; root rotation waits until they say it again");
            self.distrust_clock(now);
        }
        let plan = if self.leads() {
            self.overtake(keeper, seconds).await?;
            self.look_at_source(keeper, now).await?;
            self.turn_over(keeper, now).await?;
            let plan = self.rotate(keeper, now).await?;
            keeper.warn(&plan, seconds);
            self.publish().await?;
            plan
        } else {
            rotation::plan(&keeper.state, &keeper.facts(self), seconds)
        };
        self.figures.store(Arc::new(Figures {
            source_refused: self.source_refused.load(Ordering::Relaxed),
            ..Figures::of(&keeper.state, &plan, &self.live.load(), seconds)
        }));
        Ok(before.generation.issuing != self.live.load().generation.issuing)
    }

    /// Takes over what another replica, or a person, wrote.
    async fn follow(&self, keeper: &mut Keeper) -> Result<(), AuthorityError> {
        let document = self.store.read(state::DOCUMENT).await?.ok_or(AuthorityError::Lost)?;
        if document.version == keeper.version {
            return Ok(());
        }
        let state = State::parse(&document.bytes)?;
        if state.sequence < keeper.state.sequence {
            let (found, used) = (state.sequence, keeper.state.sequence);
            return Err(AuthorityError::Older { found, used });
        }
        let live = Live::build(&state, &self.trust_domain)?;
        self.take(keeper, Stored { state, version: document.version, live });
        Ok(())
    }

    /// Puts a state into use: first what others are told, then what is signed with.
    fn take(&self, keeper: &mut Keeper, stored: Stored) {
        let Stored { state, version, live } = stored;
        let published = live.published.clone();
        self.published.send_if_modified(|before| {
            let changed = **before != *published;
            *before = published;
            changed
        });
        self.roots.send_if_modified(|before| {
            let changed = **before != *live.roots;
            if changed {
                *before = live.roots.as_str().into();
            }
            changed
        });
        let generation = live.generation;
        if self.live.load().generation != generation {
            info!(
                root = generation.root,
                issuing = generation.issuing,
                bundle = generation.bundle,
                "roots in use changed"
            );
        }
        self.live.store(Arc::new(live));
        tell(&keeper.state, &state);
        keeper.state = state;
        keeper.version = version;
    }

    /// Makes a change of the state, and puts it into use; says whether there was one to make.
    async fn change(
        &self,
        keeper: &mut Keeper,
        decide: impl FnMut(State) -> Result<Option<State>, AuthorityError>,
    ) -> Result<bool, AuthorityError> {
        let seen = (keeper.state.clone(), keeper.version.clone());
        let stored = replace(&*self.store, &self.trust_domain, seen, decide).await?;
        let changed = stored.is_some();
        if let Some(stored) = stored {
            self.take(keeper, stored);
        } else {
            // What others wrote meanwhile may be why there is nothing to do.
            self.follow(keeper).await?;
        }
        Ok(changed)
    }

    /// Raises what the state says of this server's limits; called before anything is signed.
    pub(super) async fn settle(&self, keeper: &mut Keeper) -> Result<(), AuthorityError> {
        let (life, timing) = (self.settings.largest_ttl.as_secs(), self.settings.timing);
        let life = i64::try_from(life).unwrap_or(i64::MAX);
        self.change(keeper, |state| {
            if state.largest_ttl >= life && state.timing == timing {
                return Ok(None);
            }
            Ok(Some(State { largest_ttl: state.largest_ttl.max(life), timing, ..state }))
        })
        .await?;
        Ok(())
    }

    async fn overtake(&self, keeper: &mut Keeper, now: i64) -> Result<(), AuthorityError> {
        let life = keeper.state.largest_ttl;
        let seen = |state: &State, shared: &Shared| {
            let nodes = shared.nodes().nodes.values().filter(|node| node.is_live(now, life));
            let credible = state.sequence + 1..state.sequence + CREDIBLE_LEAD;
            nodes.map(|node| node.in_force).filter(|number| credible.contains(number)).max()
        };
        let Some(highest) = seen(&keeper.state, &keeper.shared) else { return Ok(()) };
        let changed = self.change(keeper, |state| {
            let behind = state.sequence < highest;
            Ok(behind.then(|| rotation::apply(state, Change::Overtaken(highest), now)))
        });
        if changed.await? {
            warn!(
                seen = highest,
                bundle = keeper.state.sequence,
                "nodes have seen a later trust bundle than the state has, which was restored from \
                 a backup, it seems; the bundle is announced anew"
            );
        }
        Ok(())
    }

    /// Takes in the operator's files when they are new.
    pub(super) async fn look_at_source(
        &self,
        keeper: &mut Keeper,
        now: OffsetDateTime,
    ) -> Result<(), AuthorityError> {
        let Some(source) = &mut keeper.source else { return Ok(()) };
        let life = keeper.state.largest_ttl;
        let plugged = match source.look(&self.trust_domain, life, now).await {
            Ok(Some(plugged)) => plugged,
            Ok(None) => return Ok(()),
            Err(error) => {
                self.refused_source(&error);
                return Ok(());
            }
        };
        self.source_refused.store(false, Ordering::Relaxed);
        let seconds = now.unix_timestamp();
        let changed = self.change(keeper, |state| Ok(plugged.adopt(state, seconds)));
        if changed.await? {
            info!(bundle = keeper.state.sequence, "plugged-in CA files taken");
        }
        Ok(())
    }

    fn refused_source(&self, error: &SourceError) {
        let source = std::error::Error::source(error).map(ToString::to_string);
        warn!(%error, source, "plugged-in CA files refused whole; what was in use stays");
        self.source_refused.store(true, Ordering::Relaxed);
    }

    /// Replaces our own issuing certificate at its age.
    pub(super) async fn turn_over(
        &self,
        keeper: &mut Keeper,
        now: OffsetDateTime,
    ) -> Result<(), AuthorityError> {
        if !is_due(&keeper.state, &self.trust_domain, now) {
            return Ok(());
        }
        let changed = self.change(keeper, |state| {
            let Some(active) = state.active().filter(|_| is_due(&state, &self.trust_domain, now))
            else {
                return Ok(None);
            };
            let number = state.last_issuing + 1;
            let issuing = material::issuing(&self.trust_domain, active, number, now)?;
            Ok(Some(rotation::apply(state, Change::Reissued(issuing), now.unix_timestamp())))
        });
        if changed.await? {
            let end = self.live.load().signer.not_after.unix_timestamp();
            info!(not_after = end, "issuing certificate replaced");
        }
        Ok(())
    }

    /// Makes the steps that are ready.
    async fn rotate(
        &self,
        keeper: &mut Keeper,
        now: OffsetDateTime,
    ) -> Result<Plan, AuthorityError> {
        let seconds = now.unix_timestamp();
        for _ in 0..STEPS {
            let overdue = rotation::overdue_key(&keeper.state, seconds);
            let plan = rotation::plan(&keeper.state, &keeper.facts(self), seconds);
            let step = match overdue {
                Some(generation) => Step::DestroyKey { generation },
                None if plan.is_ready() => plan.step,
                None => return Ok(plan),
            };
            self.make(keeper, step, now).await?;
        }
        Ok(rotation::plan(&keeper.state, &keeper.facts(self), seconds))
    }

    /// Makes one step, unless another replica did.
    async fn make(
        &self,
        keeper: &mut Keeper,
        step: Step,
        now: OffsetDateTime,
    ) -> Result<(), AuthorityError> {
        let sequence = keeper.state.sequence;
        let changed = self.change(keeper, |state| {
            if state.sequence != sequence || !fits(&state, step) {
                // The gates were asked of another state; the next look asks them of this one.
                return Ok(None);
            }
            let change = material::enact(&state, &self.trust_domain, step, now)?;
            Ok(Some(rotation::apply(state, change, now.unix_timestamp())))
        });
        if changed.await? {
            info!(%step, bundle = keeper.state.sequence, "step of root rotation made");
        }
        Ok(())
    }

    /// Writes the root certificates out, if what is there is not them.
    pub(super) async fn publish(&self) -> Result<(), AuthorityError> {
        let live = self.live.load_full();
        if self.store.published().await?.as_deref() != Some(live.roots.as_bytes()) {
            self.store.publish(live.roots.as_bytes()).await?;
        }
        Ok(())
    }
}

/// Whether our own issuing certificate is to be replaced.
fn is_due(state: &State, domain: &TrustDomain, now: OffsetDateTime) -> bool {
    let Some(active) = state.active().filter(|active| active.origin == Origin::Made) else {
        return false;
    };
    let signer = active
        .issuing
        .as_ref()
        .map(|issuing| super::live::Signer::read(issuing, domain, active.number));
    match signer {
        Some(Ok(signer)) => signer.is_due(state.timing.issuing_turnover, now),
        _ => true,
    }
}

/// Logs what became of each root, and what was forced, whoever did it.
fn tell(before: &State, after: &State) {
    for root in &after.generations {
        let phase = before.generation(root.number).map(|root| root.phase);
        match root.phase {
            same if phase == Some(same) => {}
            Phase::Tainted | Phase::Revoked => {
                warn!(root = root.number, phase = root.phase.label(), "root is compromised");
            }
            _ => info!(root = root.number, phase = root.phase.label(), "root changed its phase"),
        }
    }
    let known = before.forced.last().map_or(i64::MIN, |forced| forced.at);
    for forced in after.forced.iter().filter(|forced| forced.at > known) {
        warn!(
            step = forced.step,
            nodes = forced.nodes.join(","),
            "step of root rotation FORCED over nodes that have not acknowledged the trust bundle"
        );
    }
}

/// Whether `step` is still to be made in `state`.
fn fits(state: &State, step: Step) -> bool {
    match step {
        Step::Prepare => state.in_phase(Phase::Prepared).is_none(),
        Step::Activate { generation } => {
            state.generation(generation).is_some_and(|one| one.phase == Phase::Prepared)
        }
        Step::Remove { generation } => {
            state.generation(generation).is_some_and(|one| one.phase.drains())
        }
        Step::DestroyKey { generation } => {
            state.generation(generation).is_some_and(|one| one.key.is_some())
        }
    }
}
