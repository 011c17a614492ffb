//! Two agents on one node: the new one takes over, the old one drains, and nobody notices.

use anyhow::{Context, Result, ensure};
use culvert_tests::{Lab, NodeId, PodSpec, Process, SOON, Signal, scenario, until};
use std::time::{Duration, Instant};

const NODE: NodeId = NodeId::Node1;

fn echoes(lab: &Lab, pods: &[&str]) -> Result<Vec<Process>> {
    pods.iter().map(|pod| lab.pod(pod).server(&["echo", "--listen", "[::]:80"])).collect()
}

fn works(lab: &Lab, from: &str, to: &str) -> Result<()> {
    let address = lab.pod(to).at(80).to_string();
    let said = lab.pod(from).run_app(&["talk", "--to", &address], SOON)?;
    said.json().with_context(|| format!("{from} to {to}")).map(drop)
}

/// Short connections from one pod to another until its standard input closes.
fn load(lab: &Lab, from: &str, to: &str) -> Result<Process> {
    let to = lab.pod(to).at(80).to_string();
    let words = ["short", "--to", &to, "--count", "1", "--parallel", "2", "--until-stdin-ends"];
    lab.pod(from).app(&words)
}

fn opened(lab: &Lab) -> f64 {
    let metrics = lab.metrics(NODE);
    metrics.map_or(0.0, |m| m.sum("istio_tcp_connections_opened_total", &[]))
}

fn none_failed(clients: &[(&str, Process)]) -> Result<()> {
    for (_, client) in clients {
        client.close_stdin();
    }
    for (what, client) in clients {
        let said = client.wait(SOON)?.stdout;
        println!("{what}: {}", said.trim());
        ensure!(said.contains("\"failed\":0"), "{what}: {said}");
    }
    Ok(())
}

#[test]
fn rolling_update_under_load_breaks_no_new_connection_and_drains_the_old_ones() {
    scenario(|| {
        let drain = Duration::from_secs(3);
        let mut lab = Lab::builder()
            .standard()
            .strict()
            .contained()
            .set("tunnel", "drainTimeout", "3s")
            .start()?;
        let _servers = echoes(&lab, &["a1", "b1"])?;
        let clients = [
            ("out", load(&lab, "a1", "b1")?),
            ("in", load(&lab, "b1", "a1")?),
            ("out of another", load(&lab, "a2", "b1")?),
        ];
        for round in 0..2 {
            let to = lab.pod("b1").at(80).to_string();
            let ping = ["ping", "--to", &to, "--every-ms", "20"];
            let [long, short] = [lab.pod("a1").app(&ping)?, lab.pod("a2").app(&ping)?];
            for client in [&long, &short] {
                client.wait_for("connected", SOON)?;
            }
            let old = lab.take_over_agent(NODE)?;
            lab.wait_ready(NODE)?;
            old.wait_for("another agent takes over", SOON)?;
            until("traffic through the new agent", SOON, || (opened(&lab) > 50.0).then_some(()))?;
            ensure!(long.try_status().is_none(), "round {round}: {}", long.log());
            let asked = Instant::now();
            old.signal(Signal::Terminate)?;
            old.wait_for("draining", SOON)?;
            // One that ends within the time ends well, and the other at the end of the time.
            short.close_stdin();
            short.wait(SOON)?.ok().with_context(|| format!("round {round}"))?;
            let ended = old.wait(SOON)?;
            let took = asked.elapsed();
            ensure!(ended.status.success(), "the old agent ended with {}", ended.status);
            ensure!(took >= drain && took < drain * 2, "it took {took:?} to drain");
            let said = long.wait(SOON)?.stdout;
            ensure!(said.contains("ConnectionReset"), "round {round}: {said}");
        }
        none_failed(&clients)
    });
}

#[test]
fn agent_that_stands_by_changes_nothing_and_acts_again_when_its_successor_fails() {
    scenario(|| {
        let mut lab = Lab::builder().standard().contained().start()?;
        let _servers = echoes(&lab, &["a1", "a2", "b1"])?;
        let old = lab.take_over_agent(NODE)?;
        lab.wait_ready(NODE)?;
        for enrolled in [false, true] {
            lab.set_enrolled("a2", enrolled)?;
            let pods = 1 + usize::from(enrolled);
            until("the kernel to know", SOON, || {
                let state = lab.kernel_state(NODE).ok()?;
                (state["PODS"] == pods && state["links"] == pods).then_some(())
            })?;
            for (from, to) in [("b1", "a1"), ("a1", "b1"), ("b1", "a2"), ("a2", "b1")] {
                works(&lab, from, to)?;
            }
        }
        ensure!(!old.log().contains("workload released"), "the old agent let go: {}", old.tail(20));
        let clients = [("out", load(&lab, "a1", "b1")?), ("in", load(&lab, "b1", "a2")?)];
        lab.kill_agent(NODE);
        old.wait_for("this one acts again", SOON)?;
        for (_, client) in &clients {
            client.close_stdin(); // refused for a moment; what counts is what comes now
        }
        until("traffic through the old agent again", SOON, || {
            works(&lab, "a1", "b1").and_then(|()| works(&lab, "b1", "a2")).ok()
        })?;
        let clients = [("out", load(&lab, "a1", "b1")?), ("in", load(&lab, "b1", "a2")?)];
        lab.add_pod(PodSpec::new("late", NODE))?;
        until("a late pod to be enrolled", SOON, || {
            (lab.kernel_state(NODE).ok()?["PODS"] == 3).then_some(())
        })?;
        let _late = echoes(&lab, &["late"])?;
        works(&lab, "b1", "late")?;
        // And it hands over again.
        lab.start_agent(NODE)?;
        until("the old agent to stand by", SOON, || {
            (old.log().matches("another agent takes over").count() == 2).then_some(())
        })?;
        old.signal(Signal::Terminate)?;
        none_failed(&clients)
    });
}

#[test]
fn agent_that_hangs_is_replaced_and_steps_back_when_it_wakes() {
    scenario(|| {
        let mut lab = Lab::builder().standard().contained().start()?;
        let _servers = echoes(&lab, &["a1", "b1"])?;
        lab.agent(NODE)?.signal(Signal::Stop)?;
        let old = lab.take_over_agent(NODE)?;
        lab.agent(NODE)?.wait_for("does not step back", SOON)?;
        works(&lab, "a1", "b1")?;
        works(&lab, "b1", "a1")?;
        // Before it wakes the pods change, so that it would have something to do.
        lab.set_enrolled("a2", false)?;
        until("a2 to be let go", SOON, || {
            (lab.kernel_state(NODE).ok()?["PODS"] == 1).then_some(())
        })?;
        old.signal(Signal::Continue)?;
        old.wait_for("another agent takes over", SOON)?;
        works(&lab, "a1", "b1")?;
        works(&lab, "b1", "a1")?;
        let clients = [("out", load(&lab, "a1", "b1")?), ("in", load(&lab, "b1", "a1")?)];
        old.terminate(SOON)?;
        none_failed(&clients)
    });
}

#[test]
fn new_agent_without_certificates_leaves_the_old_one_be() {
    scenario(|| {
        let mut lab = Lab::builder().standard().contained().start()?;
        let _servers = echoes(&lab, &["a1", "b1"])?;
        let clients = [("out", load(&lab, "a1", "b1")?), ("in", load(&lab, "b1", "a1")?)];
        lab.stop_ca()?;
        let old = lab.launch_second_agent(NODE)?;
        lab.agent(NODE)?.wait_for("trust bundle not followed", SOON)?;
        works(&lab, "a1", "b1")?;
        ensure!(!old.log().contains("another agent takes over"), "{}", old.tail(20));
        lab.start_ca()?;
        lab.wait_ready(NODE)?;
        old.wait_for("another agent takes over", SOON)?;
        works(&lab, "a1", "b1")?;
        old.terminate(SOON)?;
        none_failed(&clients)
    });
}
