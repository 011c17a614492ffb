use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;

use super::*;
use crate::attest::kubernetes::{NodePods, Permissions};
use crate::attest::{Caller, PodCaller, Residents as _};
use crate::audit::Rule;
use crate::kubernetes::testing::{Cluster, Fault};

/// The pods of a cluster, followed.
struct Followed {
    pods: Arc<ApiServerPods>,
    _tasks: JoinSet<()>,
}

fn follow(cluster: &Cluster) -> Followed {
    let namespaces = Arc::new(Namespaces::new(cluster.client()));
    let pods = Arc::new(ApiServerPods::new(cluster.client(), namespaces.clone()));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { namespaces.follow(CancellationToken::new()).await });
    let followed = pods.clone();
    tasks.spawn(async move { followed.follow(CancellationToken::new()).await });
    Followed { pods, _tasks: tasks }
}

impl Followed {
    /// Waits until what is followed is as `wanted` says; fails after a while.
    async fn until(&self, node: &str, wanted: impl Fn(&[Pod]) -> bool) -> Vec<Pod> {
        let mut changes = self.pods.watched.changes();
        let mut namespaces = self.pods.namespaces.changes();
        loop {
            let pods = self.pods.pods_on(node, Freshness::Followed).await.unwrap();
            if wanted(&pods) {
                return pods;
            }
            let change = async {
                tokio::select! {
                    of_pods = changes.changed() => of_pods.unwrap(),
                    of_namespaces = namespaces.changed() => of_namespaces.unwrap(),
                }
            };
            tokio::time::timeout(Duration::from_mins(2), change).await.expect("it changes");
        }
    }
}

fn names(pods: &[Pod]) -> Vec<&str> {
    let mut names: Vec<_> = pods.iter().map(|pod| pod.name.as_str()).collect();
    names.sort_unstable();
    names
}

#[tokio::test(start_paused = true)]
async fn pods_are_followed_by_node_with_what_labels_make_of_them() {
    let cluster = Cluster::default();
    cluster.namespace("shop", &[("istio.io/dataplane-mode", "ambient")]);
    cluster.pod("shop", "a1", "web", "node1", &json!({}));
    let out = json!({ "metadata": { "labels": { "culvert.io/dataplane-mode": "disabled" } } });
    cluster.pod("shop", "a2", "web", "node1", &out);
    cluster.pod("shop", "a3", "web", "node1", &json!({ "spec": { "hostNetwork": true } }));
    cluster.pod("shop", "b1", "db", "node2", &json!({ "spec": { "serviceAccountName": null } }));
    let done = json!({ "status": { "phase": "Succeeded" }, "spec": { "nodeName": "" } });
    cluster.pod("shop", "c1", "job", "", &done);
    let followed = follow(&cluster);
    let pods = followed.until("node1", |pods| pods.len() == 3).await;
    let enrolled: Vec<_> = pods.iter().filter(|pod| pod.enrolled).cloned().collect();
    assert_eq!(names(&enrolled), ["a1"]);
    assert_eq!((enrolled[0].uid.as_str(), enrolled[0].phase), ("uid-of-a1", Phase::Running));
    let b1 = &followed.pods.pods_on("node2", Freshness::Followed).await.unwrap()[0];
    assert_eq!(b1.account, "default", "a pod that names no account has that one");
    let c1 = followed.pods.pod("shop", "c1").await.unwrap().unwrap();
    assert_eq!((c1.node, c1.phase), (None, Phase::Succeeded));

    // The namespace is taken out, a pod is deleted, another comes in its place.
    cluster.namespace("shop", &[]);
    cluster.delete("pods", "shop", "a1");
    cluster.pod("shop", "a2", "web", "node2", &json!({}));
    let pods = followed.until("node1", |pods| names(pods) == ["a3"]).await;
    assert!(!pods[0].enrolled);
    let pods = followed.until("node2", |pods| names(pods) == ["a2", "b1"]).await;
    assert!(pods.iter().all(|pod| !pod.enrolled));
    assert_eq!(followed.pods.pods_of("shop", "web").await.unwrap().len(), 2);
    assert!(followed.pods.pod("shop", "a1").await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn long_lists_come_in_pages_and_what_was_missed_is_found_after_a_cut() {
    let cluster = Cluster::default();
    for number in 0..1201 {
        cluster.pod("shop", &format!("p{number}"), "web", "node1", &json!({}));
    }
    let followed = follow(&cluster);
    followed.until("node1", |pods| pods.len() == 1201).await;
    assert_eq!(cluster.asked("GET pods"), 3, "three pages of 500");
    // The API server goes away, pods come and go, and it remembers no changes afterwards.
    cluster.fail(Some(Fault::Status(503)));
    cluster.cut(true);
    cluster.delete("pods", "shop", "p0");
    cluster.pod("shop", "new", "web", "node2", &json!({}));
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert_eq!(followed.pods.pods_on("node1", Freshness::Followed).await.unwrap().len(), 1201);
    // Longer than it remembers.
    cluster.cut(true);
    cluster.fail(None);
    followed.until("node1", |pods| pods.len() == 1200).await;
    followed.until("node2", |pods| names(pods) == ["new"]).await;
}

#[tokio::test(start_paused = true)]
async fn objects_at_every_limit_are_read() {
    let cluster = Cluster::default();
    let huge = "x".repeat(250_000);
    let annotations =
        json!({ "metadata": { "annotations": { "huge": huge, "sidecar.istio.io/status": "" } } });
    let name = "n".repeat(253);
    cluster.pod("shop", &name, &"s".repeat(253), "node1", &annotations);
    let strange = json!({ "status": { "phase": "Dreaming" }, "metadata": { "labels": null } });
    cluster.pod("shop", "strange", "web", "node1", &strange);
    cluster.put("pods", "shop", json!({ "metadata": { "name": "bare" }, "spec": {} }));
    let followed = follow(&cluster);
    let pods = followed.until("node1", |pods| pods.len() == 2).await;
    assert!(pods.iter().any(|pod| pod.name == name));
    let strange = pods.iter().find(|pod| pod.name == "strange").unwrap();
    assert!(!strange.phase.is_alive(), "nothing is given to what is not understood");
    assert!(followed.pods.pod("shop", "bare").await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn pod_that_is_not_followed_yet_is_found_by_asking() {
    let cluster = Cluster::default();
    cluster.namespace("shop", &[("istio.io/dataplane-mode", "ambient")]);
    cluster.pod("culvert-system", "agent", "culvert-agent", "node1", &json!({}));
    let followed = follow(&cluster);
    followed.until("node1", |pods| pods.len() == 1).await;
    // The watch breaks, and a pod is made that it does not tell of.
    cluster.fail_on("GET pods", Some(Fault::Hang));
    cluster.cut(false);
    tokio::time::sleep(Duration::from_mins(1)).await;
    cluster.pod("shop", "a1", "web", "node1", &json!({}));
    let domain: culvert_spiffe::TrustDomain = "td".parse().unwrap();
    let agent = culvert_spiffe::SpiffeId::new(&domain, "culvert-system", "culvert-agent").unwrap();
    let web = culvert_spiffe::SpiffeId::new(&domain, "shop", "web").unwrap();
    let permissions =
        Permissions { agents: vec![agent.clone()], never: vec![], enrolled_only: true };
    let residents = NodePods::new(followed.pods.clone(), domain, permissions);
    let caller = Caller::Pod(PodCaller {
        identity: agent,
        name: "agent".into(),
        uid: "uid-of-agent".into(),
        node: Some("node1".into()),
    });
    assert_eq!(residents.beside(&caller, &web).await, Err(Rule::ApiServer));
    cluster.fail_on("GET pods", None);
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!(residents.beside(&caller, &web).await, Ok(()));
}
