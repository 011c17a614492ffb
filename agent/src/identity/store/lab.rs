//! A real authority in a directory of its own, and stores that ask it over TLS on the loopback.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use culvert_ca::attest::NodeTokens;
use culvert_ca::authority::{Authority, Lifetimes, ROOT_CERTIFICATES_FILE};
use culvert_ca::directory::Directory;
use culvert_ca::placement::PlacementFile;
use culvert_ca::server::{self, Parts};
use culvert_spiffe::SpiffeId;
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{IdentityStore, Settings};

pub(crate) const WORKLOADS: &str = "
workloads:
  - {name: a1, namespace: default, serviceAccount: web, node: node1}
  - {name: a2, namespace: default, serviceAccount: api, node: node1}
  - {name: b1, namespace: default, serviceAccount: db, node: node2}
";
/// An authority's directory, and where it serves.
pub(crate) struct Lab {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) address: SocketAddr,
    pub(crate) registry: prometheus::Registry,
    tasks: JoinSet<()>,
}

/// A running authority.
pub(crate) struct Running {
    cancel: CancellationToken,
    server: JoinSet<Result<(), server::ServeError>>,
}

impl Lab {
    /// Files and an address, but nobody who serves there yet.
    pub(crate) async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        std::fs::write(path.join("workloads.yaml"), WORKLOADS).unwrap();
        let files = Directory::open(path).unwrap();
        let tokens = NodeTokens::open(&files).unwrap();
        let now = OffsetDateTime::now_utc();
        let token = tokens.create("node1", Duration::from_hours(1), now).unwrap();
        std::fs::write(path.join("token"), token.as_bytes()).unwrap();
        Authority::open(files, "td".parse().unwrap(), now).await.unwrap();
        let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let registry = prometheus::Registry::new();
        Self { directory, address, registry, tasks: JoinSet::new() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) async fn authority(&self, least: Duration) -> Running {
        let listener = TcpListener::bind(self.address).await.unwrap();
        let files = Directory::open(self.path()).unwrap();
        let domain: culvert_spiffe::TrustDomain = "td".parse().unwrap();
        let authenticator = NodeTokens::open(&files).unwrap();
        let authority =
            Authority::open(files, domain.clone(), OffsetDateTime::now_utc()).await.unwrap();
        let placement = PlacementFile::open(&self.path().join("workloads.yaml"), domain).unwrap();
        let most = Duration::from_hours(1);
        let parts = Parts {
            authority: Arc::new(authority),
            placement: Arc::new(placement),
            authenticator,
            lifetimes: Lifetimes { default: most, least, most },
            names: vec![],
            jwt_keys: None,
            metrics: None,
        };
        let cancel = CancellationToken::new();
        let mut server = JoinSet::new();
        server.spawn(server::serve(listener, parts, cancel.clone()));
        Running { cancel, server }
    }

    /// A store as the agent of node1 has it.
    pub(crate) async fn store(&mut self, ttl: Duration) -> IdentityStore {
        self.store_with(self.settings(ttl)).await
    }

    pub(crate) async fn store_with(&mut self, settings: Settings) -> IdentityStore {
        let cancel = CancellationToken::new();
        let (store, tasks) = IdentityStore::start(settings, cancel, &self.registry).await.unwrap();
        self.tasks.spawn(tasks.join());
        store
    }

    pub(crate) fn settings(&self, ttl: Duration) -> Settings {
        Settings {
            ca_address: self.address.to_string().parse().unwrap(),
            root_file: self.path().join(ROOT_CERTIFICATES_FILE),
            bundle_file: self.path().join("bundle.json"),
            token_file: self.path().join("token"),
            node: "node1".to_owned(),
            trust_domain: "td".parse().unwrap(),
            certificate_ttl: ttl,
        }
    }
}

impl Running {
    pub(crate) async fn stop(mut self) {
        self.cancel.cancel();
        self.server.join_next().await.unwrap().unwrap().unwrap();
    }
}

pub(crate) fn id(account: &str) -> SpiffeId {
    format!("spiffe://td/ns/default/sa/{account}").parse().unwrap()
}
