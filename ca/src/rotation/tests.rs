use proptest::prelude::*;

use super::*;
use crate::state::{Issuing, KeyPem, Timing};

const NOW: i64 = 1_780_000_000;
const DAY: i64 = 86400;
const FAR: i64 = NOW + 3650 * DAY;

fn made(origin: Origin) -> Made {
    let key = || KeyPem::new(String::from("key").into());
    let (key, issuing) = match origin {
        Origin::Made => (Some(key()), None),
        Origin::Plugged => (None, Some(issuing(1))),
    };
    Made { origin, anchors: vec!["root".to_owned()], key, issuing }
}

fn issuing(number: u64) -> Issuing {
    let key = KeyPem::new(String::from("key").into());
    Issuing { number, certificate: "issuing".to_owned(), chain: Vec::new(), key }
}

fn first() -> State {
    let state = State::empty("td", DAY, Timing::default(), NOW);
    let state = apply(state, Change::Prepared(made(Origin::Made)), NOW);
    apply(state, Change::Reissued(issuing(1)), NOW)
}

fn enact(state: &State, step: Step) -> Change {
    match step {
        Step::Prepare => Change::Prepared(made(Origin::Made)),
        Step::Activate { generation } => Change::Activated {
            generation,
            cross: Some("cross".to_owned()),
            issuing: Some(issuing(state.last_issuing + 1)),
        },
        Step::Remove { generation } => Change::Removed(generation),
        Step::DestroyKey { generation } => Change::KeyDestroyed(generation),
    }
}

fn node(in_force: u64, at: i64) -> Node {
    Node { issued: None, followed: Some(at), in_force }
}

fn facts(nodes: &Nodes) -> Facts<'_> {
    Facts { nodes, steady_since: i64::MIN, root_end: FAR, source: Origin::Made }
}

fn nodes(list: &[(&str, Node)]) -> Nodes {
    Nodes { nodes: list.iter().map(|(name, node)| ((*name).to_owned(), *node)).collect() }
}

#[test]
fn each_gate_holds_by_itself() {
    let quiet = Nodes::default();
    let state = first();
    let year = NOW + 365 * DAY;
    let early = Hold::Early { until: year, why: Wait::Turnover };
    assert_eq!(
        plan(&state, &facts(&quiet), year - 1),
        Plan { step: Step::Prepare, holds: vec![early] }
    );
    assert!(plan(&state, &facts(&quiet), year).is_ready());
    let ending = Facts { root_end: NOW + 40 * DAY, ..facts(&quiet) };
    assert!(!plan(&state, &ending, NOW + 10 * DAY - 1).is_ready());
    assert!(plan(&state, &ending, NOW + 10 * DAY).is_ready(), "30 days before its end");
    let plugged = Facts { source: Origin::Plugged, ..facts(&quiet) };
    assert_eq!(plan(&state, &plugged, year).holds, [Hold::Operator]);

    let state = apply(state, enact(&first(), Step::Prepare), NOW);
    let due = NOW + 15 * 60;
    assert!(!plan(&state, &facts(&quiet), due - 1).is_ready());
    assert!(plan(&state, &facts(&quiet), due).is_ready());
    let late = nodes(&[("a", node(2, due)), ("b", node(1, due))]);
    let held = plan(&state, &facts(&late), due);
    assert_eq!(held.holds, [Hold::Nodes { sequence: 2, names: vec!["b".to_owned()] }]);
    assert_eq!(held.holding_nodes(), ["b"]);
    let dead = nodes(&[("a", node(2, due)), ("b", node(1, due - DAY - 1))]);
    assert!(plan(&state, &facts(&dead), due).is_ready(), "not heard for the longest life");
    let foreign = nodes(&[("istio", Node { issued: Some(NOW), ..Node::default() })]);
    let answers = Hold::Early { until: NOW + DAY, why: Wait::Answers };
    assert_eq!(plan(&state, &facts(&foreign), due).holds, [answers]);
    let jumped = Facts { steady_since: due - 1, ..facts(&quiet) };
    assert!(matches!(plan(&state, &jumped, due).holds[..], [Hold::Unsteady { .. }]));
    assert!(matches!(plan(&state, &facts(&quiet), NOW - 1).holds[0], Hold::Clock { .. }));
}

#[test]
fn largest_life_decides_when_a_root_is_removed() {
    let quiet = Nodes::default();
    let state = apply(first(), enact(&first(), Step::Prepare), NOW);
    let step = Step::Activate { generation: 2 };
    let mut state = apply(state.clone(), enact(&state, step), NOW);
    let due = NOW + DAY + 5 * 60;
    assert!(!plan(&state, &facts(&quiet), due - 1).is_ready());
    assert!(plan(&state, &facts(&quiet), due).is_ready());
    // A server with a longer limit joins meanwhile.
    state.largest_ttl = 2 * DAY;
    assert!(!plan(&state, &facts(&quiet), due).is_ready());
}

#[test]
fn changes_that_do_not_fit_change_nothing() {
    let state = first();
    for change in [
        Change::Removed(1),
        Change::Tainted(1),
        Change::Revoked(1),
        Change::Removed(9),
        Change::KeyDestroyed(9),
        Change::Activated { generation: 1, cross: None, issuing: Some(issuing(9)) },
    ] {
        let text = format!("{change:?}");
        assert_eq!(apply(state.clone(), change, NOW), state, "{text}");
    }
}

#[test]
fn document_says_all_and_shows_no_key() {
    let state = apply(first(), enact(&first(), Step::Prepare), NOW);
    assert_eq!(State::parse(&state.to_bytes()).unwrap(), state);
    let shown = format!("{state:?}");
    assert!(shown.contains("[redacted]") && !shown.contains("\"key\""), "{shown}");
}

/// Any order of steps, taints, revocations and forces, at any pace of any clock.
fn deeds() -> impl Strategy<Value = Vec<(u8, i64, u64)>> {
    prop::collection::vec((0..6u8, -3600..40 * DAY, 1..6u64), 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn state_stays_in_its_drawing(deeds in deeds()) {
        let quiet = Nodes::default();
        let (mut state, mut now) = (first(), NOW);
        for (deed, seconds, number) in deeds {
            let before = state.clone();
            now += seconds;
            let step = plan(&state, &facts(&quiet), now);
            let change = match deed {
                0..=2 if step.is_ready() => enact(&state, step.step),
                3 => Change::Tainted(number),
                4 => Change::Revoked(number),
                5 => Change::Forced(step.step, vec!["node".to_owned()]),
                _ => continue,
            };
            state = apply(state, change, now);
            prop_assert_eq!(state.generations.iter().filter(|g| g.phase == Phase::Active).count(), 1);
            prop_assert!(state.sequence >= before.sequence && state.stepped_at >= before.stepped_at);
            prop_assert!(state.generations.len() <= 12 && state.forced.len() <= 16);
            prop_assert!(State::parse(&state.to_bytes()).is_ok());
            let told = |state: &State| -> Vec<_> {
                state.generations.iter().filter_map(|g| Some((g.number, g.phase.standing()?))).collect()
            };
            prop_assert!(told(&before) == told(&state) || state.sequence > before.sequence,
                "what agents are told changed, and its number did not");
            for was in &before.generations {
                let Some(is) = state.generation(was.number) else { continue };
                let fits = match (was.phase, is.phase) {
                    (from, to) if from == to => true,
                    (Phase::Prepared, to) => to != Phase::Draining,
                    (Phase::Active, to) => to == Phase::Draining,
                    (Phase::Draining, to) => to.drains() || to == Phase::Removed,
                    (Phase::Tainted, to) => matches!(to, Phase::Revoked | Phase::Removed),
                    (Phase::Revoked, to) => to == Phase::Removed,
                    (Phase::Removed, _) => false,
                };
                prop_assert!(fits, "{:?} to {:?}", was.phase, is.phase);
            }
        }
    }
}
