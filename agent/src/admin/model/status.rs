//! `/status`: one agent at a glance.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Answer to `GET /status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// This node.
    pub node: String,
    /// The agent's version.
    pub version: String,
    /// Whether it is ready.
    pub ready: Ready,
    /// When it started.
    pub started: String,
    /// Its clock.
    pub now: String,
    /// Seconds by which its clock is ahead of the authority's, where that is known.
    pub clock_offset: Option<f64>,
    /// The authority that it asks.
    pub authority: Authority,
    /// Its workloads' identities.
    pub identities: IdentityCounts,
    /// Its workloads.
    pub workloads: WorkloadCounts,
    /// Its connections.
    pub connections: OpenCounts,
    /// Its programs in the kernel.
    pub programs: Vec<Program>,
    /// The trust bundle.
    pub bundle: Bundle,
    /// The policies that it knows.
    pub policies: PolicyCounts,
}

/// Whether an agent is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ready {
    /// The state.
    pub state: State,
    /// Why it is not ready.
    pub why: Option<String>,
}

/// How far an agent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It has not been ready yet.
    Starting,
    /// It was, or it is ending.
    NotReady,
    /// It serves every enrolled workload.
    Ready,
}

/// The authority as the agent sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Authority {
    /// Where it is asked.
    pub address: String,
    /// Whether it answered last; none while nothing was asked.
    pub reachable: Option<bool>,
    /// What an identity that has no certificate was answered last.
    pub last_error: Option<String>,
}

/// Identities of an agent, by state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IdentityCounts {
    /// With a certificate in force.
    pub held: usize,
    /// Whose last request failed.
    pub failing: usize,
    /// When the first of the certificates expires.
    pub next_expiry: Option<String>,
}

/// Workloads of an agent's node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadCounts {
    /// Of this node.
    pub local: usize,
    /// Of those, wanted in the mesh.
    pub enrolled: usize,
    /// Of those, captured.
    pub steered: usize,
    /// `NAMESPACE/NAME` of those that are wanted and not captured.
    pub missing: Vec<String>,
}

/// Connections that are open now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenCounts {
    /// Both directions.
    pub open: usize,
}

/// A program of the agent in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Program {
    /// Its name.
    pub name: String,
    /// The kernel's number of it, as `bpftool prog` prints it.
    pub id: u32,
    /// Where it is attached.
    pub attached: Vec<String>,
}

/// The trust bundle of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bundle {
    /// Its sequence number; rises with each change of the roots.
    pub sequence: u64,
    /// Roots in it.
    pub roots: usize,
    /// Whether the authority's news are followed at this moment; none where that is not known.
    pub connected: Option<bool>,
}

/// Policies that an agent knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyCounts {
    /// `PeerAuthentications`.
    pub peer_authentications: usize,
    /// `AuthorizationPolicies`.
    pub authorization_policies: usize,
    /// Findings by effect.
    pub findings: BTreeMap<String, usize>,
}
