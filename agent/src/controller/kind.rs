//! The kinds of policies, and how each is read.

use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::Value;

use crate::workload::documents::{Findings, Metadata, authorization_policy, peer_authentication};

/// The API group of both.
pub(super) const GROUP: &str = "security.istio.io";
/// Its versions, the best first.
pub(super) const VERSIONS: [&str; 2] = ["v1", "v1beta1"];

/// A kind of policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    PeerAuthentication,
    AuthorizationPolicy,
}

impl Kind {
    /// Both.
    pub(super) const ALL: [Self; 2] = [Self::PeerAuthentication, Self::AuthorizationPolicy];

    /// As documents have it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::PeerAuthentication => "PeerAuthentication",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
        }
    }

    /// The resource in one version of the group.
    pub(super) fn resource(self, version: &str) -> ApiResource {
        let plural = match self {
            Self::PeerAuthentication => "peerauthentications",
            Self::AuthorizationPolicy => "authorizationpolicies",
        };
        ApiResource::from_gvk_with_plural(
            &GroupVersionKind::gvk(GROUP, version, self.name()),
            plural,
        )
    }

    /// What of the object does not hold as it is written.
    pub(super) fn findings(self, object: &DynamicObject, root_namespace: &str) -> Findings {
        let metadata = Metadata::from(&object.metadata);
        let spec = object.data.get("spec").unwrap_or(&Value::Null);
        match self {
            Self::PeerAuthentication => {
                peer_authentication(&metadata, spec, root_namespace).findings
            }
            Self::AuthorizationPolicy => authorization_policy(&metadata, spec).findings,
        }
    }
}
