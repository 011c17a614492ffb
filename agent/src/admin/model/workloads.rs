//! `/workloads`: every workload that the agent knows.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Answer to `GET /workloads`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Workloads {
    /// This node.
    pub node: String,
    /// The trust domain of all identities.
    pub trust_domain: String,
    /// Rises with each change of what the agent knows of the mesh.
    pub generation: u64,
    /// Every workload of the mesh, by namespace and name.
    pub workloads: Vec<Workload>,
}

/// One workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The node that it runs on.
    pub node: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The SPIFFE ID of its service account.
    pub identity: String,
    /// Whether it is wanted in the mesh.
    pub enrolled: bool,
    /// Whether its traffic is captured; false for workloads of other nodes, of which this agent
    /// does not know it.
    pub steered: bool,
    /// Whether it runs on this node.
    pub local: bool,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What it takes.
    pub mtls: Mtls,
}

/// What a workload takes, by the `PeerAuthentication` that holds for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mtls {
    /// `STRICT` or `PERMISSIVE`, for ports that have no mode of their own.
    pub mode: String,
    /// `NAMESPACE/NAME` of the policy that says so; none where nothing is said.
    pub policy: Option<String>,
    /// Ports with a mode of their own.
    pub ports: BTreeMap<u16, String>,
}
