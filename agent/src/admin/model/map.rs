//! `/map.json`: workloads and who talks to whom.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Answer to `GET /map.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Map {
    /// This node.
    pub node: String,
    /// The agent's clock.
    pub now: String,
    /// Workloads of this node, and those of others that its own talk to.
    pub workloads: Vec<MapWorkload>,
    /// Who talked to whom since the agent started, as far as it remembers.
    pub edges: Vec<Edge>,
}

/// A node of the graph.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MapWorkload {
    /// Its namespace.
    pub namespace: String,
    /// Its name: the pod's.
    pub name: String,
    /// The name that edges have it under: that of its Deployment or the like, or its own.
    pub workload: String,
    /// The SPIFFE ID of its service account.
    pub identity: String,
    /// Whether it is wanted in the mesh.
    pub enrolled: bool,
    /// The node that it runs on.
    pub node: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// `STRICT` or `PERMISSIVE`.
    pub mtls: String,
    /// `KIND NAMESPACE/NAME` of the policies that hold for it.
    pub policies: Vec<String>,
    /// Its certificate, where this agent has it.
    pub certificate: Option<MapCertificate>,
}

/// A workload's certificate at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MapCertificate {
    /// As in `/certs`.
    pub state: String,
    /// Last second at which it is valid.
    pub not_after: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
}

/// All connections from one workload to another, as one of the two sees them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Edge {
    /// `source` or `destination`: which end this agent has. Where it has both, there are two.
    pub reporter: String,
    /// Who opened them.
    pub source: End,
    /// Whom they were opened to.
    pub destination: End,
    /// The host name of the service that was dialled, where it was one.
    pub service: Option<String>,
    /// The destination's port, where it is known.
    pub port: Option<u16>,
    /// How they are protected.
    pub security: Security,
    /// How many are open now.
    pub open: u64,
    /// How many were opened.
    pub opened: u64,
    /// How many did not end cleanly.
    pub failed: u64,
    /// Those of them by reason.
    pub refused: BTreeMap<String, u64>,
    /// Bytes from source to destination.
    pub bytes_sent: u64,
    /// Bytes from destination to source.
    pub bytes_received: u64,
    /// HTTP requests that were seen.
    pub requests: u64,
    /// Time of their handshakes.
    pub handshake_ms: Option<Quantiles>,
    /// Time from a connection's opening to the first byte of the answer.
    pub first_byte_ms: Option<Quantiles>,
    /// When the last one was opened.
    pub last_opened: String,
    /// The latest addresses of sources that are no known workload and not the node's own host,
    /// oldest first.
    #[serde(default)]
    pub strangers: Vec<IpAddr>,
}

/// One end of an edge; nothing is known of what is outside the mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct End {
    /// Its namespace.
    pub namespace: Option<String>,
    /// Its name: that of the Deployment or the like, whose pods are told together. See
    /// [`MapWorkload::workload`].
    pub workload: Option<String>,
    /// Its SPIFFE ID, where a handshake proved it.
    pub identity: Option<String>,
}

/// How a connection is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Security {
    /// Mutual TLS; both ends are proven.
    MutualTls,
    /// Not at all.
    Plaintext,
    /// It never left the node's kernel.
    Local,
}

/// Milliseconds that half, and all but a hundredth, take less than.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Quantiles {
    /// The median.
    pub p50: f64,
    /// The 99th percentile.
    pub p99: f64,
}
