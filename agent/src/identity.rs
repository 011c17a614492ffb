//! SVIDs of this node's workloads: asked of the authority, held in memory, renewed in time, and
//! used for every handshake.
//!
//! ```text
//!  workload added ──hold()──▶ IdentityStore ──one task an identity──▶ CaClient ──TLS──▶ authority
//!                                  │   ▲                                │
//!                                  │   └──────── Svid, trust bundle ◀───┘
//!  connection ──svid()────────────▶│
//!                                  └──▶ Arc<Svid> ──▶ handshake::{accept, connect} ──▶ VerifiedPeer
//! ```
//!
//! Keys are made here, one for every certificate, and live in memory only. The lifecycle of one
//! identity is the pure state machine in [`state`]; [`store`] is its one executor.

pub mod ca_client;
mod channel;
mod clock;
pub mod handshake;
mod jwt;
mod metrics;
mod roots;
pub mod state;
pub mod status;
pub mod store;
pub mod svid;
#[cfg(test)]
pub(crate) mod testing;
mod tls;
mod verifier;

pub use ca_client::{IssueError, Settings};
pub use jwt::JwtSvid;
pub use roots::{BundleInForce, Root, Standing};
pub use status::{Held, IdentityStatus};
pub(crate) use store::chain as with_sources;
pub use store::{Current, IdentityHold, IdentityStore, IdentityTasks, StartError, SvidError};
pub use svid::Svid;
