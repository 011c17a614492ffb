//! What the steps say, and what to do where one fails.

use culvert_ca::enrolment::CULVERT_LABEL;
use culvert_spiffe::SpiffeId;

use super::answer::Party;
use super::{Mesh, principal, shown};
use crate::policy::Rule;
use crate::workload::Workload;
use crate::workload::offline::is_made_up;
use std::net::{IpAddr, SocketAddr};

/// A workload as one end of a connection.
pub(super) fn party(workload: &Workload, address: Option<String>) -> Party {
    Party {
        namespace: Some(workload.namespace.clone()),
        name: Some(workload.name.clone()),
        address,
        identity: Some(workload.identity.to_string()),
        node: (!workload.node.is_empty()).then(|| workload.node.clone()),
        enrolled: workload.enrolled,
    }
}

/// An address for programs: nothing of one that was made up.
pub(super) fn told(address: IpAddr) -> Option<String> {
    (!is_made_up(address)).then(|| address.to_string())
}

/// Who somebody is, in one line.
pub(super) fn described(workload: &Workload, address: IpAddr, port: Option<u16>) -> String {
    let mut text = format!("{}, {}", workload.key(), workload.identity);
    match port {
        Some(port) => text.extend([", ", &shown(SocketAddr::new(address, port))]),
        None if !is_made_up(address) => text.extend([", ", &address.to_string()]),
        None => {}
    }
    if !workload.node.is_empty() {
        text.extend([", on ", &workload.node]);
    }
    text
}

/// Why a workload is in the mesh, or not, as far as it is known.
pub(super) fn because(mesh: Mesh<'_>, workload: &Workload) -> String {
    let because = mesh.names.because.get(&workload.key());
    because.map(|because| format!(": {because}")).unwrap_or_default()
}

/// What brings a workload into the mesh.
pub(super) fn enrol(mesh: Mesh<'_>, workload: &Workload) -> String {
    let Workload { namespace, name, .. } = workload;
    if mesh.names.cluster {
        format!(
            "bring {namespace}/{name} into the mesh: `kubectl label namespace {namespace} \
             {CULVERT_LABEL}=enabled`, or `kubectl label pod -n {namespace} {name} \
             {CULVERT_LABEL}=enabled` for it alone"
        )
    } else {
        format!(
            "bring {namespace}/{name} into the mesh: `enrolled: true` and its `netns` at its entry \
             in the workloads file"
        )
    }
}

/// `NAMESPACE/NAME` of the policy that decided, if one did.
pub(super) fn policy_of(rule: &Rule) -> Option<String> {
    match rule {
        Rule::PeerAuthentication { namespace, name, .. }
        | Rule::AuthorizationPolicy { namespace, name, .. }
        | Rule::NothingAllows { namespace, name, .. } => Some(format!("{namespace}/{name}")),
        Rule::Default
        | Rule::MutualTls
        | Rule::NodeHost
        | Rule::IllegalPort(_)
        | Rule::NoEndpoint { .. } => None,
    }
}

/// What to do about an AuthorizationPolicy that refuses.
pub(super) fn permit(rule: &Rule, peer: Option<&SpiffeId>, to: SocketAddr) -> String {
    let port = to.port();
    match (rule, peer) {
        (Rule::AuthorizationPolicy { namespace, name, rule }, _) => format!(
            "if it should be: make rules[{rule}] of AuthorizationPolicy {namespace}/{name} \
             narrower, so that it does not match"
        ),
        (Rule::NothingAllows { namespace, name, .. }, Some(peer)) => format!(
            "if it should be: add to the rules of AuthorizationPolicy {namespace}/{name} \
             `{{from: [{{source: {{principals: [\"{}\"]}}}}], to: [{{operation: {{ports: \
             [\"{port}\"]}}}}]}}`",
            principal(peer)
        ),
        (Rule::NothingAllows { namespace, name, .. }, None) => format!(
            "a connection in plaintext has no identity that a rule could name: bring its source \
             into the mesh, or allow its address by `ipBlocks` in AuthorizationPolicy \
             {namespace}/{name}"
        ),
        _ => "look at the policy that the step names".to_owned(),
    }
}
