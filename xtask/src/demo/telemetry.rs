//! What the agents tell: the access log and the metrics.

use super::refusals::plain;
use crate::checks::{self, Checks};
use anyhow::{Result, ensure};
use culvert_tests::{Lab, NodeId, SOON, Scrape};

/// The mesh's trust domain.
const TRUST_DOMAIN: &str = "cluster.local";

/// Lines of each scrape that are shown.
const SHOWN: usize = 4;

/// Looks for one flow with both identities in the destination's log.
pub(crate) fn access_log(lab: &Lab, checks: &mut Checks) {
    checks::part("access log and metrics of both agents");
    let found = both_identities(lab);
    checks.add("the access log names both identities", found);
}

fn both_identities(lab: &Lab) -> Result<String> {
    let (a1, b1) = (lab.pod("a1"), lab.pod("b1"));
    let (source, destination) = (a1.spiffe_id(TRUST_DOMAIN), b1.spiffe_id(TRUST_DOMAIN));
    let line =
        lab.agent(b1.node())?.wait_for_line("a flow with both identities", SOON, |line| {
            line.contains(&source) && line.contains(&destination) && line.contains("inbound")
        })?;
    checks::note(&plain(&line));
    Ok(format!("{source} → {destination}"))
}

/// Scrapes both agents, as Prometheus does, and looks for the flows of the demo.
pub(crate) fn metrics(lab: &Lab, checks: &mut Checks) {
    for (node, reporter) in [(NodeId::Node1, "source"), (NodeId::Node2, "destination")] {
        let what = format!("Prometheus metrics of {} ({reporter})", node.name());
        let counted = scrape(lab, node, reporter);
        checks.add(&what, counted);
    }
}

fn scrape(lab: &Lab, node: NodeId, reporter: &str) -> Result<String> {
    let words = ["curl", "-sS", "-f", "-m", "10", "http://127.0.0.1:15020/metrics"];
    let scrape = Scrape::parse(&lab.node(node).run(&words, SOON)?.ok()?);
    let ours = |line: &&str| line.starts_with("istio_tcp_") && line.contains("mutual_tls");
    for line in scrape.text.lines().filter(ours).take(SHOWN) {
        checks::note(&line.chars().take(180).collect::<String>());
    }
    let source = lab.pod("a1").spiffe_id(TRUST_DOMAIN);
    let destination = lab.pod("b1").spiffe_id(TRUST_DOMAIN);
    let labels = [
        ("reporter", reporter),
        ("connection_security_policy", "mutual_tls"),
        ("source_principal", source.as_str()),
        ("destination_principal", destination.as_str()),
    ];
    let opened = scrape.sum("istio_tcp_connections_opened_total", &labels);
    let bytes = scrape.sum("istio_tcp_sent_bytes_total", &labels);
    // Two requests and the long transfer went from a1 to b1.
    ensure!(opened >= 3.0, "only {opened} flows were counted");
    ensure!(bytes > 1e6, "only {bytes} bytes were counted");
    Ok(format!("{opened} flows a1 → b1 over mutual TLS, {bytes} bytes"))
}
