//! Roots that are replaced, tainted and revoked while traffic runs.

use anyhow::{Context, Result, ensure};
use culvert_tests::{Builder, LONG, Lab, NodeId, Process, SOON, scenario, until};
use serde_json::Value;
use std::fs;
use std::time::Duration;

/// Longest that a whole rotation may take, with the waits of [`quick`].
const ROTATION: Duration = Duration::from_secs(100);

/// An authority whose roots turn over in seconds, and certificates that live for `life`.
fn quick(life: &str) -> Builder {
    let arguments = [
        ["--min-ttl", "5s"],
        ["--default-ttl", life],
        ["--max-ttl", life],
        ["--rotation-wait", "3s"],
        ["--drain-margin", "2s"],
        ["--rollback-window", "3s"],
    ];
    arguments.iter().flatten().fold(
        Lab::builder().standard().strict().set("ca", "certificateTtl", life),
        |builder, word| builder.ca_argument(word),
    )
}

/// Connections between the nodes, both ways, one after the other and one that stays.
struct Load {
    clients: Vec<Process>,
    _servers: [Process; 2],
}

impl Load {
    fn start(lab: &Lab) -> Result<Self> {
        let (a1, b1) = (lab.pod("a1"), lab.pod("b1"));
        let servers = echo(lab)?;
        let short = ["--count", "1", "--parallel", "2", "--until-stdin-ends"];
        let mut clients = Vec::new();
        for (from, to) in [(a1, b1.at(81)), (b1, a1.at6(81))] {
            let to = to.to_string();
            clients.push(from.app(&[&["short", "--to", &to][..], &short].concat())?);
            clients.push(from.app(&["ping", "--to", &to, "--every-ms", "10"])?);
        }
        Ok(Self { clients, _servers: servers })
    }

    /// Ends it: nothing has failed. Says how many exchanges there were.
    fn end(self) -> Result<u64> {
        let mut done = 0;
        for client in &self.clients {
            client.close_stdin();
            let said = client.wait(SOON)?.json()?;
            println!("{said}");
            ensure!(said["failed"] == 0, "{said}");
            done += said["ok"].as_u64().context("a count")?;
        }
        Ok(done)
    }
}

fn echo(lab: &Lab) -> Result<[Process; 2]> {
    let listen = ["echo", "--listen", "[::]:81"];
    Ok([lab.pod("a1").server(&listen)?, lab.pod("b1").server(&listen)?])
}

fn status(lab: &Lab) -> Result<Value> {
    Ok(serde_json::from_str(&lab.ca_command(&["status", "-o", "json"])?.ok()?)?)
}

/// Where the root of this number stands; `gone` when the authority knows none.
fn phase(status: &Value, number: u64) -> String {
    let roots = status["roots"].as_array().into_iter().flatten();
    let found = roots.filter(|root| root["number"] == number);
    let mut found = found.map(|root| root["phase"].as_str().unwrap_or_default().to_owned());
    found.next_back().unwrap_or_else(|| "gone".to_owned())
}

fn until_removed(lab: &Lab, number: u64) -> Result<Value> {
    until(&format!("root {number} to be removed"), ROTATION, || {
        let status = status(lab).ok()?;
        ["removed", "gone"].contains(&phase(&status, number).as_str()).then_some(status)
    })
}

/// Waits until every agent has this bundle or a later one in force.
fn until_in_force(lab: &Lab, bundle: u64) -> Result<()> {
    for id in NodeId::ALL {
        until(&format!("{} to have bundle {bundle}", id.name()), LONG, || {
            (counted(lab, id, "culvert_identity_bundle_sequence", &[]) >= bundle).then_some(())
        })?;
    }
    Ok(())
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts are small")]
fn counted(lab: &Lab, id: NodeId, name: &str, labels: &[(&str, &str)]) -> u64 {
    lab.metrics(id).map_or(0, |scrape| scrape.sum(name, labels).round() as u64)
}

fn talk(lab: &Lab, from: &str, to: &str) -> Result<Value> {
    let said = lab.pod(from).run_app(&["talk", "--to", to], SOON)?.stdout;
    serde_json::from_str(said.lines().last().unwrap_or_default()).with_context(|| said.clone())
}

fn until_talking(lab: &Lab) -> Result<()> {
    for (from, to) in [("a1", lab.pod("b1").at(81)), ("b1", lab.pod("a1").at(81))] {
        until("connections to work", LONG, || {
            talk(lab, from, &to.to_string()).ok().filter(|said| said["echoed"] == true)
        })?;
    }
    Ok(())
}

#[test]
fn root_is_replaced_under_load_with_a_node_that_hears_of_it_late() {
    scenario(|| {
        let mut lab = quick("30s").start()?;
        until_in_force(&lab, 1)?;
        let old = fs::read(lab.ca_directory().join("root-cert.pem"))?;
        let load = Load::start(&lab)?;

        // Nothing of the authority's reaches node 2; what goes between pods takes the same wire.
        let cut = |verb: &str| {
            let route = format!("route {verb} blackhole {}/32\n", lab.node(NodeId::Node2).v4());
            lab.node(NodeId::Node1).netns().ip(&route)
        };
        cut("add")?;
        lab.ca_command(&["rotate-root"])?.ok()?;
        until("node 2 alone to hold the rotation", LONG, || {
            let plan = lab.ca_command(&["rotate-root", "--plan"]).ok()?.ok().ok()?;
            let holds: Vec<_> = plan.lines().filter(|line| line.contains("held:")).collect();
            (holds.len() == 1 && holds[0].contains("node2") && !holds[0].contains("node1"))
                .then_some(())
        })?;
        ensure!(phase(&status(&lab)?, 1) == "active", "activated though node 2 has not heard");
        cut("del")?;

        let status = until_removed(&lab, 1)?;
        ensure!(phase(&status, 2) == "active", "{status}");
        until_in_force(&lab, status["bundle"].as_u64().context("a number")?)?;
        for id in NodeId::ALL {
            let trusted = [("standing", "trusted")];
            let roots = counted(&lab, id, "culvert_identity_bundle_roots", &trusted);
            ensure!(roots == 1, "{roots} roots on {}", id.name());
        }
        let done = load.end()?;
        ensure!(done > 2000, "only {done} exchanges");

        // A node that was set up before the rotation and starts again now.
        fs::write(lab.directory().join("old-root.pem"), old)?;
        lab.set("ca", "rootFile", "old-root.pem");
        lab.stop_agent(NodeId::Node1)?;
        lab.start_agent(NodeId::Node1)?;
        lab.wait_enrolled()?;
        let _servers = echo(&lab)?;
        until_talking(&lab)
    });
}

#[test]
fn authority_killed_at_every_step_goes_on_with_the_rotation() {
    scenario(|| {
        let mut lab = quick("12s").start()?;
        until_in_force(&lab, 1)?;
        let load = Load::start(&lab)?;
        lab.ca_command(&["rotate-root"])?.ok()?;
        let mut seen = Vec::new();
        loop {
            let now = until("the next step", ROTATION, || {
                let status = status(&lab).ok()?;
                let now = [phase(&status, 1), phase(&status, 2)];
                (seen.last() != Some(&now)).then_some(now)
            })?;
            let done = ["removed", "gone"].contains(&now[0].as_str());
            seen.push(now);
            lab.kill_ca();
            lab.start_ca()?;
            if done {
                break;
            }
        }
        println!("{seen:?}");
        ensure!(seen.len() >= 3, "steps were missed: {seen:?}");
        until_in_force(&lab, status(&lab)?["bundle"].as_u64().context("a number")?)?;
        load.end()?;
        Ok(())
    });
}

#[test]
fn two_replicas_on_one_store_replace_the_root_together() {
    scenario(|| {
        let mut lab = quick("12s").start()?;
        let second = lab.spawn_ca(NodeId::Node2)?;
        let address = format!("{}:15012", lab.node(NodeId::Node2).v4());
        lab.set_for(NodeId::Node2, "ca", "address", &address);
        lab.stop_agent(NodeId::Node2)?;
        lab.start_agent(NodeId::Node2)?;
        lab.wait_enrolled()?;
        until_in_force(&lab, 1)?;
        let load = Load::start(&lab)?;
        lab.ca_command(&["rotate-root"])?.ok()?;
        let status = until_removed(&lab, 1)?;
        until_in_force(&lab, status["bundle"].as_u64().context("a number")?)?;
        load.end()?;
        for (ca, node) in [(lab.ca()?, "node1"), (&second, "node2")] {
            let issued = ca.stdout();
            let of = |name: &str| issued.lines().any(|l| l.contains("issued") && l.contains(name));
            ensure!(of(node), "{node} got no certificate of its replica");
        }
        Ok(())
    });
}

#[test]
fn tainted_root_is_left_within_its_time_and_a_revoked_one_closes_what_rests_on_it() {
    scenario(|| {
        let lab = quick("40s").start()?;
        until_in_force(&lab, 1)?;
        let load = Load::start(&lab)?;
        // Rests on certificates under root 1 for as long as it lives.
        let _server = lab.pod("b2").server(&["echo", "--listen", "[::]:81"])?;
        let to = lab.pod("b2").at(81).to_string();
        let ping = lab.pod("a2").app(&["ping", "--to", &to, "--every-ms", "10"])?;
        ping.wait_for("connected", SOON)?;

        let renewed = [("kind", "renewal"), ("result", "ok")];
        let renewals = |id| counted(&lab, id, "culvert_identity_issuance_total", &renewed);
        let before = NodeId::ALL.map(renewals);
        lab.ca_command(&["taint", "1"])?.ok()?;
        for (id, before) in NodeId::ALL.into_iter().zip(before) {
            // Two identities on each node; a quarter of 40 s, where renewal is due after 24.
            until("all certificates to be replaced", Duration::from_secs(20), || {
                (renewals(id) >= before + 2).then_some(())
            })?;
            lab.agent(id)?.wait_for("svid rests on a tainted root", SOON)?;
        }
        println!("{} exchanges", load.end()?);
        ensure!(ping.try_status().is_none(), "cut by a root that is tainted only");

        lab.ca_command(&["revoke", "1"])?.ok()?;
        let said = ping.wait(SOON)?;
        ensure!(!said.status.success(), "goes on over a revoked root: {}", said.stdout);
        // The end that hears first closes; the other one may only see that.
        let both = |name: &str, labels: &[(&str, &str)]| {
            NodeId::ALL.map(|id| counted(&lab, id, name, labels)).iter().sum::<u64>()
        };
        until("the closed flow to be counted", SOON, || {
            let reason = [("reason", "root_revoked")];
            (both("culvert_flow_failures_total", &reason) > 0).then_some(())
        })?;
        ensure!(both("culvert_tunnel_root_revoked_total", &[]) > 0, "no connection counted");
        let said = talk(&lab, "a2", &to)?;
        ensure!(said["echoed"] == true, "no new connection at once: {said}");
        Ok(())
    });
}

#[test]
fn revoked_root_takes_certificates_away_and_new_ones_are_there_at_once() {
    scenario(|| {
        let lab = quick("60s").start()?;
        until_in_force(&lab, 1)?;
        let _servers = echo(&lab)?;
        until_talking(&lab)?;
        lab.ca_command(&["taint", "1"])?.ok()?;
        lab.ca_command(&["revoke", "1"])?.ok()?;
        let bundle = status(&lab)?["bundle"].as_u64().context("a number")?;
        until_in_force(&lab, bundle)?;
        until_talking(&lab)?;
        for id in NodeId::ALL {
            let revoked = [("standing", "revoked")];
            let roots = counted(&lab, id, "culvert_identity_bundle_roots", &revoked);
            ensure!(roots == 1, "{roots} revoked roots on {}", id.name());
        }
        Ok(())
    });
}
