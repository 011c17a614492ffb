//! Answers about the mesh, on one with a workload of each kind.

use culvert_spiffe::SpiffeId;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::*;
use crate::admin::model::{
    Connections, Logging, Map, Policies, PolicyKind, Security, State, Status, Workloads,
};
use crate::explain::{Desk, Question};
use crate::observe::{self, FlowLabels, Party, Reason, Reporter};
use crate::workload::{self, WorkloadKey};

const WORKLOADS: &str = "\
workloads:
- {name: a1, namespace: default, node: node1, addresses: [10.0.0.1], serviceAccount: web, \
   labels: {app: a}, netns: /run/netns/a1}
- {name: a2, namespace: default, node: node1, addresses: [10.0.0.2], serviceAccount: web, \
   enrolled: false}
- {name: b1, namespace: shop, node: node2, addresses: [10.0.1.1], serviceAccount: db, \
   netns: /run/netns/b1}
";

const POLICIES: &str = "\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: default}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: a, namespace: default}
spec:
  selector: {matchLabels: {app: a}}
  mtls: {mode: STRICT}
  portLevelMtls: {8080: {mode: DISABLE}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: from-shop, namespace: default}
spec:
  rules:
  - from: [{source: {principals: [td/ns/shop/sa/db], notNamespaces: [x]}}]
    to: [{operation: {ports: [\"80\"]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: none, namespace: istio-system}
spec: {action: DENY}
";

/// The mesh of these files.
pub(super) fn lab() -> Arc<Snapshot> {
    lab_with("")
}

/// The same with more workloads.
fn lab_with(more: &str) -> Arc<Snapshot> {
    let directory = tempfile::tempdir().unwrap();
    let (workloads, policies) =
        (directory.path().join("workloads.yaml"), directory.path().join("policies.yaml"));
    std::fs::write(&workloads, format!("{WORKLOADS}{more}")).unwrap();
    std::fs::write(&policies, POLICIES).unwrap();
    let text = format!(
        "node: node1\ntrustDomain: td\nworkloads: {}\npolicies: {}\n",
        workloads.display(),
        policies.display()
    );
    let config = Config::parse(Path::new("/agent.yaml"), &text).unwrap();
    let files = workload::file::Files::of(&config).unwrap();
    let (_, snapshots) = workload::file::Source::open(files, &Metrics::new().unwrap()).unwrap();
    snapshots.borrow().clone()
}

async fn get<T: DeserializeOwned>(setup: &Setup, path: &str) -> T {
    let (status, body) = ask_by(&setup.routes(), Door::Tcp, Method::GET, path).await;
    assert_eq!(status, StatusCode::OK, "{path}: {}", String::from_utf8_lossy(&body));
    serde_json::from_slice(&body).unwrap()
}

impl Setup {
    /// Says that a1 is steered.
    fn steer(&self) {
        let key = WorkloadKey::new("default", "a1");
        let workload = self.mesh.borrow().by_key(&key).unwrap().clone();
        self.steered.send_replace(Arc::new([workload].into_iter().collect()));
    }

    /// A flow from b1 to a1, as a1's agent sees it.
    fn labels(&self) -> FlowLabels {
        let mesh = self.mesh.borrow();
        let party = |namespace: &str, name: &str| {
            let key = WorkloadKey::new(namespace, name);
            Party::from(mesh.by_key(&key).map(|workload| &**workload))
        };
        let id = |text: &str| Some(text.parse::<SpiffeId>().unwrap());
        FlowLabels {
            source: party("shop", "b1"),
            destination: party("default", "a1"),
            source_principal: id("spiffe://td/ns/shop/sa/db"),
            destination_principal: id("spiffe://td/ns/default/sa/web"),
            security: observe::Security::MutualTls,
            path: observe::Path::Tunnel,
            hbone_address: Some(([10, 0, 0, 1], 80).into()),
            ..FlowLabels::unknown(
                Reporter::Destination,
                ([10, 0, 1, 1], 40000).into(),
                ([10, 0, 0, 1], 15008).into(),
            )
        }
    }
}

#[tokio::test]
async fn workloads_are_told_with_what_they_take() {
    let setup = Setup::new().await;
    setup.steer();
    let all: Workloads = get(&setup, "/workloads").await;
    assert_eq!((all.node.as_str(), all.trust_domain.as_str()), ("node1", "td"));
    let [a1, a2, b1] = &all.workloads[..] else { panic!("three workloads: {all:?}") };
    assert_eq!((a1.name.as_str(), a1.steered, a1.local, a1.enrolled), ("a1", true, true, true));
    assert_eq!(a1.mtls.policy.as_deref(), Some("default/a"));
    assert_eq!((a1.mtls.mode.as_str(), a1.mtls.ports[&8080].as_str()), ("STRICT", "PERMISSIVE"));
    assert_eq!(
        (a2.enrolled, a2.steered, a2.mtls.policy.as_deref()),
        (false, false, Some("default/strict"))
    );
    assert_eq!((b1.local, b1.mtls.mode.as_str(), &b1.mtls.policy), (false, "PERMISSIVE", &None));
}

#[tokio::test]
async fn policies_are_told_with_whom_they_hold_for_and_what_was_found() {
    let setup = Setup::new().await;
    let all: Policies = get(&setup, "/policies").await;
    let policy = |name: &str| all.policies.iter().find(|policy| policy.name == name).unwrap();
    let strict = policy("strict");
    assert_eq!((strict.kind, strict.scope.as_str()), (PolicyKind::PeerAuthentication, "namespace"));
    // One of a1's own goes before it, and a2 is not enrolled.
    assert_eq!(strict.workloads, [""; 0]);
    let own = policy("a");
    assert_eq!((own.scope.as_str(), &own.selector[..]), ("workload", &["app=a".to_owned()][..]));
    assert_eq!(own.workloads, ["default/a1"]);
    assert_eq!(own.summary, "only mutual TLS is taken; port 8080: DISABLE");
    assert_eq!(own.findings[0].code, "DisableIsPermissive");
    let allow = policy("from-shop");
    assert_eq!(
        (allow.action.as_str(), &allow.workloads[..]),
        ("ALLOW", &["default/a1".to_owned()][..])
    );
    assert_eq!(allow.summary, "allows principal td/ns/shop/sa/db, namespace not x and port 80");
    let mesh = policy("none");
    assert_eq!((mesh.scope.as_str(), mesh.summary.as_str()), ("mesh", "denies nothing"));
    assert_eq!(mesh.workloads, ["default/a1"]);
}

#[tokio::test]
async fn connections_and_edges_are_those_of_the_metrics() {
    let setup = Setup::new().await;
    let flow = setup.metrics.open(setup.labels());
    flow.sent(b"answer");
    flow.received(b"ask");
    let second = setup.metrics.open(setup.labels());
    let open: Connections = get(&setup, "/connections?limit=1").await;
    assert_eq!((open.total, open.connections.len()), (2, 1));
    let open: Connections = get(&setup, "/connections").await;
    let one = &open.connections[1];
    assert_eq!((one.direction.as_str(), one.path.as_str()), ("inbound", "tunnel"));
    assert_eq!((one.security, one.bytes_sent, one.bytes_received), (Security::MutualTls, 6, 3));
    assert_eq!(one.source.address, "10.0.1.1:40000");
    assert_eq!(one.source.identity.as_deref(), Some("spiffe://td/ns/shop/sa/db"));
    assert_eq!(one.destination.address, "10.0.0.1:80");
    assert_eq!(one.destination.hbone_address.as_deref(), Some("10.0.0.1:15008"));
    let (status, _) = ask(&setup.routes(), ROOT, Method::GET, "/connections?limit=x").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);

    second.close(Reason::PolicyDenied, None);
    let map: Map = get(&setup, "/map.json").await;
    let [edge] = &map.edges[..] else { panic!("one edge: {map:?}") };
    assert_eq!((edge.reporter.as_str(), edge.security), ("destination", Security::MutualTls));
    assert_eq!((edge.open, edge.opened, edge.failed), (1, 2, 1));
    assert_eq!(edge.refused[Reason::PolicyDenied.label()], 1);
    // From source to destination, whoever reports.
    assert_eq!((edge.bytes_sent, edge.bytes_received), (3, 6));
    let names: Vec<_> = map.workloads.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["a1", "a2", "b1"]);
    let a1 = &map.workloads[0];
    assert_eq!(a1.certificate.as_ref().unwrap().state, "held");
    assert!(map.workloads[2].certificate.is_none());
    let policies = [
        "PeerAuthentication default/a",
        "AuthorizationPolicy default/from-shop",
        "AuthorizationPolicy istio-system/none",
    ];
    assert_eq!(a1.policies, policies);
}

/// Two pods of one Deployment, on the other node.
const DEPLOYMENT: &str = "\
- {name: web-6d4b75cb6d-aaaaa, namespace: shop, node: node2, addresses: [10.0.1.2], \
   serviceAccount: web, labels: {pod-template-hash: 6d4b75cb6d}, enrolled: false}
- {name: web-6d4b75cb6d-bbbbb, namespace: shop, node: node2, addresses: [10.0.1.3], \
   serviceAccount: web, labels: {pod-template-hash: 6d4b75cb6d}, enrolled: false}
";

#[tokio::test]
async fn pods_of_a_deployment_are_workloads_of_the_map_under_its_name() {
    let setup = Setup::new().await;
    setup.mesh.send_replace(lab_with(DEPLOYMENT));
    let pod = WorkloadKey::new("shop", "web-6d4b75cb6d-aaaaa");
    let web = Party::from(setup.mesh.borrow().by_key(&pod).map(|workload| &**workload));
    let flow = setup.metrics.open(FlowLabels { source: web, ..setup.labels() });
    let open: Connections = get(&setup, "/connections").await;
    let source = &open.connections[0].source;
    assert_eq!(
        (source.workload.as_deref(), source.owner.as_deref()),
        (Some(pod.name()), Some("web"))
    );
    let map: Map = get(&setup, "/map.json").await;
    let [edge] = &map.edges[..] else { panic!("one edge: {map:?}") };
    assert_eq!(edge.source.workload.as_deref(), Some("web"));
    let names: Vec<_> =
        map.workloads.iter().map(|one| (one.name.as_str(), one.workload.as_str())).collect();
    // Not b1, which talked to nobody here.
    let expected = [
        ("a1", "a1"),
        ("a2", "a2"),
        ("web-6d4b75cb6d-aaaaa", "web"),
        ("web-6d4b75cb6d-bbbbb", "web"),
    ];
    assert_eq!(names, expected);
    // What was seen of one pod is told of its sister as well.
    let mesh = setup.mesh.borrow().clone();
    let desk = Desk {
        node: "node1",
        cluster: false,
        snapshot: &mesh,
        steered: &Steered::default(),
        identities: &[],
        edges: &setup.metrics.edges(),
    };
    let question = Question {
        source: "shop/web-6d4b75cb6d-bbbbb".to_owned(),
        destination: "10.0.0.1:80".to_owned(),
        namespace: None,
        plaintext: false,
    };
    let told = desk.explain(&question).unwrap().explanation;
    let history = told.steps.iter().find(|step| step.name == "history");
    let history = history.unwrap_or_else(|| panic!("no history: {told:?}"));
    assert!(history.text.contains("1 connections opened"), "{}", history.text);
    flow.close(Reason::Ok, None);
}

#[tokio::test]
async fn status_counts_what_is_missing() {
    let setup = Setup::new().await;
    setup.readiness.send_replace(Readiness::NotReady("stopping".into()));
    let attached = vec!["/sys/fs/cgroup".to_owned()];
    setup.programs.send_replace(vec![
        Program { name: "connect4".into(), id: 7, attached: attached.clone() },
        Program { name: "sk_lookup".into(), id: 8, attached: Vec::new() },
    ]);
    let status: Status = get(&setup, "/status").await;
    assert_eq!(status.workloads.missing, ["default/a1"]);
    assert_eq!(
        (status.ready.state, status.ready.why.as_deref()),
        (State::NotReady, Some("stopping"))
    );
    assert_eq!((status.identities.held, status.identities.failing), (1, 0));
    assert_eq!(status.authority.reachable, Some(true));
    assert_eq!((status.policies.peer_authentications, status.policies.findings["noted"]), (2, 1));
    setup.steer();
    let status: Status = get(&setup, "/status").await;
    assert_eq!((status.workloads.steered, status.workloads.missing.len()), (1, 0));
    assert_eq!(status.programs[0].attached, attached);
    assert_eq!(status.programs[1].attached, ["default/a1"]);
}

#[tokio::test]
async fn dump_has_the_form_of_ztunnel_and_no_key() {
    let setup = Setup::new().await;
    setup.steer();
    let flow = setup.metrics.open(setup.labels());
    let (status, body) = ask_by(&setup.routes(), Door::Tcp, Method::GET, "/config_dump").await;
    assert_eq!(status, StatusCode::OK);
    let text = String::from_utf8(body).unwrap();
    assert!(text.contains("\"require_client_certificate\": true"), "{text}");
    assert!(
        text.contains("\"tls_context\": {") && text.contains("\"private_key\": \"[redacted]\"")
    );
    assert!(!text.contains("PRIVATE"), "{text}");
    let dump: Value = serde_json::from_str(&text).unwrap();
    let at = |pointer: &str| dump.pointer(pointer).unwrap_or_else(|| panic!("{pointer}: {text}"));
    assert_eq!(at("/workloads/0/protocol"), "HBONE");
    assert_eq!(at("/workloads/1/protocol"), "TCP");
    assert_eq!(at("/workloads/0/workloadIps/0"), "10.0.0.1");
    assert_eq!(at("/policies/0/rules/0/0/0/principals/0/Exact"), "td/ns/shop/sa/db");
    assert_eq!(
        (at("/policies/0/scope"), at("/policies/1/scope")),
        (&"Namespace".into(), &"Global".into())
    );
    assert_eq!(at("/certificates/0/state"), "Available");
    let serial = at("/certificates/0/certChain/0/serialNumber").as_str().unwrap();
    assert!(serial.len() > 20 && serial.bytes().all(|digit| digit.is_ascii_digit()), "{serial}");
    let state = at("/workloadState/Kubernetes~1~1Pod~1default~1a1");
    assert_eq!(state["info"]["serviceAccount"], "web");
    assert_eq!(state["connections"]["inbound"][0]["actualDst"], "10.0.0.1:80");
    assert_eq!(at("/config/admin/listen"), "127.0.0.1:15000");
    flow.close(Reason::Ok, None);
}

#[tokio::test]
async fn level_of_the_log_is_told_and_changed() {
    let setup = Setup::new().await;
    let post = async |path: &str| ask_by(&setup.routes(), Door::Tcp, Method::POST, path).await.0;
    assert_eq!(post("/logging?level=info%2Caccess:debug").await, StatusCode::OK);
    let now: Logging = get(&setup, "/logging").await;
    assert_eq!(now.level, "info,access=debug");
    for bad in ["/logging", "/logging?level=", "/logging?level=inof"] {
        assert_eq!(post(bad).await, StatusCode::BAD_REQUEST, "{bad}");
    }
    assert_eq!(setup.log.get(), "info,access=debug");
    assert_eq!(post("/logging?reset").await, StatusCode::OK);
    assert_eq!(setup.log.get(), "info");
}

#[tokio::test]
async fn agent_is_ended_only_where_that_is_wanted() {
    let setup = Setup::new().await;
    let quit = async |lines: &str, method| {
        ask_by(&setup.routes_of(lines), Door::Tcp, method, "/quitquitquit").await.0
    };
    assert_eq!(quit("", Method::POST).await, StatusCode::FORBIDDEN);
    assert_eq!(quit("admin: {quit: true}\n", Method::GET).await, StatusCode::METHOD_NOT_ALLOWED);
    assert!(!setup.quit.is_cancelled());
    assert_eq!(quit("admin: {quit: true}\n", Method::POST).await, StatusCode::OK);
    assert!(setup.quit.is_cancelled());
}
