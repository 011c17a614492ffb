//! Streams: what ends them, and what they wait for.

use anyhow::{Context as _, Result, ensure};
use culvert_tests::{LONG, Lab, NodeId, PodSpec, SOON, scenario, until};
use serde_json::Value;

use super::{builder, call, counted, lines, start};

fn last(process: &culvert_tests::Process) -> Result<Value> {
    process.wait(SOON)?.json()
}

fn open_calls(lab: &Lab) -> f64 {
    counted(lab, "culvert_workload_api_open_calls", &[]).unwrap_or(f64::MAX)
}

#[test]
fn stream_ends_with_the_process_that_opened_it() {
    scenario(|| {
        let lab = builder("1h").start()?;
        let parent = start(&lab, lab.pod("a1"), "hand-over", &[])?;
        // The child holds the socket and hears the parent's identity, as its parent let it.
        parent.wait_for("ids", SOON)?;
        let child = lines(&parent)
            .iter()
            .find_map(|line| line["child"].as_u64())
            .context("the child's number")?;
        parent.close_stdin();
        parent.wait(SOON)?;
        until("the child's stream to end", SOON, || {
            let said = parent.stdout();
            (said.contains("\"code\"") || said.contains("\"error\"")).then_some(())
        })?;
        until("the child to be gone", SOON, || {
            (!std::path::Path::new(&format!("/proc/{child}")).exists()).then_some(())
        })?;
        ensure!(
            counted(&lab, "culvert_workload_api_connections_cut_total", &[("reason", "ended")])?
                > 0.5,
            "not counted"
        );
        Ok(())
    });
}

#[test]
fn stream_of_a_killed_caller_leaves_nothing_behind() {
    scenario(|| {
        let lab = builder("1h").start()?;
        let killed = start(&lab, lab.pod("a1"), "x509", &[])?;
        killed.wait_for("ids", SOON)?;
        ensure!(open_calls(&lab) > 0.5, "the stream is not counted as open");
        killed.kill();
        until("the stream to go", SOON, || (open_calls(&lab) < 0.5).then_some(()))?;
        until("the connection to go", SOON, || {
            let open = counted(&lab, "culvert_workload_api_connections", &[]).ok()?;
            (open < 0.5).then_some(())
        })?;
        Ok(())
    });
}

#[test]
fn stream_is_withdrawn_when_the_workload_leaves_and_back_when_it_returns() {
    scenario(|| {
        let mut lab = builder("1h").start()?;
        let stream = start(&lab, lab.pod("a1"), "x509", &[])?;
        stream.wait_for("ids", SOON)?;
        let other = start(&lab, lab.pod("a2"), "x509", &[])?;
        other.wait_for("ids", SOON)?;
        lab.set_enrolled("a1", false)?;
        let said = last(&stream)?;
        ensure!(said["code"] == "PermissionDenied", "{said}");
        ensure!(lines(&other).len() == 1, "an unrelated stream was told of it: {}", other.stdout());
        lab.set_enrolled("a1", true)?;
        until("the identity to be back", SOON, || {
            start(&lab, lab.pod("a1"), "x509", &[]).ok()?.wait_for("ids", SOON).ok()
        })?;
        Ok(())
    });
}

#[test]
fn identity_that_is_being_made_is_waited_for() {
    scenario(|| {
        let mut lab = builder("1h").start()?;
        // A pod whose certificate nobody could make yet, and its first call.
        lab.stop_ca()?;
        lab.add_pod(PodSpec::new("late", NodeId::Node1).service_account("late"))?;
        let first = until("the pod to be known", SOON, || {
            let first = start(&lab, lab.pod("late"), "x509", &[]).ok()?;
            // Refused while the edit is not in force; held back once it is.
            first
                .wait_for("PermissionDenied", std::time::Duration::from_secs(2))
                .is_err()
                .then_some(first)
        })?;
        ensure!(first.stdout().is_empty(), "answered without a certificate: {}", first.stdout());
        lab.start_ca()?;
        // The first call may have run into its bound; the client's next one is served.
        until("the identity", LONG, || {
            let next = start(&lab, lab.pod("late"), "x509", &[]).ok()?;
            next.wait_for("ids", SOON).ok()
        })?;
        Ok(())
    });
}

#[test]
fn agents_that_follow_one_another_leave_no_gap_and_no_socket() {
    scenario(|| {
        let mut lab = builder("1h").start()?;
        let socket = lab.workload_socket(NodeId::Node1);
        let stream = start(&lab, lab.pod("a1"), "x509", &[])?;
        stream.wait_for("ids", SOON)?;
        let old = lab.take_over_agent(NodeId::Node1)?;
        // The old one's stream lives as long as it does; the path leads to the new one already.
        ensure!(stream.try_status().is_none(), "{}", stream.stdout());
        old.terminate(LONG)?;
        let said = last(&stream)?;
        ensure!(said["code"] == "Unavailable", "{said}");
        ensure!(socket.exists(), "the old agent took the new one's socket away");
        start(&lab, lab.pod("a1"), "x509", &[])?.wait_for("ids", SOON)?;
        // Killed, it leaves its socket; the next one replaces it, and takes it away at its end.
        lab.kill_agent(NodeId::Node1);
        ensure!(socket.exists(), "nobody could have removed it");
        lab.start_agent(NodeId::Node1)?;
        start(&lab, lab.pod("a1"), "x509", &[])?.wait_for("ids", SOON)?;
        lab.stop_agent(NodeId::Node1)?;
        ensure!(!socket.exists(), "the socket is left behind");
        Ok(())
    });
}

#[test]
fn unknown_method_is_answered_unimplemented() {
    scenario(|| {
        let lab = builder("1h").start()?;
        let said = call(&lab, lab.pod("a1"), "wit", &[])?;
        ensure!(said["code"] == "Unimplemented", "{said}");
        Ok(())
    });
}
