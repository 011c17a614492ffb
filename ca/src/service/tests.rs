//! The API as callers meet it: real gRPC over real TLS on the loopback, and the audit's account.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use culvert_proto::istio::ca::istio_certificate_service_client::IstioCertificateServiceClient;
use culvert_spiffe::{PeerRole, TrustBundle};
use hyper_util::rt::TokioIo;
use prost_types::{Struct, Value};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, IsCa, KeyPair, SanType};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::*;
use crate::attest::NodeTokens;
use crate::authority::unix;
use crate::directory::Directory;
use crate::placement::PlacementFile;
use crate::server::{self, Parts};

const WORKLOADS: &str = "
workloads:
  - {name: a1, namespace: default, serviceAccount: web, node: node1}
  - {name: a2, namespace: default, serviceAccount: idle, node: node1, enrolled: false}
  - {name: b1, namespace: default, serviceAccount: db, node: node2}
";
const WEB: &str = "spiffe://td/ns/default/sa/web";
const HOUR: Duration = Duration::from_hours(1);

/// A running authority, one client, and what the audit wrote.
struct Lab {
    _directory: tempfile::TempDir,
    tokens: NodeTokens,
    bundle: TrustBundle,
    address: SocketAddr,
    client: IstioCertificateServiceClient<Channel>,
    audit: Arc<Lines>,
    /// Kept for its drop alone.
    _log: tracing::subscriber::DefaultGuard,
    cancel: CancellationToken,
    server: JoinSet<Result<(), server::ServeError>>,
}

/// Where the log goes. The tests run on one thread, so that it is theirs alone.
#[derive(Default)]
struct Lines(Mutex<Vec<u8>>);

impl Write for &Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// The last decision.
    fn last(&self) -> serde_json::Value {
        let text = self.text();
        let line = text.lines().rfind(|line| line.contains("\"decision\"")).unwrap();
        serde_json::from_str(&line[line.find('{').unwrap()..]).unwrap()
    }
}

impl Lab {
    async fn new() -> Self {
        let audit = Arc::new(Lines::default());
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(audit.clone()).finish();
        let log = tracing::subscriber::set_default(subscriber);
        let directory = tempfile::tempdir().unwrap();
        let workloads = directory.path().join("workloads.yaml");
        std::fs::write(&workloads, WORKLOADS).unwrap();
        let files = Directory::open(&directory.path().join("ca")).unwrap();
        let domain: culvert_spiffe::TrustDomain = "td".parse().unwrap();
        let tokens = NodeTokens::open(&files).unwrap();
        let authenticator = NodeTokens::open(&files).unwrap();
        let now = OffsetDateTime::now_utc();
        let authority = Arc::new(Authority::open(files, domain.clone(), now).await.unwrap());
        let bundle = TrustBundle::clone(&authority.bundle());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let parts = Parts {
            authority,
            placement: Arc::new(PlacementFile::open(&workloads, domain).unwrap()),
            authenticator,
            lifetimes: Lifetimes { default: HOUR, least: HOUR, most: HOUR * 2 },
            names: vec!["127.0.0.1".parse().unwrap(), "ca.example.org".parse().unwrap()],
            metrics: None,
        };
        let cancel = CancellationToken::new();
        let mut server = JoinSet::new();
        server.spawn(server::serve(listener, parts, cancel.clone()));
        let client = IstioCertificateServiceClient::new(channel(address, &bundle));
        Self {
            _directory: directory,
            tokens,
            bundle,
            address,
            client,
            audit,
            _log: log,
            cancel,
            server,
        }
    }

    fn token(&self, node: &str) -> String {
        self.tokens.create(node, HOUR, OffsetDateTime::now_utc()).unwrap().to_string()
    }

    /// A request that is granted, for tests to spoil.
    fn good(&self) -> Request<IstioCertificateRequest> {
        let mut request = Request::new(IstioCertificateRequest {
            csr: csr(&KeyPair::generate().unwrap(), |_| {}),
            validity_duration: 0,
            metadata: Some(asking(Kind::StringValue(WEB.to_owned()))),
        });
        let bearer = format!("Bearer {}", self.token("node1"));
        request.metadata_mut().insert("authorization", bearer.parse().unwrap());
        request
    }

    async fn send(&self, request: Request<IstioCertificateRequest>) -> Result<Vec<String>, Status> {
        let answer = self.client.clone().create_certificate(request).await?;
        Ok(answer.into_inner().cert_chain)
    }

    /// Sends a request that must be refused: with this code, by this rule.
    async fn refused(&self, request: Request<IstioCertificateRequest>, code: Code, rule: &str) {
        let status = self.send(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{rule}: {status}");
        let last = self.audit.last();
        assert_eq!(last["decision"], "refused", "{last}");
        assert_eq!(last["rule"], rule, "{last}");
        assert!(!status.message().contains(rule), "the caller is not told the rule");
    }
}

/// A channel that checks the server as a foreign client does: by address, with no SPIFFE ID.
fn channel(address: SocketAddr, bundle: &TrustBundle) -> Channel {
    let mut roots = RootCertStore::empty();
    for root in bundle.certificates() {
        roots.add(root.clone()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    Endpoint::from_static("http://authority").connect_with_connector_lazy(tower::service_fn(
        move |_| {
            let connector = connector.clone();
            async move {
                let tcp = TcpStream::connect(address).await?;
                let name = ServerName::IpAddress(address.ip().into());
                Ok::<_, std::io::Error>(TokioIo::new(connector.connect(name, tcp).await?))
            }
        },
    ))
}

fn csr(key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(WEB.try_into().unwrap())];
    change(&mut params);
    params.serialize_request(key).unwrap().pem().unwrap()
}

fn asking(kind: Kind) -> Struct {
    let value = Value { kind: Some(kind) };
    Struct { fields: [(IMPERSONATED_IDENTITY.to_owned(), value)].into() }
}

#[tokio::test]
async fn node_gets_a_chain_for_its_workload_and_the_audit_says_so() {
    let lab = Lab::new().await;
    let answer = lab.send(lab.good()).await.unwrap();
    let [leaf, issuing, roots] = answer.as_slice() else { panic!("{} elements", answer.len()) };
    let chain = [leaf, issuing].map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap());
    let now = unix(OffsetDateTime::now_utc());
    let bundle = TrustBundle::from_pem("td".parse().unwrap(), roots.as_bytes()).unwrap();
    assert_eq!(bundle.certificates(), lab.bundle.certificates());
    let peer = bundle.verify(&chain, PeerRole::Client, now).unwrap();
    assert_eq!(peer.id().as_str(), WEB);
    assert!(answer.iter().all(|pem| pem.ends_with('\n')));

    let line = lab.audit.last();
    assert_eq!(line["decision"], "issued");
    assert_eq!(line["node"], "node1");
    assert_eq!(line["identity"], WEB);
    assert_eq!(line["not_after"], peer.not_after().as_secs());
    assert_eq!(line["key_sha256"].as_str().unwrap().len(), 64);
    assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
    let text = lab.audit.text();
    assert!(!text.contains("eyJ") && !text.contains("BEGIN"), "no token, no request: {text}");
}

#[tokio::test]
async fn lifetime_is_clamped_to_the_limits() {
    let lab = Lab::new().await;
    for (wish, hours) in [(0, 1), (-5, 1), (60, 1), (5400, 0), (i64::MAX, 2), (i64::MIN, 1)] {
        let mut request = lab.good();
        request.get_mut().validity_duration = wish;
        let before = unix(OffsetDateTime::now_utc()).as_secs();
        lab.send(request).await.unwrap();
        let life = lab.audit.last()["not_after"].as_u64().unwrap() - before;
        let expected = if hours == 0 { 5400 } else { hours * 3600 };
        assert!((expected..expected + 5).contains(&life), "{wish}: {life}");
    }
}

#[tokio::test]
async fn caller_without_a_good_token_is_refused() {
    let lab = Lab::new().await;
    let refused = async |change: &dyn Fn(&mut MetadataMap), rule: &str| {
        let mut request = lab.good();
        change(request.metadata_mut());
        lab.refused(request, Code::Unauthenticated, rule).await;
    };
    refused(&|headers| drop(headers.remove("authorization")), "no_token").await;
    let second = |h: &mut MetadataMap| {
        assert!(h.append("authorization", "Bearer x".parse().unwrap()));
    };
    refused(&second, "many_tokens").await;
    for value in ["Bearer", "Bearer ", "Basic abc", "Bearer a.b.c", "Bearer a b"] {
        let set = |h: &mut MetadataMap| drop(h.insert("authorization", value.parse().unwrap()));
        refused(&set, "malformed_token").await;
    }
    let past = OffsetDateTime::now_utc() - HOUR * 2;
    let expired = lab.tokens.create("node1", HOUR, past).unwrap();
    let set = |h: &mut MetadataMap| {
        h.insert("authorization", format!("Bearer {}", expired.as_str()).parse().unwrap());
    };
    refused(&set, "token_expired").await;

    let temp = tempfile::tempdir().unwrap();
    let theirs = NodeTokens::open(&Directory::open(temp.path()).unwrap()).unwrap();
    let forged = theirs.create("node1", HOUR, OffsetDateTime::now_utc()).unwrap();
    let set = |h: &mut MetadataMap| {
        h.insert("authorization", format!("Bearer {}", forged.as_str()).parse().unwrap());
    };
    refused(&set, "token_signature").await;
}

#[tokio::test]
async fn node_gets_no_identity_but_those_of_its_enrolled_workloads() {
    let lab = Lab::new().await;
    for (identity, rule) in [
        ("spiffe://td/ns/default/sa/db", "not_on_node"),
        ("spiffe://td/ns/default/sa/idle", "not_on_node"),
        ("spiffe://td/ns/default/sa/nobody", "not_on_node"),
        ("spiffe://other/ns/default/sa/web", "foreign_trust_domain"),
        ("spiffe://td/ns/culvert-system/sa/culvert-ca", "reserved_identity"),
        ("spiffe://td/ns/default/sa/web,spiffe://td/ns/default/sa/db", "malformed_identity"),
        ("spiffe://td/ns/default/sa/web\n", "malformed_identity"),
        ("spiffe://td/ns/default/sa/web\0", "malformed_identity"),
        ("spiffe://td/ns/default%2Fsa/web", "malformed_identity"),
        ("spiffe://td/ns/default/../default/sa/web", "malformed_identity"),
        ("spiffe://TD/ns/default/sa/web", "malformed_identity"),
        ("spiffe://td:1/ns/default/sa/web", "malformed_identity"),
        ("spiffe://u@td/ns/default/sa/web", "malformed_identity"),
        ("spiffe://td/ns/default/sa/web?x", "malformed_identity"),
        ("spiffe://td/ns/default/sa/web/", "malformed_identity"),
        ("", "malformed_identity"),
    ] {
        let mut request = lab.good();
        request.get_mut().metadata = Some(asking(Kind::StringValue(identity.to_owned())));
        lab.refused(request, Code::Unauthenticated, rule).await;
    }
    for kind in [Kind::NumberValue(1.0), Kind::ListValue(prost_types::ListValue::default())] {
        let mut request = lab.good();
        request.get_mut().metadata = Some(asking(kind));
        lab.refused(request, Code::Unauthenticated, "malformed_identity").await;
    }
    let mut request = lab.good();
    request.get_mut().metadata = None;
    lab.refused(request, Code::Unauthenticated, "no_identity").await;

    let mut request = lab.good();
    let bearer = format!("Bearer {}", lab.token("node2")).parse().unwrap();
    request.metadata_mut().insert("authorization", bearer);
    lab.refused(request, Code::Unauthenticated, "not_on_node").await;
}

#[tokio::test]
async fn unacceptable_requests_are_invalid_arguments() {
    let lab = Lab::new().await;
    let key = KeyPair::generate().unwrap();
    let edwards = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let db = || SanType::URI("spiffe://td/ns/default/sa/db".try_into().unwrap());
    let good = csr(&key, |_| {});
    for (csr, rule) in [
        (String::new(), "request_malformed"),
        (format!("{good}{good}"), "request_malformed"),
        (format!("{good}x"), "request_malformed"),
        ("x".repeat(17 * 1024), "request_too_large"),
        (csr(&edwards, |_| {}), "request_key"),
        (csr(&key, |r| r.subject_alt_names.push(db())), "request_names"),
        (csr(&key, |r| r.subject_alt_names = vec![db()]), "request_names"),
        (csr(&key, |r| r.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), "request_ca"),
    ] {
        let mut request = lab.good();
        request.get_mut().csr = csr;
        lab.refused(request, Code::InvalidArgument, rule).await;
    }
    // Refused by the transport already, before anything is parsed.
    let mut request = lab.good();
    request.get_mut().csr = "x".repeat(1024 * 1024);
    assert_eq!(lab.send(request).await.unwrap_err().code(), Code::OutOfRange);
    lab.send(lab.good()).await.unwrap();
}

#[tokio::test]
async fn garbage_on_the_port_harms_no_caller() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let lab = Lab::new().await;
    let mut garbage = TcpStream::connect(lab.address).await.unwrap();
    let _silent = TcpStream::connect(lab.address).await.unwrap();
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // Ends, by alert and close or by reset.
    let _ = garbage.read_to_end(&mut answer).await;
    lab.send(lab.good()).await.unwrap();
}

#[tokio::test]
async fn calls_in_parallel_are_all_served_and_a_stop_is_clean() {
    let mut lab = Lab::new().await;
    let mut calls = JoinSet::new();
    for _ in 0..200 {
        let (mut client, request) = (lab.client.clone(), lab.good());
        calls.spawn(async move { client.create_certificate(request).await });
    }
    while let Some(answer) = calls.join_next().await {
        answer.unwrap().unwrap();
    }
    lab.cancel.cancel();
    lab.server.join_next().await.unwrap().unwrap().unwrap();
    assert!(TcpStream::connect(lab.address).await.is_err(), "nobody listens any more");
}
