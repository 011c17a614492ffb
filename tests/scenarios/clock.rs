//! A node whose clock is wrong: five minutes either way are within what certificates allow, more is
//! told by name, and setting the clock right is all that it takes.

use anyhow::{Context, Result, ensure};
use culvert_tests::{Clock, Lab, NodeId, Pod, Process, SOON, scenario_within, until};
use serde_json::Value;
use std::io::Write as _;
use std::time::Duration;

/// Longest until an agent sees that its clock was moved: it looks at least every half minute.
const NOTICED: Duration = Duration::from_secs(45);

/// Longest until an agent has asked the authority again, after some failures.
const AGAIN: Duration = Duration::from_secs(90);

/// Longest that one of these scenarios may take.
const LIMIT: Duration = Duration::from_mins(5);

/// The time by which a certificate begins early, in seconds.
const BACKDATE: i64 = 300;

fn talk(from: &Pod, to: &Pod) -> Result<Value> {
    let said = from.run_app(&["talk", "--to", &to.at(80).to_string()], SOON)?.stdout;
    serde_json::from_str(said.lines().last().unwrap_or_default()).with_context(|| said.clone())
}

fn both_ways(lab: &Lab, one: &str, other: &str) -> Result<()> {
    for (from, to) in [(one, other), (other, one)] {
        let said = talk(lab.pod(from), lab.pod(to))?;
        ensure!(said["echoed"] == true, "{from} to {to}: {said}");
    }
    Ok(())
}

fn renewed(lab: &Lab, node: NodeId) -> f64 {
    let labels = [("kind", "renewal"), ("result", "ok")];
    lab.metrics(node).map_or(0.0, |found| found.sum("culvert_identity_issuance_total", &labels))
}

fn failed(lab: &Lab) -> Result<f64> {
    let mut failed = 0.0;
    for node in NodeId::ALL {
        failed += lab.metrics(node)?.sum("culvert_flow_failures_total", &[]);
    }
    Ok(failed)
}

/// An echo in every pod of the mesh.
fn echoes(lab: &Lab) -> Result<Vec<Process>> {
    let pods = ["a1", "a2", "b1", "b2"].iter();
    pods.map(|name| lab.pod(name).server(&["echo", "--listen", "[::]:80"])).collect()
}

/// A lab in which node 1 has a clock of its own, off by so much from the agent's start.
fn lab_with_clock(life: &str, off: i64) -> Result<(Lab, Clock)> {
    let mut lab = Lab::builder().standard().strict().set("ca", "certificateTtl", life).start()?;
    lab.stop_agent(NodeId::Node1)?;
    let clock = lab.give_clock(NodeId::Node1)?;
    clock.set(off)?;
    lab.start_agent(NodeId::Node1)?;
    Ok((lab, clock))
}

/// Runs a scenario where clocks can be moved; elsewhere says `SKIP`, or fails in strict mode.
fn moved(body: impl FnOnce() -> Result<()> + Send + 'static) {
    let strict = std::env::var_os("CULVERT_TEST_STRICT").is_some_and(|strict| strict == "1");
    if Clock::is_possible() || strict {
        return scenario_within(LIMIT, body);
    }
    // Not `eprintln!`: the test runner would hide it.
    let _ = writeln!(std::io::stderr(), "SKIP: no libfaketime here"); // nobody to hear is fine
}

#[test]
fn five_minutes_either_way_go_unnoticed_and_a_step_renews_in_time() {
    moved(|| {
        let (lab, clock) = lab_with_clock("10m", -BACKDATE)?;
        let _echoes = echoes(&lab)?;
        both_ways(&lab, "a1", "b1")?;
        let before = renewed(&lab, NodeId::Node1);
        // From five minutes behind to five minutes ahead: the certificates' ten minutes are over
        // two thirds at once, and those that replace them begin ten minutes ago.
        clock.set(BACKDATE)?;
        both_ways(&lab, "a1", "b1")?;
        until("both identities to be renewed", NOTICED, || {
            (renewed(&lab, NodeId::Node1) > before + 1.5).then_some(())
        })?;
        // With handshakes of their own: these two have not met.
        both_ways(&lab, "a2", "b2")?;
        let failed = failed(&lab)?;
        ensure!(failed < 0.5, "{failed} flows failed");
        Ok(())
    });
}

#[test]
fn clock_that_is_behind_is_named_and_setting_it_right_mends_it() {
    moved(|| {
        let (lab, clock) = lab_with_clock("1h", 0)?;
        let _echoes = echoes(&lab)?;
        both_ways(&lab, "a1", "b1")?;
        clock.set(-4 * BACKDATE)?;
        let said = talk(lab.pod("a2"), lab.pod("b2"))?;
        ensure!(said["error"] == "ConnectionReset", "{said}");
        let agent = lab.agent(NodeId::Node1)?;
        let line = agent.wait_for_line("a line that names the clock", SOON, |line| {
            line.contains("valid only in") && line.contains("this node's clock says")
        })?;
        let labels = [("reason", "certificate_not_yet_valid")];
        let counted = lab.metrics(NodeId::Node1)?.sum("culvert_flow_failures_total", &labels);
        ensure!(counted > 0.5, "not counted, though the log says {line}");
        clock.set(0)?;
        // Nothing was lost by it: what was issued before is still good.
        both_ways(&lab, "a2", "b2")
    });
}

#[test]
fn clock_that_is_far_ahead_is_named_and_setting_it_right_mends_it() {
    moved(|| {
        let (lab, clock) = lab_with_clock("1h", 0)?;
        let _echoes = echoes(&lab)?;
        both_ways(&lab, "a1", "b1")?;
        clock.set(3 * 24 * 3600)?;
        let said = talk(lab.pod("b2"), lab.pod("a2"))?;
        ensure!(said["error"] == "ConnectionReset", "{said}");
        let agent = lab.agent(NodeId::Node1)?;
        agent.wait_for_line("a line that names the clock", NOTICED, |line| {
            line.contains("expired") && line.contains("this node's clock says")
        })?;
        // By now it has asked for others and waits, by a clock that is about to be set back.
        agent.wait_for("authority issued no certificate", NOTICED)?;
        clock.set(0)?;
        until("flows to work again", AGAIN, || both_ways(&lab, "a2", "b2").ok())
    });
}

#[test]
fn authority_whose_clock_is_an_hour_ahead_is_named_and_setting_it_right_mends_it() {
    moved(|| {
        let mut lab = Lab::builder()
            .standard()
            .strict()
            .ca_argument("--min-ttl")
            .ca_argument("5s")
            .set("ca", "certificateTtl", "40s")
            .start()?;
        let _echoes = echoes(&lab)?;
        lab.stop_ca()?;
        let clock = lab.give_ca_clock()?;
        lab.start_ca()?;
        clock.set(12 * BACKDATE)?;
        for node in NodeId::ALL {
            lab.agent(node)?.wait_for_line("a line that names the clock", NOTICED, |line| {
                line.contains("valid only in") && line.contains("this node's clock says")
            })?;
        }
        // What was issued before serves on.
        both_ways(&lab, "a1", "b1")?;
        let before = NodeId::ALL.map(|node| renewed(&lab, node));
        clock.set(0)?;
        for (node, before) in NodeId::ALL.into_iter().zip(before) {
            let what = format!("both identities of {} to be renewed", node.name());
            until(&what, SOON, || (renewed(&lab, node) > before + 1.5).then_some(()))?;
        }
        both_ways(&lab, "a2", "b2")
    });
}
