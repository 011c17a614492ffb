//! Attestation by Kubernetes: service-account tokens, and the pods of a node.
//!
//! ```text
//!  token ──▶ ServiceAccountTokens ──TokenReview──▶ TokenReviewer ┐
//!                └─ Caller::Pod                                  ├─ the API server
//!  may it? ─▶ NodePods ───────────pods of a node─▶ PodDirectory  ┘
//! ```
//!
//! The API server stands behind two small traits, so that the rules need no cluster to be tested.

use std::collections::BTreeMap;
use std::sync::Arc;

pub use pods::{NodePods, Permissions};
pub use tokens::ServiceAccountTokens;

mod pods;
#[cfg(test)]
pub(crate) mod testing;
mod tokens;

/// Asks the API server about tokens.
#[tonic::async_trait]
pub trait TokenReviewer: Send + Sync + 'static {
    /// Makes a `TokenReview` (authentication.k8s.io/v1) of `token` with these audiences in its
    /// spec.
    ///
    /// Bounded by the caller; must be cancel safe.
    async fn review(&self, token: &str, audiences: &[String]) -> Result<Review, ApiServerError>;
}

/// The status of a `TokenReview`. Default: not authenticated.
#[derive(Clone, Debug, Default)]
pub struct Review {
    /// Whether the API server knows the token.
    pub authenticated: bool,
    /// The audiences asked for that the token is for. Empty when the API server does not look at
    /// audiences: such an answer proves nothing.
    pub audiences: Vec<String>,
    /// Such as `system:serviceaccount:default:web`.
    pub username: String,
    /// Such as `system:serviceaccounts`.
    pub groups: Vec<String>,
    /// `status.user.extra`.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// Asks the API server, or a cache that follows it, about pods.
#[tonic::async_trait]
pub trait PodDirectory: Send + Sync + 'static {
    /// Whether it follows the pods, so that a look at what it knows costs the API server nothing.
    fn follows(&self) -> bool {
        false
    }

    /// The pod of this name, if there is one now. Must be cancel safe.
    async fn pod(&self, namespace: &str, name: &str) -> Result<Option<Pod>, ApiServerError>;

    /// All pods that are bound to `node`, finished ones too. Must be cancel safe.
    async fn pods_on(&self, node: &str, freshness: Freshness) -> Result<Vec<Pod>, ApiServerError>;

    /// All pods of a service account, on whatever node. Must be cancel safe.
    async fn pods_of(&self, namespace: &str, account: &str) -> Result<Vec<Pod>, ApiServerError>;
}

#[tonic::async_trait]
impl<T: PodDirectory> PodDirectory for Arc<T> {
    fn follows(&self) -> bool {
        (**self).follows()
    }

    async fn pod(&self, namespace: &str, name: &str) -> Result<Option<Pod>, ApiServerError> {
        (**self).pod(namespace, name).await
    }

    async fn pods_on(&self, node: &str, freshness: Freshness) -> Result<Vec<Pod>, ApiServerError> {
        (**self).pods_on(node, freshness).await
    }

    async fn pods_of(&self, namespace: &str, account: &str) -> Result<Vec<Pod>, ApiServerError> {
        (**self).pods_of(namespace, account).await
    }
}

/// How new an answer has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// What is followed may be a moment behind.
    Followed,
    /// As the API server has it now, asked anew.
    Now,
}

/// What is needed of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name, which a later pod may have as well.
    pub name: String,
    /// Its UID, which no other pod ever has.
    pub uid: String,
    /// `spec.serviceAccountName`.
    pub account: String,
    /// `spec.nodeName`; none until it is scheduled.
    pub node: Option<String>,
    /// `status.phase`.
    pub phase: Phase,
    /// Whether it is to be in the mesh.
    pub enrolled: bool,
}

/// The phase of a pod, as Kubernetes has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Not all of its containers have run.
    Pending,
    /// Bound to a node, and at least one container runs or is about to.
    Running,
    /// All containers ended well.
    Succeeded,
    /// All containers ended, not all well.
    Failed,
    /// Its node cannot be reached.
    Unknown,
}

impl Phase {
    /// Whether such a pod may yet send something: pending or running.
    pub const fn is_alive(self) -> bool {
        matches!(self, Self::Pending | Self::Running)
    }
}

/// Why the API server told nothing.
#[derive(Debug, thiserror::Error)]
pub enum ApiServerError {
    /// No answer came, or none that can be read.
    #[error("API server cannot be asked; see that it runs and that this pod may reach it")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It answered that this authority may not ask.
    #[error("API server does not let the authority {action}; grant it that in its ClusterRole")]
    Forbidden {
        /// What was tried.
        action: &'static str,
    },
    /// It took too long.
    #[error("API server took over {seconds} s to answer; see its load")]
    TooSlow {
        /// How long was waited.
        seconds: u64,
    },
}
