//! A small shop whose connections show all that the map can show.

use anyhow::Result;
use culvert_tests::{Lab, NodeId, Pod, PodSpec, Process, SOON};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs;

/// Everything of shop, payments and data is STRICT, but for the port of web's metrics.
const POLICIES: &str = "\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: web-metrics, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  mtls: {mode: STRICT}
  portLevelMtls: {9100: {mode: PERMISSIVE}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-checkout, namespace: payments}
spec:
  selector: {matchLabels: {app: gateway}}
  action: ALLOW
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/checkout]}}]}]
";

/// Who asks whom, at which port, and how long it waits before it asks again.
const CALLS: [(&str, &str, u16, &str); 10] = [
    ("gate", "web", 8080, "0.15"),
    ("web", "cart", 8080, "0.3"),
    ("web", "catalog", 8080, "0.2"),
    ("web", "checkout", 8080, "0.8"),
    ("cart", "postgres", 5432, "0.5"),
    ("gateway", "ledger", 8080, "0.7"),
    ("checkout", "gateway", 8080, "0.8"),
    ("cart", "gateway", 8080, "1.5"),
    ("prometheus", "web", 9100, "1"),
    ("legacy-report", "cart", 8080, "1"),
];

/// The lab: each connection has an end on node 1, whose agent the page is of.
pub(crate) fn lab() -> Result<Lab> {
    let pod = |name, namespace, node| PodSpec::new(name, node).namespace(namespace);
    let (one, two) = (NodeId::Node1, NodeId::Node2);
    Lab::builder()
        .pod(pod("web", "shop", one))
        .pod(pod("cart", "shop", one))
        .pod(pod("catalog", "shop", two))
        .pod(pod("checkout", "shop", two))
        .pod(pod("legacy-report", "shop", one).not_enrolled())
        .pod(pod("gateway", "payments", one))
        .pod(pod("ledger", "payments", two))
        .pod(pod("postgres", "data", two))
        .pod(pod("gate", "ingress", two))
        .pod(pod("prometheus", "monitoring", two).not_enrolled())
        .policies(POLICIES)
        .start()
}

/// The applications and those who ask them, until it is dropped.
pub(crate) struct Traffic {
    processes: Vec<Process>,
}

impl Traffic {
    pub(crate) fn start(lab: &Lab) -> Result<Self> {
        let mut processes = Vec::new();
        for name in ["web", "cart", "catalog", "checkout", "gateway", "ledger"] {
            processes.push(nginx(lab, name)?);
        }
        let postgres = lab.pod("postgres");
        processes.push(postgres.server(&["echo", "--listen", "0.0.0.0:5432"])?);
        for (source, target, port, pause) in CALLS {
            processes.push(caller(lab.pod(source), lab.pod(target), port, pause)?);
        }
        let to = postgres.at(5432).to_string();
        processes.push(lab.pod("cart").app(&["hold", "--to", &to, "--count", "4"])?);
        Ok(Self { processes })
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        // Those who ask first: no server is missed.
        while let Some(process) = self.processes.pop() {
            process.kill();
        }
    }
}

/// A web server at 8080 and, for metrics, 9100.
fn nginx(lab: &Lab, name: &str) -> Result<Process> {
    let folder = lab.directory().join(format!("nginx-{name}"));
    fs::create_dir_all(&folder)?;
    let at = folder.display();
    let mut settings = format!(
        "daemon off; worker_processes 1; pid {at}/pid; error_log {at}/error.log;\n\
         events {{}}\nhttp {{ access_log off;\n"
    );
    for path in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let _ = writeln!(settings, "{path}_temp_path {at}/{path};"); // never fails
    }
    settings += "server { listen 8080; listen 9100; return 200 \"a thing of this shop\\n\"; } }\n";
    let file = folder.join("nginx.conf");
    fs::write(&file, settings)?;
    let pod = lab.pod(name);
    let server = pod.spawn(&["nginx".into(), "-c".into(), file.display().to_string()])?;
    let to = "http://127.0.0.1:8080/";
    let wait = ["curl", "-s", "--retry", "50", "--retry-connrefused", "--retry-delay", "0", to];
    pod.run(&wait, SOON)?.ok()?;
    Ok(server)
}

/// Asks again and again, whatever becomes of it.
fn caller(from: &Pod, to: &Pod, port: u16, pause: &str) -> Result<Process> {
    let ask = if port == 5432 {
        let app = culvert_tests::testapp()?;
        format!("{} talk --to {}", app.display(), to.at(port))
    } else {
        format!("curl -s -m 3 http://{0}/ http://{0}/cart http://{0}/", to.at(port))
    };
    let script = format!("while sleep {pause}; do {ask}; done >/dev/null 2>&1");
    from.spawn(&["sh", "-c", &script])
}

/// Somebody who is not enrolled asks once more, at another workload than before.
pub(crate) fn refused_once(lab: &Lab) -> Result<Process> {
    caller(lab.pod("legacy-report"), lab.pod("web"), 8080, "0.5")
}

/// An answer of `/map.json` with so many workloads in ten namespaces, each calling three others.
pub(crate) fn crowd(number: usize) -> Value {
    let name = |index: usize| (format!("team-{}", index % 10), format!("service-{}", index / 10));
    let identity = |index| {
        let (namespace, name) = name(index);
        format!("spiffe://cluster.local/ns/{namespace}/sa/{name}")
    };
    let workload = |index: usize| {
        let (namespace, name) = name(index);
        json!({
            "namespace": namespace, "name": name, "identity": identity(index), "enrolled": true,
            "node": "node1", "addresses": [], "mtls": "STRICT", "policies": [], "certificate": null,
        })
    };
    let end = |index: usize| {
        let (namespace, name) = name(index);
        json!({ "namespace": namespace, "workload": name, "identity": identity(index) })
    };
    let edge = |source: usize, target: usize| {
        json!({
            "reporter": "source", "source": end(source), "destination": end(target),
            "service": null, "port": 80, "security": "mutual_tls", "open": 1, "opened": 10,
            "failed": 0, "refused": {}, "bytesSent": 1000, "bytesReceived": 9000, "requests": 0,
            "handshakeMs": { "p50": 1.0, "p99": 2.0 }, "firstByteMs": { "p50": 1.0, "p99": 2.0 },
            "lastOpened": "2026-01-01T00:00:00Z",
        })
    };
    let edges = |index| [1, 10, 23].map(|step| edge(index, (index + step) % number));
    json!({
        "node": "node1", "now": "2026-01-01T00:00:10Z",
        "workloads": (0..number).map(workload).collect::<Vec<_>>(),
        "edges": (0..number).flat_map(edges).collect::<Vec<_>>(),
    })
}
