//! Two nodes with traffic of every kind that a query asks for, and a Prometheus on the first.

use super::dashboards::list;
use super::prometheus::{Prometheus, Target};
use crate::demo::applications::{self, Applications};
use anyhow::{Context, Result};
use culvert_tests::{Lab, NodeId, PodSpec, Process, SOON, paths, until};

/// Where the authority serves its metrics, on node 1.
const AUTHORITY: &str = "127.0.0.1:15014";

/// STRICT, and one rule that refuses: a2 may not call b1.
const POLICIES: &str = "\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: not-a2, namespace: default}
spec:
  selector: {matchLabels: {app: b1}}
  action: DENY
  rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/a2]}}]}]
";

/// The lab, its traffic and its Prometheus.
pub(super) struct Mesh {
    /// Scrapes all of it.
    pub(super) prometheus: Prometheus,
    // Ended before the lab is.
    _traffic: Vec<Process>,
    _applications: Applications,
    lab: Lab,
}

/// Builds it and sets its traffic going.
pub(super) fn start(id: &str) -> Result<Mesh> {
    let lab = Lab::builder()
        .named(id)
        .standard()
        .policies(POLICIES)
        .ca_argument(&format!("--metrics={AUTHORITY}"))
        .start()?;
    let applications = applications::start(&lab)?;
    let traffic = traffic(&lab)?;
    let second = format!("{}:15020", lab.node(NodeId::Node2).v4());
    let targets = [
        Target { address: "127.0.0.1:15020".to_owned(), node: "node1" },
        Target { address: second, node: "node2" },
        Target { address: AUTHORITY.to_owned(), node: "node1" },
    ];
    let first = lab.node(NodeId::Node1);
    let prometheus = Prometheus::start(first, lab.directory(), &targets)?;
    Ok(Mesh { prometheus, _traffic: traffic, _applications: applications, lab })
}

/// Who calls whom, over and over: HTTP/1.1, HTTP/2, one that a rule refuses, and one that comes in
/// plaintext.
fn traffic(lab: &Lab) -> Result<Vec<Process>> {
    let (b1, b2) = (lab.pod("b1").v4(), lab.pod("b2").at(8080));
    let calls = [
        ("a1", format!("http://{b1}/")),
        ("a1", format!("http://{b1}/absent")),
        ("a2", format!("--http2-prior-knowledge http://{b2}/index.html")),
        ("a2", format!("http://{b1}/")),
        ("x1", format!("http://{b1}/")),
    ];
    let started = calls.iter().map(|(pod, target)| {
        // Ten calls a second are enough for every rate; a refusal is one of the answers wanted.
        let script = format!("while :; do curl -s -m 5 -o /dev/null {target}; sleep 0.1; done");
        lab.pod(pod).spawn(&["sh", "-c", &script])
    });
    started.collect()
}

impl Mesh {
    /// Waits until Prometheus has heard every target.
    pub(super) fn scraped(&self) -> Result<String> {
        self.prometheus.scraped()
    }

    /// Does what is not done in every second: a pod comes, private keys are exported, somebody asks
    /// the authority without an identity, and policies are written that no agent can read.
    pub(super) fn provoke(&mut self) -> Result<()> {
        self.lab.add_pod(PodSpec::new("late", NodeId::Node1))?;
        self.lab.wait_enrolled()?;
        // A new identity makes a tunnel connection of its own, so a handshake under Prometheus' eyes.
        let url = format!("http://{}/", self.lab.pod("b1").v4());
        let words = ["curl", "-sS", "-m", "10", "-o", "/dev/null", &url];
        self.lab.pod("late").run(&words, SOON)?.ok()?;
        self.export()?;
        self.ask_unknown()?;
        // Names are asked for once, so the next scrape must have come by then.
        let refusal = "culvert_ca_requests_refused_total";
        let heard = || self.prometheus.names().ok().filter(|names| names.contains(refusal));
        until("the refusal to be scraped", SOON, heard)?;
        let good = "culvert_workload_policies{state=\"as_written\"} > 0";
        let seen = || Some(list(&self.prometheus.query(good).ok()?["result"]).count());
        until("the policies to be counted", SOON, || (seen()? == 2).then_some(()))?;
        self.lab.set_policies("kind: [\n").context("could not write the policies")
    }

    /// Has a workload's private key handed out.
    fn export(&self) -> Result<()> {
        let directory = self.lab.directory();
        let words = [
            paths::culvert()?.display().to_string(),
            "certs".to_owned(),
            format!("--socket={}", directory.join("node1.sock").display()),
            "export".to_owned(),
            "default/frontend".to_owned(),
            format!("--dir={}", directory.join("exported").display()),
        ];
        let first = self.lab.node(NodeId::Node1);
        until("the export", SOON, || first.run(&words, SOON).ok()?.ok().ok())?;
        Ok(())
    }

    /// Asks the authority for a certificate without any proof of who asks.
    fn ask_unknown(&self) -> Result<()> {
        let node = self.lab.node(NodeId::Node1);
        let url = format!(
            "https://{}:15012/istio.v1.auth.IstioCertificateService/CreateCertificate",
            node.v4()
        );
        // An empty message of gRPC: not compressed, no bytes.
        let script = format!(
            "head -c 5 /dev/zero | curl -sSk --http2 -m 5 -o /dev/null -H 'te: trailers' -H \
             'content-type: application/grpc' --data-binary @- {url}"
        );
        node.run(&["sh", "-c", &script], SOON)?.ok()?;
        Ok(())
    }

    /// Waits for the alert.
    pub(super) fn alarmed(&self) -> Result<String> {
        let firing = "ALERTS{alertname=\"CulvertEditRefused\",alertstate=\"firing\"}";
        let seen = || Some(list(&self.prometheus.query(firing).ok()?["result"]).count());
        let count = until("the alert", SOON, || seen().filter(|count| *count > 0))?;
        Ok(format!("CulvertEditRefused fires for {count} nodes"))
    }
}
