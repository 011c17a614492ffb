//! JWT-SVIDs over the authority's own interface: the same proofs and permissions as certificates.

use std::sync::Arc;

use culvert_proto::culvert::ca::{SignJwtSvidRequest, SignJwtSvidResponse};
use culvert_spiffe::SpiffeId;
use time::OffsetDateTime;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};
use tracing::error;

use super::admit::Admission;
use super::status;
use crate::attest::Authenticator;
use crate::audit::{Record, Rule};
use crate::jwt::{JwtKeys, SignedJwt};
use crate::metrics::CaMetrics;
use crate::server::Peer;

/// Audiences of one token. The standard advises one: each can use the token at the others.
const MAX_AUDIENCES: usize = 16;
/// Longest audience.
const MAX_AUDIENCE_BYTES: usize = 512;

/// Signs tokens for who may have them.
pub(crate) struct JwtSigner<A> {
    admission: Arc<Admission<A>>,
    keys: Arc<JwtKeys>,
    metrics: CaMetrics,
}

impl<A: Authenticator> JwtSigner<A> {
    pub(crate) fn new(
        admission: Arc<Admission<A>>,
        keys: Arc<JwtKeys>,
        metrics: CaMetrics,
    ) -> Self {
        Self { admission, keys, metrics }
    }

    /// Answers one call of `SignJwtSvid`.
    ///
    /// Cancel safe: a token that nobody waits for is dropped, its audit line is then not written.
    pub(crate) async fn answer(
        &self,
        request: Request<SignJwtSvidRequest>,
    ) -> Result<Response<SignJwtSvidResponse>, Status> {
        let now = OffsetDateTime::now_utc();
        let (headers, extensions, message) = request.into_parts();
        let peer = extensions.get::<Peer>();
        let mut record = Record::begin(&extensions, now);
        match self.decide(&headers, peer, &message, now, &mut record).await {
            Ok(signed) => {
                record.issued();
                self.metrics.signed_jwt();
                let SignedJwt { token, expires_at, .. } = signed;
                Ok(Response::new(SignJwtSvidResponse { token: (*token).clone(), expires_at }))
            }
            Err(rule) => {
                record.refused(rule);
                self.metrics.refused(rule);
                Err(status(rule))
            }
        }
    }

    async fn decide(
        &self,
        headers: &MetadataMap,
        peer: Option<&Peer>,
        message: &SignJwtSvidRequest,
        now: OffsetDateTime,
        record: &mut Record,
    ) -> Result<SignedJwt, Rule> {
        let caller = self.admission.admit(headers, peer, now).await?;
        record.called_by(&caller);
        let _place = self.admission.enter(&caller)?;
        let id: SpiffeId = message.spiffe_id.parse().map_err(|_| Rule::MalformedIdentity)?;
        record.identity = Some(id.to_string());
        self.admission.authorize(&caller, &id).await?;
        let audience = message.audience.as_slice();
        if !is_audience(audience) {
            return Err(Rule::RequestAudience);
        }
        record.audience = Some(audience.to_vec());
        let signed =
            self.keys.sign(&id, audience, message.validity_duration, now).map_err(|error| {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                error!(%error, source, "cannot sign a JWT-SVID");
                Rule::SigningFailed
            })?;
        record.jwt_key = Some(signed.key.clone());
        record.not_after = u64::try_from(signed.expires_at).ok();
        Ok(signed)
    }
}

/// Whether a token may be made for these: some, each with a name, within bounds.
fn is_audience(audience: &[String]) -> bool {
    (1..=MAX_AUDIENCES).contains(&audience.len())
        && audience.iter().all(|one| (1..=MAX_AUDIENCE_BYTES).contains(&one.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn audiences_are_some_and_bounded() {
        let of = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert!(is_audience(&of(&["a"])));
        assert!(is_audience(&vec!["a".repeat(MAX_AUDIENCE_BYTES); MAX_AUDIENCES]));
        assert!(!is_audience(&[]));
        assert!(!is_audience(&of(&["a", ""])));
        assert!(!is_audience(&vec!["a".to_owned(); MAX_AUDIENCES + 1]));
        assert!(!is_audience(&["a".repeat(MAX_AUDIENCE_BYTES + 1)]));
    }
}
