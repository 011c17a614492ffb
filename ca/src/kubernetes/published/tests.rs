use tokio::task::JoinSet;

use super::*;
use crate::kubernetes::testing::{Cluster, Fault, SYSTEM};

/// A publisher at work.
struct Lab {
    cluster: Cluster,
    roots: watch::Sender<Arc<str>>,
    leads: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Lab {
    fn start(cluster: Cluster) -> Self {
        let namespaces = Arc::new(Namespaces::new(cluster.client()));
        let (roots, leads) = (watch::Sender::new("ROOT 1".into()), watch::Sender::new(true));
        let publisher = Publisher::new(
            cluster.client(),
            SYSTEM.into(),
            namespaces.clone(),
            roots.subscribe(),
            leads.subscribe(),
        );
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { namespaces.follow(CancellationToken::new()).await });
        tasks.spawn(publisher.run(CancellationToken::new()));
        Self { cluster, roots, leads, _tasks: tasks }
    }

    fn published(&self, namespace: &str) -> Option<String> {
        let map = self.cluster.get("configmaps", namespace, CONFIG_MAP)?;
        Some(map["data"][CONFIG_MAP_KEY].as_str()?.to_owned())
    }

    /// Waits until each of `namespaces` has `roots`; paused time makes the steps of waiting free.
    async fn until(&self, namespaces: &[&str], roots: Option<&str>) -> Duration {
        let began = Instant::now();
        let is = |name: &&str| self.published(name).as_deref() == roots;
        while !namespaces.iter().all(is) {
            assert!(began.elapsed() < Duration::from_mins(10), "{roots:?} is not there");
            sleep(Duration::from_millis(10)).await;
        }
        began.elapsed()
    }
}

#[tokio::test(start_paused = true)]
async fn each_namespace_has_the_roots_and_each_change_of_them() {
    let cluster = Cluster::default();
    cluster.namespace("shop", &[]);
    let lab = Lab::start(cluster);
    lab.until(&[SYSTEM, "kube-system", "shop"], Some("ROOT 1")).await;
    let map = lab.cluster.get("configmaps", "shop", CONFIG_MAP).unwrap();
    let owner = &map["metadata"]["ownerReferences"][0];
    assert_eq!(
        (&owner["kind"], &owner["uid"]),
        (&"Namespace".into(), &"uid-of-culvert-system".into())
    );
    lab.cluster.namespace("new", &[]);
    let took = lab.until(&["new"], Some("ROOT 1")).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    lab.roots.send_replace("ROOT 1, ROOT 2".into());
    let took = lab.until(&[SYSTEM, "shop", "new"], Some("ROOT 1, ROOT 2")).await;
    assert!(took <= PACE + Duration::from_secs(1), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn edits_and_removals_are_put_right_and_nothing_else_is_written() {
    let cluster = Cluster::default();
    let lab = Lab::start(cluster);
    lab.until(&[SYSTEM, "kube-system"], Some("ROOT 1")).await;
    sleep(Duration::from_mins(5)).await;
    let writes = lab.cluster.asked("PATCH configmaps");
    assert_eq!(writes, 2, "each is written once, and then left alone");
    let mut edited = lab.cluster.get("configmaps", "kube-system", CONFIG_MAP).unwrap();
    edited["data"][CONFIG_MAP_KEY] = "EVIL".into();
    edited["data"]["mine"] = "kept".into();
    lab.cluster.put("configmaps", "kube-system", edited);
    let took = lab.until(&["kube-system"], Some("ROOT 1")).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    let map = lab.cluster.get("configmaps", "kube-system", CONFIG_MAP).unwrap();
    assert_eq!(map["data"]["mine"], "kept");
    lab.cluster.delete("configmaps", "kube-system", CONFIG_MAP);
    lab.until(&["kube-system"], None).await;
    lab.until(&["kube-system"], Some("ROOT 1")).await;
    assert_eq!(lab.published(SYSTEM).as_deref(), Some("ROOT 1"));
}

#[tokio::test(start_paused = true)]
async fn only_who_leads_publishes() {
    let cluster = Cluster::default();
    let lab = Lab::start(cluster);
    lab.until(&[SYSTEM], Some("ROOT 1")).await;
    lab.leads.send_replace(false);
    sleep(Duration::from_secs(1)).await;
    lab.cluster.namespace("shop", &[]);
    sleep(Duration::from_mins(5)).await;
    assert_eq!(lab.published("shop"), None);
    lab.leads.send_replace(true);
    lab.until(&["shop"], Some("ROOT 1")).await;
}

#[tokio::test(start_paused = true)]
async fn namespace_that_refuses_keeps_no_other_waiting_and_is_tried_again_ever_less_often() {
    let cluster = Cluster::default();
    let mut ending = cluster.namespace("ending", &[]);
    ending["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    cluster.put("namespaces", "", ending);
    cluster.fail_on("POST configmaps", Some(Fault::Status(403)));
    let lab = Lab::start(cluster);
    sleep(Duration::from_mins(10)).await;
    let tries = lab.cluster.asked("POST configmaps");
    assert!((10..60).contains(&tries), "{tries} in ten minutes, for two namespaces");
    assert_eq!(lab.cluster.asked("POST configmaps ending"), 0, "it ends");
    lab.cluster.fail_on("POST configmaps", None);
    let took = lab.until(&[SYSTEM, "kube-system"], Some("ROOT 1")).await;
    assert!(took <= PACE_MOST + Duration::from_secs(1), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn api_server_away_for_ten_minutes_is_caught_up_with() {
    let cluster = Cluster::default();
    let lab = Lab::start(cluster);
    lab.until(&[SYSTEM], Some("ROOT 1")).await;
    lab.cluster.fail(Some(Fault::Status(503)));
    lab.cluster.cut(true);
    lab.roots.send_replace("ROOT 2".into());
    lab.cluster.namespace("shop", &[]);
    sleep(Duration::from_mins(10)).await;
    lab.cluster.cut(true);
    lab.cluster.fail(None);
    let took = lab.until(&[SYSTEM, "kube-system", "shop"], Some("ROOT 2")).await;
    assert!(took <= Duration::from_mins(2), "{took:?}");
}
