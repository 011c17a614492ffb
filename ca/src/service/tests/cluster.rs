//! The parts of a cluster together, over the wire: tokens, pods and namespaces of an API server in
//! memory, asked by a real client of it.

use std::sync::Arc;

use culvert_proto::culvert::ca as wire;
use culvert_proto::culvert::ca::authority_client::AuthorityClient;
use futures_util::{StreamExt as _, stream};
use serde_json::json;
use time::OffsetDateTime;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request};

use super::kubernetes::asking;
use super::lab::{Lab, WEB, authorize, channel};
use crate::attest::Residents;
use crate::attest::kubernetes::{NodePods, Permissions, ServiceAccountTokens};
use crate::kubernetes::testing::{Cluster, Fault, SYSTEM};
use crate::kubernetes::{ApiServerPods, ApiServerReviewer, Namespaces};

/// Two nodes with an agent each, and `default` in the mesh, with `web` on the first node.
async fn lab() -> (Cluster, Lab, JoinSet<()>) {
    let cluster = Cluster::default();
    cluster.namespace("default", &[("istio.io/dataplane-mode", "ambient")]);
    cluster.pod(SYSTEM, "agent-1", "culvert-agent", "node1", &json!({}));
    cluster.pod(SYSTEM, "agent-2", "culvert-agent", "node2", &json!({}));
    cluster.pod("default", "a1", "web", "node1", &json!({}));
    let client = cluster.client();
    let namespaces = Arc::new(Namespaces::new(client.clone()));
    let pods = Arc::new(ApiServerPods::new(client.clone(), namespaces.clone()));
    let mut tasks = JoinSet::new();
    let followed = pods.clone();
    tasks.spawn(async move { namespaces.follow(CancellationToken::new()).await });
    tasks.spawn(async move { followed.follow(CancellationToken::new()).await });
    let mut lab = Lab::start(OffsetDateTime::now_utc(), |_, _| {
        let domain: culvert_spiffe::TrustDomain = "td".parse().unwrap();
        let reviewer = ApiServerReviewer::new(client);
        let tokens =
            ServiceAccountTokens::new(reviewer, domain.clone(), vec!["culvert-ca".to_owned()]);
        let permissions = Permissions {
            agents: vec!["spiffe://td/ns/culvert-system/sa/culvert-agent".parse().unwrap()],
            never: vec![],
            enrolled_only: true,
        };
        let pods = NodePods::new(pods, domain, permissions);
        (tokens, Arc::new(pods) as Arc<dyn Residents>)
    })
    .await;
    lab.token = agent(&cluster, 1);
    (cluster, lab, tasks)
}

fn agent(cluster: &Cluster, number: u8) -> String {
    let pod = format!("agent-{number}");
    let (uid, node) = (format!("uid-of-{pod}"), format!("node{number}"));
    cluster.token(SYSTEM, "culvert-agent", &pod, &uid, &node)
}

#[tokio::test]
async fn projected_token_of_an_agent_is_good_for_the_enrolled_pods_of_its_node_alone() {
    let (cluster, lab, _tasks) = lab().await;
    lab.serves().await;
    assert_eq!(lab.audit.last()["node"], "node1");
    let other = agent(&cluster, 2);
    lab.refused(asking(&lab, &other, WEB), Code::Unauthenticated, "not_on_node").await;
    // A pod milliseconds old, in a namespace that is known.
    cluster.pod("default", "new", "new", "node1", &json!({ "status": { "phase": "Pending" } }));
    lab.send(asking(&lab, &lab.token, "spiffe://td/ns/default/sa/new")).await.unwrap();
    // Out by its own label.
    let out = json!({ "metadata": { "labels": { "istio.io/dataplane-mode": "none" } } });
    cluster.pod("default", "out", "out", "node1", &out);
    let asked = asking(&lab, &lab.token, "spiffe://td/ns/default/sa/out");
    lab.refused(asked, Code::Unauthenticated, "not_enrolled").await;
    // Of a pod itself, for itself.
    let web = cluster.token("default", "web", "a1", "uid-of-a1", "node1");
    lab.send(asking(&lab, &web, WEB)).await.unwrap();
}

#[tokio::test]
async fn api_server_away_says_come_again_and_known_tokens_are_served() {
    let (cluster, lab, _tasks) = lab().await;
    lab.serves().await;
    cluster.fail(Some(Fault::Status(503)));
    lab.serves().await;
    let status = lab.send(asking(&lab, &agent(&cluster, 2), WEB)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(lab.audit.last()["rule"], "api_server");
}

/// Follows the bundle, and says that this number of it is in force; the first answer is there.
async fn acknowledge(lab: &Lab, token: &str, sequence: u64) {
    let said = stream::iter([wire::BundleInForce { sequence }]).chain(stream::pending());
    let mut request = Request::new(said);
    authorize(&mut request, token);
    let mut client = AuthorityClient::new(channel(lab.address, &lab.bundle, None));
    let mut bundles = client.follow_bundle(request).await.unwrap().into_inner();
    bundles.message().await.unwrap().unwrap();
}

#[tokio::test]
async fn only_the_agent_says_what_its_node_has_in_force() {
    let (cluster, lab, _tasks) = lab().await;
    // A pod of the node takes as many streams as it gets, and lies.
    let web = cluster.token("default", "web", "a1", "uid-of-a1", "node1");
    for _ in 0..4 {
        acknowledge(&lab, &web, 7).await;
    }
    let heard = async || {
        lab.authority.tend(OffsetDateTime::now_utc()).await.unwrap();
        std::fs::read_to_string(lab.directory.path().join("ca/heard.json")).unwrap_or_default()
    };
    acknowledge(&lab, &agent(&cluster, 2), 1).await;
    let mut text = heard().await;
    while !text.contains("node2") {
        tokio::task::yield_now().await;
        text = heard().await;
    }
    assert!(!text.contains("node1"), "{text}");
}
