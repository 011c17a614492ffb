//! Who calls: the proofs by which a caller becomes somebody.
//!
//! ```text
//!  authorization: Bearer … ──▶ Authenticator ──▶ Caller::Node   a node token of our own making
//!                                             └▶ Caller::Pod    a service-account token
//!  certificate of the connection ───────────────▶ Caller::Holder a still valid SVID of ours
//! ```
//!
//! What a caller may have is decided afterwards, by the one `authorize` of the service, which asks
//! [`Residents`] who runs where: a file, or Kubernetes.

use culvert_spiffe::SpiffeId;
use time::OffsetDateTime;

use crate::audit::Rule;

mod kept;
pub mod kubernetes;
mod node_token;

pub use node_token::{NodeTokens, TokenError};

/// Who calls, and by what that was proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The agent of a node, by a node token. It has no identity of its own.
    Node {
        /// The node, as workloads.yaml names it.
        node: String,
    },
    /// A pod, by a service-account token that is bound to it.
    Pod(PodCaller),
    /// Whoever holds the key of a still valid SVID, and sent no token.
    Holder {
        /// The identity in the certificate.
        identity: SpiffeId,
    },
}

/// A pod that proved itself by its service-account token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodCaller {
    /// Its own identity: namespace and service account of the token.
    pub identity: SpiffeId,
    /// Its name within the namespace.
    pub name: String,
    /// The UID that the token is bound to; a pod made again under the same name has another.
    pub uid: String,
    /// Its node, where the token says so.
    pub node: Option<String>,
}

impl Caller {
    /// The proof, as the audit and metrics name it.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Node { .. } => "node_token",
            Self::Pod(_) => "service_account_token",
            Self::Holder { .. } => "certificate",
        }
    }

    /// The node it runs on, where the proof says so.
    pub fn node(&self) -> Option<&str> {
        match self {
            Self::Node { node } => Some(node),
            Self::Pod(pod) => pod.node.as_deref(),
            Self::Holder { .. } => None,
        }
    }

    /// The identity it has itself, if any.
    pub fn identity(&self) -> Option<&SpiffeId> {
        match self {
            Self::Node { .. } => None,
            Self::Pod(pod) => Some(&pod.identity),
            Self::Holder { identity } => Some(identity),
        }
    }
}

/// Why a caller is nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthenticationError {
    /// Not a token at all.
    #[error("token is malformed")]
    Malformed,
    /// Signed by another key, or with another algorithm.
    #[error("signature of the token does not hold")]
    Signature,
    /// Made for something else.
    #[error("token is for another audience")]
    Audience,
    /// Its time is over.
    #[error("token has expired")]
    Expired,
    /// The API server does not know it.
    #[error("API server does not know the token")]
    Unknown,
    /// It is a user's, or a node's.
    #[error("token is not one of a service account")]
    NotServiceAccount,
    /// It is bound to no pod, so nobody can tell where its holder runs.
    #[error("token is bound to no pod; mount a projected token")]
    NotBoundToPod,
    /// Nothing is known of the token: the API server did not answer.
    #[error("API server did not answer; the token is neither good nor bad")]
    Unavailable,
}

/// Tells who holds a bearer token.
pub trait Authenticator: Send + Sync + 'static {
    /// Answers within the deadline of a call, or is dropped; must be cancel safe.
    fn authenticate(
        &self,
        bearer: &str,
        now: OffsetDateTime,
    ) -> impl Future<Output = Result<Caller, AuthenticationError>> + Send;
}

/// Says which identities a caller may have because of who runs where.
#[tonic::async_trait]
pub trait Residents: Send + Sync + 'static {
    /// Refuses unless `caller` may speak for its node, and an enrolled workload of `id` runs there.
    ///
    /// Cancel safe.
    async fn beside(&self, caller: &Caller, id: &SpiffeId) -> Result<(), Rule>;

    /// Refuses unless an enrolled workload of `id` runs on any node.
    ///
    /// Cancel safe.
    async fn anywhere(&self, id: &SpiffeId) -> Result<(), Rule>;

    /// The node for which `caller` speaks, if it is an agent of one: what it has in force, and what
    /// it is given, is then noted for that node. Anybody else on the node says nothing about it.
    ///
    /// Cancel safe.
    async fn node_of(&self, caller: &Caller) -> Option<String>;

    /// Called every second on a thread that may block: for what is followed by looking at it.
    fn look(&self) {}
}
