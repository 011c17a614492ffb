//! `/policies`: every policy that the agent knows.

use serde::{Deserialize, Serialize};

/// Answer to `GET /policies`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Policies {
    /// This node.
    pub node: String,
    /// Every policy, by kind, namespace and name.
    pub policies: Vec<Policy>,
}

/// One policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// Its kind.
    pub kind: PolicyKind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What it is for: `mesh`, `namespace` or `workload`.
    pub scope: String,
    /// Labels that choose the workloads, `key=value`; empty for all of the scope.
    pub selector: Vec<String>,
    /// `STRICT`, `ALLOW`…: what it says in a word.
    pub action: String,
    /// What it says, for people.
    pub summary: String,
    /// `NAMESPACE/NAME` of this node's enrolled workloads that it holds for.
    pub workloads: Vec<String>,
    /// What of it does not hold as it is written.
    pub findings: Vec<Finding>,
}

/// A kind of policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PolicyKind {
    /// Which connections a workload takes.
    PeerAuthentication,
    /// Which peers may connect to it.
    AuthorizationPolicy,
}

/// One thing of a policy that does not hold as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// What it means for the traffic: `refused`, `not_enforced`, `never_matches`, `stricter` or
    /// `noted`.
    pub effect: String,
    /// What was found, for programs.
    pub code: String,
    /// Where in the document.
    pub path: String,
    /// What is the matter and what to write instead.
    pub text: String,
}
