//! The error texts, and a source that follows real files.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use tempfile::TempDir;
use tokio::task::JoinSet;

use super::*;
use crate::workload::MtlsMode;

const A1: &str = "workloads:
  - name: a1
    namespace: default
    serviceAccount: frontend
    node: node1
    addresses: [10.1.1.2, \"fd00:1::2\"]
    labels: {app: a1}
    netns: /run/netns/a1
";

const B1: &str = "  - name: b1
    namespace: default
    serviceAccount: backend
    node: node2
    addresses: [10.1.2.2]
";

fn parse_workloads(text: &str) -> Result<Vec<crate::workload::Workload>, YamlError> {
    let trust_domain = "cluster.local".parse().unwrap();
    workloads::parse(Path::new("w.yaml"), text, &trust_domain, "node1")
}

#[test]
fn a_full_and_a_short_entry_are_read() {
    let found = parse_workloads(&format!("{A1}{B1}")).unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].key().to_string(), "default/a1");
    assert_eq!(found[0].identity.as_str(), "spiffe://cluster.local/ns/default/sa/frontend");
    assert_eq!(found[0].addresses.len(), 2);
    assert_eq!(found[0].labels["app"], "a1");
    assert_eq!(found[0].netns.as_deref(), Some(Path::new("/run/netns/a1")));
    assert!(found[1].enrolled);
    assert_eq!(found[1].netns, None);
    assert!(parse_workloads("workloads: []\n").unwrap().is_empty());
}

#[test]
fn a_mesh_of_thirty_thousand_workloads_is_read() {
    let mut text = String::from("workloads:\n");
    for n in 0..30_000u32 {
        let address = std::net::Ipv4Addr::from(0x0a00_0001 + n);
        let entry = B1.replace("b1", &format!("w{n}")).replace("10.1.2.2", &address.to_string());
        text.push_str(&entry);
    }
    assert_eq!(parse_workloads(&text).unwrap().len(), 30_000);
}

#[test]
fn aliases_cannot_blow_a_small_file_up() {
    let mut text = String::from("a: &a [x, x, x, x, x, x, x, x, x, x]\n");
    for (name, of) in ["b", "c", "d", "e", "f", "g", "h"].iter().zip("abcdefg".chars()) {
        let list = vec![format!("*{of}"); 10].join(", ");
        text = [text, format!("{name}: &{name} [{list}]\n")].concat();
    }
    assert!(parse_workloads(&text).is_err());
    let text = text.replace("h: &h", "workloads: &h");
    assert!(parse_workloads(&text).is_err());
}

#[test]
fn wrong_workloads_name_the_place_and_what_was_expected() {
    const ADDRESSES: &str = "expected at most one IPv4 and one IPv6 address that a pod can have";
    let with = |from: &str, to: &str| {
        let text = format!("{A1}{B1}");
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    };
    let cases = [
        (
            with("name: b1", "name: a1"),
            "w.yaml:9:11: `name`: `default/a1` already stands on line 2; expected one entry for \
             each name of a namespace"
                .to_owned(),
        ),
        (
            with("name: b1", "name: B_1"),
            "w.yaml:9:11: `name`: `B_1` is no name; expected a lower-case name of letters, \
             digits, `-` and `.`"
                .to_owned(),
        ),
        (
            with("serviceAccount: backend", "serviceAccount: back/end"),
            "w.yaml:11:21: `serviceAccount`: `back/end` is not a service account; use 1 to 253 of \
             a-z, 0-9, `-` and `.`, each part beginning and ending with a letter or digit"
                .to_owned(),
        ),
        (
            with("[10.1.2.2]", "[10.1.1.2]"),
            format!(
                "w.yaml:13:17: `addresses`: `10.1.1.2` already belongs to `default/a1` on line 6; \
                 {ADDRESSES}"
            ),
        ),
        (
            with("[10.1.2.2]", "[10.1.2.2, 10.1.2.3]"),
            format!(
                "w.yaml:13:27: `addresses`: `10.1.2.3` is a second one of its family; {ADDRESSES}"
            ),
        ),
        (
            with("[10.1.2.2]", "[127.0.0.1]"),
            format!("w.yaml:13:17: `addresses`: `127.0.0.1` is a loopback address; {ADDRESSES}"),
        ),
        (
            with("[10.1.2.2]", "[\"ff02::1\"]"),
            format!("w.yaml:13:17: `addresses`: `ff02::1` is a multicast address; {ADDRESSES}"),
        ),
        (
            with("[10.1.2.2]", "[0.0.0.0]"),
            format!("w.yaml:13:17: `addresses`: `0.0.0.0` is the unspecified address; {ADDRESSES}"),
        ),
        (
            with("[10.1.2.2]", "[10.1.2.300]"),
            format!("w.yaml:13:17: `addresses`: `10.1.2.300` is no IP address; {ADDRESSES}"),
        ),
        (
            with("[10.1.2.2]", "[]"),
            format!("w.yaml:13:16: `addresses`: there is none; {ADDRESSES}"),
        ),
        (
            with("    netns: /run/netns/a1\n", ""),
            "w.yaml:2:5: `netns`: `default/a1` is enrolled on this node (node1) and has none; \
             expected the path of its network namespace, such as /run/netns/a1, or `enrolled: \
             false`"
                .to_owned(),
        ),
        (
            format!("{A1}{B1}    netns: /run/netns/a1\n"),
            "w.yaml:14:12: `netns`: `/run/netns/a1` already belongs to `default/a1` on line 8; \
             expected the absolute path of a namespace that no other workload has"
                .to_owned(),
        ),
        (
            with("labels:", "label:"),
            "w.yaml:7:5: unknown field `label`; expected one of `name`, `namespace`, \
             `serviceAccount`, `node`, `addresses`, `labels`, `enrolled`, `netns`, `uid`"
                .to_owned(),
        ),
        (
            with("    node: node2\n", "    node: node2\n    node: node2\n"),
            "w.yaml:13:5: field `node` is given twice; keep one of them".to_owned(),
        ),
    ];
    for (text, expected) in cases {
        let error = parse_workloads(&text).expect_err(&expected).to_string();
        assert_eq!(error, expected, "\n{text}");
    }
}

const STRICT: &str = "apiVersion: security.istio.io/v1beta1
kind: PeerAuthentication
metadata:
  name: default
  namespace: default
spec:
  mtls:
    mode: STRICT
";

fn parse_policies(text: &str) -> Result<PolicyFile, YamlError> {
    policies::parse(Path::new("p.yaml"), text, "istio-system")
}

#[test]
fn policies_are_read_as_istio_has_them() {
    let found = parse_policies(&format!(
        "# a comment\n---\n{STRICT}---\napiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata:
  name: ports
  creationTimestamp: \"1970-01-01T00:00:01Z\"
  labels: {{a: b}}
  managedFields: [{{manager: kubectl}}]
spec:
  selector:
    matchLabels:
      app: web
  mtls: {{}}
  portLevelMtls:
    80: {{mode: DISABLE}}
    \"8443\": {{mode: STRICT}}
---
"
    ))
    .unwrap();
    let found = found.policies.peer_authentications();
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].mode, MtlsMode::Strict);
    assert!(!found[0].has_selector());
    let ports = &found[1];
    assert_eq!((&*ports.namespace, ports.created), ("default", Some(1_000_000_000)));
    assert_eq!(ports.selector["app"], "web");
    assert_eq!(ports.mode, MtlsMode::Unset);
    assert_eq!(ports.ports[&80], MtlsMode::Disable);
    assert_eq!(ports.ports[&8443], MtlsMode::Strict);
    assert!(parse_policies("").unwrap().policies.is_empty());
}

#[test]
fn wrong_policies_name_the_place_and_what_was_expected() {
    let with = |from: &str, to: &str| {
        assert!(STRICT.contains(from), "{from}");
        STRICT.replacen(from, to, 1)
    };
    let ports = "  selector: {matchLabels: {app: web}}\n  portLevelMtls:\n";
    let cases = [
        (
            format!("{STRICT}---\n{STRICT}"),
            "p.yaml:13:9: `metadata.name`: `default/default` already stands on line 4; expected \
             one document for each name of a namespace",
        ),
        (
            with("STRICT", "STRIKT"),
            "p.yaml:8:11: `spec.mtls.mode`: unknown value `STRIKT`; expected one of `UNSET`, \
             `DISABLE`, `PERMISSIVE`, `STRICT`",
        ),
        (
            with("mtls:", "mTLS:"),
            "p.yaml:7:3: `spec.mTLS`: unknown field; expected one of `selector`, `mtls`, \
             `portLevelMtls`",
        ),
        (
            with("PeerAuthentication", "RequestAuthentication"),
            "p.yaml:2:7: `kind`: `RequestAuthentication` is no kind known here; expected \
             PeerAuthentication or AuthorizationPolicy",
        ),
        (
            with("v1beta1", "v2"),
            "p.yaml:1:13: `apiVersion`: `security.istio.io/v2` is no version known here; expected \
             security.istio.io/v1 or security.istio.io/v1beta1",
        ),
        (
            format!("{STRICT}  portLevelMtls:\n    80: {{mode: STRICT}}\n"),
            "p.yaml:10:5: `spec.portLevelMtls`: there is no selector, so the ports are ignored; \
             expected `spec.selector.matchLabels` to say whose ports are meant",
        ),
        (
            format!("{STRICT}{ports}    70000: {{mode: STRICT}}\n"),
            "p.yaml:11:12: `spec.portLevelMtls.70000`: `70000` is no port; expected a number from \
             1 to 65535",
        ),
        (
            format!("{STRICT}{ports}    0: {{mode: STRICT}}\n"),
            "p.yaml:11:8: `spec.portLevelMtls.0`: `0` is no port; expected a number from 1 to 65535",
        ),
        (
            with("namespace: default", "namespace: a.b"),
            "p.yaml:5:14: `metadata.namespace`: `a.b` is no namespace; expected 1 to 63 \
             lower-case letters, digits and `-`",
        ),
        (
            with("  name: default\n", "  name: default\n  creationTimestamp: yesterday\n"),
            "p.yaml:5:22: `metadata.creationTimestamp`: `yesterday` is no time; expected such as \
             2026-01-31T12:00:00Z",
        ),
    ];
    for (text, expected) in cases {
        let error = parse_policies(&text).expect_err(expected).to_string();
        assert_eq!(error, expected, "\n{text}");
    }
}

/// A source over real files, and the task that follows them.
struct Lab {
    directory: TempDir,
    receiver: watch::Receiver<Arc<Snapshot>>,
    metrics: Metrics,
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Lab {
    /// Starts in a directory that `prepare` has filled.
    async fn start(prepare: impl FnOnce(&Path)) -> Self {
        let directory = TempDir::new().unwrap();
        prepare(directory.path());
        let metrics = Metrics::new().unwrap();
        let (source, receiver) = Source::open(files(directory.path()), &metrics).unwrap();
        let (mut tasks, stop) = (JoinSet::new(), CancellationToken::new());
        tasks.spawn(source.watch(stop.clone()));
        // The only other task of this runtime now runs until it waits for a change.
        tokio::task::yield_now().await;
        Self { directory, receiver, metrics, tasks, stop }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    async fn until(&mut self, condition: impl FnMut(&Arc<Snapshot>) -> bool) -> Arc<Snapshot> {
        let found = self.receiver.wait_for(condition);
        let found = tokio::time::timeout(Duration::from_secs(30), found).await;
        found.expect("the edit is noticed").unwrap().clone()
    }

    /// Waits until the files were refused so many times.
    async fn until_refused(&self, times: u32) {
        let line = format!("culvert_workload_reload_total{{result=\"refused\"}} {times}\n");
        let refused = async {
            while !self.metrics.encode().unwrap().contains(&line) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), refused).await.expect("it is refused");
    }

    async fn stop(mut self) {
        self.stop.cancel();
        self.tasks.join_next().await.unwrap().unwrap();
    }
}

fn files(directory: &Path) -> Files {
    Files {
        workloads: directory.join("workloads.yaml"),
        policies: Some(directory.join("policies.yaml")),
        trust_domain: "cluster.local".parse().unwrap(),
        root_namespace: "istio-system".into(),
        node: "node1".into(),
    }
}

fn plain(directory: &Path) {
    fs::write(directory.join("workloads.yaml"), A1).unwrap();
    fs::write(directory.join("policies.yaml"), "").unwrap();
}

#[tokio::test]
async fn an_edit_in_place_and_one_by_rename_are_noticed() {
    let mut lab = Lab::start(plain).await;
    fs::write(lab.path("policies.yaml"), STRICT).unwrap();
    let snapshot = lab.until(|snapshot| !snapshot.peer_authentications().is_empty()).await;
    assert_eq!(snapshot.generation, 2);
    fs::write(lab.path("new"), format!("{A1}{B1}")).unwrap();
    fs::rename(lab.path("new"), lab.path("workloads.yaml")).unwrap();
    let snapshot = lab.until(|snapshot| snapshot.workloads().len() == 2).await;
    assert!(snapshot.by_address("10.1.2.2".parse().unwrap()).is_some());
    assert_eq!(snapshot.local("node1").count(), 1);
    lab.stop().await;
}

#[tokio::test]
async fn a_swapped_link_is_noticed_as_in_a_mounted_config_map() {
    let mut lab = Lab::start(|directory| {
        fs::create_dir(directory.join("..1")).unwrap();
        plain(&directory.join("..1"));
        symlink("..1", directory.join("..data")).unwrap();
        for name in ["workloads.yaml", "policies.yaml"] {
            symlink(Path::new("..data").join(name), directory.join(name)).unwrap();
        }
    })
    .await;
    fs::create_dir(lab.path("..2")).unwrap();
    fs::write(lab.path("..2/workloads.yaml"), format!("{A1}{B1}")).unwrap();
    fs::write(lab.path("..2/policies.yaml"), STRICT).unwrap();
    symlink("..2", lab.path("..tmp")).unwrap();
    fs::rename(lab.path("..tmp"), lab.path("..data")).unwrap();
    let snapshot = lab.until(|snapshot| snapshot.workloads().len() == 2).await;
    assert_eq!(snapshot.peer_authentications().len(), 1, "both files change together");
    lab.stop().await;
}

#[tokio::test]
async fn a_link_into_another_directory_is_noticed() {
    let elsewhere = TempDir::new().unwrap();
    fs::write(elsewhere.path().join("w"), A1).unwrap();
    let mut lab = Lab::start(|directory| {
        plain(directory);
        fs::remove_file(directory.join("workloads.yaml")).unwrap();
        symlink(elsewhere.path().join("w"), directory.join("workloads.yaml")).unwrap();
    })
    .await;
    fs::write(elsewhere.path().join("w"), format!("{A1}{B1}")).unwrap();
    lab.until(|snapshot| snapshot.workloads().len() == 2).await;
    lab.stop().await;
}

#[tokio::test]
async fn a_bad_edit_keeps_the_last_good_state_and_is_counted_once() {
    let mut lab = Lab::start(plain).await;
    fs::write(lab.path("workloads.yaml"), "workloads: nonsense\n").unwrap();
    lab.until_refused(1).await;
    assert_eq!(lab.receiver.borrow().workloads().len(), 1);
    fs::remove_file(lab.path("workloads.yaml")).unwrap();
    lab.until_refused(2).await;
    assert_eq!(lab.receiver.borrow().generation, 1);
    fs::write(lab.path("workloads.yaml"), format!("{A1}{B1}")).unwrap();
    lab.until(|snapshot| snapshot.workloads().len() == 2).await;
    lab.until_refused(2).await;
    lab.stop().await;
}

#[test]
fn a_bad_file_at_the_start_is_an_error() {
    let directory = TempDir::new().unwrap();
    let open = || match Source::open(files(directory.path()), &Metrics::new().unwrap()) {
        Ok(_) => panic!("it must not open"),
        Err(error) => error.to_string(),
    };
    assert!(open().ends_with("make it a readable file or name another in agent.yaml"));
    plain(directory.path());
    fs::write(directory.path().join("policies.yaml"), "kind: x\n").unwrap();
    assert!(open().contains("policies.yaml:1:1: field `apiVersion` is missing"), "{}", open());
}

#[test]
fn the_metrics_are_documented() {
    let directory = TempDir::new().unwrap();
    plain(directory.path());
    let metrics = Metrics::new().unwrap();
    let _source = Source::open(files(directory.path()), &metrics).unwrap();
    let documented = include_str!("../../../../docs/metrics.md");
    for name in metrics.names() {
        assert!(documented.contains(&format!("`{name}`")), "{name} is not in docs/metrics.md");
    }
}
