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
        let identities = self.parts.identities.identities();
        let snapshot = self.snapshot();
        let bundle = self.parts.identities.bundle().borrow().clone();
        Status {
            node: self.node().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ready: ready(&self.parts.readiness.borrow()),
            started: rfc3339(self.started),
            now: now(),
            clock_offset: None,
            authority: authority(self.parts.config.ca.address.to_string(), &identities),
            identities: counts(&identities),
            workloads: self.workload_counts(&snapshot),
            connections: OpenCounts { open: self.parts.metrics.flows(0).total },
            programs: self.programs(),
            bundle: Bundle {
                sequence: bundle.sequence(),
                roots: bundle.bundle().certificates().len(),
                connected: None,
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

/// What identities tell of the authority: who holds a certificate and did not fail last was
/// answered.
fn authority(address: String, identities: &[IdentityStatus]) -> Authority {
    let failing = identities.iter().filter(|identity| identity.failures > 0).count();
    let answered = identities.iter().any(|one| one.held.is_some() && one.failures == 0);
    let error = identities.iter().find_map(|identity| identity.last_error.as_ref());
    Authority {
        address,
        reachable: if answered { Some(true) } else { (failing > 0).then_some(false) },
        last_error: error.map(|error| with_sources(error)),
    }
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
