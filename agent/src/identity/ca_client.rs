//! Asks the authority for certificates over the Istio CA API, and believes no answer unchecked.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use culvert_proto::istio::ca::istio_certificate_service_client::IstioCertificateServiceClient;
use culvert_proto::istio::ca::{IstioCertificateRequest, IstioCertificateResponse};
use culvert_spiffe::{
    BundleError, PeerRole, SpiffeId, TrustBundle, TrustDomain, VerifiedPeer, VerifyError,
};
use prost_types::{Struct, Value, value::Kind};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use zeroize::{Zeroize as _, Zeroizing};

use super::channel::{CaChannel, HeldBack};
use super::clock::AuthorityClock;
use super::metrics::IdentityMetrics;
use super::roots::{self, BundleInForce, TrustRoots};
use super::state::Draw;
use super::store::StartError;
use super::svid::{Svid, SvidParts};
use super::tls::{self, Profile};
use crate::config::HostPort;

mod connector;
mod follow;
mod jwt;

pub(crate) use follow::FollowError;

/// Longest one request may take, connecting included.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// First certificates asked for at a time. Separate from renewals, which so cannot keep a new
/// pod waiting.
const FIRST_LANE: usize = 16;
/// Renewals asked for at a time.
const RENEWAL_LANE: usize = 4;
/// Largest answer read: a leaf, an issuing certificate and some roots are a few KiB.
const MAX_ANSWER_BYTES: usize = 128 * 1024;
/// Largest trust bundle read.
const MAX_BUNDLE_BYTES: usize = 1024 * 1024;
/// An answer that was checked: the chain, leaf first, whom it proves, and the roots, PEM.
type Checked<'a> = Result<(Vec<CertificateDer<'static>>, VerifiedPeer, &'a str), IssueError>;

/// Where and how to ask for certificates; parsed from `ca` in agent.yaml.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `ca.address`. A name is looked up anew for each connection.
    pub ca_address: HostPort,
    /// `ca.rootFile`: the authority's root-cert.pem. Read at the start and at every connection.
    pub root_file: PathBuf,
    /// `ca.bundleFile`: where the trust bundle in force is kept. Read at the start.
    pub bundle_file: PathBuf,
    /// `ca.tokenFile`: the node's token, or in a cluster the agent's own service-account token,
    /// which the kubelet replaces. Read at every request.
    pub token_file: PathBuf,
    /// This node's name, for the log.
    pub node: String,
    /// The trust domain of the mesh.
    pub trust_domain: TrustDomain,
    /// `ca.certificateTtl`, to the second; the authority may give less.
    pub certificate_ttl: Duration,
}

/// Why the authority gave no certificate that can be used.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The node's token cannot be read.
    #[error(
        "cannot read node token {path}; in a cluster mount the projected token there, elsewhere \
         make one with `culvert ca token create {node}`"
    )]
    ReadToken {
        /// `ca.tokenFile`.
        path: PathBuf,
        /// This node.
        node: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The node's token is no text that fits a header.
    #[error(
        "node token {path} is malformed; in a cluster mount the projected token there, elsewhere \
         make one with `culvert ca token create {node}`"
    )]
    Token {
        /// `ca.tokenFile`.
        path: PathBuf,
        /// This node.
        node: String,
    },
    /// The authority cannot be reached, or is not whom we trust.
    #[error("cannot reach the authority at {address}; check that `culvert ca serve` runs there")]
    Unreachable {
        /// `ca.address`.
        address: HostPort,
        /// Why not.
        #[source]
        source: Box<tonic::Status>,
    },
    /// The authority refused.
    #[error(
        "authority refused a certificate for {id} ({code:?}); its audit log names the rule: \
         mostly the workload is not on this node, as the authority's workloads file or the cluster \
         has it"
    )]
    Refused {
        /// For whom.
        id: SpiffeId,
        /// The status.
        code: tonic::Code,
        /// What it said.
        #[source]
        source: Box<tonic::Status>,
    },
    /// No answer in time.
    #[error("authority at {address} did not answer within {} s; look whether it is overloaded",
        REQUEST_DEADLINE.as_secs())]
    TimedOut {
        /// `ca.address`.
        address: HostPort,
    },
    /// The authority does not answer anybody on this node; it was not asked.
    #[error(
        "authority at {address} is away and is tried by one request at a time; \
             look for the warning that says why"
    )]
    HeldBack {
        /// `ca.address`.
        address: HostPort,
        /// After which time one may try.
        wait: Duration,
    },
    /// A key or a request could not be made.
    #[error("cannot make a key and request for {id}; the node may lack entropy or memory")]
    Request {
        /// For whom.
        id: SpiffeId,
        /// Why not.
        #[source]
        source: rcgen::Error,
    },
    /// The answer is not leaf, issuing certificates, roots.
    #[error("answer of the authority for {id} is malformed ({part}); check its version")]
    Malformed {
        /// For whom.
        id: SpiffeId,
        /// What is wrong.
        part: &'static str,
    },
    /// The certificate does not verify against our roots.
    #[error(
        "certificate issued for {id} does not hold; check that {root_file} is the authority's, and \
         if that was made anew remove `ca.bundleFile` while the agent is stopped"
    )]
    Unverified {
        /// For whom.
        id: SpiffeId,
        /// `ca.rootFile`.
        root_file: PathBuf,
        /// What is wrong.
        #[source]
        source: VerifyError,
    },
    /// The roots of the answer are none.
    #[error("roots in the answer for {id} are no trust bundle; repair the authority")]
    Roots {
        /// For whom.
        id: SpiffeId,
        /// What is wrong.
        #[source]
        source: BundleError,
    },
    /// The certificate is for another key, or the TLS library refuses it.
    #[error("certificate issued for {id} cannot be used with our key; repair the authority")]
    Unusable {
        /// For whom.
        id: SpiffeId,
        /// Why not.
        #[source]
        source: rustls::Error,
    },
}

impl IssueError {
    /// The metric label.
    pub fn label(&self) -> &'static str {
        match self {
            Self::ReadToken { .. } | Self::Token { .. } => "token",
            Self::Unreachable { .. } => "unreachable",
            Self::Refused { .. } => "refused",
            Self::HeldBack { .. } => "held_back",
            Self::TimedOut { .. } => "timed_out",
            Self::Request { .. } => "request",
            Self::Malformed { .. }
            | Self::Unverified { .. }
            | Self::Roots { .. }
            | Self::Unusable { .. } => "bad_answer",
        }
    }
}

/// The one client of the authority on this node.
pub(crate) struct CaClient {
    settings: Settings,
    client: IstioCertificateServiceClient<Channel>,
    /// The connection itself, for what else the authority offers.
    channel: Channel,
    roots: TrustRoots,
    profile: Arc<Profile>,
    reach: CaChannel,
    clock: AuthorityClock,
    first: Semaphore,
    renewals: Semaphore,
}

impl CaClient {
    pub(crate) async fn new(
        settings: Settings,
        metrics: IdentityMetrics,
    ) -> Result<Self, StartError> {
        let provider = Arc::new(tls::provider());
        let file = connector::read_roots(&settings).await?;
        let roots = TrustRoots::new(kept(&settings).await.unwrap_or(BundleInForce::of_file(file)));
        let connector =
            connector::Connector::new(settings.clone(), provider.clone(), roots.clone());
        let profile = Profile::new(roots.clone(), provider, metrics).map_err(StartError::Tls)?;
        // The name is never looked up or sent: the connector dials the address itself.
        let channel = Endpoint::from_static("http://culvert-ca.culvert-system")
            .connect_timeout(REQUEST_DEADLINE)
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(10))
            .connect_with_connector_lazy(connector.into_service());
        let client = IstioCertificateServiceClient::new(channel.clone())
            .max_decoding_message_size(MAX_ANSWER_BYTES);
        Ok(Self {
            settings,
            client,
            channel,
            roots,
            profile: Arc::new(profile),
            reach: CaChannel::new(),
            clock: AuthorityClock::default(),
            first: Semaphore::new(FIRST_LANE),
            renewals: Semaphore::new(RENEWAL_LANE),
        })
    }

    /// Asks for a certificate of `id` with a fresh key, and checks what comes back.
    pub(crate) async fn issue(&self, id: &SpiffeId, renewal: bool) -> Result<Svid, IssueError> {
        let lane = if renewal { &self.renewals } else { &self.first };
        // Never closed, so an error cannot happen; without a permit the request goes out all the same.
        let _permit = lane.acquire().await.ok();
        let turn = self
            .reach
            .enter(Instant::now())
            .map_err(|HeldBack(wait)| IssueError::HeldBack { address: self.address(), wait })?;
        let (mut key, csr) =
            request_for(id).map_err(|source| IssueError::Request { id: id.clone(), source })?;
        let der = Zeroizing::new(key.serialize_der());
        key.zeroize();
        let answer = self.ask(id, csr).await;
        match &answer {
            Err(IssueError::Unreachable { .. } | IssueError::TimedOut { .. }) => {
                turn.unanswered(Instant::now(), Draw(rand::random()));
            }
            // Nothing was sent.
            Err(IssueError::ReadToken { .. } | IssueError::Token { .. }) => drop(turn),
            Ok(_) | Err(_) => turn.answered(),
        }
        self.profile.metrics.reachable(self.reach.is_up());
        let answer = answer?;
        let (chain, peer, roots) = self.check(id, &answer)?;
        let parts = SvidParts { id: id.clone(), chain, key: der, not_after: peer.not_after() };
        let svid = Svid::new(parts, &self.profile)
            .map_err(|source| IssueError::Unusable { id: id.clone(), source })?;
        self.believe(roots).map_err(|source| IssueError::Roots { id: id.clone(), source })?;
        Ok(svid)
    }

    async fn ask(
        &self,
        id: &SpiffeId,
        csr: String,
    ) -> Result<IstioCertificateResponse, IssueError> {
        let mut request = tonic::Request::new(IstioCertificateRequest {
            csr,
            validity_duration: i64::try_from(self.settings.certificate_ttl.as_secs())
                .unwrap_or(i64::MAX),
            metadata: Some(impersonating(id)),
        });
        request.metadata_mut().insert("authorization", self.bearer().await?);
        request.set_timeout(REQUEST_DEADLINE);
        let mut client = self.client.clone();
        let (sent, began) = (SystemTime::now(), Instant::now());
        let answer = tokio::time::timeout(REQUEST_DEADLINE, client.create_certificate(request))
            .await
            .map_err(|_| IssueError::TimedOut { address: self.address() })?;
        if let Ok(answer) = &answer {
            let when = (sent, began.elapsed());
            self.clock.heard(answer.metadata(), when, &self.profile.metrics);
        }
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| failure(status, id, self.address()))
    }

    /// The authorization header, from the token file as it is now.
    async fn bearer(&self) -> Result<MetadataValue<Ascii>, IssueError> {
        let (path, node) = (&self.settings.token_file, &self.settings.node);
        let read = tokio::fs::read_to_string(path).await.map_err(|source| {
            IssueError::ReadToken { path: path.clone(), node: node.clone(), source }
        })?;
        let token = Zeroizing::new(read);
        let mut value = MetadataValue::try_from(format!("Bearer {}", token.trim()))
            .map_err(|_| IssueError::Token { path: path.clone(), node: node.clone() })?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// Checks an answer: the asked identity, a chain to the roots we hold, dates. That it is for
    /// our key is checked when the SVID is made; only then are the roots it brings believed too.
    fn check<'a>(&self, id: &SpiffeId, answer: &'a IstioCertificateResponse) -> Checked<'a> {
        let malformed = |part| IssueError::Malformed { id: id.clone(), part };
        let [certificates @ .., roots] = answer.cert_chain.as_slice() else {
            return Err(malformed("it is empty"));
        };
        let chain = certificates
            .iter()
            .map(|pem| one_certificate(pem))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| malformed("an element is not one PEM certificate"))?;
        let now = UnixTime::now();
        let held = self.roots.load();
        let held = held.bundle();
        let peer = held
            .verify(&chain, PeerRole::Both, now)
            .and_then(|peer| peer.expect(id))
            .map_err(|source| IssueError::Unverified {
                id: id.clone(),
                root_file: self.settings.root_file.clone(),
                source,
            })?;
        Ok((chain, peer, roots))
    }

    /// Adds the roots of a checked answer to those held, unless the authority pushes bundles.
    fn believe(&self, pem: &str) -> Result<(), BundleError> {
        let domain = self.settings.trust_domain.clone();
        self.roots.add(&TrustBundle::from_pem(domain, pem.as_bytes())?);
        Ok(())
    }

    /// The trust domain of the mesh.
    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        &self.settings.trust_domain
    }

    /// Where the trust bundle in force is kept.
    pub(crate) fn bundle_file(&self) -> &Path {
        &self.settings.bundle_file
    }

    /// Seconds by which our clock is ahead of the authority's, once an answer told.
    pub(crate) fn clock_ahead(&self) -> Option<f64> {
        self.clock.ahead()
    }

    /// Whether the authority answered the last request.
    pub(crate) fn is_up(&self) -> bool {
        self.reach.is_up()
    }

    /// Changes each time that the authority answers again after it was away.
    pub(crate) fn recoveries(&self) -> watch::Receiver<u64> {
        self.reach.recoveries()
    }

    /// What verifiers believe.
    pub(crate) fn roots(&self) -> &TrustRoots {
        &self.roots
    }
}

/// What a status of the authority, or of the way to it, means for `id`.
fn failure(status: tonic::Status, id: &SpiffeId, address: HostPort) -> IssueError {
    match status.code() {
        // A status with a source was made here, from a broken transport, not sent by it.
        tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::Internal => {
            IssueError::Unreachable { address, source: Box::new(status) }
        }
        tonic::Code::DeadlineExceeded | tonic::Code::Cancelled => IssueError::TimedOut { address },
        code => IssueError::Refused { id: id.clone(), code, source: Box::new(status) },
    }
}

/// The bundle that was in force when the agent ran last. A file that is of no use is no reason not
/// to start: the authority sends the bundle again.
async fn kept(settings: &Settings) -> Option<BundleInForce> {
    let (path, domain) = (settings.bundle_file.clone(), settings.trust_domain.clone());
    let read = tokio::task::spawn_blocking(move || roots::file::read(&path, &domain)).await.ok()?;
    match read {
        Ok(Some(bundle)) => {
            tracing::info!(sequence = bundle.sequence(), "trust bundle read from disk");
            Some(bundle)
        }
        Ok(None) => None,
        Err(error) => {
            let error = super::store::chain(&error);
            tracing::error!(error, "kept trust bundle is of no use; starting with the root file");
            None
        }
    }
}

/// A fresh P-256 key, and a request for `id` signed with it, PEM. The subject stays empty.
fn request_for(id: &SpiffeId) -> Result<(KeyPair, String), rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
    let csr = params.serialize_request(&key)?.pem()?;
    Ok((key, csr))
}

/// The metadata by which a node asks for one of its workloads.
fn impersonating(id: &SpiffeId) -> Struct {
    let value = Value { kind: Some(Kind::StringValue(id.as_str().to_owned())) };
    Struct { fields: [("ImpersonatedIdentity".to_owned(), value)].into() }
}

fn one_certificate(pem: &str) -> Option<CertificateDer<'static>> {
    let mut found = CertificateDer::pem_slice_iter(pem.as_bytes());
    match (found.next(), found.next()) {
        (Some(Ok(certificate)), None) => Some(certificate),
        _ => None,
    }
}
