//! What `culvert ca status` says.

use std::fmt::Write as _;

use serde::Serialize;

use super::{moment, plan};
use crate::authority::operate::Sight;
use crate::rotation::Plan;
use crate::state::{Forced, Generation, Origin, Phase};

/// The state without its keys. Times are RFC 3339.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    trust_domain: String,
    bundle: u64,
    largest_ttl_seconds: i64,
    last_step: String,
    signs: Signs,
    roots: Vec<Root>,
    nodes: Vec<NodeLine>,
    next: Plan,
    forced: Vec<Forced>,
    #[serde(skip)]
    plan: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Signs {
    root: u64,
    issuing: u64,
    until: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Root {
    number: u64,
    phase: Phase,
    since: String,
    made: String,
    ends: String,
    origin: Origin,
    announced: u64,
    has_key: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeLine {
    name: String,
    live: bool,
    follows: bool,
    bundle: u64,
    heard: String,
}

impl Report {
    pub(super) fn of(sight: &Sight, now: i64) -> Self {
        let state = &sight.state;
        let generation = sight.live.generation();
        let nodes = sight.nodes.nodes.iter().map(|(name, node)| NodeLine {
            name: name.clone(),
            live: node.is_live(now, state.largest_ttl),
            follows: node.follows(),
            bundle: node.in_force,
            heard: node.issued.max(node.followed).map(moment).unwrap_or_default(),
        });
        Self {
            trust_domain: state.trust_domain.clone(),
            bundle: state.sequence,
            largest_ttl_seconds: state.largest_ttl,
            last_step: moment(state.stepped_at),
            signs: Signs {
                root: generation.root,
                issuing: generation.issuing,
                until: moment(sight.live.issuing_end()),
            },
            roots: state.generations.iter().map(Root::of).collect(),
            nodes: nodes.collect(),
            next: sight.plan.clone(),
            forced: state.forced.clone(),
            plan: plan(sight),
        }
    }

    pub(super) fn table(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(
            text,
            "trust domain {}, bundle {}, root {} signs by issuing certificate {} until {}\n",
            self.trust_domain, self.bundle, self.signs.root, self.signs.issuing, self.signs.until
        );
        let _ = writeln!(
            text,
            "{:<5} {:<9} {:<21} {:<21} {:<8} {:<6} KEY",
            "ROOT", "PHASE", "SINCE", "ENDS", "ORIGIN", "BUNDLE"
        );
        for root in &self.roots {
            let origin = if root.origin == Origin::Made { "made" } else { "plugged" };
            let key = if root.has_key { "kept" } else { "none" };
            let (phase, bundle) = (root.phase.label(), root.announced);
            let _ = writeln!(
                text,
                "{:<5} {phase:<9} {:<21} {:<21} {origin:<8} {bundle:<6} {key}",
                root.number, root.since, root.ends
            );
        }
        let live = self.nodes.iter().filter(|node| node.live);
        let up_to_date = live.clone().filter(|node| node.bundle >= self.bundle).count();
        let _ = writeln!(
            text,
            "\n{} live nodes, {up_to_date} of them with bundle {}",
            live.count(),
            self.bundle
        );
        for forced in &self.forced {
            let (at, nodes) = (moment(forced.at), forced.nodes.join(", "));
            let _ = writeln!(text, "forced at {at}: {}, over {nodes}", forced.step);
        }
        text + &self.plan
    }
}

impl Root {
    fn of(generation: &Generation) -> Self {
        Self {
            number: generation.number,
            phase: generation.phase,
            since: moment(generation.since),
            made: moment(generation.made),
            ends: crate::authority::first_end(&generation.anchors).map(moment).unwrap_or_default(),
            origin: generation.origin,
            announced: generation.announced,
            has_key: generation.key.is_some() || generation.issuing.is_some(),
        }
    }
}
