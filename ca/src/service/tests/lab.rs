//! A running authority on the loopback, clients of several kinds, and what the audit wrote.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use culvert_proto::istio::ca::IstioCertificateRequest;
use culvert_proto::istio::ca::istio_certificate_service_client::IstioCertificateServiceClient;
use culvert_spiffe::{PeerRole, SpiffeId, TrustBundle};
use hyper_util::rt::TokioIo;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use time::OffsetDateTime;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::super::IMPERSONATED_IDENTITY;
use crate::attest::{Authenticator, NodeTokens, Residents};
use crate::authority::{Authority, Lifetimes, unix};
use crate::directory::Directory;
use crate::placement::PlacementFile;
use crate::server::{self, Parts};

pub(super) const WORKLOADS: &str = "
workloads:
  - {name: a1, namespace: default, serviceAccount: web, node: node1}
  - {name: a2, namespace: default, serviceAccount: idle, node: node1, enrolled: false}
  - {name: b1, namespace: default, serviceAccount: db, node: node2}
";
pub(super) const WEB: &str = "spiffe://td/ns/default/sa/web";
pub(super) const DB: &str = "spiffe://td/ns/default/sa/db";
pub(super) const HOUR: Duration = Duration::from_hours(1);

/// A chain and its key, for a client to present.
pub(super) type Presented = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

pub(super) struct Lab {
    pub(super) directory: tempfile::TempDir,
    pub(super) tokens: NodeTokens,
    pub(super) authority: Arc<Authority>,
    pub(super) bundle: TrustBundle,
    pub(super) address: SocketAddr,
    pub(super) client: IstioCertificateServiceClient<Channel>,
    pub(super) audit: Arc<Lines>,
    /// The token of the honest caller.
    pub(super) token: String,
    /// Kept for its drop alone.
    _log: tracing::subscriber::DefaultGuard,
    pub(super) cancel: CancellationToken,
    pub(super) server: JoinSet<Result<(), server::ServeError>>,
}

/// Where the log goes. The tests run on one thread, so that it is theirs alone.
#[derive(Default)]
pub(super) struct Lines(Mutex<Vec<u8>>);

impl Write for &Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    pub(super) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// All decisions.
    pub(super) fn all(&self) -> Vec<serde_json::Value> {
        let text = self.text();
        let lines = text.lines().filter(|line| line.contains("\"decision\""));
        lines.map(|line| serde_json::from_str(&line[line.find('{').unwrap()..]).unwrap()).collect()
    }

    /// The last decision.
    pub(super) fn last(&self) -> serde_json::Value {
        self.all().pop().unwrap()
    }
}

impl Lab {
    /// A stand-alone authority: node tokens, and a workloads file.
    pub(super) async fn new() -> Self {
        Self::opened_at(OffsetDateTime::now_utc()).await
    }

    /// The same, whose keys are as old as `opened` says.
    pub(super) async fn opened_at(opened: OffsetDateTime) -> Self {
        let mut lab = Self::start(opened, |files, path| {
            let placement = PlacementFile::open(path, "td".parse().unwrap()).unwrap();
            (NodeTokens::open(files).unwrap(), Arc::new(placement) as Arc<dyn Residents>)
        })
        .await;
        lab.token = lab.node_token("node1");
        lab
    }

    /// An authority with these plugs, which are given its directory and the workloads file.
    pub(super) async fn start<A: Authenticator>(
        opened: OffsetDateTime,
        plugs: impl FnOnce(&Directory, &Path) -> (A, Arc<dyn Residents>),
    ) -> Self {
        let audit = Arc::new(Lines::default());
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(audit.clone()).finish();
        let log = tracing::subscriber::set_default(subscriber);
        let directory = tempfile::tempdir().unwrap();
        let workloads = directory.path().join("workloads.yaml");
        std::fs::write(&workloads, WORKLOADS).unwrap();
        let files = Directory::open(&directory.path().join("ca")).unwrap();
        let tokens = NodeTokens::open(&files).unwrap();
        let (authenticator, placement) = plugs(&files, &workloads);
        let authority = Authority::open(files, "td".parse().unwrap(), opened).await.unwrap();
        // Keys may be old, but the store was read just now.
        authority.tend(OffsetDateTime::now_utc()).await.unwrap();
        let authority = Arc::new(authority);
        let bundle = TrustBundle::clone(&authority.bundle());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let parts = Parts {
            authority: authority.clone(),
            placement,
            authenticator,
            lifetimes: Lifetimes { default: HOUR, least: HOUR, most: HOUR * 2 },
            names: ["127.0.0.1", "ca.example.org", "istiod.istio-system.svc"]
                .map(|name| name.parse().unwrap())
                .into(),
            jwt_keys: None,
            metrics: None,
        };
        let cancel = CancellationToken::new();
        let mut server = JoinSet::new();
        server.spawn(server::serve(listener, parts, cancel.clone()));
        let client = IstioCertificateServiceClient::new(channel(address, &bundle, None));
        let token = String::new();
        Self {
            directory,
            tokens,
            authority,
            bundle,
            address,
            client,
            audit,
            token,
            _log: log,
            cancel,
            server,
        }
    }

    pub(super) fn node_token(&self, node: &str) -> String {
        self.tokens.create(node, HOUR, OffsetDateTime::now_utc()).unwrap().to_string()
    }

    /// A request that is granted, for tests to spoil.
    pub(super) fn good(&self) -> Request<IstioCertificateRequest> {
        let mut request = Request::new(IstioCertificateRequest {
            csr: csr(&KeyPair::generate().unwrap(), |_| {}),
            validity_duration: 0,
            metadata: Some(asking(Kind::StringValue(WEB.to_owned()))),
        });
        authorize(&mut request, &self.token);
        request
    }

    /// Another client, on a connection of its own.
    pub(super) fn client(
        &self,
        presented: Option<Presented>,
    ) -> IstioCertificateServiceClient<Channel> {
        IstioCertificateServiceClient::new(channel(self.address, &self.bundle, presented))
    }

    pub(super) async fn send(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Vec<String>, Status> {
        let answer = self.client.clone().create_certificate(request).await?;
        Ok(answer.into_inner().cert_chain)
    }

    /// Sends a request that must be refused: with this code, by this rule.
    pub(super) async fn refused(
        &self,
        request: Request<IstioCertificateRequest>,
        code: Code,
        rule: &str,
    ) {
        self.refused_to(self.client.clone(), request, code, rule).await;
    }

    /// The same by another client. An honest caller is served right after.
    pub(super) async fn refused_to(
        &self,
        mut client: IstioCertificateServiceClient<Channel>,
        request: Request<IstioCertificateRequest>,
        code: Code,
        rule: &str,
    ) {
        let before = self.audit.all().len();
        let status = client.create_certificate(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{rule}: {status}");
        let lines = self.audit.all();
        assert_eq!(lines.len(), before + 1, "one line a decision");
        let last = lines.last().unwrap();
        assert_eq!(last["decision"], "refused", "{last}");
        assert_eq!(last["rule"], rule, "{last}");
        assert!(last.get("serial").is_none(), "{last}");
        assert!(!status.message().contains(rule), "the caller is not told the rule");
        self.serves().await;
    }

    /// The process is alive: an honest caller gets its certificate.
    pub(super) async fn serves(&self) {
        let answer = self.send(self.good()).await.unwrap();
        let leaf = CertificateDer::from_pem_slice(answer[0].as_bytes()).unwrap();
        let issuing = CertificateDer::from_pem_slice(answer[1].as_bytes()).unwrap();
        let now = unix(OffsetDateTime::now_utc());
        let peer = self.bundle.verify(&[leaf, issuing], PeerRole::Client, now).unwrap();
        assert_eq!(peer.id().as_str(), WEB);
    }

    /// An SVID of `id`, issued past all rules, as of `now`.
    pub(super) fn svid(&self, id: &str, now: OffsetDateTime) -> Presented {
        svid(&self.authority, id, now)
    }
}

/// An SVID of `id`, issued past all rules, as of `now`.
pub(super) fn svid(authority: &Authority, id: &str, now: OffsetDateTime) -> Presented {
    let key = KeyPair::generate().unwrap();
    let id: SpiffeId = id.parse().unwrap();
    let pem = csr(&key, |params| params.subject_alt_names.clear());
    let proven = crate::request::read(&pem, &id).unwrap();
    let issued = authority.issue(&id, &proven, HOUR, now).unwrap();
    (issued.chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into())
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let text = self.audit.text();
            for secret in ["eyJ", "BEGIN", "earer", "PRIVATE"] {
                assert!(!text.contains(secret), "no token, no key, no request: {text}");
            }
        }
    }
}

pub(super) fn authorize<T>(request: &mut Request<T>, token: &str) {
    let bearer = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", bearer);
}

/// A channel that checks the server as a foreign client does: by address, with no SPIFFE ID.
pub(super) fn channel(
    address: SocketAddr,
    bundle: &TrustBundle,
    presented: Option<Presented>,
) -> Channel {
    let config = Arc::new(config(bundle.certificates(), presented));
    Endpoint::from_static("http://authority").connect_with_connector_lazy(tower::service_fn(
        move |_| {
            let connector = TlsConnector::from(config.clone());
            async move {
                let tcp = TcpStream::connect(address).await?;
                tcp.set_nodelay(true)?;
                let name = ServerName::IpAddress(address.ip().into());
                Ok::<_, std::io::Error>(TokioIo::new(connector.connect(name, tcp).await?))
            }
        },
    ))
}

pub(super) fn config(
    roots: &[CertificateDer<'static>],
    presented: Option<Presented>,
) -> ClientConfig {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(store);
    let mut config = match presented {
        Some((chain, key)) => config.with_client_auth_cert(chain, key).unwrap(),
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

pub(super) fn csr(key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(WEB.try_into().unwrap())];
    change(&mut params);
    params.serialize_request(key).unwrap().pem().unwrap()
}

pub(super) fn asking(kind: Kind) -> Struct {
    let value = Value { kind: Some(kind) };
    Struct { fields: [(IMPERSONATED_IDENTITY.to_owned(), value)].into() }
}

/// The same as a text.
pub(super) fn asking_for(identity: &str) -> Struct {
    asking(Kind::StringValue(identity.to_owned()))
}
