//! Who calls and what may they have: decided here for every call of the authority, and nowhere
//! else.

use std::sync::Arc;

use culvert_spiffe::{PeerRole, SpiffeId, TrustDomain, VerifyError};
use time::OffsetDateTime;
use tonic::metadata::MetadataMap;
use tracing::debug;

use crate::attest::{AuthenticationError, Authenticator, Caller, Residents};
use crate::audit::Rule;
use crate::authority::{Authority, unix};
use crate::server::Peer;
use crate::server::limits::{Place, Places};

/// Calls of one caller that are decided at a time; an agent has no use for more.
const MAX_CALLS_OF_CALLER: usize = 128;

/// The proofs and the permissions. Shared by all services of the server.
pub(crate) struct Admission<A> {
    authority: Arc<Authority>,
    residents: Arc<dyn Residents>,
    authenticator: A,
    callers: Places<String>,
}

impl<A: Authenticator> Admission<A> {
    pub(crate) fn new(
        authority: Arc<Authority>,
        residents: Arc<dyn Residents>,
        authenticator: A,
    ) -> Self {
        let callers = Places::new(usize::MAX, MAX_CALLS_OF_CALLER);
        Self { authority, residents, authenticator, callers }
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

    /// Takes a place among the calls of `caller`, for as long as it is decided. Never waits.
    pub(crate) fn enter(&self, caller: &Caller) -> Result<Place<String>, Rule> {
        let key = match caller {
            Caller::Node { node } => node,
            Caller::Pod(pod) => &pod.uid,
            Caller::Holder { identity } => identity.as_str(),
        };
        self.callers.take(key.to_owned()).map_err(|_| Rule::BusyCaller)
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
            Caller::Pod(pod) if pod.identity == *id => Ok(()),
            Caller::Node { .. } | Caller::Pod(_) => self.residents.beside(caller, id).await,
            Caller::Holder { identity } if identity == id => self.residents.anywhere(id).await,
            Caller::Holder { .. } => Err(Rule::NotOwnIdentity),
        }
    }

    /// The node whose agent calls, if it is one.
    ///
    /// Cancel safe.
    pub(crate) async fn node_of(&self, caller: &Caller) -> Option<String> {
        self.residents.node_of(caller).await
    }

    /// The trust domain of everything that is granted.
    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        self.authority.trust_domain()
    }

    /// Verifies the connection's certificate anew at each call: it may have ended since the
    /// handshake, and its root may have been revoked.
    fn holder(&self, peer: Option<&Peer>, now: OffsetDateTime) -> Result<Caller, Rule> {
        let chain = peer.and_then(Peer::chain).ok_or(Rule::NoToken)?;
        match self.authority.bundle().verify(chain, PeerRole::Client, unix(now)) {
            Ok(peer) => Ok(Caller::Holder { identity: peer.id().clone() }),
            Err(error) => {
                debug!(%error, "certificate of a caller does not hold");
                Err(match error {
                    VerifyError::Expired { .. } => Rule::CertificateExpired,
                    _ => Rule::CertificateInvalid,
                })
            }
        }
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
        AuthenticationError::Unknown => Rule::TokenUnknown,
        AuthenticationError::NotServiceAccount => Rule::NotServiceAccount,
        AuthenticationError::NotBoundToPod => Rule::NotBoundToPod,
        AuthenticationError::Unavailable => Rule::ApiServer,
    }
}
