//! The rules of a cluster, over the wire, with an API server in memory.

use std::sync::Arc;
use std::time::Duration;

use culvert_proto::istio::ca::IstioCertificateRequest;
use culvert_spiffe::{SpiffeId, TrustDomain};
use time::OffsetDateTime;
use tonic::{Code, Request};

use super::lab::{DB, Lab, WEB, asking_for, authorize, csr};
use crate::attest::Residents;
use crate::attest::kubernetes::testing::{AUDIENCE, FakeApiServer};
use crate::attest::kubernetes::{NodePods, Permissions, Phase, ServiceAccountTokens};

/// Two nodes with an agent each; `web` on the first, `db` on the second.
pub(super) async fn cluster(never: &[&str]) -> (FakeApiServer, Lab) {
    let server = FakeApiServer::default();
    server.pod("culvert-system", "agent-1", "culvert-agent", "node1");
    server.pod("culvert-system", "agent-2", "culvert-agent", "node2");
    server.pod("default", "a1", "web", "node1");
    server.pod("default", "b1", "db", "node2");
    let domain: TrustDomain = "td".parse().unwrap();
    let permissions = Permissions {
        agents: vec!["spiffe://td/ns/culvert-system/sa/culvert-agent".parse().unwrap()],
        never: never.iter().map(|id| id.parse::<SpiffeId>().unwrap()).collect(),
        enrolled_only: true,
    };
    let mut lab = Lab::start(OffsetDateTime::now_utc(), |_, _| {
        let tokens =
            ServiceAccountTokens::new(server.clone(), domain.clone(), vec![AUDIENCE.to_owned()]);
        let pods = NodePods::new(server.clone(), domain, permissions);
        (tokens, Arc::new(pods) as Arc<dyn Residents>)
    })
    .await;
    lab.token = server.token("agent-1");
    (server, lab)
}

pub(super) fn asking(lab: &Lab, token: &str, identity: &str) -> Request<IstioCertificateRequest> {
    let mut request = lab.good();
    request.get_mut().csr =
        csr(&rcgen::KeyPair::generate().unwrap(), |params| params.subject_alt_names.clear());
    request.get_mut().metadata = Some(asking_for(identity));
    authorize(&mut request, token);
    request
}

#[tokio::test]
async fn tokens_that_prove_nothing_are_refused() {
    let (server, lab) = cluster(&[]).await;
    let now = OffsetDateTime::now_utc().unix_timestamp();
    for (token, rule) in [
        (server.token_for("agent-1", AUDIENCE, now - 1), "token_expired"),
        (server.token_for("agent-1", "istio-ca", now + 60), "token_audience"),
        (server.user_token("admin"), "not_service_account"),
        (
            server.user_token("system:serviceaccount:culvert-system:culvert-agent"),
            "not_service_account",
        ),
        (
            server.unbound_token("system:serviceaccount:culvert-system:culvert-agent"),
            "not_bound_to_pod",
        ),
        // A token of another cluster.
        (FakeApiServer::default().user_token("x"), "token_unknown"),
        ("a.b.c".to_owned(), "malformed_token"),
    ] {
        lab.refused(asking(&lab, &token, WEB), Code::Unauthenticated, rule).await;
    }
    server.state().ignores_audiences = true;
    let request = asking(&lab, &server.token("agent-2"), WEB);
    let status = lab.send(request).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(lab.audit.last()["rule"], "token_audience");
}

#[tokio::test]
async fn impersonation_is_for_agents_and_their_own_node() {
    let (server, lab) = cluster(&["spiffe://td/ns/kube-system/sa/admin"]).await;
    server.pod("kube-system", "k1", "admin", "node1");
    server.pod("default", "a3", "plain", "node1");
    server.change("a3", |pod| pod.enrolled = false);
    let agent = server.token("agent-1");
    for (token, identity, rule) in [
        (server.token("a1"), DB, "not_own_identity"),
        (server.token("a1"), "spiffe://td/ns/culvert-system/sa/culvert-agent", "not_own_identity"),
        (agent.clone(), DB, "not_on_node"),
        (server.token("agent-2"), WEB, "not_on_node"),
        (agent.clone(), "spiffe://td/ns/default/sa/nobody", "not_on_node"),
        (agent.clone(), "spiffe://td/ns/kube-system/sa/admin", "never_issued"),
        (agent.clone(), "spiffe://td/ns/default/sa/plain", "not_enrolled"),
        (agent.clone(), "spiffe://other/ns/default/sa/web", "foreign_trust_domain"),
        (agent.clone(), "spiffe://td/ns/culvert-system/sa/culvert-ca", "reserved_identity"),
        (agent, "spiffe://td/ns/default/sa/web\0", "malformed_identity"),
    ] {
        lab.refused(asking(&lab, &token, identity), Code::Unauthenticated, rule).await;
    }
    // Its own identity an ordinary account may name as well.
    lab.send(asking(&lab, &server.token("a1"), WEB)).await.unwrap();
}

#[tokio::test]
async fn finished_pods_are_nobody_and_new_ones_somebody_at_once() {
    let (server, lab) = cluster(&[]).await;
    let agent = server.token("agent-1");
    server.pod("default", "job-1", "job", "node1");
    server.change("job-1", |pod| pod.phase = Phase::Succeeded);
    let job = "spiffe://td/ns/default/sa/job";
    lab.refused(asking(&lab, &agent, job), Code::Unauthenticated, "not_on_node").await;
    server.change("job-1", |pod| pod.phase = Phase::Failed);
    lab.refused(asking(&lab, &agent, job), Code::Unauthenticated, "not_on_node").await;

    // The list of the node has just been asked for; the pod is younger than it.
    server.pod("default", "job-2", "job", "node1");
    server.change("job-2", |pod| pod.phase = Phase::Pending);
    tokio::time::sleep(Duration::from_millis(10)).await;
    lab.send(asking(&lab, &agent, job)).await.unwrap();
}

#[tokio::test]
async fn agent_whose_pod_ended_or_was_made_again_is_nobody() {
    let (server, mut lab) = cluster(&[]).await;
    let old = server.token("agent-2");
    // Known and good, so that the answer of the review is remembered.
    lab.send(asking(&lab, &old, DB)).await.unwrap();
    server.change("agent-2", |pod| pod.phase = Phase::Failed);
    // The node's list is believed for five seconds.
    let ended = async |request: &dyn Fn() -> Request<IstioCertificateRequest>, rule: &str| {
        let status = loop {
            match lab.send(request()).await {
                Ok(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                Err(status) => break status,
            }
        };
        assert_eq!(status.code(), Code::Unauthenticated);
        assert_eq!(lab.audit.last()["rule"], rule);
    };
    ended(&|| asking(&lab, &old, DB), "caller_pod_finished").await;
    server.delete("agent-2");
    server.pod("culvert-system", "agent-2", "culvert-agent", "node2");
    lab.refused(asking(&lab, &old, DB), Code::Unauthenticated, "caller_pod_gone").await;
    lab.token = server.token("agent-2");
    lab.send(asking(&lab, &lab.token, DB)).await.unwrap();
}

#[tokio::test]
async fn failing_api_server_says_come_again() {
    let (server, mut lab) = cluster(&[]).await;
    server.state().fails = true;
    let status = lab.send(asking(&lab, &lab.token, WEB)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(lab.audit.last()["rule"], "api_server");
    server.state().fails = false;
    // Another token, for the failure of the first is remembered for a second.
    lab.token = server.token("agent-1");
    lab.serves().await;
    // The token is known now, the pods are not.
    server.state().fails = true;
    let db = asking(&lab, &server.token("agent-2"), DB);
    assert_eq!(lab.send(db).await.unwrap_err().code(), Code::Unavailable);
    server.state().fails = false;
    lab.serves().await;
}
