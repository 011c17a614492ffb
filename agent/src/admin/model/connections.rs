//! `/connections`: the connections that are open now.

use serde::{Deserialize, Serialize};

use super::map::Security;

/// Answer to `GET /connections?limit=N`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Connections {
    /// This node.
    pub node: String,
    /// The agent's clock.
    pub now: String,
    /// How many are open; more than are named, where a limit cut the list.
    pub total: usize,
    /// Those that are named, newest first.
    pub connections: Vec<Connection>,
}

/// One open connection, as one of its ends sees it: of two workloads of one node both do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Connection {
    /// Unique as long as the agent runs.
    pub id: u64,
    /// `inbound` or `outbound`.
    pub direction: String,
    /// `tunnel`, `direct` or `kernel`.
    pub path: String,
    /// How it is protected.
    pub security: Security,
    /// When it was opened.
    pub opened: String,
    /// Who opened it.
    pub source: Source,
    /// Whom it was opened to.
    pub destination: Destination,
    /// Bytes that the local workload sent.
    pub bytes_sent: u64,
    /// Bytes that the local workload received.
    pub bytes_received: u64,
    /// HTTP requests that were seen on it.
    pub requests: u64,
}

/// Who opened a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// Its address and port.
    pub address: String,
    /// Its namespace, where it is known.
    pub namespace: Option<String>,
    /// Its name, where it is known: the pod's.
    pub workload: Option<String>,
    /// The name of the Deployment or the like that the pod is of, as edges and metrics have it.
    #[serde(default)]
    pub owner: Option<String>,
    /// Its SPIFFE ID, where the handshake proved it.
    pub identity: Option<String>,
}

/// Whom a connection was opened to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Destination {
    /// The address and port that was dialled.
    pub address: String,
    /// The address of the tunnel's end, where there is one.
    pub hbone_address: Option<String>,
    /// The host name of the service that was dialled, where it was one.
    pub service: Option<String>,
    /// Its namespace, where it is known.
    pub namespace: Option<String>,
    /// Its name, where it is known: the pod's.
    pub workload: Option<String>,
    /// The name of the Deployment or the like that the pod is of, as edges and metrics have it.
    #[serde(default)]
    pub owner: Option<String>,
    /// Its SPIFFE ID, where the handshake proved it.
    pub identity: Option<String>,
}
