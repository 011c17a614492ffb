//! From documents as Kubernetes has them to policies, with an account of everything in them that
//! does not hold as it is written.
//!
//! ```text
//!  metadata, spec ──▶ peer_authentication ──▶ Read { policy, findings }
//!                 ──▶ authorization_policy ─┘          │         │
//!        the mesh, as far as it can be enforced ◀──────┘         └──▶ log, status of the object
//! ```
//!
//! Pure: the policies file, the API server's watch and the controller that writes statuses read
//! the same way. Nothing is ever left out in silence, and where a document is wrong the stricter
//! reading holds: a rule that cannot be read allows nothing, and denies what it might deny.
//!
//! Source: istio/api `security/v1beta1/{authorization_policy,peer_authentication}.proto`, and for
//! what layer 4 makes of layer 7 istio/istio `pilot/pkg/serviceregistry/ambient/authorization.go`.

mod authorization_policy;
mod finding;
mod metadata;
mod peer_authentication;
mod rule;
#[cfg(test)]
mod tests;
mod value;
mod walk;

pub use authorization_policy::authorization_policy;
pub use finding::{Code, Effect, Finding, Findings, Path, Step};
pub use metadata::Metadata;
pub use peer_authentication::peer_authentication;

/// The revision whose policies are ours: what bears another `istio.io/rev` is not.
pub const REVISION: &str = "default";

/// What was made of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read<T> {
    /// The policy as it is enforced; none when it is not for layer 4 or not for this mesh.
    pub policy: Option<T>,
    /// What of the document does not hold as it is written.
    pub findings: Findings,
}
