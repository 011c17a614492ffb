//! Which AuthorizationPolicy decides a flow.
//!
//! ```text
//!  a DENY matches ─yes─▶ refuse
//!        │ no
//!  an ALLOW applies ─no─▶ allow          applies: is about the workload at all
//!        │ yes
//!  an ALLOW matches ─yes─▶ allow         matches: one of its rules fits the flow
//!        │ no
//!      refuse
//! ```
//!
//! Source: istio/api `security/v1beta1/authorization_policy.proto`, without CUSTOM, which layer 4
//! does not have.

#[cfg(test)]
mod tests;

use super::inbound::InboundFlow;
use super::verdict::Rule;
use crate::workload::authorization::{Action, AuthorizationPolicy, AuthorizationRule, Facts};
use crate::workload::{Snapshot, Workload};

/// What the `AuthorizationPolicies` say of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authorization {
    /// No ALLOW policy is about the workload, and no DENY policy matches.
    NotAsked,
    /// An ALLOW rule matches, and no DENY.
    Allow(Rule),
    /// A DENY rule matches, or there are ALLOW policies and none of them does.
    Refuse(Rule),
}

/// What the `AuthorizationPolicies` in force say of a flow.
pub fn authorization(snapshot: &Snapshot, flow: &InboundFlow<'_>) -> Authorization {
    decide(snapshot, flow, |policy| !policy.dry_run)
}

/// Who would refuse the flow if policies in a dry run were in force; none if nobody would, or if
/// those in force refuse it already.
pub fn would_refuse(snapshot: &Snapshot, flow: &InboundFlow<'_>) -> Option<Rule> {
    let probe = flow.from_node && flow.peer.is_none();
    if probe || !applying(snapshot, flow.destination).any(|policy| policy.dry_run) {
        return None;
    }
    match (authorization(snapshot, flow), decide(snapshot, flow, |_| true)) {
        (Authorization::Refuse(_), _) => None,
        (_, Authorization::Refuse(rule)) => Some(rule),
        _ => None,
    }
}

/// Whether some policy in force may refuse flows to the workload.
pub(super) fn may_refuse(snapshot: &Snapshot, workload: &Workload) -> bool {
    applying(snapshot, workload).any(|policy| {
        !policy.dry_run && (policy.action == Action::Allow || !policy.rules.is_empty())
    })
}

/// The policies about a workload, in force or not: the mesh's, then its namespace's.
fn applying<'a>(
    snapshot: &'a Snapshot,
    workload: &'a Workload,
) -> impl Iterator<Item = &'a AuthorizationPolicy> {
    let (policies, root) = (snapshot.policies(), snapshot.root_namespace());
    // A workload of the root namespace is not to be asked about twice.
    let own = (workload.namespace != root).then_some(&workload.namespace);
    policies
        .authorization_policies_in(root)
        .chain(own.into_iter().flat_map(|own| policies.authorization_policies_in(own)))
        .filter(|policy| policy.applies_to(workload, root))
}

fn decide(
    snapshot: &Snapshot,
    flow: &InboundFlow<'_>,
    counts: impl Fn(&AuthorizationPolicy) -> bool,
) -> Authorization {
    let facts = Facts {
        peer: flow.peer,
        source: flow.source.ip().to_canonical(),
        destination: flow.to.ip().to_canonical(),
        port: flow.to.port(),
    };
    let mut allowed = None;
    let mut first_allow = None;
    let mut allows = 0_usize;
    for policy in applying(snapshot, flow.destination).filter(|policy| counts(policy)) {
        match policy.action {
            Action::Deny => {
                if let Some(rule) = policy.matching(&facts) {
                    return Authorization::Refuse(named(policy, rule));
                }
            }
            Action::Allow => {
                allows += 1;
                first_allow.get_or_insert(policy);
                if allowed.is_none() {
                    allowed = policy.matching(&facts).map(|rule| (policy, rule));
                }
            }
        }
    }
    match (allowed, first_allow) {
        (Some((policy, rule)), _) => Authorization::Allow(named(policy, rule)),
        (None, None) => Authorization::NotAsked,
        (None, Some(policy)) => Authorization::Refuse(Rule::NothingAllows {
            namespace: policy.namespace.clone(),
            name: policy.name.clone(),
            others: allows - 1,
        }),
    }
}

fn named(policy: &AuthorizationPolicy, rule: &AuthorizationRule) -> Rule {
    Rule::AuthorizationPolicy {
        namespace: policy.namespace.clone(),
        name: policy.name.clone(),
        rule: rule.index,
    }
}
