//! `/workloads` and `/policies`: what the agent knows of the mesh, from one snapshot.

mod summary;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::model::{Finding, Mtls, Policies, Policy, PolicyKind, Workload, Workloads};
use super::state::State;
use crate::policy::{Acceptance, Effective, Rule, effective, ports_with_own_mode};
use crate::workload::documents::Findings;
use crate::workload::{self, Snapshot, WorkloadKey};

/// Kind, namespace and name.
pub(super) type PolicyName = (PolicyKind, String, String);

impl State {
    pub(super) fn workloads(&self) -> Workloads {
        let (snapshot, steered) = (self.snapshot(), self.steered());
        let mut all: Vec<&Arc<workload::Workload>> = snapshot.workloads().iter().collect();
        all.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        let workloads = all.into_iter().map(|one| Workload {
            namespace: one.namespace.clone(),
            name: one.name.clone(),
            node: one.node.clone(),
            addresses: one.addresses.clone(),
            identity: one.identity.to_string(),
            enrolled: one.enrolled,
            steered: steered.contains(&one.key()),
            local: one.node == self.node(),
            labels: one.labels.clone(),
            mtls: mtls(&snapshot, one),
        });
        Workloads {
            node: self.node().to_owned(),
            trust_domain: snapshot.trust_domain().to_string(),
            generation: snapshot.generation,
            workloads: workloads.collect(),
        }
    }

    pub(super) fn policies(&self) -> Policies {
        let snapshot = self.snapshot();
        let mut holds: HashMap<PolicyName, Vec<String>> = HashMap::new();
        for workload in snapshot.local(self.node()).filter(|workload| workload.enrolled) {
            for name in deciding(&snapshot, workload) {
                holds.entry(name).or_default().push(workload.key().to_string());
            }
        }
        let mut policies = every(&snapshot);
        for (name, findings) in snapshot.policies().findings() {
            add_findings(&mut policies, name, findings);
        }
        let policies = policies.into_iter().map(|(name, mut policy)| {
            policy.workloads = holds.remove(&name).unwrap_or_default();
            policy.workloads.sort_unstable();
            policy
        });
        Policies { node: self.node().to_owned(), policies: policies.collect() }
    }
}

/// What a workload takes.
pub(super) fn mtls(snapshot: &Snapshot, workload: &workload::Workload) -> Mtls {
    let Effective { acceptance, rule } = effective(snapshot, workload, None);
    let ports = ports_with_own_mode(snapshot, workload);
    let ports = ports.map(|port| {
        let mode = mode(effective(snapshot, workload, Some(port)).acceptance);
        (port, mode.to_owned())
    });
    Mtls {
        mode: mode(acceptance).to_owned(),
        policy: decided_by(&rule).map(|(_, namespace, name)| format!("{namespace}/{name}")),
        ports: ports.collect(),
    }
}

const fn mode(acceptance: Acceptance) -> &'static str {
    match acceptance {
        Acceptance::PlaintextToo => "PERMISSIVE",
        Acceptance::MutualTlsOnly => "STRICT",
    }
}

fn decided_by(rule: &Rule) -> Option<PolicyName> {
    match rule {
        Rule::PeerAuthentication { namespace, name, .. } => {
            Some((PolicyKind::PeerAuthentication, namespace.clone(), name.clone()))
        }
        _ => None,
    }
}

/// The policies that hold for a workload.
pub(super) fn deciding(snapshot: &Snapshot, workload: &workload::Workload) -> BTreeSet<PolicyName> {
    let ports = ports_with_own_mode(snapshot, workload).map(Some);
    let rules = ports.chain([None]).map(|port| effective(snapshot, workload, port).rule);
    let mut names: BTreeSet<_> = rules.filter_map(|rule| decided_by(&rule)).collect();
    let root = snapshot.root_namespace();
    for namespace in BTreeSet::from([root, workload.namespace.as_str()]) {
        let policies = snapshot.policies().authorization_policies_in(namespace);
        names.extend(policies.filter(|policy| policy.applies_to(workload, root)).map(|policy| {
            let (namespace, name) = (policy.namespace.clone(), policy.name.clone());
            (PolicyKind::AuthorizationPolicy, namespace, name)
        }));
    }
    names
}

/// Every policy of the mesh.
fn every(snapshot: &Snapshot) -> BTreeMap<PolicyName, Policy> {
    let root = snapshot.root_namespace();
    let mut policies = BTreeMap::new();
    let mut add = |kind, (namespace, name): (&String, &String), selector, action, summary| {
        policies.insert(
            (kind, namespace.clone(), name.clone()),
            Policy {
                kind,
                namespace: namespace.clone(),
                name: name.clone(),
                scope: scope(namespace, selector, root).to_owned(),
                selector: selector.iter().map(|(key, value)| format!("{key}={value}")).collect(),
                action,
                summary,
                workloads: Vec::new(),
                findings: Vec::new(),
            },
        );
    };
    for policy in snapshot.peer_authentications() {
        let (action, summary) = summary::peer_authentication(policy);
        let name = (&policy.namespace, &policy.name);
        add(PolicyKind::PeerAuthentication, name, &policy.selector, action, summary);
    }
    for policy in snapshot.policies().authorization_policies() {
        let (action, summary) = summary::authorization(policy);
        let name = (&policy.namespace, &policy.name);
        add(PolicyKind::AuthorizationPolicy, name, &policy.selector, action, summary);
    }
    policies
}

/// What a policy is for.
pub(super) fn scope(
    namespace: &str,
    selector: &BTreeMap<String, String>,
    root: &str,
) -> &'static str {
    match (selector.is_empty(), namespace == root) {
        (false, _) => "workload",
        (true, true) => "mesh",
        (true, false) => "namespace",
    }
}

/// Adds what was found to the policy of that name, or to one that is refused and so is no policy
/// yet.
fn add_findings(policies: &mut BTreeMap<PolicyName, Policy>, full: &str, found: &Findings) {
    let Some((kind, key)) = full.split_once(' ') else { return };
    let Some((namespace, name)) = key.split_once('/') else { return };
    let kind = match kind {
        "PeerAuthentication" => PolicyKind::PeerAuthentication,
        _ => PolicyKind::AuthorizationPolicy,
    };
    let findings = found.iter().map(|finding| Finding {
        effect: finding.effect.label().to_owned(),
        code: finding.code.to_string(),
        path: finding.path.to_string(),
        text: finding.text.clone(),
    });
    let key = (kind, namespace.to_owned(), name.to_owned());
    let policy = policies.entry(key).or_insert_with(|| Policy {
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        scope: "none".to_owned(),
        selector: Vec::new(),
        action: "NONE".to_owned(),
        summary: "not in force; see what was found".to_owned(),
        workloads: Vec::new(),
        findings: Vec::new(),
    });
    policy.findings.extend(findings);
}

/// Workloads of this node that are wanted in the mesh and not captured.
pub(super) fn missing(
    snapshot: &Snapshot,
    node: &str,
    steered: &workload::Steered,
) -> BTreeSet<WorkloadKey> {
    let local = snapshot.local(node).filter(|workload| workload.enrolled);
    local.map(|workload| workload.key()).filter(|key| !steered.contains(key)).collect()
}
