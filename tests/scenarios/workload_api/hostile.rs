//! Callers that must get nothing, or no more than is theirs.

use anyhow::{Result, ensure};
use culvert_tests::{Lab, NodeId, SOON, scenario, until};
use serde_json::Value;

use super::{builder, call, counted, lines, start};

const REFUSALS: &str = "culvert_workload_api_refusals_total";

fn lab() -> Result<Lab> {
    builder("1h").start()
}

fn denied(said: &Value) -> Result<()> {
    ensure!(said["code"] == "PermissionDenied", "{said}");
    // Whoever it is, he learns nothing of why.
    ensure!(said["message"] == "no identity issued", "{said}");
    Ok(())
}

#[test]
fn host_process_gets_no_identity() {
    scenario(|| {
        let lab = lab()?;
        let node = lab.node(NodeId::Node1);
        denied(&call(&lab, node, "x509", &[])?)?;
        denied(&call(&lab, node, "jwt", &["--audience", "reports"])?)?;
        denied(&call(&lab, node, "validate", &["--audience", "a", "--token", "t"])?)?;
        ensure!(counted(&lab, REFUSALS, &[("reason", "host")])? > 2.5, "not counted");
        lab.agent(NodeId::Node1)?.wait_for("workload API caller refused", SOON)?;
        Ok(())
    });
}

#[test]
fn pod_that_is_not_enrolled_or_of_another_node_gets_no_identity() {
    scenario(|| {
        let lab = lab()?;
        denied(&call(&lab, lab.pod("x1"), "x509", &[])?)?;
        ensure!(counted(&lab, REFUSALS, &[("reason", "not_enrolled")])? > 0.5, "not counted");
        // Enrolled, and yet not this node's to speak for.
        denied(&call(&lab, lab.pod("b1"), "x509", &[])?)?;
        ensure!(counted(&lab, REFUSALS, &[("reason", "stranger")])? > 0.5, "not counted");
        Ok(())
    });
}

#[test]
fn process_of_a_pod_cannot_shed_or_change_where_it_is() {
    scenario(|| {
        let lab = lab()?;
        let words = super::words(&lab, "x509", &[])?;
        // In a network namespace of its own making it is nobody.
        let mut own = vec!["unshare".to_owned(), "--net".to_owned(), "--".to_owned()];
        own.extend(words.iter().cloned());
        denied(&lab.pod("a1").run(&own, SOON)?.json()?)?;
        // A process namespace of its own changes its number, not whose it is.
        let mut own: Vec<_> =
            ["unshare", "--pid", "--fork", "--"].map(str::to_owned).into_iter().collect();
        own.extend(words);
        let inside = lab.pod("a1").spawn(&own)?;
        let line = inside.wait_for("ids", SOON)?;
        ensure!(line.contains(&lab.pod("a1").spiffe_id("cluster.local")), "{line}");
        Ok(())
    });
}

#[test]
fn call_without_the_security_header_is_refused_before_anything_else() {
    scenario(|| {
        let lab = lab()?;
        let wrong: [&[&str]; 4] = [
            &["--no-header"],
            &["--header", "false"],
            &["--header", "True"],
            &["--header", "true", "--header", "true"],
        ];
        for arguments in wrong {
            for from in [lab.pod("a1") as &culvert_tests::Place, lab.node(NodeId::Node1)] {
                let said = call(&lab, from, "x509", arguments)?;
                ensure!(said["code"] == "InvalidArgument", "{arguments:?}: {said}");
            }
        }
        Ok(())
    });
}

#[test]
fn caller_that_opens_too_much_is_stopped_and_harms_nobody() {
    scenario(|| {
        let lab = lab()?;
        let greedy = start(&lab, lab.pod("a1"), "streams", &["--count", "200"])?;
        greedy.wait_for("open", SOON)?;
        let said = lines(&greedy).remove(0);
        ensure!(said["open"] == 128 && said["exhausted"] == 72, "{said}");
        let many = start(&lab, lab.pod("a1"), "connections", &["--count", "100"])?;
        many.wait_for("served", SOON)?;
        let said = lines(&many).remove(0);
        ensure!(said["served"] == 0, "calls beyond the limit were served: {said}");
        ensure!(
            counted(&lab, "culvert_workload_api_connections_cut_total", &[("reason", "too_many")])?
                > 30.0,
            "connections beyond the limit were let in"
        );
        // Strangers share one part among them, and it is not a workload's.
        let strangers = start(&lab, lab.node(NodeId::Node1), "connections", &["--count", "100"])?;
        strangers.wait_for("served", SOON)?;
        let modest = start(&lab, lab.pod("a2"), "x509", &[])?;
        modest.wait_for("ids", SOON)?;
        // And it all comes back.
        for process in [&greedy, &many, &strangers] {
            process.close_stdin();
            process.wait(SOON)?;
        }
        until("the places to come back", SOON, || {
            let open = counted(&lab, "culvert_workload_api_open_calls", &[]).ok()?;
            (open < 1.5).then_some(())
        })?;
        start(&lab, lab.pod("a1"), "x509", &[])?.wait_for("ids", SOON)?;
        Ok(())
    });
}

#[test]
fn connection_that_says_nothing_is_closed() {
    scenario(|| {
        let lab = lab()?;
        let silent = start(&lab, lab.pod("a1"), "silent", &[])?;
        let line = silent.wait_for("closed_after_ms", SOON)?;
        let said: Value = serde_json::from_str(&line)?;
        let after = said["closed_after_ms"].as_u64().unwrap_or_default();
        ensure!((9_000..15_000).contains(&after), "{said}");
        Ok(())
    });
}
