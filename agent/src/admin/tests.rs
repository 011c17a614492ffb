//! Requests as `culvert certs` makes them, over a real socket, to a store with a real authority.

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use tracing_subscriber::{EnvFilter, reload};

use super::door::Door;
use super::model::{Export, Identities, Program, Refusal, USERS_NAMED};
use super::*;
use crate::config::{self, Config};
use crate::identity::store::lab::{Lab, Running, id};
use crate::identity::{IdentityHold, IdentityStore};
use crate::observe::{LogControl, Metrics, Readiness};
use crate::workload::{Snapshot, Steered};

mod mesh;

/// Far more than anything here takes; a test that gets there has failed.
const PATIENCE: Duration = Duration::from_secs(20);
const ROOT: Caller = Caller { pid: Some(1), uid: 0 };

struct Setup {
    lab: Lab,
    _authority: Running,
    store: IdentityStore,
    holds: Vec<IdentityHold>,
    registry: prometheus::Registry,
    mesh: watch::Sender<Arc<Snapshot>>,
    steered: watch::Sender<Arc<Steered>>,
    readiness: watch::Sender<Readiness>,
    programs: watch::Sender<Vec<Program>>,
    metrics: Metrics,
    log: LogControl,
    _filter: reload::Layer<EnvFilter, tracing_subscriber::Registry>,
    quit: CancellationToken,
}

impl Setup {
    /// Web is held by two pods and has its certificate.
    async fn new() -> Self {
        let mut lab = Lab::new().await;
        let authority = lab.authority(Duration::from_secs(1)).await;
        let store = lab.store(Duration::from_hours(1)).await;
        let holds = ["default/a1", "default/a2"].map(|user| store.hold(&id("web"), user)).into();
        let (log, filter) = LogControl::new("info").unwrap();
        let setup = Self {
            lab,
            _authority: authority,
            store,
            holds,
            registry: prometheus::Registry::new(),
            mesh: watch::Sender::new(mesh::lab()),
            steered: watch::Sender::default(),
            readiness: watch::Sender::new(Readiness::Ready),
            programs: watch::Sender::default(),
            metrics: Metrics::new().unwrap(),
            log,
            _filter: filter,
            quit: CancellationToken::new(),
        };
        setup.holds[0].svid().await.unwrap();
        setup
    }

    fn routes(&self) -> Routes {
        self.routes_of("")
    }

    /// With these lines of the configuration.
    fn routes_of(&self, lines: &str) -> Routes {
        let text = format!("node: node1\ntrustDomain: td\n{lines}");
        let config = Config::parse(Path::new("/agent.yaml"), &text).unwrap();
        Routes::new(Parts {
            config: Arc::new(config),
            snapshots: self.mesh.subscribe(),
            identities: self.store.clone(),
            steered: self.steered.subscribe(),
            readiness: self.readiness.subscribe(),
            programs: self.programs.subscribe(),
            metrics: self.metrics.clone(),
            prober: crate::explain::Prober::new(
                crate::explain::Pods::default(),
                self.store.clone(),
            ),
            log: self.log.clone(),
            quit: self.quit.clone(),
        })
    }

    fn socket(&self) -> PathBuf {
        self.lab.path().join("run/admin.sock")
    }

    fn settings(&self) -> config::Admin {
        config::Admin { socket: self.socket(), listen: None, quit: false }
    }

    fn server(&self) -> Server {
        Server::bind(&self.settings(), self.routes(), &self.registry).unwrap()
    }
}

async fn ask(routes: &Routes, caller: Caller, method: Method, path: &str) -> (StatusCode, Vec<u8>) {
    ask_by(routes, Door::Socket(caller), method, path).await
}

async fn ask_by(routes: &Routes, door: Door, method: Method, path: &str) -> (StatusCode, Vec<u8>) {
    let request = Request::builder().method(method).uri(path).body(()).unwrap();
    let (_, answer) = routes.answer(door, request).await;
    let (head, body) = Response::into_parts(answer);
    (head.status, body.collect().await.unwrap().to_bytes().to_vec())
}

#[tokio::test]
async fn every_identity_is_listed_with_its_users_and_no_key() {
    let mut setup = Setup::new().await;
    for number in 0..USERS_NAMED {
        setup.holds.push(setup.store.hold(&id("web"), format!("default/more-{number}")));
    }
    let (status, body) = ask(&setup.routes(), ROOT, Method::GET, "/certs").await;
    assert_eq!(status, StatusCode::OK);
    let all: Identities = serde_json::from_slice(&body).unwrap();
    let [web] = &all.identities[..] else { panic!("one identity: {all:?}") };
    assert_eq!(web.id, "spiffe://td/ns/default/sa/web");
    assert_eq!((web.users.len(), web.user_count), (USERS_NAMED, USERS_NAMED + 2));
    assert!(web.certificate.as_ref().unwrap().serial.len() > 20);
    assert!(web.next_renewal.as_deref().unwrap().ends_with('Z'));
    assert!(!String::from_utf8(body).unwrap().contains("PRIVATE KEY"));
}

#[tokio::test]
async fn certificate_is_had_by_either_spelling_of_its_identity() {
    let setup = Setup::new().await;
    let svid = setup.holds[0].svid().await.unwrap();
    for path in ["/certs/default/web", "/certs/spiffe://td/ns/default/sa/web"] {
        let (status, body) = ask(&setup.routes(), ROOT, Method::GET, path).await;
        assert_eq!(status, StatusCode::OK, "{path}");
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(&body).collect::<Result<_, _>>().unwrap();
        assert_eq!(chain, svid.chain());
    }
    let (_, roots) = ask(&setup.routes(), ROOT, Method::GET, "/roots").await;
    let roots: Vec<_> = CertificateDer::pem_slice_iter(&roots).collect::<Result<_, _>>().unwrap();
    assert_eq!(roots, setup.store.bundle().borrow().bundle().certificates());
}

#[tokio::test]
async fn export_has_chain_key_and_roots_and_needs_a_post() {
    let setup = Setup::new().await;
    let routes = setup.routes();
    let (status, body) = ask(&routes, ROOT, Method::POST, "/certs/default/web/export").await;
    assert_eq!(status, StatusCode::OK);
    let export: Export = serde_json::from_slice(&body).unwrap();
    let svid = setup.holds[0].svid().await.unwrap();
    let key = PrivatePkcs8KeyDer::from_pem_slice(export.private_key.as_bytes()).unwrap();
    assert_eq!(key.secret_pkcs8_der(), svid.private_key().as_slice());
    assert!(!format!("{export:?}").contains("BEGIN"));

    // A GET means a service account of that name.
    let (status, body) = ask(&routes, ROOT, Method::GET, "/certs/default/web/export").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(!String::from_utf8(body).unwrap().contains("PRIVATE"));
    let (status, _) = ask(&routes, ROOT, Method::POST, "/certs/default/web").await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    let (status, _) = ask(&routes, ROOT, Method::DELETE, "/certs").await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    let (status, _) = ask(&routes, ROOT, Method::GET, "/nothing").await;
    assert_eq!(status, StatusCode::NOT_FOUND);

    // Nor does a key leave by TCP.
    let path = "/certs/default/web/export";
    let (status, body) = ask_by(&routes, Door::Tcp, Method::POST, path).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(String::from_utf8(body).unwrap().contains("unix socket only"));
}

#[tokio::test]
async fn unknown_identity_is_told_which_there_are() {
    let setup = Setup::new().await;
    let (status, body) = ask(&setup.routes(), ROOT, Method::GET, "/certs/default/webb").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let refusal: Refusal = serde_json::from_slice(&body).unwrap();
    assert!(refusal.error.contains("no workload enrolled on node node1"), "{}", refusal.error);
    assert_eq!(refusal.known, ["spiffe://td/ns/default/sa/web"]);
    for bad in ["/certs/web", "/certs/default/..", "/certs/Default/web", "/certs/spiffe://td/x"] {
        let (status, _) = ask(&setup.routes(), ROOT, Method::GET, bad).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{bad}");
    }
}

#[tokio::test]
async fn identity_without_certificate_says_what_the_authority_said() {
    let mut setup = Setup::new().await;
    // Of another node: refused by the authority.
    setup.holds.push(setup.store.hold(&id("db"), "default/b1"));
    let refused = async {
        loop {
            let (status, body) =
                ask(&setup.routes(), ROOT, Method::POST, "/certs/default/db/export").await;
            assert_eq!(status, StatusCode::CONFLICT);
            let refusal: Refusal = serde_json::from_slice(&body).unwrap();
            if refusal.error.contains("authority refused a certificate") {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, refused).await.unwrap();
}

#[tokio::test]
async fn caller_of_another_user_is_told_nothing() {
    let setup = Setup::new().await;
    let other = Caller { pid: Some(1), uid: rustix::process::geteuid().as_raw() + 1 };
    for (method, path) in [
        (Method::GET, "/certs"),
        (Method::GET, "/certs/default/web"),
        (Method::POST, "/certs/default/web/export"),
        (Method::GET, "/nothing"),
    ] {
        let (status, body) = ask(&setup.routes(), other, method, path).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{path}");
        assert!(!String::from_utf8(body).unwrap().contains("spiffe://"));
    }
}

#[tokio::test]
async fn socket_is_ours_alone_counts_and_goes_with_the_server() {
    let setup = Setup::new().await;
    let (server, path) = (setup.server(), setup.socket());
    let found = std::fs::metadata(&path).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o777, 0o600);

    let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
    tasks.spawn(server.run(stop.clone()));
    let head = exchange(&path, b"GET /certs HTTP/1.0\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.0 200"), "{head}");
    let text = prometheus::TextEncoder::new().encode_to_string(&setup.registry.gather()).unwrap();
    let counted = "culvert_admin_requests_total{status=\"200\",what=\"identities\"} 1";
    assert!(text.contains(counted), "{text}");

    stop.cancel();
    timeout(PATIENCE, tasks.join_next()).await.unwrap().unwrap().unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn next_agent_takes_the_socket_over_and_keeps_it() {
    let setup = Setup::new().await;
    let old = setup.server();
    let registry = prometheus::Registry::new();
    let new = Server::bind(&setup.settings(), setup.routes(), &registry).unwrap();
    drop(old);
    let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
    tasks.spawn(new.run(stop.clone()));
    let head = exchange(&setup.socket(), b"GET /roots HTTP/1.0\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.0 200"), "{head}");

    let file = setup.lab.path().join("file");
    std::fs::write(&file, "kept").unwrap();
    let settings = config::Admin { socket: file.clone(), ..setup.settings() };
    let refused = Server::bind(&settings, setup.routes(), &prometheus::Registry::new());
    assert!(matches!(refused, Err(AdminError::NotASocket { .. })));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept");
}

async fn exchange(path: &Path, request: &[u8]) -> String {
    let talk = async {
        let mut stream = UnixStream::connect(path).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    timeout(PATIENCE, talk).await.unwrap()
}

#[tokio::test]
async fn tcp_answers_the_same_to_the_loopback_only() {
    let setup = Setup::new().await;
    let listen = Some(([127, 0, 0, 1], 0).into());
    let settings = config::Admin { listen, ..setup.settings() };
    let server = Server::bind(&settings, setup.routes(), &setup.registry).unwrap();
    let address = server.address().unwrap();
    let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
    tasks.spawn(server.run(stop.clone()));
    let mut heads = Vec::new();
    for host in ["localhost", "evil.example"] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET /status HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        heads.push(answer);
    }
    assert!(heads[0].starts_with("HTTP/1.1 200") && heads[0].contains("node1"), "{}", heads[0]);
    assert!(heads[1].starts_with("HTTP/1.1 403") && !heads[1].contains("node1"), "{}", heads[1]);
    stop.cancel();
    timeout(PATIENCE, tasks.join_next()).await.unwrap().unwrap().unwrap();
}
