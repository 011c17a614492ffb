//! Who calls and what may they have: decided here for every call of the authority, and nowhere
//! else.

use std::sync::Arc;

use culvert_spiffe::{PeerRole, SpiffeId, TrustDomain};
use time::OffsetDateTime;
use tonic::metadata::MetadataMap;
use tracing::error;

use crate::attest::{AuthenticationError, Authenticator, Caller};
use crate::audit::Rule;
use crate::authority::{Authority, unix};
use crate::placement::PlacementFile;
use crate::server::Peer;

/// The proofs and the permissions. Shared by all services of the server.
pub(crate) struct Admission<A> {
    authority: Arc<Authority>,
    placement: Arc<PlacementFile>,
    authenticator: A,
}

impl<A: Authenticator> Admission<A> {
    pub(crate) fn new(
        authority: Arc<Authority>,
        placement: Arc<PlacementFile>,
        authenticator: A,
    ) -> Self {
        Self { authority, placement, authenticator }
    }

    /// Tells who calls: by the bearer token, or without one by the connection's certificate.
    ///
    /// A token that does not hold is not made good by a certificate: the token decides. Cancel
    /// safe.
    pub(crate) async fn admit(
        &self,
        headers: &MetadataMap,
        peer: Option<&Peer>,
        now: OffsetDateTime,
    ) -> Result<Caller, Rule> {
        if let Some(token) = bearer(headers)? {
            return self.authenticator.authenticate(token, now).await.map_err(token_rule);
        }
        self.holder(peer, now)
    }

    /// Decides whether `caller` may have anything that says it is `id`.
    ///
    /// Cancel safe.
    pub(crate) async fn authorize(&self, caller: &Caller, id: &SpiffeId) -> Result<(), Rule> {
        if id.trust_domain() != self.trust_domain() {
            return Err(Rule::ForeignTrustDomain);
        }
        if *id == SpiffeId::of_authority(self.trust_domain()) {
            return Err(Rule::ReservedIdentity);
        }
        match caller {
            Caller::Node { node } => self.resides(node, id).await,
            Caller::Pod(pod) if pod.identity == *id => Ok(()),
            Caller::Holder { identity } if identity == id => self.placed(id),
            Caller::Pod(_) | Caller::Holder { .. } => Err(Rule::NotOwnIdentity),
        }
    }

    /// The trust domain of everything that is granted.
    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        self.authority.trust_domain()
    }

    fn holder(&self, peer: Option<&Peer>, now: OffsetDateTime) -> Result<Caller, Rule> {
        let chain = peer.and_then(Peer::chain).ok_or(Rule::NoToken)?;
        self.authority
            .bundle()
            .verify(chain, PeerRole::Client, unix(now))
            .map(|peer| Caller::Holder { identity: peer.id().clone() })
            .map_err(|_| Rule::CertificateInvalid)
    }

    /// Node authorization; a miss looks into the file again, so that a new pod is not refused.
    async fn resides(&self, node: &str, id: &SpiffeId) -> Result<(), Rule> {
        if self.placement.current().runs_on(node, id) {
            return Ok(());
        }
        let placement = self.placement.clone();
        // Reads a file, so not on a thread that serves.
        if let Err(error) = tokio::task::spawn_blocking(move || placement.refresh()).await {
            error!(%error, "look at the workloads file failed");
        }
        if self.placement.current().runs_on(node, id) { Ok(()) } else { Err(Rule::NotOnNode) }
    }

    /// A certificate is renewed only while its identity has a workload somewhere.
    fn placed(&self, id: &SpiffeId) -> Result<(), Rule> {
        if self.placement.current().runs_anywhere(id) { Ok(()) } else { Err(Rule::NotPlaced) }
    }
}

/// The one bearer token of a call; `None` when it came with none.
fn bearer(headers: &MetadataMap) -> Result<Option<&str>, Rule> {
    let mut values = headers.get_all("authorization").iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Rule::ManyTokens);
    }
    let text = value.to_str().map_err(|_| Rule::MalformedToken)?;
    let (scheme, token) = text.split_once(' ').ok_or(Rule::MalformedToken)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Rule::MalformedToken);
    }
    Ok(Some(token))
}

fn token_rule(error: AuthenticationError) -> Rule {
    match error {
        AuthenticationError::Malformed => Rule::MalformedToken,
        AuthenticationError::Signature => Rule::TokenSignature,
        AuthenticationError::Audience => Rule::TokenAudience,
        AuthenticationError::Expired => Rule::TokenExpired,
    }
}
