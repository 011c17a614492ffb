//! The interface as agents meet it, over real gRPC; without TLS, which is not its business.

use std::net::SocketAddr;

use culvert_proto::culvert::ca::authority_client::AuthorityClient;
use culvert_proto::culvert::ca::authority_server::AuthorityServer;
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::Code;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};

use super::*;
use crate::attest::NodeTokens;
use crate::directory::Directory;
use crate::placement::PlacementFile;

/// Far more than anything here takes; a test that gets there has failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// Deadline of the server's calls.
const DEADLINE: Duration = Duration::from_millis(200);

struct Lab {
    _directory: tempfile::TempDir,
    tokens: NodeTokens,
    authority: Arc<Authority>,
    jwks: watch::Sender<Arc<[u8]>>,
    registry: Registry,
    cancel: CancellationToken,
    address: SocketAddr,
    server: JoinSet<Result<(), tonic::transport::Error>>,
}

impl Lab {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let workloads = directory.path().join("workloads.yaml");
        std::fs::write(&workloads, "workloads: []\n").unwrap();
        let files = Directory::open(&directory.path().join("ca")).unwrap();
        let domain: culvert_spiffe::TrustDomain = "td".parse().unwrap();
        let (tokens, authenticator) =
            (NodeTokens::open(&files).unwrap(), NodeTokens::open(&files).unwrap());
        let now = OffsetDateTime::now_utc();
        let authority = Arc::new(Authority::open(files, domain.clone(), now).await.unwrap());
        let placement = Arc::new(PlacementFile::open(&workloads, domain).unwrap());
        let admission = Arc::new(Admission::new(authority.clone(), placement, authenticator));
        let registry = Registry::new();
        let (jwks, keys) = watch::channel(Arc::default());
        let cancel = CancellationToken::new();
        let bundles = Bundles::new(
            authority.clone(),
            admission,
            keys,
            CaMetrics::register(&registry).unwrap(),
            cancel.clone(),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = JoinSet::new();
        let stop = cancel.clone().cancelled_owned();
        server.spawn(async move {
            Server::builder()
                .timeout(DEADLINE)
                .add_service(AuthorityServer::new(bundles))
                .serve_with_incoming_shutdown(TcpIncoming::from(listener), stop)
                .await
        });
        Self { _directory: directory, tokens, authority, jwks, registry, cancel, address, server }
    }

    fn client(&self) -> AuthorityClient<Channel> {
        let address = format!("http://{}", self.address);
        AuthorityClient::new(Endpoint::from_shared(address).unwrap().connect_lazy())
    }

    async fn follow(&self, node: &str) -> Result<Follower, Status> {
        let token = self.tokens.create(node, PATIENCE, OffsetDateTime::now_utc()).unwrap();
        self.follow_with(Some(&token)).await
    }

    async fn follow_with(&self, token: Option<&str>) -> Result<Follower, Status> {
        let (acknowledge, mut said) = mpsc::channel(4);
        let mut request = Request::new(stream::poll_fn(move |context| said.poll_recv(context)));
        if let Some(token) = token {
            let bearer = format!("Bearer {token}");
            request.metadata_mut().insert("authorization", bearer.parse().unwrap());
        }
        let bundles = self.client().follow_bundle(request).await?.into_inner();
        Ok(Follower { acknowledge, bundles })
    }

    fn followers(&self) -> String {
        let text = prometheus::TextEncoder::new().encode_to_string(&self.registry.gather());
        let text = text.unwrap();
        text.lines().rfind(|line| line.starts_with("culvert_ca_bundle_followers")).unwrap().into()
    }
}

struct Follower {
    acknowledge: mpsc::Sender<wire::BundleInForce>,
    bundles: Streaming<wire::TrustBundle>,
}

impl Follower {
    async fn next(&mut self) -> Option<wire::TrustBundle> {
        timeout(PATIENCE, self.bundles.message()).await.unwrap().unwrap()
    }
}

#[tokio::test]
async fn follower_is_sent_the_bundle_at_once_and_each_change_for_longer_than_a_call_may_take() {
    let lab = Lab::new().await;
    let mut follower = lab.follow("node1").await.unwrap();
    follower.acknowledge.send(wire::BundleInForce { sequence: 0 }).await.unwrap();
    let bundle = follower.next().await.unwrap();
    assert_eq!(bundle.trust_domain, "td");
    assert_eq!(bundle.sequence, lab.authority.published().borrow().sequence);
    let [root] = bundle.roots.as_slice() else { panic!("{} roots", bundle.roots.len()) };
    assert_eq!(root.certificate, lab.authority.bundle().certificates()[0].as_ref());
    assert_eq!(root.standing, i32::from(wire::Standing::Trusted));
    assert!(bundle.jwks.is_empty());

    // Nothing comes, and nothing ends the stream.
    timeout(DEADLINE * 4, follower.bundles.message()).await.unwrap_err();
    lab.jwks.send_replace(Arc::from(&b"{\"keys\":[]}"[..]));
    assert_eq!(follower.next().await.unwrap().jwks, b"{\"keys\":[]}");
    assert!(lab.followers().ends_with(" 1"), "{}", lab.followers());
}

#[tokio::test]
async fn caller_without_a_good_token_follows_nothing() {
    let lab = Lab::new().await;
    for token in [None, Some("x.y.z")] {
        let status = lab.follow_with(token).await.err().unwrap();
        assert_eq!(status.code(), Code::Unauthenticated);
    }
    assert!(lab.followers().ends_with(" 0"), "{}", lab.followers());
}

#[tokio::test]
async fn streams_of_one_node_are_bounded_and_given_back() {
    let lab = Lab::new().await;
    let mut held = Vec::new();
    for _ in 0..FOLLOWERS_OF_A_CALLER {
        let mut follower = lab.follow("node1").await.unwrap();
        follower.next().await.unwrap();
        held.push(follower);
    }
    let status = lab.follow("node1").await.err().unwrap();
    assert_eq!(status.code(), Code::ResourceExhausted);
    lab.follow("node2").await.unwrap().next().await.unwrap();

    drop(held);
    let free = async {
        // The server learns of the end a moment later, by the reset of each stream.
        while lab.follow("node1").await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, free).await.unwrap();
}

#[tokio::test]
async fn stop_ends_every_stream_in_order() {
    let mut lab = Lab::new().await;
    let mut follower = lab.follow("node1").await.unwrap();
    follower.next().await.unwrap();
    lab.cancel.cancel();
    assert_eq!(follower.next().await, None);
    timeout(PATIENCE, lab.server.join_next()).await.unwrap().unwrap().unwrap().unwrap();
}
