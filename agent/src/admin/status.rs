//! `/status`: one agent at a glance.

use std::collections::BTreeMap;

use super::answer::{now, rfc3339, seconds};
use super::mesh::missing;
use super::model;
use super::model::{
    Authority, Bundle, IdentityCounts, OpenCounts, PolicyCounts, Ready, Status, WorkloadCounts,
};
use super::state::State;
use crate::identity::{IdentityStatus, with_sources};
use crate::observe::Readiness;
use crate::workload::Snapshot;

impl State {
    pub(super) fn status(&self) -> Status {
        let store = &self.parts.identities;
        let identities = store.identities();
        let snapshot = self.snapshot();
        let bundle = store.bundle().borrow().clone();
        Status {
            node: self.node().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ready: ready(&self.parts.readiness.borrow()),
            started: rfc3339(self.started),
            now: now(),
            clock_offset: store.clock_ahead(),
            authority: Authority {
                address: self.parts.config.ca.address.to_string(),
                reachable: Some(store.authority_is_up()),
                last_error: last_error(&identities),
            },
            identities: counts(&identities),
            workloads: self.workload_counts(&snapshot),
            connections: OpenCounts { open: self.parts.metrics.flows(0).total },
            programs: self.programs(),
            bundle: Bundle {
                sequence: bundle.sequence(),
                roots: bundle.bundle().certificates().len(),
                connected: Some(store.bundle_is_followed()),
            },
            policies: policy_counts(&snapshot),
        }
    }

    fn workload_counts(&self, snapshot: &Snapshot) -> WorkloadCounts {
        let steered = self.steered();
        let missing = missing(snapshot, self.node(), &steered);
        WorkloadCounts {
            local: snapshot.local(self.node()).count(),
            enrolled: snapshot.local(self.node()).filter(|workload| workload.enrolled).count(),
            steered: steered.len(),
            missing: missing.iter().map(ToString::to_string).collect(),
        }
    }

    /// The programs, with the workloads that those hang on which are hung on each.
    fn programs(&self) -> Vec<model::Program> {
        let steered = self.steered();
        let mut programs = self.parts.programs.borrow().clone();
        for program in programs.iter_mut().filter(|program| program.attached.is_empty()) {
            program.attached = steered.keys().map(ToString::to_string).collect();
        }
        programs
    }
}

fn ready(readiness: &Readiness) -> Ready {
    let (state, why) = match readiness {
        Readiness::Starting(why) => (model::State::Starting, Some(why)),
        Readiness::NotReady(why) => (model::State::NotReady, Some(why)),
        Readiness::Ready => (model::State::Ready, None),
    };
    Ready { state, why: why.map(ToString::to_string) }
}

/// What the authority said of the first identity that has no certificate.
fn last_error(identities: &[IdentityStatus]) -> Option<String> {
    let error = identities.iter().find_map(|identity| identity.last_error.as_ref())?;
    Some(with_sources(error))
}

fn counts(identities: &[IdentityStatus]) -> IdentityCounts {
    let held = identities.iter().filter_map(|identity| identity.held.as_ref());
    IdentityCounts {
        held: held.clone().count(),
        failing: identities.iter().filter(|identity| identity.failures > 0).count(),
        next_expiry: held.map(|held| held.facts.not_after.as_secs()).min().map(seconds),
    }
}

fn policy_counts(snapshot: &Snapshot) -> PolicyCounts {
    let policies = snapshot.policies();
    let mut findings = BTreeMap::new();
    for finding in policies.findings().iter().flat_map(|(_, findings)| findings) {
        *findings.entry(finding.effect.label().to_owned()).or_default() += 1;
    }
    PolicyCounts {
        peer_authentications: policies.peer_authentications().len(),
        authorization_policies: policies.authorization_policies().len(),
        findings,
    }
}
