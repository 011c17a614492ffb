//! Many connections: short ones one after the other, and thousands at once.

use anyhow::{Context, Result, ensure};
use culvert_tests::{Lab, NodeId, Process, SOON, scenario, until};
use std::time::Duration;

/// Enough for the whole crowd on two busy cores.
const CROWD: Duration = Duration::from_secs(100);

/// Connections that stay pooled between the nodes when all flows have ended: at most one for each
/// hundred streams of a worker and pair, and some more.
const POOLED: usize = 120;

const MIB: u64 = 1 << 20;

/// Four pairs, of both families: who, where to, and the port of the server there.
fn pairs(lab: &Lab) -> Vec<(&'static str, String)> {
    vec![
        ("a1", lab.pod("b1").at(80).to_string()),
        ("a2", lab.pod("b2").at6(80).to_string()),
        ("a1", lab.pod("b1").at6(81).to_string()),
        ("a2", lab.pod("b2").at(81).to_string()),
    ]
}

fn servers(lab: &Lab) -> Result<Vec<Process>> {
    ["b1", "b2"]
        .into_iter()
        .flat_map(|pod| ["[::]:80", "[::]:81"].map(|at| (pod, at)))
        .map(|(pod, at)| lab.pod(pod).server(&["echo", "--listen", at]))
        .collect()
}

#[test]
fn ports_that_wait_in_time_wait_are_used_again() {
    scenario(|| {
        let lab = Lab::builder().standard().strict().start()?;
        let b1 = lab.pod("b1");
        let _server = b1.server(&["echo", "--listen", "[::]:80"])?;
        let a1 = lab.pod("a1");
        // Fewer ports than connections, which all end on the client's side; more than are made in
        // the second that a port must wait.
        a1.netns().sysctl("net/ipv4/ip_local_port_range", "40000 45999")?;
        let to = b1.at(80).to_string();
        let said = a1.run_app(&["short", "--to", &to, "--count", "10000"], CROWD)?.json()?;
        ensure!(said["ok"] == 10_000 && said["failed"] == 0, "{said}");
        Ok(())
    });
}

#[test]
fn none_of_ten_thousand_short_connections_is_lost() {
    scenario(|| {
        let lab = Lab::builder().standard().strict().start()?;
        let _servers = servers(&lab)?;
        let clients: Vec<_> = pairs(&lab)
            .iter()
            .map(|(from, to)| {
                lab.pod(from).app(&["short", "--to", to, "--count", "2500", "--parallel", "8"])
            })
            .collect::<Result<_>>()?;
        for client in &clients {
            let said = client.wait(CROWD)?.json()?;
            println!("{said}");
            ensure!(said["ok"] == 2500 && said["failed"] == 0, "{said}");
        }
        for (node, reporter) in [(NodeId::Node1, "source"), (NodeId::Node2, "destination")] {
            until("every flow to be counted", SOON, || {
                let metrics = lab.metrics(node).ok()?;
                let count = |name| metrics.sum(name, &[("reporter", reporter)]);
                (count("istio_tcp_connections_closed_total") >= 10_000.0).then_some(())
            })?;
            let metrics = lab.metrics(node)?;
            let opened = metrics.sum(
                "istio_tcp_connections_opened_total",
                &[("reporter", reporter), ("connection_security_policy", "mutual_tls")],
            );
            ensure!((opened - 10_000.0).abs() < 0.5, "{} counted {opened}", node.name());
            let failed = metrics.sum("istio_tcp_connections_failed_total", &[]);
            ensure!(failed < 0.5, "{} counted {failed} failures", node.name());
        }
        Ok(())
    });
}

/// Descriptors and memory of both agents.
fn usage(lab: &Lab) -> Result<[(usize, u64); 2]> {
    let files = |node| lab.agent_descriptors(node);
    let bytes = |node| lab.agent_memory(node);
    let (first, second) = (NodeId::Node1, NodeId::Node2);
    Ok([(files(first)?, bytes(first)?), (files(second)?, bytes(second)?)])
}

fn no_flow_is_open(lab: &Lab) -> Result<()> {
    until("no flow to be open", SOON, || {
        NodeId::ALL
            .iter()
            .all(|&node| lab.metrics(node).is_ok_and(|m| m.sum("culvert_flow_open", &[]) < 0.5))
            .then_some(())
    })
}

fn hold_two_thousand(lab: &Lab) -> Result<()> {
    let clients: Vec<_> = pairs(lab)
        .iter()
        .map(|(from, to)| lab.pod(from).app(&["hold", "--to", to, "--count", "500"]))
        .collect::<Result<_>>()?;
    for client in &clients {
        let line = client.wait_for("\"held\":", CROWD)?;
        ensure!(line.contains("\"held\":500") && line.contains("\"failed\":0"), "{line}");
    }
    for node in NodeId::ALL {
        let open = lab.metrics(node)?.sum("culvert_flow_open", &[]);
        ensure!((open - 2000.0).abs() < 0.5, "{} has {open} flows open", node.name());
    }
    for client in &clients {
        // Checks each connection once more, and closes.
        client.close_stdin();
    }
    for client in &clients {
        let said = client.wait(CROWD)?.json()?;
        ensure!(said["held"] == 500 && said["failed"] == 0, "{said}");
    }
    no_flow_is_open(lab)
}

#[test]
fn two_thousand_held_connections_leave_nothing_behind() {
    scenario(|| {
        let lab = Lab::builder().standard().strict().start()?;
        let _servers = servers(&lab)?;
        for (from, to) in pairs(&lab) {
            lab.pod(from).run_app(&["talk", "--to", &to], SOON)?.ok()?;
        }
        no_flow_is_open(&lab)?;
        let before = usage(&lab)?;
        hold_two_thousand(&lab)?;
        let first = usage(&lab)?;
        hold_two_thousand(&lab)?;
        let second = usage(&lab)?;
        println!("before {before:?}, after the first {first:?}, after the second {second:?}");
        for (index, node) in NodeId::ALL.iter().enumerate() {
            let name = node.name();
            let (files, bytes) = before[index];
            let after_first = first[index];
            // Tunnels between the nodes stay open for the next flows; nothing else may.
            let allowed = files + POOLED;
            until("descriptors to be closed", SOON, || {
                (lab.agent_descriptors(*node).ok()? <= allowed).then_some(())
            })
            .with_context(|| format!("{name} had {files}, has {:?}", second[index]))?;
            ensure!(second[index].0 <= after_first.0 + 16, "{name} leaks descriptors");
            ensure!(second[index].1 <= bytes + 64 * MIB, "{name} keeps memory");
            ensure!(second[index].1 <= after_first.1 + 16 * MIB, "{name} leaks memory");
        }
        Ok(())
    });
}
