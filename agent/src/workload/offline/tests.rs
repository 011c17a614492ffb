//! What files may hold, and what is said where they are wrong.

use std::net::SocketAddr;

use super::*;

fn reading() -> Reading {
    Reading {
        trust_domain: "cluster.local".parse().unwrap(),
        root_namespace: "istio-system".to_owned(),
    }
}

fn inputs(texts: &[&str]) -> Result<Vec<Input>, OfflineError> {
    let parse = |(number, text): (usize, &&str)| {
        input::parse(format!("f{number}.yaml").into(), (*text).to_owned())
    };
    texts.iter().enumerate().map(parse).collect()
}

fn read(texts: &[&str]) -> Result<Offline, OfflineError> {
    Offline::of(&inputs(texts)?, reading())
}

fn problem(texts: &[&str]) -> String {
    match read(texts) {
        Ok(_) => panic!("was taken"),
        Err(error) => error.to_string(),
    }
}

const STANDALONE: &str = "workloads:
  - {name: a1, namespace: shop, serviceAccount: front, node: node1, addresses: [10.1.0.1], netns: /run/netns/a1}
  - {name: b1, namespace: shop, serviceAccount: back, node: node2, addresses: [10.1.0.2]}
";

const STRICT: &str = "apiVersion: security.istio.io/v1beta1
kind: PeerAuthentication
metadata: {name: default, namespace: shop}
spec: {mtls: {mode: STRICT}}
";

const LIST: &str = r#"
apiVersion: v1
kind: List
metadata: {resourceVersion: ""}
items:
- apiVersion: v1
  kind: Namespace
  metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}
- apiVersion: v1
  kind: Pod
  metadata:
    name: front
    namespace: shop
    uid: 0f7c2a5e-1b3d-4c6f-8a9b-0123456789ab
    creationTimestamp: "2026-01-02T03:04:05Z"
    labels: {app: front}
  spec: {nodeName: node1, serviceAccountName: front, containers: [{name: c, image: i}]}
  status: {phase: Running, podIP: 10.1.0.1, podIPs: [{ip: 10.1.0.1}]}
- apiVersion: v1
  kind: Pod
  metadata: {name: old, namespace: legacy}
  spec: {nodeName: node2}
  status: {podIP: 10.1.0.9}
- apiVersion: v1
  kind: Event
  metadata: {name: x, namespace: shop}
"#;

fn named<'a>(offline: &'a Offline, name: &str) -> &'a Workload {
    offline.workloads.iter().find(|workload| workload.name == name).unwrap()
}

#[test]
fn standalone_files_are_read_as_the_agent_does() {
    let offline = read(&[STANDALONE, STRICT]).unwrap();
    assert!(named(&offline, "a1").enrolled && named(&offline, "b1").enrolled);
    assert_eq!(offline.policies.peer_authentications().len(), 1);
    assert!(!offline.names().cluster);
    // Also both in one file, and JSON.
    let both = format!("{STANDALONE}---\n{STRICT}");
    assert_eq!(read(&[&both]).unwrap().workloads.len(), 2);
    let json = "{\"workloads\": [\n\t{\"name\": \"a\", \"namespace\": \"n\", \"serviceAccount\": \
                \"s\", \"node\": \"x\", \"addresses\": [\"10.0.0.1\"], \"enrolled\": false}]}";
    assert!(!named(&read(&[json]).unwrap(), "a").enrolled);
}

#[test]
fn a_list_as_kubectl_writes_it_is_read() {
    let offline = read(&[LIST, STRICT]).unwrap();
    let front = named(&offline, "front");
    assert!(front.enrolled, "its namespace asks for it");
    assert_eq!(front.identity.as_str(), "spiffe://cluster.local/ns/shop/sa/front");
    assert_eq!(front.labels["app"], "front");
    let old = named(&offline, "old");
    assert!(!old.enrolled);
    assert_eq!(old.identity.as_str(), "spiffe://cluster.local/ns/legacy/sa/default");
    let because = &offline.names().because;
    assert!(because[&old.key()].contains("is not in the files"), "{because:?}");
    assert!(because[&front.key()].contains("istio.io/dataplane-mode of namespace shop"));
}

#[test]
fn items_of_a_typed_list_need_no_kind() {
    let text = r#"{"kind":"PodList","apiVersion":"v1","items":[
        {"metadata":{"name":"a","namespace":"n","labels":{"culvert.io/dataplane-mode":"enabled"}},
         "spec":{"nodeName":"x"},"status":{"podIP":"10.0.0.1"}}]}
        {"kind":"PodList","apiVersion":"v1","items":null}"#;
    assert!(named(&read(&[text]).unwrap(), "a").enrolled);
}

#[test]
fn a_label_of_the_pod_counts_before_its_namespaces_and_a_steered_pod_without_one_is_in() {
    let pod = |name: &str, metadata: &str, ip: u8| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: n{metadata}}}\n\
             status: {{podIP: 10.0.0.{ip}}}\n"
        )
    };
    let pods = [
        pod("out", ", labels: {culvert.io/dataplane-mode: disabled}", 1),
        pod("steered", ", annotations: {ambient.istio.io/redirection: enabled}", 2),
        pod("plain", "", 3),
    ]
    .concat();
    let without = read(&[&pods]).unwrap();
    assert!(named(&without, "steered").enrolled);
    assert!(!named(&without, "plain").enrolled && !named(&without, "out").enrolled);
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: n, labels: \
                     {culvert.io/dataplane-mode: enabled}}\n";
    let within = read(&[&pods, namespace]).unwrap();
    assert!(named(&within, "steered").enrolled && named(&within, "plain").enrolled);
    assert!(!named(&within, "out").enrolled);
}

#[test]
fn what_no_cluster_has_filled_in_is_made_up() {
    let text = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  template:
    metadata: {labels: {app: web, culvert.io/dataplane-mode: enabled}}
    spec:
      serviceAccountName: web
      containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: webs, namespace: shop}
spec: {clusterIP: None, selector: {app: web}, ports: [{port: 8080}]}
";
    let offline = read(&[text]).unwrap();
    let web = named(&offline, "web");
    assert!(web.enrolled && is_made_up(web.addresses[0]));
    let snapshot = offline.snapshot("").unwrap();
    let (address, service) = snapshot.services().iter().next().unwrap();
    assert!(is_made_up(address));
    assert_eq!(service.ports[&80][0].address, SocketAddr::new(web.addresses[0], 8080));
    assert_eq!(offline.names().headless.values().next(), Some(&vec![web.key()]));
    // A real pod of it takes its place.
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: web-1, namespace: shop, labels: \
               {app: web, culvert.io/dataplane-mode: enabled}}\nstatus: {podIP: 10.0.0.1}\n";
    let real = read(&[text, pod]).unwrap();
    assert_eq!(real.workloads.len(), 1);
    assert_eq!(real.workloads[0].name, "web-1");
}

#[test]
fn endpoint_slices_count_before_selectors() {
    let text = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: front}, ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-x, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [10.1.0.1], nodeName: node1, conditions: {ready: true}}]
ports: [{name: http, port: 8443, protocol: TCP}]
";
    let snapshot = read(&[LIST, text]).unwrap().snapshot("node1").unwrap();
    let service = snapshot.services().by_address("10.96.0.1".parse().unwrap()).unwrap();
    let endpoint = service.ports[&80][0];
    assert_eq!(endpoint.address, "10.1.0.1:8443".parse().unwrap());
    assert_eq!(endpoint.distance, crate::workload::Distance::Node);
}

#[test]
fn the_same_document_may_stand_twice_and_two_of_one_name_may_not() {
    assert!(read(&[LIST, LIST, STRICT, STRICT]).is_ok());
    let other = STRICT.replace("STRICT", "PERMISSIVE");
    assert_eq!(
        problem(&[LIST, STRICT, &other]),
        "PeerAuthentication shop/default stands in f1.yaml and, otherwise, in f2.yaml; keep one \
         of them"
    );
}

#[test]
fn pods_that_are_no_workloads_are_known_by_name() {
    let text = "
apiVersion: v1
kind: Pod
metadata: {name: host, namespace: n}
spec: {hostNetwork: true}
status: {podIP: 192.0.2.1}
---
apiVersion: v1
kind: Pod
metadata: {name: done, namespace: n}
status: {phase: Succeeded}
";
    let offline = read(&[LIST, text]).unwrap();
    let outside = |name: &str| &offline.names().outside[&WorkloadKey::new("n", name)];
    assert_eq!(outside("host").address, Some("192.0.2.1".parse().unwrap()));
    assert_eq!(outside("done").why, "it has ended");
}

#[test]
fn a_wrong_policy_is_an_error_in_standalone_mode_and_strict_in_a_cluster() {
    let wrong = STRICT.replace("STRICT", "STRIKT");
    assert_eq!(
        problem(&[STANDALONE, &wrong]),
        "f1.yaml:4:21: `spec.mtls.mode`: unknown value `STRIKT`; expected one of `UNSET`, \
         `DISABLE`, `PERMISSIVE`, `STRICT`"
    );
    let list = format!("kind: List\napiVersion: v1\nitems:\n- {}", wrong.replace('\n', "\n  "));
    assert!(problem(&[STANDALONE, &list]).starts_with(
        "f1.yaml, document 1: PeerAuthentication shop/default: `spec.mtls.mode`: unknown value"
    ));
    let offline = read(&[LIST, &wrong]).unwrap();
    assert_eq!(offline.findings().len(), 1);
    let mode = offline.policies.peer_authentications()[0].mode;
    assert_eq!(mode, crate::workload::MtlsMode::Strict);
}

#[test]
fn what_is_missing_or_wrong_is_said_with_its_place() {
    for (texts, expected) in [
        (vec!["{}"], "f0.yaml, document 1: it has neither `kind` nor `workloads`"),
        (vec!["workloads: ["], "f0.yaml:1"),
        (vec![STRICT], "there is no workload in f0.yaml; give `workloads:`"),
        (vec!["workloads: [{name: a}]"], "f0.yaml:1:14: field `namespace` is missing"),
        (
            vec![LIST, "apiVersion: security.istio.io/v2\nkind: PeerAuthentication\n"],
            "f1.yaml, document 1: apiVersion `security.istio.io/v2` is no version known here",
        ),
        (
            vec!["apiVersion: v1\nkind: Pod\nmetadata: {name: A_b}\n"],
            "f0.yaml, document 1: `metadata.name`: `A_b` is no name",
        ),
        (
            vec!["apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {nodeName: 7}\n"],
            "f0.yaml, document 1: Pod default/a: ",
        ),
        (vec![STANDALONE, &STANDALONE.replace("b1", "c1")], "the files contradict each other"),
    ] {
        let told = problem(&texts);
        assert!(told.starts_with(expected), "{told}");
    }
}

#[test]
fn files_are_read_once_and_directories_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("b.yaml"), STRICT).unwrap();
    std::fs::write(path("a.yml"), STANDALONE).unwrap();
    std::fs::write(path("README.md"), "no document").unwrap();
    let paths = [directory.path().to_owned(), path("a.yml")];
    let offline = Offline::read(&paths, reading()).unwrap();
    assert_eq!((offline.workloads.len(), offline.policies.len()), (2, 1));
    let told = Offline::read(&[path("none.yaml")], reading()).err().unwrap().to_string();
    assert!(told.starts_with("cannot read ") && told.contains("none.yaml"), "{told}");
}
