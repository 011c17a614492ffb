//! Certificates that are renewed while traffic runs, and an authority that is gone.

use crate::hostile::witness;
use anyhow::{Context, Result, ensure};
use culvert_tests::{Builder, LONG, Lab, NodeId, Pod, SOON, scenario, scenario_within, until};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Longest that a connection waits for its first certificate, in microseconds.
const WAIT_US: u64 = 5_000_000;

/// Until a certificate of [`short_lived`] has ended, and some more.
const LIFE: Duration = Duration::from_secs(40);

/// Longest until all identities of a node are renewed once the authority is back, after some
/// seconds of failures: a few steps of the backoff.
const RENEWED: Duration = Duration::from_secs(10);

/// Certificates with a life of seconds; they are renewed between 60 and 70 % of it.
fn short_lived(life: &str) -> Builder {
    Lab::builder().standard().strict().ca_argument("--min-ttl").ca_argument("5s").set(
        "ca",
        "certificateTtl",
        life,
    )
}

fn talk(lab: &Lab, from: &str, to: &str) -> Result<Value> {
    let said = lab.pod(from).run_app(&["talk", "--to", to], SOON)?.stdout;
    serde_json::from_str(said.lines().last().unwrap_or_default()).with_context(|| said.clone())
}

fn renewals(lab: &Lab, node: NodeId, result: Option<&str>) -> f64 {
    let mut labels = vec![("kind", "renewal")];
    labels.extend(result.map(|result| ("result", result)));
    lab.metrics(node).map_or(0.0, |m| m.sum("culvert_identity_issuance_total", &labels))
}

fn no_identity(lab: &Lab, node: NodeId) -> f64 {
    let labels = [("reason", "no_identity")];
    lab.metrics(node).map_or(0.0, |m| m.sum("culvert_flow_failures_total", &labels))
}

#[test]
fn certificates_rotate_under_a_transfer_and_new_connections() {
    scenario(|| {
        let lab = short_lived("12s").start()?;
        let (a1, b1) = (lab.pod("a1"), lab.pod("b1"));
        // 30 seconds at this pace: more than two lives of a certificate.
        let _source = b1.server(&["source", "--listen", "[::]:80", "--bytes", "60000000"])?;
        let _echo = b1.server(&["echo", "--listen", "[::]:81"])?;
        let to = [b1.at(80), b1.at(81), b1.at6(81)].map(|to| to.to_string());
        let transfer = a1.app(&["read-slowly", "--to", &to[0], "--rate", "2000000"])?;
        let ping = a1.app(&["ping", "--to", &to[1], "--every-ms", "10"])?;
        let short = ["--count", "1", "--parallel", "2", "--until-stdin-ends"];
        let short = a1.app(&[&["short", "--to", &to[2]][..], &short].concat())?;
        let said = transfer.wait(LONG)?.json()?;
        ensure!(said["received"] == 60_000_000 && said["matches"] == true, "{said}");
        ensure!(said["end"] == "fin", "{said}");
        for client in [&ping, &short] {
            client.close_stdin();
            let said = client.wait(SOON)?.json()?;
            println!("{said}");
            ensure!(said["failed"] == 0 && said["ok"].as_u64() > Some(100), "{said}");
        }
        for node in NodeId::ALL {
            // Two identities on each node, and at least three renewals of each.
            let good = renewals(&lab, node, Some("ok"));
            ensure!(good > 5.5, "only {good} renewals on {}", node.name());
            let all = renewals(&lab, node, None);
            ensure!((all - good).abs() < 0.5, "renewals failed on {}", node.name());
            if node == NodeId::Node1 {
                // After each renewal of the source the next flow opens a tunnel with the new one.
                let opened = [("end", "client")];
                let opened =
                    lab.metrics(node)?.sum("culvert_tunnel_connections_opened_total", &opened);
                ensure!(opened > 3.5, "{opened} tunnels in three lives of a certificate");
            }
            let failed = lab.metrics(node)?.sum("istio_tcp_connections_failed_total", &[]);
            ensure!(failed < 0.5, "{failed} flows failed on {}", node.name());
        }
        Ok(())
    });
}

#[test]
fn certificates_serve_until_they_end_when_the_authority_is_gone() {
    scenario(|| {
        let mut lab = short_lived("16s").start()?;
        let _echo = lab.pod("b1").server(&["echo", "--listen", "[::]:80"])?;
        let to = lab.pod("b1").at(80).to_string();
        ensure!(talk(&lab, "a1", &to)?["echoed"] == true, "not even with the authority");
        // A flow that is open goes on, whatever becomes of the certificate it began with.
        let ping = lab.pod("a1").app(&["ping", "--to", &to, "--every-ms", "10"])?;
        ping.wait_for("connected", SOON)?;
        // All certificates are new: each has most of its life before it.
        lab.stop_ca()?;
        // The agent has noticed, and goes on.
        lab.agent(NodeId::Node1)?.wait_for("authority issued no certificate", LIFE)?;
        let said = talk(&lab, "a1", &to)?;
        ensure!(said["echoed"] == true, "refused while the certificate is good: {said}");
        ensure!(no_identity(&lab, NodeId::Node1) < 0.5, "counted as without identity too early");
        let said = until("a connection to fail", LIFE, || {
            talk(&lab, "a1", &to).ok().filter(|said| said["echoed"] != true)
        })?;
        ensure!(said["error"] == "ConnectionReset", "{said}");
        // The other end's certificate may have ended a moment earlier; then ours is next.
        until("the failure to be counted", SOON, || {
            let _ = talk(&lab, "a1", &to); // it fails, one way or the other
            (no_identity(&lab, NodeId::Node1) > 0.5).then_some(())
        })?;
        let agent = lab.agent(NodeId::Node1)?;
        agent.wait_for("svid expired before it could be renewed", SOON)?;
        let line = agent.wait_for("no_identity", SOON)?;
        ensure!(line.contains("authority"), "the log does not say why: {line}");
        ping.close_stdin();
        let said = ping.wait(SOON)?.json()?;
        ensure!(said["failed"] == 0, "a flow that was open was cut: {said}");

        lab.start_ca()?;
        until("connections to work again", LONG, || {
            talk(&lab, "a1", &to).ok().filter(|said| said["echoed"] == true)
        })?;
        Ok(())
    });
}

#[test]
fn first_connection_waits_for_an_authority_that_is_down_and_is_then_reset() {
    scenario(|| {
        let mut lab = Lab::builder().standard().strict().start()?;
        let _echo = lab.pod("b1").server(&["echo", "--listen", "[::]:80"])?;
        let to = lab.pod("b1").at(80).to_string();
        lab.stop_agent(NodeId::Node1)?;
        lab.stop_ca()?;
        lab.start_agent(NodeId::Node1)?;
        let said = talk(&lab, "a1", &to)?;
        ensure!(said["error"] == "ConnectionReset", "{said}");
        let waited = said["us"].as_u64().context("a time")?;
        ensure!((WAIT_US - 500_000..WAIT_US + 3_000_000).contains(&waited), "{said}");
        let line = lab.agent(NodeId::Node1)?.wait_for("no_identity", SOON)?;
        ensure!(line.contains("no certificate for") && line.contains("a1"), "{line}");
        lab.start_ca()?;
        until("connections to work", LONG, || {
            talk(&lab, "a1", &to).ok().filter(|said| said["echoed"] == true)
        })?;
        Ok(())
    });
}

/// How long certificates of ten seconds are replaced under load: more than ten times each.
const ROTATING: Duration = Duration::from_secs(75);

/// The end of the certificate that an agent holds for a pod, in seconds since 1970, as it says.
fn held_until(lab: &Lab, pod: &Pod) -> Result<u64> {
    let id = pod.spiffe_id("cluster.local");
    let labels = [("identity", id.as_str())];
    let end = lab.metrics(pod.node())?.sum("culvert_identity_svid_expiry_seconds", &labels);
    ensure!(end > 0.0, "no certificate for {id}");
    Ok(Duration::from_secs_f64(end).as_secs())
}

/// What the HBONE port of a pod has presented so far.
#[derive(Default)]
struct Seen {
    serials: BTreeSet<String>,
    last: u64,
    tunnels: u32,
}

impl Seen {
    /// Opens one more tunnel: it must present what the agent holds now, and never an older one.
    fn look(&mut self, lab: &Lab, from: &Pod, to: &Pod) -> Result<()> {
        let before = held_until(lab, to)?;
        let facts = witness::presented(lab, from, to)?;
        let after = held_until(lab, to)?;
        let end = facts.not_after.as_secs();
        ensure!(
            (before..=after).contains(&end) && end >= self.last,
            "presented one that ends {end}, while it held {before} to {after}, after {}",
            self.last
        );
        self.last = end;
        self.tunnels += 1;
        self.serials.insert(facts.serial.to_string());
        Ok(())
    }
}

#[test]
fn every_new_tunnel_presents_the_newest_certificate_under_thousands_of_connections() {
    scenario_within(Duration::from_mins(4), || {
        let lab = short_lived("10s").start()?;
        let (a1, b1) = (lab.pod("a1"), lab.pod("b1"));
        let _echo = b1.server(&["echo", "--listen", "[::]:80"])?;
        let _back = a1.server(&["echo", "--listen", "[::]:80"])?;
        let short = |from: &Pod, to: &Pod| {
            let words =
                ["short", "--to", &to.at(80).to_string(), "--count", "1", "--parallel", "2"];
            from.app(&[&words[..], &["--until-stdin-ends"]].concat())
        };
        let clients = [short(a1, b1)?, short(b1, a1)?];
        let (mut there, mut here) = (Seen::default(), Seen::default());
        let begun = Instant::now();
        while begun.elapsed() < ROTATING {
            there.look(&lab, lab.pod("x1"), b1)?;
            here.look(&lab, lab.pod("y1"), a1)?;
        }
        for client in clients {
            client.close_stdin();
            let said = client.wait(SOON)?.json()?;
            println!("{said}");
            ensure!(said["failed"] == 0 && said["ok"].as_u64() > Some(2000), "{said}");
        }
        for seen in [there, here] {
            println!("{} tunnels, {} certificates", seen.tunnels, seen.serials.len());
            ensure!(seen.tunnels > 100 && seen.serials.len() > 9, "too few to tell");
        }
        Ok(())
    });
}

#[test]
fn authority_away_for_a_third_of_a_life_is_not_noticed_and_all_renew_once_it_is_back() {
    scenario(|| {
        let mut lab = short_lived("30s").start()?;
        let _echo = lab.pod("b1").server(&["echo", "--listen", "[::]:80"])?;
        let to = lab.pod("b1").at(80).to_string();
        let short = ["short", "--to", &to, "--count", "1", "--parallel", "1", "--until-stdin-ends"];
        let short = lab.pod("a1").app(&short)?;
        lab.stop_ca()?;
        let away = Instant::now();
        // It is missed first when renewals are due: at 60 % of life.
        for node in NodeId::ALL {
            lab.agent(node)?.wait_for("authority issued no certificate", LIFE)?;
        }
        ensure!(away.elapsed() > Duration::from_secs(9), "missed after {:?}", away.elapsed());
        let pods = ["a1", "a2", "b1", "b2"];
        let held = |lab: &Lab| -> Result<Vec<u64>> {
            pods.iter().map(|name| held_until(lab, lab.pod(name))).collect()
        };
        let before = held(&lab)?;
        lab.start_ca()?;
        until("every identity to be renewed", RENEWED, || {
            let now = held(&lab).ok()?;
            before.iter().zip(&now).all(|(old, new)| new > old).then_some(())
        })?;
        short.close_stdin();
        let said = short.wait(SOON)?.json()?;
        ensure!(said["failed"] == 0 && said["ok"].as_u64() > Some(100), "{said}");
        Ok(())
    });
}
