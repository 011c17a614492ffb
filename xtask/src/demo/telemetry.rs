//! What the agents tell: the access log and the metrics.

use super::refusals::plain;
use crate::checks::{self, Checks};
use anyhow::{Result, ensure};
use culvert_tests::{Lab, NodeId, SOON, Scrape};

/// The mesh's trust domain.
const TRUST_DOMAIN: &str = "cluster.local";

/// Lines of a metric that are shown.
const SHOWN: usize = 2;

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

/// Looks for the HTTP requests of the demo, which the agents saw in passing.
pub(crate) fn requests(lab: &Lab, checks: &mut Checks) {
    checks.add("HTTP requests are counted, which the agents saw in passing", seen_passing(lab));
}

fn seen_passing(lab: &Lab) -> Result<String> {
    let scrape = scraped(lab, NodeId::Node2)?;
    show(&scrape, "istio_requests_total{");
    let [a1, a2] = ["a1", "a2"].map(|pod| lab.pod(pod).spiffe_id(TRUST_DOMAIN));
    let count = |source: &str, more: &[(&str, &str)]| {
        let labels = [
            ("reporter", "destination"),
            ("response_code", "200"),
            ("source_principal", source),
            ("connection_security_policy", "mutual_tls"),
        ];
        scrape.sum("istio_requests_total", &[&labels, more].concat())
    };
    let (one, two) = (count(&a1, &[]), count(&a2, &[]));
    // curl asked nginx over IPv4 and IPv6; nghttp asked nghttpd by HTTP/2.
    ensure!(one >= 2.0, "only {one} requests of HTTP/1.1 were counted");
    ensure!(two >= 1.0, "no request of HTTP/2 was counted");
    Ok(format!("{one} from a1 (HTTP/1.1), {two} from a2 (HTTP/2), answered with 200"))
}

fn scraped(lab: &Lab, node: NodeId) -> Result<Scrape> {
    let words = ["curl", "-sS", "-f", "-m", "10", "http://127.0.0.1:15020/metrics"];
    Ok(Scrape::parse(&lab.node(node).run(&words, SOON)?.ok()?))
}

/// The first lines of flows over mutual TLS that begin so, whole: their labels are what is shown.
fn show(scrape: &Scrape, start: &str) {
    let ours = |line: &&str| line.starts_with(start) && line.contains("mutual_tls");
    for line in scrape.text.lines().filter(ours).take(SHOWN) {
        checks::note(line);
    }
}

fn scrape(lab: &Lab, node: NodeId, reporter: &str) -> Result<String> {
    let scrape = scraped(lab, node)?;
    show(&scrape, "istio_tcp_connections_opened_total{");
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
