//! Every policy of the mesh, in the order and by the index that decisions need.

use std::collections::HashMap;

use super::authorization::AuthorizationPolicy;
use super::documents::Findings;
use super::model::PeerAuthentication;

/// Every policy of the mesh. Never changed, only replaced as a whole; snapshots that differ in
/// workloads only share one.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    // Oldest first, so that the first match of a level is the one that counts.
    peer_authentications: Vec<PeerAuthentication>,
    authorizations: Vec<AuthorizationPolicy>,
    by_namespace: HashMap<String, Indices>,
    // By kind, namespace and name, as `PeerAuthentication default/p`.
    findings: Vec<(String, Findings)>,
}

/// Where the policies of a namespace stand.
#[derive(Clone, Debug, Default)]
struct Indices {
    peer_authentications: Vec<usize>,
    authorization_policies: Vec<usize>,
}

impl Policies {
    /// Puts them in order: `PeerAuthentications` oldest first, the others by name, so that the
    /// order in which a source has them changes nothing.
    pub fn new(
        mut peer_authentications: Vec<PeerAuthentication>,
        mut authorization_policies: Vec<AuthorizationPolicy>,
    ) -> Self {
        peer_authentications.sort_by(|a, b| {
            (a.created, &a.namespace, &a.name).cmp(&(b.created, &b.namespace, &b.name))
        });
        authorization_policies
            .sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        let mut by_namespace: HashMap<String, Indices> = HashMap::new();
        for (index, policy) in peer_authentications.iter().enumerate() {
            let indices = by_namespace.entry(policy.namespace.clone()).or_default();
            indices.peer_authentications.push(index);
        }
        for (index, policy) in authorization_policies.iter().enumerate() {
            let indices = by_namespace.entry(policy.namespace.clone()).or_default();
            indices.authorization_policies.push(index);
        }
        let (authorizations, findings) = (authorization_policies, Vec::new());
        Self { peer_authentications, authorizations, by_namespace, findings }
    }

    /// The same with what of the documents does not hold as it is written, each under its kind,
    /// namespace and name, as `PeerAuthentication default/p`. Changes no decision.
    #[must_use]
    pub fn with_findings(mut self, findings: Vec<(String, Findings)>) -> Self {
        self.findings = findings;
        self
    }

    /// What of the documents does not hold as it is written, also of those that are refused and so
    /// are no policies here.
    pub fn findings(&self) -> &[(String, Findings)] {
        &self.findings
    }

    /// Every PeerAuthentication, oldest first.
    pub fn peer_authentications(&self) -> &[PeerAuthentication] {
        &self.peer_authentications
    }

    /// Every AuthorizationPolicy, by namespace and name.
    pub fn authorization_policies(&self) -> &[AuthorizationPolicy] {
        &self.authorizations
    }

    /// The `PeerAuthentications` of one namespace, oldest first.
    pub fn peer_authentications_in(
        &self,
        namespace: &str,
    ) -> impl Iterator<Item = &PeerAuthentication> {
        let indices = self.by_namespace.get(namespace);
        let indices = indices.into_iter().flat_map(|found| &found.peer_authentications);
        indices.filter_map(|index| self.peer_authentications.get(*index))
    }

    /// The `AuthorizationPolicies` of one namespace, by name.
    pub fn authorization_policies_in(
        &self,
        namespace: &str,
    ) -> impl Iterator<Item = &AuthorizationPolicy> {
        let indices = self.by_namespace.get(namespace);
        let indices = indices.into_iter().flat_map(|found| &found.authorization_policies);
        indices.filter_map(|index| self.authorizations.get(*index))
    }

    /// How many there are of both kinds.
    pub fn len(&self) -> usize {
        self.peer_authentications.len() + self.authorizations.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

// The index follows from the rest.
impl PartialEq for Policies {
    fn eq(&self, other: &Self) -> bool {
        self.peer_authentications == other.peer_authentications
            && self.authorizations == other.authorizations
            && self.findings == other.findings
    }
}

impl Eq for Policies {}
