//! A thousand identities in one agent: what they cost in memory, and how soon they are there.
//!
//! Alone in its process, because it reads how much the allocator has given out: the TLS library's
//! own allocations are in that figure, which a counting allocator of Rust's would not see.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]
#![expect(clippy::unwrap_used, reason = "all of this file is one test")]

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_agent::identity::{Current, IdentityHold, IdentityStore, Settings};
use culvert_ca::attest::NodeTokens;
use culvert_ca::authority::{Authority, Lifetimes, ROOT_CERTIFICATES_FILE};
use culvert_ca::directory::Directory;
use culvert_ca::placement::PlacementFile;
use culvert_ca::server::{self, Parts};
use culvert_spiffe::SpiffeId;
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// What an identity with its certificate, key, task and metric may take: docs/promises.md.
const MOST_BYTES: usize = 6_000;
/// What a node's worth of pods may take to have certificates, all at once: docs/promises.md.
const COLD: (usize, Duration) = (250, Duration::from_secs(3));
const ALL: usize = 1_000;
/// Far more than anything here takes; a test that gets there has failed.
const PATIENCE: Duration = Duration::from_mins(1);

#[test]
fn thousand_identities_take_under_6_kb_each_and_are_there_soon() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(measure());
}

async fn measure() {
    let directory = tempfile::tempdir().unwrap();
    let address = prepare(directory.path()).await;
    let cancel = CancellationToken::new();
    let settings = Settings {
        ca_address: address.to_string().parse().unwrap(),
        root_file: directory.path().join(ROOT_CERTIFICATES_FILE),
        bundle_file: directory.path().join("bundle.json"),
        token_file: directory.path().join("token"),
        node: "node1".to_owned(),
        trust_domain: "td".parse().unwrap(),
        certificate_ttl: Duration::from_hours(1),
    };
    let registry = prometheus::Registry::new();
    let (store, tasks) = IdentityStore::start(settings, cancel.clone(), &registry).await.unwrap();

    // One first: connection, channel and pools are there before anything is counted.
    let mut authority = serve(directory.path(), address, &cancel).await;
    let mut holds = vec![store.hold(&id(0), "default/pod-0")];
    ready(&store, &holds).await;

    let began = Instant::now();
    holds.extend((1..=COLD.0).map(|number| store.hold(&id(number), pod(number))));
    ready(&store, &holds).await;
    let cold = began.elapsed();

    let before = allocated();
    holds.extend((COLD.0 + 1..=COLD.0 + ALL).map(|number| store.hold(&id(number), pod(number))));
    let asking = allocated().saturating_sub(before) / ALL;
    ready(&store, &holds).await;
    settled(&store).await;
    let each = allocated().saturating_sub(before) / ALL;
    println!(
        "{} from cold in {cold:?}; {each} bytes an identity, {asking} while it is being asked for",
        COLD.0
    );
    assert!(each <= MOST_BYTES, "{each} bytes an identity");
    assert!(cold <= COLD.1, "{} from cold took {cold:?}", COLD.0);

    cancel.cancel();
    timeout(PATIENCE, tasks.join()).await.unwrap();
    timeout(PATIENCE, authority.join_next()).await.unwrap();
}

/// An authority that has placed every workload on our node, and where it will serve.
async fn prepare(directory: &Path) -> SocketAddr {
    let mut workloads = String::from("workloads:\n");
    for number in 0..=COLD.0 + ALL {
        writeln!(
            workloads,
            "  - {{name: pod-{number}, namespace: default, serviceAccount: sa-{number}, node: node1}}"
        ).unwrap();
    }
    std::fs::write(directory.join("workloads.yaml"), workloads).unwrap();
    let files = Directory::open(directory).unwrap();
    let (tokens, now) = (NodeTokens::open(&files).unwrap(), OffsetDateTime::now_utc());
    let token = tokens.create("node1", Duration::from_hours(1), now).unwrap();
    std::fs::write(directory.join("token"), token.as_bytes()).unwrap();
    Authority::open(files, "td".parse().unwrap(), now).await.unwrap();
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

async fn serve(
    directory: &Path,
    address: SocketAddr,
    cancel: &CancellationToken,
) -> JoinSet<Result<(), server::ServeError>> {
    let files = Directory::open(directory).unwrap();
    let domain: culvert_spiffe::TrustDomain = "td".parse().unwrap();
    let placement = PlacementFile::open(&directory.join("workloads.yaml"), domain.clone()).unwrap();
    let most = Duration::from_hours(1);
    let parts = Parts {
        authenticator: NodeTokens::open(&files).unwrap(),
        authority: Arc::new(
            Authority::open(files, domain, OffsetDateTime::now_utc()).await.unwrap(),
        ),
        placement: Arc::new(placement),
        lifetimes: Lifetimes { default: most, least: Duration::from_secs(1), most },
        names: vec![],
        jwt_keys: None,
        metrics: None,
    };
    let listener = TcpListener::bind(address).await.unwrap();
    let mut server = JoinSet::new();
    server.spawn(server::serve(listener, parts, cancel.clone()));
    server
}

/// Waits until all have certificates.
async fn ready(store: &IdentityStore, holds: &[IdentityHold]) {
    for hold in holds {
        let mut current = store.watch(hold.id()).unwrap();
        let ready = current.wait_for(|now| matches!(now, Current::Ready(_)));
        timeout(PATIENCE, ready).await.unwrap().unwrap();
    }
}

/// Waits until every task has noted that it holds its certificate, and let go of its request.
async fn settled(store: &IdentityStore) {
    let all = async {
        while store.identities().iter().any(|status| status.phase != "held") {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, all).await.unwrap();
}

fn id(number: usize) -> SpiffeId {
    format!("spiffe://td/ns/default/sa/sa-{number}").parse().unwrap()
}

fn pod(number: usize) -> String {
    format!("default/pod-{number}")
}

/// Bytes that the allocator has given out and not got back, in all its arenas.
fn allocated() -> usize {
    // SAFETY: `mallinfo2` has no preconditions; it returns a struct of numbers by value.
    let now = unsafe { libc::mallinfo2() };
    now.uordblks + now.hblkhd
}
