//! The Istio CA API: one call, decided in a fixed order of cheap checks before dear ones.

use std::sync::Arc;
use std::time::Duration;

use culvert_proto::istio::ca::istio_certificate_service_server::IstioCertificateService;
use culvert_proto::istio::ca::{IstioCertificateRequest, IstioCertificateResponse};
use culvert_spiffe::SpiffeId;
use prost_types::value::Kind;
use time::OffsetDateTime;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};
use tracing::error;

use crate::attest::{Authenticator, Caller};
use crate::audit::{Record, Rule};
use crate::authority::{Authority, AuthorityError, Heard, Issued, Lifetimes};
use crate::metrics::CaMetrics;
use crate::request::{self, ProvenKey, RequestError};
use crate::server::Peer;

pub(crate) mod admit;
pub(crate) mod bundle;
pub(crate) mod jwt;

use admit::Admission;

/// The metadata key under which a node names the workload it asks for.
const IMPERSONATED_IDENTITY: &str = "ImpersonatedIdentity";
/// What callers are noted as that speak for no node: together, they make roots turn over slowly.
const ELSEWHERE: &str = "(callers without a node)";

/// The authority behind its API.
pub(crate) struct Service<A> {
    authority: Arc<Authority>,
    admission: Arc<Admission<A>>,
    lifetimes: Lifetimes,
    metrics: CaMetrics,
}

impl<A: Authenticator> Service<A> {
    pub(crate) fn new(
        authority: Arc<Authority>,
        admission: Arc<Admission<A>>,
        lifetimes: Lifetimes,
        metrics: CaMetrics,
    ) -> Self {
        Self { authority, admission, lifetimes, metrics }
    }

    /// Decides one call. Whatever is found out about it goes into `record` as soon as it is known.
    async fn decide(
        &self,
        headers: &MetadataMap,
        peer: Option<&Peer>,
        message: &IstioCertificateRequest,
        now: OffsetDateTime,
        record: &mut Record,
    ) -> Result<Issued, Rule> {
        let caller = self.admission.admit(headers, peer, now).await?;
        record.called_by(&caller);
        let _place = self.admission.enter(&caller)?;
        let id = asked_identity(message, &caller)?;
        record.identity = Some(id.to_string());
        self.admission.authorize(&caller, &id).await?;
        let key = request::read(&message.csr, &id).map_err(request_rule)?;
        record.key_sha256 = Some(sha256(&key));
        let life = self.granted(message.validity_duration);
        let issued =
            self.authority.issue(&id, &key, life, now).map_err(|error| signing_rule(&error))?;
        record.serial = Some(issued.serial.clone());
        record.not_after = Some(issued.not_after.as_secs());
        let node = self.admission.node_of(&caller).await;
        self.authority.heard(node.as_deref().unwrap_or(ELSEWHERE), Heard::Issued, now);
        let now = u64::try_from(now.unix_timestamp()).unwrap_or(0);
        record.ttl = Some(issued.not_after.as_secs().saturating_sub(now));
        record.generation = Some(issued.generation.into());
        Ok(issued)
    }

    /// The life granted for a wish; one that is not granted as it is, is counted.
    fn granted(&self, wish_seconds: i64) -> Duration {
        let life = self.lifetimes.grant(wish_seconds);
        let wish = u64::try_from(wish_seconds).unwrap_or(0);
        if wish != 0 && life != Duration::from_secs(wish) {
            self.metrics.life_clamped();
        }
        life
    }
}

/// The identity named in the metadata; the caller's own where none is named.
fn asked_identity(message: &IstioCertificateRequest, caller: &Caller) -> Result<SpiffeId, Rule> {
    let asked =
        message.metadata.as_ref().and_then(|metadata| metadata.fields.get(IMPERSONATED_IDENTITY));
    match asked.map(|value| &value.kind) {
        None => caller.identity().cloned().ok_or(Rule::NoIdentity),
        Some(Some(Kind::StringValue(text))) => text.parse().map_err(|_| Rule::MalformedIdentity),
        Some(_) => Err(Rule::MalformedIdentity),
    }
}

#[tonic::async_trait]
impl<A: Authenticator> IstioCertificateService for Service<A> {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let now = OffsetDateTime::now_utc();
        let (headers, extensions, message) = request.into_parts();
        let peer = extensions.get::<Peer>();
        let mut record = Record::begin(&extensions, now);
        match self.decide(&headers, peer, &message, now, &mut record).await {
            Ok(issued) => {
                record.issued();
                self.metrics.issued();
                Ok(Response::new(IstioCertificateResponse { cert_chain: issued.cert_chain }))
            }
            Err(rule) => {
                record.refused(rule);
                self.metrics.refused(rule);
                Err(status(rule))
            }
        }
    }
}

fn request_rule(error: RequestError) -> Rule {
    match error {
        RequestError::TooLarge => Rule::RequestTooLarge,
        RequestError::Malformed => Rule::RequestMalformed,
        RequestError::Signature => Rule::RequestSignature,
        RequestError::Key => Rule::RequestKey,
        RequestError::Names => Rule::RequestNames,
        RequestError::Ca => Rule::RequestCa,
    }
}

fn signing_rule(error: &AuthorityError) -> Rule {
    if matches!(error, AuthorityError::OwnKey) {
        return Rule::OwnKey;
    }
    let source = std::error::Error::source(error).map(ToString::to_string);
    error!(%error, source, "cannot sign a certificate");
    Rule::SigningFailed
}

/// What the caller is told, by every service of the authority: one text for every refusal, so that
/// nothing can be probed by it.
pub(crate) fn status(rule: Rule) -> Status {
    const REFUSED: &str = "request refused; the authority's audit log says why";
    match rule {
        Rule::Busy | Rule::BusyCaller => {
            Status::resource_exhausted("authority is busy; try again later")
        }
        Rule::SigningFailed => Status::unavailable("authority cannot sign now; try again later"),
        Rule::ApiServer => Status::unavailable("authority cannot tell now; try again later"),
        Rule::NoToken
        | Rule::ManyTokens
        | Rule::MalformedToken
        | Rule::TokenSignature
        | Rule::TokenAudience
        | Rule::TokenExpired
        | Rule::TokenUnknown
        | Rule::NotServiceAccount
        | Rule::NotBoundToPod
        | Rule::CertificateInvalid
        | Rule::CertificateExpired
        | Rule::NoIdentity
        | Rule::MalformedIdentity
        | Rule::ForeignTrustDomain
        | Rule::ReservedIdentity
        | Rule::NeverIssued
        | Rule::NotOnNode
        | Rule::NotEnrolled
        | Rule::NotOwnIdentity
        | Rule::NotPlaced
        | Rule::CallerPodGone
        | Rule::CallerPodFinished => Status::unauthenticated(REFUSED),
        Rule::Unread
        | Rule::Abandoned
        | Rule::RequestTooLarge
        | Rule::RequestMalformed
        | Rule::RequestSignature
        | Rule::RequestKey
        | Rule::RequestNames
        | Rule::RequestCa
        | Rule::OwnKey
        | Rule::RequestAudience => Status::invalid_argument(REFUSED),
    }
}

/// Hash of the public key, for the audit.
fn sha256(key: &ProvenKey) -> String {
    use std::fmt::Write as _;

    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &key.der);
    digest.as_ref().iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests;
