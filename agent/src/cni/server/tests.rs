//! The agent's end, asked by the plugin's own client, with a source of snapshots that is a table.

use std::{
    collections::{BTreeMap, HashMap},
    os::unix::fs::MetadataExt as _,
    sync::Mutex,
};

use futures_util::future::BoxFuture;

use super::{
    super::{
        ask::{self, Asked},
        protocol::{Key, Pod},
    },
    *,
};
use crate::workload::Workload;

const UID: &str = "0f7c2a5e-1b3d-4c6f-8a9b-0123456789ab";
const OTHER: &str = "0f7c2a5e-1b3d-4c6f-8a9b-0123456789ac";
const NETNS: &str = "/proc/self/ns/net";

/// Decides by the pod's name; what it does not know is left alone.
#[derive(Default)]
struct FakeAnnounce {
    decisions: HashMap<&'static str, Decision>,
    announced: Mutex<Vec<Announced>>,
    withdrawn: Mutex<Vec<PodUid>>,
}

impl Announce for FakeAnnounce {
    fn announce(&self, pod: Announced) -> BoxFuture<'_, Result<Decision, AnnounceError>> {
        let decision = match (pod.name.as_str(), self.decisions.get(pod.name.as_str())) {
            ("unsure", _) => Err(AnnounceError::Unanswered {
                pod: pod.key(),
                source: "connection refused".into(),
            }),
            (_, Some(decision)) => Ok(*decision),
            (_, None) => Ok(Decision::Leave),
        };
        self.announced.lock().unwrap().push(pod);
        Box::pin(std::future::ready(decision))
    }

    fn withdraw(&self, uid: &PodUid) {
        self.withdrawn.lock().unwrap().push(uid.clone());
    }
}

struct Lab {
    temp: Arc<tempfile::TempDir>,
    announce: Arc<FakeAnnounce>,
    steered: watch::Sender<Arc<Steered>>,
    metrics: Metrics,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Lab {
    fn start() -> Self {
        Self::start_at(Arc::new(tempfile::tempdir().unwrap()))
    }

    fn start_at(temp: Arc<tempfile::TempDir>) -> Self {
        let decisions = [("cart", Decision::Enrol), ("unsure", Decision::Enrol)].into();
        let announce = Arc::new(FakeAnnounce { decisions, ..FakeAnnounce::default() });
        let (steered, receiver) = watch::channel(Arc::new(Steered::default()));
        let metrics = Metrics::new().unwrap();
        let server = Server::bind(Parts {
            socket: &temp.path().join("s"),
            proc: None,
            announce: announce.clone(),
            steered: receiver,
            metrics: &metrics,
        })
        .unwrap();
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(server.run(stop.clone()));
        Self { temp, announce, steered, metrics, stop, tasks }
    }

    async fn ask(&self, request: Request) -> Answer {
        let socket = self.temp.path().join("s");
        let asked = tokio::task::spawn_blocking(move || {
            ask::ask(&socket, &request, Duration::ZERO, Duration::from_secs(20))
        });
        match asked.await.unwrap() {
            Asked::Answered(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    fn steer(&self, uid: Option<&str>) {
        let workload = Workload {
            name: "cart".into(),
            namespace: "shop".into(),
            node: "n1".into(),
            addresses: Vec::new(),
            labels: BTreeMap::new(),
            enrolled: true,
            netns: Some(NETNS.into()),
            uid: uid.map(|uid| uid.parse().unwrap()),
            identity: "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap(),
        };
        let steered: Steered = [Arc::new(workload)].into_iter().collect();
        self.steered.send_replace(Arc::new(steered));
    }

    fn count(&self, command: &str, result: &str) -> bool {
        let line =
            format!("culvert_cni_requests_total{{command=\"{command}\",result=\"{result}\"}} 1\n");
        self.metrics.encode().unwrap().contains(&line)
    }
}

fn attachment(name: &str) -> Attachment {
    Attachment {
        key: Key { network: "pods".into(), container: "c1".into(), interface: "eth0".into() },
        pod: Pod { namespace: "shop".into(), name: name.into(), uid: UID.into() },
        netns: Namespace {
            path: NETNS.into(),
            device: 0,
            inode: std::fs::metadata(NETNS).unwrap().ino(),
        },
        addresses: vec!["10.0.0.5".parse().unwrap()],
    }
}

#[tokio::test]
async fn add_is_answered_once_the_very_pod_is_steered() {
    let lab = Lab::start();
    // The pod of that name before it, which the agent has not let go of yet.
    lab.steer(Some(OTHER));
    let mut asked = std::pin::pin!(lab.ask(Request::Add(attachment("cart"))));
    let early = timeout(Duration::from_millis(200), &mut asked).await;
    assert!(early.is_err(), "answered before it was steered: {early:?}");
    assert!(lab.metrics.encode().unwrap().contains("culvert_cni_waiting 1\n"));
    lab.steer(Some(UID));
    assert_eq!(asked.await, Answer::Steered);
    let announced = lab.announce.announced.lock().unwrap();
    let pod = announced.first().unwrap();
    assert_eq!((pod.key().to_string(), pod.netns.to_str()), ("shop/cart".into(), Some(NETNS)));
    assert_eq!(pod.addresses, ["10.0.0.5".parse::<std::net::IpAddr>().unwrap()]);
    assert!(lab.count("add", "steered"));
    let text = lab.metrics.encode().unwrap();
    assert!(text.contains("culvert_cni_waiting 0\n"), "{text}");
    assert!(text.contains("culvert_cni_hold_seconds_count 1\n"), "{text}");
}

#[tokio::test]
async fn pod_outside_the_mesh_is_answered_at_once() {
    let lab = Lab::start();
    assert_eq!(lab.ask(Request::Add(attachment("stranger"))).await, Answer::Left);
    assert!(lab.count("add", "left"));
}

#[tokio::test]
async fn pod_of_which_nothing_is_known_does_not_start() {
    let lab = Lab::start();
    let Answer::Failed { reason, message } = lab.ask(Request::Add(attachment("unsure"))).await
    else {
        panic!("it starts")
    };
    assert_eq!(reason, Reason::Later);
    assert!(message.contains("shop/unsure") && message.contains("connection refused"), "{message}");
    assert!(lab.count("add", "failed"));
}

#[tokio::test(start_paused = true)]
async fn pod_that_is_not_steered_in_time_does_not_start() {
    let lab = Lab::start();
    let desk = Desk {
        proc: None,
        announce: lab.announce.clone(),
        steered: lab.steered.subscribe(),
        attachments: Attachments::default(),
        metrics: ServerMetrics::register(&Metrics::new().unwrap()).unwrap(),
    };
    let began = Instant::now();
    let answer = desk.answer(Request::Add(attachment("cart"))).await;
    assert!(matches!(answer, Answer::Failed { reason: Reason::Later, .. }), "{answer:?}");
    assert_eq!(began.elapsed().as_secs(), HOLD.as_secs());
}

#[tokio::test]
async fn namespace_that_the_agent_does_not_see_is_said() {
    let lab = Lab::start();
    let mut elsewhere = attachment("cart");
    elsewhere.netns.path = "/run/netns/no-such".into();
    let mut other = attachment("cart");
    other.netns.inode += 1;
    for attachment in [elsewhere, other] {
        let answer = lab.ask(Request::Add(attachment)).await;
        assert!(matches!(answer, Answer::Failed { reason: Reason::Namespace, .. }), "{answer:?}");
    }
    assert!(lab.announce.announced.lock().unwrap().is_empty());
}

#[tokio::test]
async fn words_that_no_kubelet_writes_are_refused() {
    let lab = Lab::start();
    let mut bad = [attachment("cart"), attachment("cart"), attachment("../cart")];
    bad[0].pod.namespace = "a.b".into();
    bad[1].pod.uid = "7".into();
    for attachment in bad {
        let answer = lab.ask(Request::Add(attachment)).await;
        assert!(matches!(answer, Answer::Failed { reason: Reason::Request, .. }), "{answer:?}");
    }
    assert!(lab.announce.announced.lock().unwrap().is_empty());
}

#[tokio::test]
async fn line_that_is_no_request_is_answered() {
    use tokio::io::AsyncReadExt as _;

    let lab = Lab::start();
    for line in ["{\"command\":\"dance\"}\n", "\n", "{\n"] {
        let mut stream = UnixStream::connect(lab.temp.path().join("s")).await.unwrap();
        stream.write_all(line.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let answer: Answer = serde_json::from_str(&answer).unwrap();
        assert!(matches!(answer, Answer::Failed { reason: Reason::Request, .. }), "{answer:?}");
    }
}

#[tokio::test]
async fn pod_that_goes_is_withdrawn_with_or_without_its_uid() {
    let lab = Lab::start();
    lab.ask(Request::Add(attachment("stranger"))).await;
    let gone = |uid: Option<&str>| {
        let uid = uid.map(str::to_owned);
        Request::Delete(Detachment { key: attachment("stranger").key, uid })
    };
    assert_eq!(lab.ask(gone(None)).await, Answer::Done);
    assert_eq!(lab.ask(gone(None)).await, Answer::Done, "twice is no mistake");
    assert_eq!(lab.ask(gone(Some(OTHER))).await, Answer::Done);
    let withdrawn = lab.announce.withdrawn.lock().unwrap();
    assert_eq!(*withdrawn, [UID.parse().unwrap(), OTHER.parse().unwrap()]);
}

#[tokio::test]
async fn what_is_valid_no_more_is_withdrawn() {
    let lab = Lab::start();
    lab.ask(Request::Add(attachment("stranger"))).await;
    let collection = Collection { network: "pods".into(), valid: Vec::new() };
    assert_eq!(lab.ask(Request::Collect(collection)).await, Answer::Done);
    assert_eq!(*lab.announce.withdrawn.lock().unwrap(), [UID.parse().unwrap()]);
}

#[tokio::test]
async fn check_knows_a_pod_that_is_steered_elsewhere() {
    let lab = Lab::start();
    assert_eq!(lab.ask(Request::Check(attachment("cart"))).await, Answer::Left);
    lab.steer(None);
    assert_eq!(lab.ask(Request::Check(attachment("cart"))).await, Answer::Steered);
    lab.steer(Some(OTHER));
    let answer = lab.ask(Request::Check(attachment("cart"))).await;
    assert!(matches!(answer, Answer::Failed { .. }), "{answer:?}");
}

#[tokio::test]
async fn stopping_cuts_who_waits_and_takes_the_socket_away() {
    let mut lab = Lab::start();
    let socket = lab.temp.path().join("s");
    let waits = tokio::task::spawn_blocking({
        let socket = socket.clone();
        move || {
            let request = Request::Add(attachment("cart"));
            ask::ask(&socket, &request, Duration::ZERO, Duration::from_secs(20))
        }
    });
    while lab.announce.announced.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    lab.stop.cancel();
    lab.tasks.join_next().await.unwrap().unwrap();
    assert!(matches!(waits.await.unwrap(), Asked::Away(_)));
    assert!(!socket.exists());
}

#[tokio::test]
async fn pod_that_waits_is_handed_to_the_agent_that_takes_over() {
    let old = Lab::start();
    let socket = old.temp.path().join("s");
    let waits = tokio::task::spawn_blocking(move || {
        let limit = Duration::from_secs(20);
        ask::ask(&socket, &Request::Add(attachment("cart")), limit, limit)
    });
    while old.announce.announced.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    let new = Lab::start_at(Arc::clone(&old.temp));
    new.steer(Some(UID));
    let answer = waits.await.unwrap();
    assert!(matches!(answer, Asked::Answered(Answer::Steered)), "{answer:?}");
    assert_eq!(new.announce.announced.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn every_metric_is_documented() {
    let lab = Lab::start();
    let documented = include_str!("../../../../docs/metrics.md");
    let names = lab.metrics.names();
    let ours: Vec<_> = names.iter().filter(|name| name.starts_with("culvert_cni_")).collect();
    assert_eq!(ours.len(), 3, "{names:?}");
    for name in ours {
        assert!(documented.contains(&format!("`{name}`")), "{name} is not in docs/metrics.md");
    }
}

#[test]
fn paths_of_the_node_are_turned_into_the_agents_own() {
    let proc = Some(Path::new("/host/proc"));
    for (on_node, here) in [
        ("/var/run/netns/cni-1", "/run/netns/cni-1"),
        ("/run/netns/cni-1", "/run/netns/cni-1"),
        ("/proc/17/ns/net", "/host/proc/17/ns/net"),
    ] {
        assert_eq!(place(Path::new(on_node), proc), Path::new(here));
    }
    assert_eq!(place(Path::new("/proc/17/ns/net"), None), Path::new("/proc/17/ns/net"));
}
