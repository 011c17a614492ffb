//! The Workload API's methods: who asks is attested, then answered with its own and nothing else.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use culvert_proto::spiffe::workload as wire;
use culvert_spiffe::SpiffeId;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use rustls::pki_types::CertificateDer;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};

use super::attest::{Attestor, Refusal, share};
use super::caller::Caller;
use super::follower::{Follower, Shows, Sources, View};
use super::metrics::{ApiMetrics, Method};
use super::quota::{Place, Quota};
use super::tokens::TokenCache;
use super::validate::validate;
use crate::identity::{IdentityStore, JwtSvid};
use crate::sys::peer::PeerProcess;
use crate::workload::Workload;

/// Longest that the keys of JWT-SVIDs are waited for.
pub(super) const KEYS_WAIT: Duration = Duration::from_secs(5);
/// Metadata that every call must carry, against requests forged through a browser or proxy
/// (SPIFFE Workload Endpoint section 3).
const SECURITY_HEADER: &str = "workload.spiffe.io";
/// Audiences of one token. The standard advises one.
const MAX_AUDIENCES: usize = 16;
/// Longest audience.
const MAX_AUDIENCE_BYTES: usize = 512;
/// What a caller is told that has no identity, whatever the reason.
const NO_IDENTITY: &str = "no identity issued";

/// The Workload API behind its socket.
pub(super) struct Service {
    pub(super) attestor: Attestor,
    pub(super) identity: IdentityStore,
    pub(super) metrics: ApiMetrics,
    pub(super) calls: Arc<Quota>,
    pub(super) tokens: TokenCache,
    pub(super) stop: CancellationToken,
}

/// A call that was let in.
struct Admitted {
    caller: Caller,
    workload: Arc<Workload>,
    open: Open,
}

/// Counts a call, or the stream that it opened, as open until it is dropped; then by its end.
struct Open {
    method: Method,
    code: Code,
    metrics: ApiMetrics,
    place: Option<Place>,
}

impl Service {
    /// Header, attestation, limits: in this order, for every method.
    fn admit<T>(&self, method: Method, request: &Request<T>) -> Result<Admitted, Status> {
        let mut open = Open::new(method, self.metrics.clone());
        let admitted = self.admit_to(&mut open, request);
        open.code = admitted.as_ref().map_or_else(Status::code, |_| Code::Ok);
        admitted.map(|(caller, workload)| Admitted { caller, workload, open })
    }

    fn admit_to<T>(
        &self,
        open: &mut Open,
        request: &Request<T>,
    ) -> Result<(Caller, Arc<Workload>), Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        // Every connection of ours carries one; without it nobody is known.
        let caller = caller.ok_or_else(|| Status::permission_denied(NO_IDENTITY))?;
        caller.has_called();
        if !has_security_header(request.metadata()) {
            return Err(Status::invalid_argument(
                "security header missing: send the metadata `workload.spiffe.io: true`",
            ));
        }
        let attested = self.attestor.attest(&caller);
        open.place = self.calls.take(&share(&attested));
        if open.place.is_none() {
            return Err(Status::resource_exhausted("too many calls at a time; end some"));
        }
        match attested {
            Ok(workload) => Ok((caller, workload)),
            Err(refusal) => Err(refused(&refusal, &caller, &self.metrics)),
        }
    }

    /// Opens a stream whose messages `render` makes.
    fn follow<T: Send + 'static>(
        &self,
        admitted: Admitted,
        shows: Shows,
        render: fn(&View) -> T,
    ) -> Response<BoxStream<'static, Result<T, Status>>> {
        let Admitted { caller, mut open, .. } = admitted;
        let sources = Sources {
            caller,
            attestor: self.attestor.clone(),
            identity: self.identity.clone(),
            metrics: self.metrics.clone(),
            stop: self.stop.clone(),
        };
        // A stream that its caller ends is dropped in the middle; that is its usual end.
        open.code = Code::Cancelled;
        let state = Some((Follower::new(shows, sources), open));
        let messages = stream::unfold(state, move |state| async move {
            let (mut follower, mut open) = state?;
            match follower.next().await {
                Ok(view) => {
                    open.metrics.sent(open.method);
                    Some((Ok(render(&view)), Some((follower, open))))
                }
                Err(status) => {
                    open.code = status.code();
                    Some((Err(status), None))
                }
            }
        });
        Response::new(messages.boxed())
    }

    async fn jwt_svid(
        &self,
        workload: &Workload,
        message: wire::JwtsvidRequest,
    ) -> Result<wire::Jwtsvid, Status> {
        let audience = audiences(message.audience)?;
        let id = &workload.identity;
        if !message.spiffe_id.is_empty() && message.spiffe_id.parse::<SpiffeId>().as_ref() != Ok(id)
        {
            return Err(Status::permission_denied("caller does not have that identity"));
        }
        let token = match self.tokens.find(id, &audience, now()) {
            Some(token) => token,
            None => self.sign(id, audience).await?,
        };
        Ok(wire::Jwtsvid {
            spiffe_id: id.to_string(),
            svid: token.token().to_owned(),
            hint: String::new(),
        })
    }

    async fn sign(&self, id: &SpiffeId, audience: Vec<String>) -> Result<Arc<JwtSvid>, Status> {
        match self.identity.jwt_svid(id, audience.clone()).await {
            Ok(token) => {
                let token = Arc::new(token);
                self.tokens.keep(id, audience, Arc::clone(&token), now());
                Ok(token)
            }
            Err(error) => {
                let error = anyhow::Error::new(error);
                tracing::warn!(identity = %id, error = format!("{error:#}"), "no JWT-SVID signed");
                Err(Status::unavailable("authority signs no token now; try again"))
            }
        }
    }
}

#[tonic::async_trait]
impl wire::spiffe_workload_api_server::SpiffeWorkloadApi for Service {
    type FetchX509SVIDStream = BoxStream<'static, Result<wire::X509svidResponse, Status>>;
    type FetchX509BundlesStream = BoxStream<'static, Result<wire::X509BundlesResponse, Status>>;
    type FetchJWTBundlesStream = BoxStream<'static, Result<wire::JwtBundlesResponse, Status>>;

    async fn fetch_x509svid(
        &self,
        request: Request<wire::X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let admitted = self.admit(Method::FetchX509Svid, &request)?;
        Ok(self.follow(admitted, Shows::Svid, x509_svids))
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<wire::X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        let admitted = self.admit(Method::FetchX509Bundles, &request)?;
        Ok(self.follow(admitted, Shows::Roots, x509_bundles))
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<wire::JwtsvidRequest>,
    ) -> Result<Response<wire::JwtsvidResponse>, Status> {
        let Admitted { workload, mut open, .. } = self.admit(Method::FetchJwtSvid, &request)?;
        let token = open.ends_as(self.jwt_svid(&workload, request.into_inner()).await)?;
        Ok(Response::new(wire::JwtsvidResponse { svids: vec![token] }))
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<wire::JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        let admitted = self.admit(Method::FetchJwtBundles, &request)?;
        Ok(self.follow(admitted, Shows::Keys, jwt_bundles))
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<wire::ValidateJwtsvidRequest>,
    ) -> Result<Response<wire::ValidateJwtsvidResponse>, Status> {
        let Admitted { mut open, .. } = self.admit(Method::ValidateJwtSvid, &request)?;
        let wire::ValidateJwtsvidRequest { audience, svid } = request.into_inner();
        let bundle = self.identity.bundle().borrow().clone();
        let valid = if audience.is_empty() || svid.is_empty() {
            Err(Status::invalid_argument("audience and svid must be given"))
        } else {
            let domain = bundle.bundle().trust_domain();
            validate(&svid, &audience, domain, bundle.jwks(), now())
                .map_err(|invalid| Status::invalid_argument(invalid.to_string()))
        };
        let valid = open.ends_as(valid)?;
        Ok(Response::new(wire::ValidateJwtsvidResponse {
            spiffe_id: valid.id.to_string(),
            claims: Some(valid.claims),
        }))
    }
}

impl Open {
    fn new(method: Method, metrics: ApiMetrics) -> Self {
        metrics.open.inc();
        Self { method, code: Code::Cancelled, metrics, place: None }
    }

    /// Notes how the call ends.
    fn ends_as<T>(&mut self, outcome: Result<T, Status>) -> Result<T, Status> {
        self.code = outcome.as_ref().map_or_else(Status::code, |_| Code::Ok);
        outcome
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.metrics.open.dec();
        self.metrics.ended(self.method, self.code);
    }
}

/// Counts and logs a refusal, and gives the one answer that all refused callers get.
pub(super) fn refused(refusal: &Refusal, caller: &Caller, metrics: &ApiMetrics) -> Status {
    metrics.refused(refusal);
    if metrics.refusal_lines.admit() {
        let (pid, reason) = (caller.process().map(PeerProcess::pid), refusal.label());
        tracing::warn!(pid, reason, error = %refusal, "workload API caller refused");
    }
    Status::permission_denied(NO_IDENTITY)
}

fn has_security_header(metadata: &MetadataMap) -> bool {
    let mut values = metadata.get_all(SECURITY_HEADER).iter();
    values.next().is_some_and(|value| value == "true") && values.next().is_none()
}

/// Audiences that a token may be made for.
fn audiences(given: Vec<String>) -> Result<Vec<String>, Status> {
    let refuse = |problem| Err(Status::invalid_argument(problem));
    if given.is_empty() || given.iter().any(String::is_empty) {
        return refuse("audience must be given");
    }
    if given.len() > MAX_AUDIENCES || given.iter().any(|one| one.len() > MAX_AUDIENCE_BYTES) {
        return refuse("at most 16 audiences of 512 bytes; the standard advises one");
    }
    Ok(given)
}

fn x509_svids(view: &View) -> wire::X509svidResponse {
    let svids = view.svid.iter().map(|svid| wire::X509svid {
        spiffe_id: svid.id().to_string(),
        x509_svid: der(svid.chain()),
        x509_svid_key: svid.private_key().to_vec(),
        bundle: roots(view),
        hint: String::new(),
    });
    wire::X509svidResponse { svids: svids.collect(), ..Default::default() }
}

fn x509_bundles(view: &View) -> wire::X509BundlesResponse {
    let bundles = [(trust_domain_id(view), roots(view))].into();
    wire::X509BundlesResponse { bundles, ..Default::default() }
}

fn jwt_bundles(view: &View) -> wire::JwtBundlesResponse {
    wire::JwtBundlesResponse {
        bundles: [(trust_domain_id(view), view.bundle.jwks().to_vec())].into(),
    }
}

/// The roots, DER one after another.
fn roots(view: &View) -> Vec<u8> {
    der(view.bundle.bundle().certificates())
}

fn der(certificates: &[CertificateDer<'_>]) -> Vec<u8> {
    certificates.iter().flat_map(|certificate| certificate.iter().copied()).collect()
}

/// The SPIFFE ID of the trust domain, under which its bundle stands.
fn trust_domain_id(view: &View) -> String {
    format!("spiffe://{}", view.bundle.bundle().trust_domain())
}

fn now() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}
