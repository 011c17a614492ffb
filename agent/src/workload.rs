//! What is where in the mesh, and what of it runs here.
//!
//! ```text
//!  workloads.yaml ─┐
//!                  ├─▶ file::Source ─────────┐
//!  policies.yaml ──┘                         ├▶ watch::Receiver<Arc<Snapshot>> ──▶ capture,
//!  API server ───────▶ kubernetes::Source ───┘                                  policy, tunnel
//!                      (each checks, watches, keeps the last good state)
//! ```
//!
//! A [`Snapshot`] is replaced as a whole and never changed, so that nobody sees a workload
//! without the policies that came with it.

pub mod announce;
pub mod authorization;
pub mod cgroup;
pub mod documents;
pub mod file;
pub mod kubernetes;
mod model;
pub mod offline;
mod pod_uid;
mod policies;
mod report;
mod services;
mod snapshot;
mod steered;

pub use announce::{Announce, AnnounceError, Announced, Decision, Listed};
pub use authorization::AuthorizationPolicy;
pub use model::{MtlsMode, PeerAuthentication, Workload, WorkloadKey};
pub use pod_uid::{PodUid, PodUidError};
pub use policies::Policies;
pub use report::PolicyReport;
pub use services::{Condition, Distance, Endpoint, Service, Services};
pub use snapshot::{Snapshot, SnapshotError};
pub use steered::Steered;
