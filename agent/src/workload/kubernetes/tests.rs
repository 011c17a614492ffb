use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::testing::{Cluster, namespace, pod, uid, with};
use super::{Annotator, Announcer, Events, Settings, Source};
use crate::observe::Metrics;
use crate::workload::{
    Announce as _, AnnounceError, Announced, Decision, Snapshot, Steered, WorkloadKey,
};

const PODS: &str = "/api/v1/pods";
const NAMESPACES: &str = "/api/v1/namespaces";
const NODES: &str = "/api/v1/nodes";

/// A source that follows a cluster.
struct Followed {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    announcer: Announcer,
    annotator: Option<Annotator>,
    events: Option<Events>,
    metrics: Metrics,
    proc: tempfile::TempDir,
    _stop: DropGuard,
}

impl Followed {
    async fn start(cluster: &Cluster) -> Self {
        let proc = tempfile::tempdir().unwrap();
        let metrics = Metrics::new().unwrap();
        let settings = Settings {
            node: "node1".to_owned(),
            trust_domain: "cluster.local".parse().unwrap(),
            root_namespace: "istio-system".to_owned(),
            pod_ranges: Vec::new(),
            proc: proc.path().to_owned(),
            netns_directory: proc.path().join("names"),
        };
        let (source, snapshots) = Source::open(settings, cluster.client(), &metrics).await.unwrap();
        let announcer = source.announcer();
        let annotator = Some(source.annotator(&metrics).unwrap());
        let events = Some(source.events(&metrics).unwrap());
        let stop = CancellationToken::new();
        let token = stop.clone();
        // Joined by nobody: it ends with the test's runtime.
        #[expect(clippy::disallowed_methods, reason = "ends with the test")]
        tokio::spawn(async move { source.run(token).await.unwrap() });
        Self { snapshots, announcer, annotator, events, metrics, proc, _stop: stop.drop_guard() }
    }

    /// Waits until the mesh is so. The clock is paused: what never comes fails at once.
    async fn until(&mut self, what: &str, is: impl FnMut(&Arc<Snapshot>) -> bool) -> Arc<Snapshot> {
        let waited = tokio::time::timeout(Duration::from_mins(5), self.snapshots.wait_for(is));
        let waited = waited.await.unwrap_or_else(|_| panic!("it never came that {what}"));
        Arc::clone(&waited.unwrap())
    }

    fn is_enrolled(&self, name: &str) -> Option<bool> {
        enrolled(&self.snapshots.borrow(), name)
    }

    fn process(&self, pid: u32) -> PathBuf {
        self.proc.path().join(pid.to_string())
    }

    /// A process of the pod, so that its namespace is found.
    fn run_process(&self, pid: u32, namespace: &str, name: &str) {
        let directory = self.process(pid);
        std::fs::create_dir_all(directory.join("ns")).unwrap();
        let cgroup = format!("0::/kubepods/pod{}/c\n", uid(namespace, name));
        std::fs::write(directory.join("cgroup"), cgroup).unwrap();
        std::fs::write(directory.join("stat"), started(1)).unwrap();
        std::fs::write(directory.join("ns/net"), "").unwrap();
    }
}

fn enrolled(snapshot: &Snapshot, name: &str) -> Option<bool> {
    snapshot.by_key(&WorkloadKey::new("shop", name)).map(|workload| workload.enrolled)
}

/// A cluster with the namespace `shop`, labelled to be enrolled or not.
fn cluster(labelled: bool) -> Cluster {
    let cluster = Cluster::new();
    let labels = if labelled { json!({"istio.io/dataplane-mode": "ambient"}) } else { json!({}) };
    cluster.put(NAMESPACES, namespace("shop", &labels));
    let node = json!({"metadata": {"name": "node1"}, "spec": {"podCIDRs": ["10.0.0.0/24"]}});
    cluster.put(NODES, node);
    cluster
}

#[tokio::test(start_paused = true)]
async fn label_of_the_namespace_enrols_its_pods_of_this_node() {
    let cluster = cluster(false);
    cluster.put(PODS, pod("shop", "a", "node1", "10.0.0.1"));
    cluster.put(PODS, pod("shop", "far", "node2", "10.0.1.1"));
    let mut followed = Followed::start(&cluster).await;
    assert_eq!(followed.snapshots.borrow().generation, 1);
    assert_eq!(followed.is_enrolled("a"), Some(false));
    followed.run_process(7, "shop", "a");

    cluster.put(NAMESPACES, namespace("shop", &json!({"culvert.io/dataplane-mode": "enabled"})));
    let has_netns = |snapshot: &Arc<Snapshot>| {
        snapshot.by_key(&WorkloadKey::new("shop", "a")).unwrap().netns.is_some()
    };
    let snapshot = followed.until("a is enrolled and found", has_netns).await;
    let a = snapshot.by_key(&WorkloadKey::new("shop", "a")).unwrap();
    assert!(a.enrolled);
    assert_eq!(a.netns.as_deref(), Some(&*followed.proc.path().join("7/ns/net")));
    assert_eq!(enrolled(&snapshot, "far"), Some(false), "its own agent has not said so");

    // Its sandbox dies and is made again.
    let eighth = has_netns_of(followed.process(8));
    std::fs::remove_dir_all(followed.process(7)).unwrap();
    followed.run_process(8, "shop", "a");
    followed.until("the new namespace is found", eighth).await;
    // Once more, and the old one is still there for a while: the address tells.
    let ninth = has_netns_of(followed.process(6));
    followed.run_process(6, "shop", "a");
    std::fs::write(followed.process(6).join("stat"), started(0)).unwrap();
    cluster.put(PODS, pod("shop", "a", "node1", "10.0.0.99"));
    followed.until("the newest namespace is found", ninth).await;

    cluster.put(NAMESPACES, namespace("shop", &json!({})));
    followed.until("a is released", |s| enrolled(s, "a") == Some(false)).await;
}

/// Whether the namespace of `a` is that of a process.
fn has_netns_of(process: PathBuf) -> impl Fn(&Arc<Snapshot>) -> bool {
    move |snapshot| {
        let a = snapshot.by_key(&WorkloadKey::new("shop", "a")).unwrap();
        a.netns.as_deref() == Some(&*process.join("ns/net"))
    }
}

/// A `/proc/PID/stat` of a process that began then.
fn started(at: u32) -> String {
    format!("7 (a) S {}{at} 0", "0 ".repeat(18))
}

#[tokio::test(start_paused = true)]
async fn label_of_a_pod_goes_before_its_namespace_and_a_bad_one_counts_for_nothing() {
    let cluster = cluster(true);
    let labelled = |name: &str, ip: &str, value: &str| {
        let labels = json!({"metadata": {"labels": {"culvert.io/dataplane-mode": value}}});
        cluster.put(PODS, with(pod("shop", name, "node1", ip), &labels));
    };
    labelled("out", "10.0.0.1", "disabled");
    labelled("odd", "10.0.0.2", "yes");
    let followed = Followed::start(&cluster).await;
    assert_eq!(followed.is_enrolled("out"), Some(false));
    assert_eq!(followed.is_enrolled("odd"), Some(true));
    let metrics = followed.metrics.encode().unwrap();
    assert!(
        metrics.contains("culvert_workload_faulty_objects{reason=\"bad_label\"} 1"),
        "{metrics}"
    );
}

#[tokio::test(start_paused = true)]
async fn annotation_of_another_node_s_agent_says_that_a_pod_is_enrolled() {
    let cluster = cluster(true);
    let far = pod("shop", "far", "node2", "10.0.1.1");
    cluster.put(PODS, far.clone());
    let mut followed = Followed::start(&cluster).await;
    assert_eq!(followed.is_enrolled("far"), Some(false));
    let annotation =
        json!({"metadata": {"annotations": {"ambient.istio.io/redirection": "enabled"}}});
    cluster.put(PODS, with(far.clone(), &annotation));
    followed.until("far is enrolled", |s| enrolled(s, "far") == Some(true)).await;
    cluster.put(PODS, far);
    followed.until("far is not any more", |s| enrolled(s, "far") == Some(false)).await;
}

#[tokio::test(start_paused = true)]
async fn pods_that_end_or_go_leave_and_no_generation_is_wasted() {
    let cluster = cluster(true);
    cluster.put(PODS, pod("shop", "a", "node1", "10.0.0.1"));
    cluster.put(PODS, pod("shop", "job", "node1", "10.0.0.2"));
    let mut followed = Followed::start(&cluster).await;
    let first = followed.snapshots.borrow_and_update().generation;
    // Says nothing that matters: a condition, an annotation of somebody else.
    let more = json!({"metadata": {"annotations": {"example.org/x": "y"}}});
    cluster.put(PODS, with(pod("shop", "a", "node1", "10.0.0.1"), &more));
    let ended = json!({"status": {"phase": "Succeeded"}});
    cluster.put(PODS, with(pod("shop", "job", "node1", "10.0.0.2"), &ended));
    let snapshot = followed.until("the job has ended", |s| enrolled(s, "job").is_none()).await;
    assert_eq!(snapshot.generation, first + 1);
    cluster.remove(PODS, "shop", "a");
    let snapshot = followed.until("a is gone", |s| enrolled(s, "a").is_none()).await;
    assert_eq!(snapshot.generation, first + 2);
}

#[tokio::test(start_paused = true)]
async fn last_good_state_stays_while_the_api_server_is_away() {
    let cluster = cluster(true);
    cluster.put(PODS, pod("shop", "a", "node1", "10.0.0.1"));
    cluster.put(PODS, pod("shop", "b", "node1", "10.0.0.2"));
    let mut followed = Followed::start(&cluster).await;
    let listed = |cluster: &Cluster| {
        cluster
            .asked()
            .iter()
            .filter(|asked| asked.contains("pods?") && !asked.contains("watch"))
            .count()
    };
    let before = listed(&cluster);
    cluster.set_away(true);
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert_eq!(followed.snapshots.borrow().workloads().len(), 2);
    let failing = "culvert_workload_watch_failing{resource=\"pods\"}";
    assert!(followed.metrics.encode().unwrap().contains(&format!("{failing} 1")));

    cluster.put(PODS, pod("shop", "c", "node1", "10.0.0.3"));
    cluster.set_away(false);
    followed.until("c is heard of", |s| enrolled(s, "c").is_some()).await;
    assert_eq!(followed.snapshots.borrow().workloads().len(), 3);
    assert_eq!(listed(&cluster), before, "it went on where it was, and listed nothing again");
    assert!(followed.metrics.encode().unwrap().contains(&format!("{failing} 0")));
}

#[tokio::test(start_paused = true)]
async fn what_went_unseen_goes_with_the_next_list() {
    let cluster = cluster(true);
    for (name, ip) in [("a", "10.0.0.1"), ("b", "10.0.0.2")] {
        cluster.put(PODS, pod("shop", name, "node1", ip));
    }
    let mut followed = Followed::start(&cluster).await;
    cluster.remove_unseen(PODS, "shop", "a");
    cluster.forget();
    let snapshot = followed.until("a is gone", |s| enrolled(s, "a").is_none()).await;
    assert_eq!(enrolled(&snapshot, "b"), Some(true));
}

#[tokio::test(start_paused = true)]
async fn start_waits_for_an_api_server_that_is_away() {
    let cluster = cluster(true);
    cluster.put(PODS, pod("shop", "a", "node1", "10.0.0.1"));
    cluster.set_away(true);
    let mut start = std::pin::pin!(Followed::start(&cluster));
    let waited = tokio::time::timeout(Duration::from_mins(2), start.as_mut()).await;
    assert!(waited.is_err(), "it began with an empty mesh");
    cluster.set_away(false);
    assert_eq!(start.await.is_enrolled("a"), Some(true));
}

#[tokio::test(start_paused = true)]
async fn many_pods_come_in_pages() {
    let cluster = cluster(false);
    for number in 0..600 {
        let ip = format!("10.1.{}.{}", number / 200, number % 200 + 1);
        cluster.put(PODS, pod("shop", &format!("p{number}"), "node2", &ip));
    }
    let followed = Followed::start(&cluster).await;
    assert_eq!(followed.snapshots.borrow().workloads().len(), 600);
    let pages = cluster.asked().iter().filter(|asked| asked.contains("pods?&limit=250")).count();
    assert_eq!(pages, 3, "{:?}", cluster.asked());
}

#[tokio::test(start_paused = true)]
async fn an_address_of_two_pods_belongs_to_the_one_that_stays() {
    let cluster = cluster(true);
    let leaving = json!({"metadata": {
        "deletionTimestamp": "2026-01-02T04:00:00Z", "creationTimestamp": "2026-01-02T03:59:00Z"}});
    cluster.put(PODS, with(pod("shop", "old", "node2", "10.0.0.1"), &leaving));
    cluster.put(PODS, pod("shop", "new", "node1", "10.0.0.1"));
    let older = json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}});
    cluster.put(PODS, with(pod("shop", "older", "node2", "10.0.0.2 fd00::1"), &older));
    cluster.put(PODS, pod("shop", "younger", "node2", "10.0.0.2"));
    let mut followed = Followed::start(&cluster).await;
    let snapshot = Arc::clone(&followed.snapshots.borrow());
    let owner = |ip: &str| snapshot.by_address(ip.parse().unwrap()).unwrap().name.clone();
    assert_eq!(owner("10.0.0.1"), "new");
    assert_eq!(owner("10.0.0.2"), "younger");
    assert_eq!(owner("fd00::1"), "older");
    let taken = "culvert_workload_faulty_objects{reason=\"address_taken\"}";
    assert!(followed.metrics.encode().unwrap().contains(&format!("{taken} 2")));

    cluster.remove(PODS, "shop", "younger");
    let older =
        |s: &Arc<Snapshot>| s.by_address("10.0.0.2".parse().unwrap()).unwrap().name == "older";
    followed.until("older has its address again", older).await;
    assert!(followed.metrics.encode().unwrap().contains(&format!("{taken} 1")));
}

fn announced(name: &str) -> Announced {
    Announced {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        uid: uid("shop", name).parse().unwrap(),
        netns: "/run/netns/cni-1".into(),
        addresses: vec!["10.0.0.9".parse().unwrap()],
    }
}

#[tokio::test(start_paused = true)]
async fn an_announced_pod_is_enrolled_before_anybody_knows_its_address() {
    let cluster = cluster(true);
    cluster.put(PODS, pod("shop", "a", "node1", ""));
    let mut followed = Followed::start(&cluster).await;
    assert_eq!(followed.is_enrolled("a"), None);
    let decision = followed.announcer.announce(announced("a")).await.unwrap();
    assert_eq!(decision, Decision::Enrol);
    // Published by the time of the answer.
    let snapshot = Arc::clone(&followed.snapshots.borrow());
    let a = snapshot.by_address("10.0.0.9".parse().unwrap()).unwrap();
    assert_eq!((a.name.as_str(), a.enrolled), ("a", true));
    assert_eq!(a.netns.as_deref(), Some(Path::new("/run/netns/cni-1")));
    // The watch confirms it, with what the kubelet says.
    cluster.put(PODS, pod("shop", "a", "node1", "10.0.0.9 fd00::9"));
    let both = |s: &Arc<Snapshot>| s.by_address("fd00::9".parse().unwrap()).is_some();
    let snapshot = followed.until("a has both addresses", both).await;
    let a = snapshot.by_key(&WorkloadKey::new("shop", "a")).unwrap();
    assert_eq!(a.netns.as_deref(), Some(Path::new("/run/netns/cni-1")));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_no_watch_has_shown_is_asked_for() {
    let cluster = cluster(true);
    let followed = Followed::start(&cluster).await;
    cluster.put_unseen(PODS, pod("shop", "a", "node1", ""));
    cluster
        .put_unseen(NAMESPACES, namespace("later", &json!({"istio.io/dataplane-mode": "ambient"})));
    cluster.put_unseen(PODS, pod("later", "b", "node1", ""));
    let decision = followed.announcer.announce(announced("a")).await.unwrap();
    assert_eq!(decision, Decision::Enrol);
    assert_eq!(followed.is_enrolled("a"), Some(true));
    let mut later = announced("b");
    later.namespace = "later".to_owned();
    later.uid = uid("later", "b").parse().unwrap();
    later.addresses = vec!["10.0.0.10".parse().unwrap()];
    assert_eq!(followed.announcer.announce(later).await.unwrap(), Decision::Enrol);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_not_wanted_or_not_there_is_told_apart() {
    let cluster = cluster(false);
    cluster.put(PODS, pod("shop", "a", "node1", ""));
    let host = json!({"spec": {"hostNetwork": true}});
    cluster.put(PODS, with(pod("shop", "host", "node1", ""), &host));
    let followed = Followed::start(&cluster).await;
    for name in ["a", "host"] {
        let decision = followed.announcer.announce(announced(name)).await.unwrap();
        assert_eq!(decision, Decision::Leave, "{name}");
    }
    let error = followed.announcer.announce(announced("nobody")).await.unwrap_err();
    assert!(matches!(error, AnnounceError::NoSuchPod { .. }), "{error}");
    let mut other = announced("a");
    other.uid = uid("shop", "of the pod before").parse().unwrap();
    let error = followed.announcer.announce(other).await.unwrap_err();
    assert!(matches!(error, AnnounceError::NoSuchPod { .. }), "{error}");
    cluster.set_away(true);
    let error = followed.announcer.announce(announced("nobody")).await.unwrap_err();
    assert!(matches!(error, AnnounceError::Unanswered { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_withdrawn_pod_that_is_about_to_go_leaves_at_once() {
    let cluster = cluster(true);
    cluster.put(PODS, pod("shop", "a", "node1", ""));
    let mut followed = Followed::start(&cluster).await;
    let pod_a = announced("a");
    followed.announcer.announce(pod_a.clone()).await.unwrap();
    // One whose sandbox is made anew stays.
    followed.announcer.withdraw(&pod_a.uid);
    cluster.put(PODS, pod("shop", "a", "node1", "10.0.0.9"));
    followed.announcer.announce(pod_a.clone()).await.unwrap();
    let leaving = json!({"metadata": {"deletionTimestamp": "2026-01-02T04:00:00Z"}});
    cluster.put(PODS, with(pod("shop", "a", "node1", "10.0.0.9"), &leaving));
    cluster.put(PODS, pod("shop", "b", "node1", "10.0.0.8"));
    followed
        .until("both are known", |s| enrolled(s, "a").is_some() && enrolled(s, "b").is_some())
        .await;
    followed.announcer.withdraw(&pod_a.uid);
    followed.until("a is out", |s| enrolled(s, "a").is_none()).await;
}

const PEER_AUTHENTICATIONS: &str = "/apis/security.istio.io/v1/peerauthentications";
const OLD_PEER_AUTHENTICATIONS: &str = "/apis/security.istio.io/v1beta1/peerauthentications";
const AUTHORIZATION_POLICIES: &str = "/apis/security.istio.io/v1/authorizationpolicies";

fn strict(name: &str) -> serde_json::Value {
    json!({
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": {
            "namespace": "istio-system", "name": name, "creationTimestamp": "2026-01-02T03:04:05Z"},
        "spec": {"mtls": {"mode": "STRICT"}},
    })
}

fn policies(snapshot: &Snapshot) -> (usize, usize) {
    let policies = snapshot.policies();
    (policies.peer_authentications().len(), policies.authorization_policies().len())
}

#[tokio::test(start_paused = true)]
async fn policies_come_and_go_within_a_second() {
    let cluster = cluster(true);
    cluster.put(PEER_AUTHENTICATIONS, strict("first"));
    let mut followed = Followed::start(&cluster).await;
    assert_eq!(policies(&followed.snapshots.borrow()), (1, 0));
    let began = tokio::time::Instant::now();
    cluster.put(PEER_AUTHENTICATIONS, strict("second"));
    let allow = json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"namespace": "shop", "name": "nobody"}, "spec": {}});
    cluster.put(AUTHORIZATION_POLICIES, allow);
    followed.until("both are there", |s| policies(s) == (2, 1)).await;
    cluster.remove(PEER_AUTHENTICATIONS, "istio-system", "first");
    followed.until("one is gone", |s| policies(s) == (1, 1)).await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    // What is not about policies leaves them the very same.
    let before = Arc::clone(followed.snapshots.borrow().policies());
    cluster.put(PODS, pod("shop", "a", "node1", "10.0.0.1"));
    let snapshot = followed.until("a is there", |s| enrolled(s, "a").is_some()).await;
    assert!(Arc::ptr_eq(&before, snapshot.policies()));
}

#[tokio::test(start_paused = true)]
async fn kinds_of_policies_may_be_missing_come_later_and_vanish_for_a_moment() {
    let cluster = cluster(true);
    for kind in [PEER_AUTHENTICATIONS, OLD_PEER_AUTHENTICATIONS, AUTHORIZATION_POLICIES] {
        cluster.set_absent(kind, true);
    }
    cluster.set_absent("/apis/security.istio.io/v1beta1/authorizationpolicies", true);
    let mut followed = Followed::start(&cluster).await;
    assert_eq!(policies(&followed.snapshots.borrow()), (0, 0));
    // An older Istio has but the old version.
    cluster.put(OLD_PEER_AUTHENTICATIONS, strict("old"));
    cluster.set_absent(OLD_PEER_AUTHENTICATIONS, false);
    followed.until("the old version is read", |s| policies(s) == (1, 0)).await;
    cluster.set_absent(OLD_PEER_AUTHENTICATIONS, true);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(policies(&followed.snapshots.borrow()), (1, 0), "believed too soon");
    cluster.set_absent(OLD_PEER_AUTHENTICATIONS, false);
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(policies(&followed.snapshots.borrow()), (1, 0));
    cluster.set_absent(OLD_PEER_AUTHENTICATIONS, true);
    followed.until("it is believed", |s| policies(s) == (0, 0)).await;
}

const SERVICES: &str = "/api/v1/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";

#[tokio::test(start_paused = true)]
async fn a_service_and_the_ranges_of_pods_are_in_the_snapshot() {
    let cluster = cluster(true);
    let service = json!({"metadata": {"namespace": "shop", "name": "web"},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}});
    cluster.put(SERVICES, service);
    let mut followed = Followed::start(&cluster).await;
    let vip = "10.96.0.1".parse().unwrap();
    let endpoints = |s: &Arc<Snapshot>| s.services().by_address(vip).unwrap().ports[&80].len();
    assert_eq!(endpoints(&followed.snapshots.borrow()), 0);
    let slice = json!({
        "metadata": {"namespace": "shop", "name": "web-1",
            "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"port": 8080}],
        "endpoints": [{"addresses": ["10.0.0.7"], "nodeName": "node1"}]});
    cluster.put(SLICES, slice);
    let snapshot = followed.until("its endpoint is there", |s| endpoints(s) == 1).await;
    assert!(snapshot.is_pod_address("10.0.0.200".parse().unwrap()));
    assert!(!snapshot.is_pod_address("10.0.1.1".parse().unwrap()));
}

fn steered(snapshot: &Snapshot, names: &[&str]) -> Arc<Steered> {
    let keys = names.iter().map(|name| WorkloadKey::new("shop", name));
    Arc::new(keys.map(|key| Arc::clone(snapshot.by_key(&key).unwrap())).collect())
}

/// What the API server's pods say of their redirection.
fn redirections(cluster: &Cluster) -> Vec<Option<serde_json::Value>> {
    let patches = cluster.patches();
    patches
        .iter()
        .map(|(_, patch)| {
            let value = patch["metadata"]["annotations"]["ambient.istio.io/redirection"].clone();
            (!value.is_null()).then_some(value)
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn annotation_comes_after_a_pod_is_steered_and_goes_before_it_is_released() {
    let cluster = cluster(true);
    cluster.put(PODS, pod("shop", "a", "node1", "10.0.0.1"));
    let mut followed = Followed::start(&cluster).await;
    let (tell, told) = watch::channel(Arc::default());
    let annotator = followed.annotator.take().unwrap();
    let annotated = annotator.annotated();
    let stop = CancellationToken::new();
    let running = annotator.run(told, stop.child_token());
    let check = async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(redirections(&cluster), [], "before it is steered");
        let now = steered(&followed.snapshots.borrow(), &["a"]);
        tell.send_replace(now);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(redirections(&cluster), [Some(json!("enabled"))]);
        assert_eq!(cluster.patches()[0].1["metadata"]["uid"], uid("shop", "a"));

        // Nobody wants it in any more. As long as others may expect it, it stays.
        cluster.set_refusing_patches(true);
        cluster.put(NAMESPACES, namespace("shop", &json!({})));
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(followed.is_enrolled("a"), Some(true), "released too early");
        cluster.set_refusing_patches(false);
        followed.until("it is released", |s| enrolled(s, "a") == Some(false)).await;
        assert_eq!(redirections(&cluster).last(), Some(&None), "annotation is gone");
        let patches = cluster.patches().len();
        tell.send_replace(Arc::default());
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert_eq!(cluster.patches().len(), patches, "nothing is written again and again");

        // An agent that does not know all that is steered takes nothing off a pod.
        tell.send_replace(Arc::new(Steered::default().incomplete()));
        let label = json!({"metadata": {"labels": {"istio.io/dataplane-mode": "ambient"},
            "annotations": {"ambient.istio.io/redirection": "enabled"}}});
        cluster.put(PODS, with(pod("shop", "a", "node1", "10.0.0.1"), &label));
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert_eq!(cluster.patches().len(), patches);
        // When Culvert leaves for good nothing is steered any more.
        tell.send_replace(Arc::new(Steered::from_iter([])));
        annotated.until_none(Duration::from_secs(5)).await;
        assert_eq!(redirections(&cluster).len(), patches + 1);
        assert_eq!(redirections(&cluster).last(), Some(&None));
        assert_eq!(followed.is_enrolled("a"), Some(true), "the mesh has it to the end");
        stop.cancel();
    };
    tokio::join!(running, check);
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_takes_no_annotation_holds_no_pod_for_ever() {
    let cluster = cluster(true);
    let annotation =
        json!({"metadata": {"annotations": {"ambient.istio.io/redirection": "enabled"}}});
    cluster.put(PODS, with(pod("shop", "a", "node1", "10.0.0.1"), &annotation));
    let mut followed = Followed::start(&cluster).await;
    cluster.put(NAMESPACES, namespace("shop", &json!({})));
    let began = tokio::time::Instant::now();
    followed.until("it is released", |s| enrolled(s, "a") == Some(false)).await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

/// Against a real API server, which the one above only imitates: run with `--ignored`, and the path
/// of a kubeconfig in `CULVERT_TEST_KUBECONFIG`. It only reads.
#[tokio::test]
#[ignore = "needs a cluster"]
async fn a_real_cluster_is_listed() {
    let kubeconfig = std::env::var_os("CULVERT_TEST_KUBECONFIG").expect("names a kubeconfig");
    let client = super::connect(Some(Path::new(&kubeconfig))).await.unwrap();
    let nodes: kube::Api<k8s_openapi::api::core::v1::Node> = kube::Api::all(client.clone());
    let node = nodes.list(&kube::api::ListParams::default()).await.unwrap().items.remove(0);
    let metrics = Metrics::new().unwrap();
    let settings = Settings {
        node: node.metadata.name.unwrap(),
        trust_domain: "cluster.local".parse().unwrap(),
        root_namespace: "istio-system".to_owned(),
        pod_ranges: Vec::new(),
        proc: "/proc".into(),
        netns_directory: "/run/netns".into(),
    };
    let opened = Source::open(settings.clone(), client, &metrics);
    let opened = tokio::time::timeout(Duration::from_secs(30), opened).await;
    let (_source, snapshots) = opened.expect("everything is listed").unwrap();
    let snapshot = Arc::clone(&snapshots.borrow());
    for workload in snapshot.workloads() {
        println!(
            "{} {} {:?} {}",
            workload.key(),
            workload.node,
            workload.addresses,
            workload.enrolled
        );
    }
    for (address, service) in snapshot.services().iter() {
        println!("{address} {}/{} {:?}", service.namespace, service.name, service.ports);
    }
    let kubernetes = snapshot.services().iter().find(|(_, s)| s.name == "kubernetes");
    let (_, kubernetes) = kubernetes.expect("each cluster has this Service");
    assert_eq!(kubernetes.ports[&443].len(), 1);
    println!("{}", metrics.encode().unwrap());
}

/// Resident memory of this process, in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

/// In a process of its own: what else is tested at the same time must not be counted.
#[test]
fn ten_thousand_pods_take_little_memory() {
    let name = "workload::kubernetes::tests::ten_thousand_pods_alone_in_their_process";
    let done = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    print!("{said}");
    assert!(said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&done.stderr));
}

#[tokio::test(start_paused = true)]
#[ignore = "run by the test before it"]
async fn ten_thousand_pods_alone_in_their_process() {
    const PODS_OF_THE_MESH: u64 = 10_000;
    let cluster = cluster(true);
    for number in 0..PODS_OF_THE_MESH {
        let ip = format!("10.{}.{}.{}", 1 + number / 62_500, number / 250 % 250, number % 250 + 1);
        let labels = json!({
            "metadata": {"labels": {
                "app.kubernetes.io/name": "checkout", "app.kubernetes.io/version": "v7",
                "pod-template-hash": "5d4f8c7b9d", "team": "payments"}},
            "spec": {"serviceAccountName": "checkout"}});
        let name = format!("checkout-5d4f8c7b9d-{number:05}");
        let node = format!("ip-10-0-{}-{}.internal", number / 100, number % 100);
        cluster.put(PODS, with(pod("shop", &name, &node, &ip), &labels));
    }
    let before = resident();
    let mut followed = Followed::start(&cluster).await;
    let grown = resident().saturating_sub(before);
    let bytes = grown * 1024 / PODS_OF_THE_MESH;
    let began = std::time::Instant::now();
    cluster.put(PODS, pod("shop", "a", "node1", "10.200.0.1"));
    followed.until("a is there", |s| enrolled(s, "a").is_some()).await;
    let took = began.elapsed();
    println!("{PODS_OF_THE_MESH} pods: {grown} KiB, {bytes} bytes each; one more in {took:?}");
    assert!(bytes < 6_000, "{bytes} bytes a pod");
}

#[tokio::test(start_paused = true)]
async fn trouble_of_a_local_pod_becomes_an_event_on_it() {
    const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/shop/events";
    let cluster = cluster(true);
    cluster.put(PODS, pod("shop", "a", "node1", "10.0.0.1"));
    cluster.put(PODS, pod("shop", "far", "node2", "10.0.0.2"));
    let mut followed = Followed::start(&cluster).await;
    let stop = CancellationToken::new();
    let running = followed.events.take().unwrap().run(stop.child_token());
    let check = async {
        let raise = |pod: &str| {
            let cause = ("PolicyDenied", "AcceptConnection");
            followed.metrics.trouble("shop", pod, cause, || "x to y: see z".to_owned());
        };
        raise("far");
        raise("gone");
        raise("a");
        raise("a");
        tokio::time::sleep(Duration::from_secs(1)).await;
        let creations = cluster.creations();
        let [(path, event)] = creations.as_slice() else { panic!("{creations:?}") };
        assert_eq!(path, EVENTS);
        assert_eq!(event["regarding"]["kind"], "Pod");
        assert_eq!(event["regarding"]["name"], "a");
        assert_eq!(event["regarding"]["uid"], uid("shop", "a"));
        assert_eq!(event["type"], "Warning");
        assert_eq!(event["reason"], "PolicyDenied");
        assert_eq!(event["action"], "AcceptConnection");
        assert_eq!(event["note"], "x to y: see z");
        assert_eq!(event["reportingController"], "culvert.io/agent");
        assert_eq!(event["reportingInstance"], "node1");

        // The API server is away: nobody waits, and what comes later is written.
        cluster.set_away(true);
        let again = ("NoIdentity", "ObtainCertificate");
        followed.metrics.trouble("shop", "a", again, || "n".to_owned());
        tokio::time::sleep(Duration::from_secs(30)).await;
        cluster.set_away(false);
        let later = ("NoMatchingSan", "OpenConnection");
        followed.metrics.trouble("shop", "a", later, || "n".to_owned());
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(cluster.creations().len(), 2);
        let text = followed.metrics.encode().unwrap();
        assert!(text.contains("culvert_workload_events_total{result=\"failed\"} 1"), "{text}");
        assert!(text.contains("culvert_workload_events_total{result=\"written\"} 2"), "{text}");
        stop.cancel();
    };
    tokio::join!(running, check);
}
