//! The invariant of a rotation, by chance: any two agents that are not cut off for longer than the
//! minimum time believe each other at every second, whatever servers and agents do meanwhile.

use proptest::prelude::*;

use super::fragile::{Fragile, with};
use super::*;
use crate::state::Phase;

/// As the settings of the store in memory have it.
const WAIT: u32 = 10;
const LIFE: u32 = 60;
const AGENTS: usize = 4;

/// One second of chance: whether each agent listens, renews, is cut off; what servers do.
#[derive(Clone, Debug)]
struct Second {
    listens: u8,
    renews: u8,
    cut: Option<(usize, u32)>,
    replica: bool,
    restart: bool,
    order: Order,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Nothing,
    Rotate,
    Taint,
}

fn seconds() -> impl Strategy<Value = Vec<Second>> {
    let order = prop_oneof![
        60 => Just(Order::Nothing),
        3 => Just(Order::Rotate),
        1 => Just(Order::Taint),
    ];
    let cut = prop::option::weighted(0.05, (0..AGENTS, 1..40u32));
    let second = (any::<u8>(), any::<u8>(), cut, any::<bool>(), prop::bool::weighted(0.05), order);
    let second = second.prop_map(|(listens, renews, cut, replica, restart, order)| {
        // Rarely enough that most go on with what they have for long.
        let renews = renews & listens.rotate_left(3);
        Second { listens, renews, cut, replica, restart, order }
    });
    prop::collection::vec(second, 120..260)
}

struct Agent {
    name: String,
    bundle: Arc<TrustBundle>,
    svid: Issued,
    age: u32,
    silent: u32,
    cut: u32,
}

impl Agent {
    fn new(number: usize, authority: &Authority, now: OffsetDateTime) -> Self {
        let name = format!("node{number}");
        let bundle = authority.bundle();
        authority.heard(&name, Heard::Following { in_force: 1 }, now);
        Self { name, bundle, svid: issue(authority, now), age: 0, silent: 0, cut: 0 }
    }

    fn live(&mut self, listens: bool, renews: bool, authority: &Authority, now: OffsetDateTime) {
        (self.age, self.silent) = (self.age + 1, self.silent + 1);
        if self.cut > 0 {
            self.cut -= 1;
            return;
        }
        // Hears late, but not later than the minimum time.
        if listens || self.silent >= WAIT {
            self.silent = 0;
            self.bundle = authority.bundle();
            let in_force = authority.published().borrow().sequence;
            authority.heard(&self.name, Heard::Following { in_force }, now);
        }
        if renews || self.age * 10 >= LIFE * 7 {
            self.age = 0;
            self.svid = issue(authority, now);
            authority.heard(&self.name, Heard::Issued, now);
        }
    }

    fn counts(&self) -> bool {
        self.silent <= WAIT && self.age < LIFE
    }

    fn believes(&self, other: &Self, now: OffsetDateTime) -> Result<(), String> {
        let verified = self.bundle.verify(&other.svid.chain, PeerRole::Both, unix(now));
        verified.map(drop).map_err(|error| {
            format!(
                "{} (roots {}, silent {}) refuses {} (root {}, age {}, silent {}): {error}",
                self.name,
                self.bundle.certificates().len(),
                self.silent,
                other.name,
                other.svid.generation.root,
                other.age,
                other.silent
            )
        })
    }
}

async fn give(order: Order, store: &Fragile, now: OffsetDateTime) {
    let state = store.state();
    match order {
        // Refused while one is under way.
        Order::Rotate => drop(operate::rotate(store, now).await),
        // Two at once leave who knows only the first behind: a second compromise is a disaster.
        Order::Taint if state.drained().is_none() => {
            let active = state.active().unwrap().number;
            operate::taint(store, active, now).await.unwrap();
        }
        Order::Nothing | Order::Taint => {}
    }
}

/// How many roots came to be, when all held.
async fn play(seconds: Vec<Second>) -> Result<usize, String> {
    let store = Arc::new(Fragile::default());
    let mut now = NOW;
    let mut replicas = [with(&store, now).await.unwrap(), with(&store, now).await.unwrap()];
    let mut agents: Vec<_> =
        (0..AGENTS).map(|number| Agent::new(number, &replicas[0], now)).collect();
    for second in seconds {
        now += time::Duration::SECOND;
        give(second.order, &store, now).await;
        let first = usize::from(second.replica);
        if second.restart {
            replicas[first] = with(&store, now).await.unwrap();
        }
        for at in [first, 1 - first] {
            replicas[at].tend(now).await.unwrap();
        }
        // Either has written what it heard by now, or does so before the next step.
        if let Some((agent, length)) = second.cut {
            agents[agent].cut = length;
        }
        for (number, agent) in agents.iter_mut().enumerate() {
            let bit = |byte: u8| byte >> number & 1 == 1;
            let replica = &replicas[(number + first) % 2];
            agent.live(bit(second.listens), bit(second.renews), replica, now);
        }
        for one in agents.iter().filter(|agent| agent.counts()) {
            for other in agents.iter().filter(|agent| agent.counts()) {
                one.believes(other, now).map_err(|text| {
                    let phases: Vec<_> =
                        store.state().generations.iter().map(|one| one.phase).collect();
                    format!("after {} s, {phases:?}: {text}", (now - NOW).whole_seconds())
                })?;
            }
        }
    }
    let state = store.state();
    assert!(state.generations.iter().filter(|one| one.phase == Phase::Active).count() == 1);
    Ok(state.generations.len())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 12,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn agents_that_are_not_cut_off_believe_each_other_at_every_second(seconds in seconds()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let played = runtime.block_on(play(seconds));
        prop_assert!(played.is_ok(), "{}", played.unwrap_err());
    }
}
