//! What an agent answers: its own snapshot explained, with what it knows beside policy.

use std::fmt::Write as _;
use std::time::SystemTime;

use culvert_spiffe::SpiffeId;
use serde::{Deserialize, Serialize};

use super::answer::{Outcome, Party, Step};
use super::arrival::{Arrival, Judged, arrival};
use super::place::Source;
use super::tls_check::{Pair, tls_check};
use super::{Departure, ExplainError, Explanation, Mesh, Question, depart, judge};
use crate::identity::{IdentityStatus, with_sources};
use crate::observe::{EdgeView, Reason};
use crate::workload::offline::Names;
use crate::workload::{Snapshot, Steered, WorkloadKey};

/// Failures that are told of a pair, at most.
const MOST_FAILURES: usize = 4;

/// What an agent knows.
pub struct Desk<'a> {
    /// Its node.
    pub node: &'a str,
    /// Whether it knows all labels of its own node's pods only.
    pub cluster: bool,
    /// The mesh.
    pub snapshot: &'a Snapshot,
    /// What of its node is steered.
    pub steered: &'a Steered,
    /// Its node's identities.
    pub identities: &'a [IdentityStatus],
    /// Flows that were seen.
    pub edges: &'a [EdgeView],
}

/// An agent's answer to `GET /explain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Departing {
    /// Who answers.
    pub node: String,
    /// Whether the source is of this node: then what is said of it is first-hand.
    pub first_hand: bool,
    /// Whether the whole answer is: nothing is left for the agent of another node to decide.
    pub complete: bool,
    /// The answer, as far as this agent knows.
    pub explanation: Explanation,
    /// Its first half, to be put together with what the destination's agent says.
    pub departure: Departure,
}

/// An agent's answer to `GET /explain/arrival`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Arriving {
    /// Who answers.
    pub node: String,
    /// Whether the destination is of this node: then the answer is first-hand.
    pub first_hand: bool,
    /// The second half of an answer.
    pub judged: Judged,
}

/// An agent's answer to `GET /tls-check`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Checks {
    /// Who answers.
    pub node: String,
    /// Whether it knows all labels of its own node's pods only.
    pub cluster: bool,
    /// Who connects.
    pub source: Party,
    /// Every pair.
    pub pairs: Vec<Pair>,
}

impl Desk<'_> {
    /// Answers `GET /explain`.
    ///
    /// # Errors
    ///
    /// [`ExplainError`] when source or destination is not known, or not clear.
    pub fn explain(&self, question: &Question) -> Result<Departing, ExplainError> {
        let names = self.names();
        let mesh = Mesh { snapshot: self.snapshot, names: &names };
        let mut departure = depart(mesh, question)?;
        let first_hand = self.is_own(&departure.source);
        let mut steps = Vec::new();
        if departure.source.enrolled && !question.plaintext && first_hand {
            steps.extend(self.steered(&departure.source));
            steps.extend(self.certificate(&departure.source));
        }
        departure.steps.append(&mut steps);
        let judged: Vec<_> = departure
            .ways
            .iter()
            .map(|way| {
                let mut judged = judge(mesh, &departure, way)?;
                self.tell(&mut judged, &departure.source);
                Some(judged)
            })
            .collect();
        let own = |node: &Option<String>| node.as_deref().is_none_or(|node| node == self.node);
        let complete = !self.cluster || departure.ways.iter().all(|way| own(&way.node));
        let explanation = departure.clone().explanation(judged);
        Ok(Departing { node: self.node.to_owned(), first_hand, complete, explanation, departure })
    }

    /// Answers `GET /explain/arrival`.
    pub fn arrival(&self, asked: &Arrival) -> Arriving {
        let names = self.names();
        let mesh = Mesh { snapshot: self.snapshot, names: &names };
        let mut judged = arrival(mesh, asked);
        let source = self.snapshot.by_address(asked.source.ip());
        let source = source.map(|workload| super::words::party(workload, None));
        self.tell(&mut judged, &source.unwrap_or_default());
        let first_hand = self.is_own(&judged.destination);
        Arriving { node: self.node.to_owned(), first_hand, judged }
    }

    /// Answers `GET /tls-check`.
    ///
    /// # Errors
    ///
    /// [`ExplainError`] when source or destination is not known, or not clear.
    pub fn tls_check(
        &self,
        source: &str,
        destination: Option<&str>,
        namespace: Option<&str>,
    ) -> Result<Checks, ExplainError> {
        let names = self.names();
        let mesh = Mesh { snapshot: self.snapshot, names: &names };
        let question = Question {
            source: source.to_owned(),
            destination: String::new(),
            namespace: namespace.map(str::to_owned),
            plaintext: false,
        };
        let source = Source::find(mesh, &question)?;
        let pairs = tls_check(mesh, &source, destination, namespace)?;
        let own = source.workload();
        Ok(Checks {
            node: self.node.to_owned(),
            cluster: self.cluster,
            source: own.map(|own| super::words::party(own, None)).unwrap_or_default(),
            pairs,
        })
    }

    fn names(&self) -> Names {
        Names { cluster: self.cluster, ..Names::default() }
    }

    fn is_own(&self, party: &Party) -> bool {
        party.node.as_deref() == Some(self.node)
    }

    /// Adds what is known of the destination beside policy, and of flows that were seen.
    fn tell(&self, judged: &mut Judged, source: &Party) {
        let destination = &judged.destination;
        let mut steps = Vec::new();
        if destination.enrolled && self.is_own(destination) {
            steps.extend(self.steered(destination));
            steps.extend(self.certificate(destination));
        }
        steps.extend(self.history(source, destination));
        judged.steps.append(&mut steps);
    }

    /// Whether the kernel steers a workload of this node.
    fn steered(&self, party: &Party) -> Option<Step> {
        let key = key(party)?;
        if self.steered.contains(&key) {
            return Some(Step::new("steered", Outcome::Ok, format!("the kernel steers {key}")));
        }
        if !self.steered.is_complete() {
            let text = format!("it is not known yet whether the kernel steers {key}");
            return Some(Step::new("steered", Outcome::Unknown, text));
        }
        let text = format!("the kernel does not steer {key}, which should be in the mesh");
        let fix = format!(
            "look in the log of the agent of {} for `{key}`; until it can be enrolled, all its \
             connections with the mesh are refused",
            self.node
        );
        Some(Step::new("steered", Outcome::Fail, text).fix(fix))
    }

    /// Whether a certificate is held for a workload of this node.
    fn certificate(&self, party: &Party) -> Option<Step> {
        let id: SpiffeId = party.identity.as_deref()?.parse().ok()?;
        let status = self.identities.iter().find(|status| status.id == id);
        let held = status.and_then(|status| status.held.as_ref());
        if let Some(held) = held {
            let seconds = held.facts.not_after.as_secs();
            let left = seconds.saturating_sub(now());
            let serial = &held.facts.serial;
            if left == 0 {
                let text = format!("the certificate of {id} is over (serial {serial})");
                let step = Step::new("certificate", Outcome::Fail, text);
                return Some(with_fix(step, Reason::CertificateExpired.fix()));
            }
            let text = format!(
                "a certificate of {id} is held, serial {serial}, for {} min more",
                left / 60
            );
            return Some(Step::new("certificate", Outcome::Ok, text));
        }
        let error = status.and_then(|status| status.last_error.as_deref());
        let unanswered = || "the authority has not answered yet".to_owned();
        let why = error.map_or_else(unanswered, |error| with_sources(error));
        let step =
            Step::new("certificate", Outcome::Fail, format!("no certificate of {id}: {why}"));
        Some(with_fix(step, Reason::NoIdentity.fix()))
    }

    /// What was seen between the two, of all pods of either's workload.
    fn history(&self, source: &Party, destination: &Party) -> Option<Step> {
        // Edges are told by Deployment or the like, not by pod.
        let owner = |party| Some(self.snapshot.owner_of(key(party)?));
        let (from, to) = (owner(source)?, owner(destination)?);
        let is = |end: &crate::observe::End, key: &WorkloadKey| {
            end.namespace.as_deref() == Some(key.namespace())
                && end.workload.as_deref() == Some(key.name())
        };
        let mut opened = 0;
        let mut failed: Vec<(Reason, u64)> = Vec::new();
        for edge in self.edges.iter().filter(|edge| is(&edge.source, &from)) {
            if !is(&edge.destination, &to) {
                continue;
            }
            opened += edge.opened;
            failed.extend(&edge.failed);
        }
        if opened == 0 && failed.is_empty() {
            return None;
        }
        failed.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let mut text = format!("seen by the agent of {}: {opened} connections opened", self.node);
        for (reason, count) in failed.iter().take(MOST_FAILURES) {
            // Writing to a String does not fail.
            let _ = write!(text, ", {count} failed with {}", reason.label());
        }
        let worst = failed.first().and_then(|(reason, _)| reason.fix());
        Some(with_fix(Step::new("history", Outcome::Ok, text), worst))
    }
}

fn with_fix(step: Step, fix: Option<&'static str>) -> Step {
    match fix {
        Some(fix) => step.fix(fix),
        None => step,
    }
}

fn key(party: &Party) -> Option<WorkloadKey> {
    Some(WorkloadKey::new(party.namespace.as_deref()?, party.name.as_deref()?))
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
