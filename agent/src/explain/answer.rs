//! The form of an answer. Stable: `culvert explain -o json` prints it.

use serde::{Deserialize, Serialize};

/// Whether a connection may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It reaches the application.
    Allow,
    /// It does not.
    Deny,
}

/// How it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Path {
    /// By mutual TLS to the agent of the destination's node.
    Tunnel,
    /// Through the source's agent, unprotected.
    Direct,
    /// The kernel's own way; no agent of the source's node has it in hands.
    Kernel,
}

/// How it is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protection {
    /// Both ends prove who they are.
    MutualTls,
    /// Not at all.
    Plaintext,
    /// It does not leave its namespace.
    Local,
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// As it must be.
    Ok,
    /// This is where it ends.
    Fail,
    /// Nobody here can tell.
    Unknown,
    /// It was not asked.
    Skipped,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What: `source`, `destination`, `enrolled`, `steered`, `service`, `path`, `identity`,
    /// `certificate`, `peer`, `peer_authentication`, `authorization_policy`, `history`.
    pub name: String,
    /// What came of it.
    pub outcome: Outcome,
    /// In words.
    pub text: String,
    /// What to do where it fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Step {
    /// A step without a fix.
    pub(super) fn new(name: &str, outcome: Outcome, text: impl Into<String>) -> Self {
        Self { name: name.to_owned(), outcome, text: text.into(), fix: None }
    }

    /// The same with what to do.
    #[must_use]
    pub(super) fn fix(self, fix: impl Into<String>) -> Self {
        Self { fix: Some(fix.into()), ..self }
    }
}

/// One end of the connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Party {
    /// Namespace of the workload, if it is one.
    pub namespace: Option<String>,
    /// Its name.
    pub name: Option<String>,
    /// Its address, if it has one; with the port at the destination.
    pub address: Option<String>,
    /// Its SPIFFE ID.
    pub identity: Option<String>,
    /// Its node.
    pub node: Option<String>,
    /// Whether it is in the mesh.
    pub enrolled: bool,
}

/// What another endpoint of the same Service comes to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Other {
    /// The endpoint.
    pub destination: Party,
    /// Whether it may be.
    pub verdict: Verdict,
    /// See [`Explanation::reason`].
    pub reason: String,
    /// See [`Explanation::policy`].
    pub policy: Option<String>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// Whether the connection may be.
    pub verdict: Verdict,
    /// The word that log and metrics have for it: `ok`, or a reason of
    /// `culvert_flow_failures_total`.
    pub reason: String,
    /// `NAMESPACE/NAME` of the policy that decided, if one did.
    pub policy: Option<String>,
    /// What decided, with the policy's kind and line.
    pub rule: String,
    /// How it goes.
    pub path: Path,
    /// How it is protected.
    pub security: Protection,
    /// Who connects.
    pub source: Party,
    /// Where to.
    pub destination: Party,
    /// `NAMESPACE/NAME:PORT` of the Service that was asked for, if it is one.
    pub service: Option<String>,
    /// Everything that was looked at, in its order.
    pub steps: Vec<Step>,
    /// What the other endpoints of the Service come to.
    pub others: Vec<Other>,
    /// What is to be known beside.
    pub notes: Vec<String>,
}
