//! The authority in a cluster: what of it stands in the API server, and how that is asked.
//!
//! ```text
//!              ┌─ secrets    state, keys, what nodes acknowledged  (Store, compare-and-swap)
//!  authority ──┼─ reviewer   whose token is this?                  (TokenReviewer)
//!              ├─ pods       who runs on which node?               (PodDirectory, a trimmed watch)
//!              ├─ published  root certificates, in every namespace (the leader alone)
//!              └─ lease      which replica leads
//! ```
//!
//! All replicas sign. The lease decides who publishes and who moves the rotation of roots on, so
//! that they do not do the same work twice; nothing depends on there being one leader only, because
//! every change is a compare-and-swap by `resourceVersion`.
//!
//! # Permissions
//!
//! These are all that is asked for. In the whole cluster:
//!
//! | group | resource | names | verbs |
//! |---|---|---|---|
//! | `authentication.k8s.io` | `tokenreviews` | | `create` |
//! | | `pods` | | `get`, `list`, `watch` |
//! | | `namespaces` | | `list`, `watch` |
//! | | `configmaps` | | `create` |
//! | | `configmaps` | `culvert-root-cert` | `get`, `list`, `watch`, `patch` |
//!
//! In the namespace of the authority:
//!
//! | group | resource | names | verbs |
//! |---|---|---|---|
//! | | `secrets` | | `create` |
//! | | `secrets` | `culvert-ca`, `culvert-ca-heard`, `culvert-ca-jwt-keys` | `get`, `patch` |
//! | `coordination.k8s.io` | `leases` | | `create` |
//! | `coordination.k8s.io` | `leases` | `culvert-ca` | `get`, `update` |
//!
//! What is created cannot be limited by name. `get` of a pod is for tokens that do not name the
//! node, as those of Kubernetes before 1.30. Whoever runs `culvert ca status --kubernetes` needs
//! `get` of the Secrets, for the orders beside it `patch` as well.

use std::time::Duration;

use hyper::Request;
use kube::Client;
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use zeroize::Zeroizing;

pub mod lease;
mod namespaces;
mod pods;
mod published;
mod reviewer;
mod secrets;
#[cfg(test)]
pub(crate) mod testing;
mod watched;

pub use namespaces::Namespaces;
pub use pods::ApiServerPods;
pub use published::{CONFIG_MAP, CONFIG_MAP_KEY, Publisher};
pub use reviewer::ApiServerReviewer;
pub use secrets::SecretStore;

/// Longest that one answer of the API server is waited for.
const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// Label of everything that the authority makes in a cluster.
const NAME_LABEL: (&str, &str) = ("app.kubernetes.io/name", "culvert");
/// The same.
const PART_LABEL: (&str, &str) = ("app.kubernetes.io/component", "ca");

/// What the API server did not do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KubernetesError {
    /// Nothing says which API server.
    #[error(
        "cannot tell which API server to ask; run this in a pod with a service account, or set \
         KUBECONFIG"
    )]
    Config(#[source] Box<kube::Error>),
    /// No answer came.
    #[error("cannot {action}: the API server cannot be reached; see that it runs, and the network")]
    Unreachable {
        /// What was tried.
        action: &'static str,
        /// Why not.
        #[source]
        source: Box<kube::Error>,
    },
    /// No answer came in time.
    #[error("cannot {action}: the API server took over {} s; see its load", .within.as_secs())]
    TooSlow {
        /// What was tried.
        action: &'static str,
        /// How long was waited.
        within: Duration,
    },
    /// It does not know who asks, or does not let him.
    #[error(
        "API server does not let this account {action}; grant it that in its ClusterRole or Role"
    )]
    Forbidden {
        /// What was tried.
        action: &'static str,
        /// The API server's account.
        #[source]
        source: Box<kube::core::Status>,
    },
    /// It does not want to.
    #[error("API server refused to {action}; its answer says why")]
    Refused {
        /// What was tried.
        action: &'static str,
        /// The API server's account.
        #[source]
        source: Box<kube::core::Status>,
    },
    /// It answered something else than was asked for. The answer is not told: it may hold keys.
    #[error(
        "cannot {action}: the API server's answer is malformed at line {line}, column {column}"
    )]
    Malformed {
        /// What was tried.
        action: &'static str,
        /// Where.
        line: usize,
        /// Where.
        column: usize,
    },
    /// An object is larger than the API server takes.
    #[error(
        "cannot {action}: it has {bytes} bytes, and an object takes 1 MiB; remove what is not \
         needed of it"
    )]
    TooLarge {
        /// What was tried.
        action: &'static str,
        /// How large.
        bytes: usize,
    },
}

impl KubernetesError {
    /// The HTTP status that the API server answered with, if it did.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Forbidden { source, .. } | Self::Refused { source, .. } => Some(source.code),
            _ => None,
        }
    }

    /// Whether there is no such object.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// Whether somebody else was first: another version is there, or one where there was none.
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }

    fn of(action: &'static str, error: kube::Error) -> Self {
        match error {
            kube::Error::Api(source) if matches!(source.code, 401 | 403) => {
                Self::Forbidden { action, source }
            }
            kube::Error::Api(source) => Self::Refused { action, source },
            error => Self::Unreachable { action, source: Box::new(error) },
        }
    }
}

/// A client of the API server of this pod, or of the kubeconfig of whoever runs this.
///
/// # Errors
/// Nothing says which API server that is. It is not asked anything yet.
pub async fn connect() -> Result<Client, KubernetesError> {
    // Its TLS takes the process's provider. Whoever was first has installed the same.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Client::try_default().await.map_err(|error| KubernetesError::Config(Box::new(error)))
}

/// Asks once, and waits for [`CALL_DEADLINE`]. Cancel safe but for what the API server did already.
///
/// Not by the client's own calls: they log an answer that they cannot read, whatever is in it.
async fn ask<T: DeserializeOwned>(
    client: &Client,
    action: &'static str,
    request: Result<Request<Vec<u8>>, kube::core::request::Error>,
) -> Result<T, KubernetesError> {
    let unreachable = |source| KubernetesError::Unreachable { action, source: Box::new(source) };
    let request = request.map_err(|error| unreachable(kube::Error::BuildRequest(error)))?;
    let text = timeout(CALL_DEADLINE, client.request_text(request))
        .await
        .map_err(|_| KubernetesError::TooSlow { action, within: CALL_DEADLINE })?
        .map_err(|error| KubernetesError::of(action, error))?;
    let text = Zeroizing::new(text);
    serde_json::from_str(&text).map_err(|error| KubernetesError::Malformed {
        action,
        line: error.line(),
        column: error.column(),
    })
}

/// The answer, or `None` where there is no such object.
fn found<T>(answer: Result<T, KubernetesError>) -> Result<Option<T>, KubernetesError> {
    match answer {
        Ok(object) => Ok(Some(object)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}
