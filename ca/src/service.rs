//! The Istio CA API: one call, decided in a fixed order of cheap checks before dear ones.

use std::sync::Arc;

use culvert_proto::istio::ca::istio_certificate_service_server::IstioCertificateService;
use culvert_proto::istio::ca::{IstioCertificateRequest, IstioCertificateResponse};
use culvert_spiffe::SpiffeId;
use prost_types::value::Kind;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::Semaphore;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};
use tracing::error;

use crate::audit::{Record, Rule};
use crate::authority::{Authority, AuthorityError, Issued, Lifetimes};
use crate::metrics::CaMetrics;
use crate::placement::PlacementFile;
use crate::request::{self, ProvenKey, RequestError};
use crate::server::PeerAddress;
use crate::token::{AuthenticationError, Authenticator};

/// Calls decided at a time; the rest is told to come again.
const MAX_CALLS: usize = 256;
/// The metadata key under which a node names the workload it asks for.
const IMPERSONATED_IDENTITY: &str = "ImpersonatedIdentity";

/// The authority behind its API.
pub(crate) struct Service<A> {
    authority: Arc<Authority>,
    placement: Arc<PlacementFile>,
    authenticator: A,
    lifetimes: Lifetimes,
    metrics: CaMetrics,
    calls: Semaphore,
}

impl<A: Authenticator> Service<A> {
    pub(crate) fn new(
        authority: Arc<Authority>,
        placement: Arc<PlacementFile>,
        authenticator: A,
        lifetimes: Lifetimes,
        metrics: CaMetrics,
    ) -> Self {
        let calls = Semaphore::new(MAX_CALLS);
        Self { authority, placement, authenticator, lifetimes, metrics, calls }
    }

    /// Decides one call. Whatever is found out about it goes into `record` as soon as it is known.
    async fn decide(
        &self,
        headers: &MetadataMap,
        message: &IstioCertificateRequest,
        now: OffsetDateTime,
        record: &mut Record,
    ) -> Result<Issued, Rule> {
        let _slot = self.calls.try_acquire().map_err(|_| Rule::Busy)?;
        let caller = self
            .authenticator
            .authenticate(bearer(headers)?, now)
            .await
            .map_err(authentication_rule)?;
        record.node = Some(caller.node.clone());
        let id = self.asked_identity(message)?;
        record.identity = Some(id.to_string());
        self.authorize(&caller.node, &id)?;
        let key = request::read(&message.csr, &id).map_err(request_rule)?;
        record.key_sha256 = Some(sha256(&key));
        let life = self.lifetimes.grant(message.validity_duration);
        let issued =
            self.authority.issue(&id, &key, life, now).map_err(|error| signing_rule(&error))?;
        record.serial = Some(issued.serial.clone());
        record.not_after = Some(issued.not_after.as_secs());
        Ok(issued)
    }

    fn asked_identity(&self, message: &IstioCertificateRequest) -> Result<SpiffeId, Rule> {
        let asked = message
            .metadata
            .as_ref()
            .and_then(|metadata| metadata.fields.get(IMPERSONATED_IDENTITY))
            .ok_or(Rule::NoIdentity)?;
        let Some(Kind::StringValue(text)) = &asked.kind else {
            return Err(Rule::MalformedIdentity);
        };
        let id: SpiffeId = text.parse().map_err(|_| Rule::MalformedIdentity)?;
        if id.trust_domain() != self.authority.trust_domain() {
            return Err(Rule::ForeignTrustDomain);
        }
        if id == SpiffeId::of_authority(id.trust_domain()) {
            return Err(Rule::ReservedIdentity);
        }
        Ok(id)
    }

    /// Node authorization; a miss looks into the file again, so that a new pod is not refused.
    fn authorize(&self, node: &str, id: &SpiffeId) -> Result<(), Rule> {
        if self.placement.current().runs_on(node, id) {
            return Ok(());
        }
        self.placement.refresh();
        if self.placement.current().runs_on(node, id) { Ok(()) } else { Err(Rule::NotOnNode) }
    }
}

#[tonic::async_trait]
impl<A: Authenticator> IstioCertificateService for Service<A> {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let now = OffsetDateTime::now_utc();
        let mut record = Record {
            time: now.format(&Rfc3339).unwrap_or_default(),
            peer: request.extensions().get::<PeerAddress>().map(|peer| peer.0.to_string()),
            ..Record::default()
        };
        let (headers, _, message) = request.into_parts();
        match self.decide(&headers, &message, now, &mut record).await {
            Ok(issued) => {
                record.decision = "issued";
                record.write();
                self.metrics.issued();
                Ok(Response::new(IstioCertificateResponse { cert_chain: issued.cert_chain }))
            }
            Err(rule) => {
                record.decision = "refused";
                record.rule = Some(rule);
                record.write();
                self.metrics.refused(rule);
                Err(status(rule))
            }
        }
    }
}

/// The one bearer token of a call.
fn bearer(headers: &MetadataMap) -> Result<&str, Rule> {
    let mut values = headers.get_all("authorization").iter();
    let value = values.next().ok_or(Rule::NoToken)?;
    if values.next().is_some() {
        return Err(Rule::ManyTokens);
    }
    let text = value.to_str().map_err(|_| Rule::MalformedToken)?;
    let (scheme, token) = text.split_once(' ').ok_or(Rule::MalformedToken)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Rule::MalformedToken);
    }
    Ok(token)
}

fn authentication_rule(error: AuthenticationError) -> Rule {
    match error {
        AuthenticationError::Malformed => Rule::MalformedToken,
        AuthenticationError::Signature => Rule::TokenSignature,
        AuthenticationError::Audience => Rule::TokenAudience,
        AuthenticationError::Expired => Rule::TokenExpired,
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

/// What the caller is told: one text for every refusal, so that nothing can be probed by it.
fn status(rule: Rule) -> Status {
    const REFUSED: &str = "request refused; the authority's audit log says why";
    match rule {
        Rule::Busy => Status::resource_exhausted("authority is busy; try again later"),
        Rule::SigningFailed => Status::unavailable("authority cannot sign now; try again later"),
        Rule::NoToken
        | Rule::ManyTokens
        | Rule::MalformedToken
        | Rule::TokenSignature
        | Rule::TokenAudience
        | Rule::TokenExpired
        | Rule::NoIdentity
        | Rule::MalformedIdentity
        | Rule::ForeignTrustDomain
        | Rule::ReservedIdentity
        | Rule::NotOnNode => Status::unauthenticated(REFUSED),
        Rule::RequestTooLarge
        | Rule::RequestMalformed
        | Rule::RequestSignature
        | Rule::RequestKey
        | Rule::RequestNames
        | Rule::RequestCa
        | Rule::OwnKey => Status::invalid_argument(REFUSED),
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
