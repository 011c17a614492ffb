//! What the admin server says, as JSON: written by the agent, read by `culvert` and by the page.
//!
//! Names are in camel case, times RFC 3339 in UTC to the second. Fields may be added, so readers
//! leave aside what they do not know; none goes or changes its meaning.

mod connections;
mod identities;
mod map;
mod policies;
mod status;
mod workloads;

use serde::{Deserialize, Serialize};

pub use self::connections::{Connection, Connections, Destination, Source};
pub use self::identities::{Certificate, Export, Identities, Identity, USERS_NAMED};
pub use self::map::{Edge, End, Map, MapCertificate, MapWorkload, Quantiles, Security};
pub use self::policies::{Finding, Policies, Policy, PolicyKind};
pub use self::status::{
    Authority, Bundle, IdentityCounts, OpenCounts, PolicyCounts, Program, Ready, State, Status,
    WorkloadCounts,
};
pub use self::workloads::{Mtls, Workload, Workloads};

/// Any answer that is a refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// What is wrong and what to do.
    pub error: String,
    /// What there is, where an unknown one was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub known: Vec<String>,
}

/// Answer to `GET /logging`, and to `POST /logging?level=FILTER`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Logging {
    /// The filter in force, in `tracing`'s syntax.
    pub level: String,
}
