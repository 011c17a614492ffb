//! The kinds of objects that are watched.

/// A kind of objects that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    Pods,
    Namespaces,
    Nodes,
    Services,
    EndpointSlices,
    PeerAuthentications,
    AuthorizationPolicies,
}

impl Kind {
    /// All of them.
    pub(super) const ALL: [Self; 7] = [
        Self::Pods,
        Self::Namespaces,
        Self::Nodes,
        Self::Services,
        Self::EndpointSlices,
        Self::PeerAuthentications,
        Self::AuthorizationPolicies,
    ];

    /// The text of a metric's label, and Kubernetes' own word.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Namespaces => "namespaces",
            Self::Nodes => "nodes",
            Self::Services => "services",
            Self::EndpointSlices => "endpointslices",
            Self::PeerAuthentications => "peerauthentications",
            Self::AuthorizationPolicies => "authorizationpolicies",
        }
    }
}
