//! The classics of docs/troubleshooting.md: each is one line of the log that names both ends, the
//! reason and the fix, and a metric under the same word.

use crate::observed::{count, fails, serve, talk};
use anyhow::{Result, ensure};
use culvert_tests::{Lab, NodeId, PodSpec, SOON, scenario, until};

/// Only the service account of `a1` may connect to `b1`.
const FRONT_ONLY: &str = "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
    metadata: {name: front-only, namespace: default}\nspec: {selector: {matchLabels: {app: b1}}, \
    rules: [{from: [{source: {principals: [\"cluster.local/ns/default/sa/frontend\"]}}]}]}\n";

/// Waits for the one line, and for its count.
fn told(lab: &Lab, node: NodeId, ends: [&str; 2], reason: &str, fix: &str) -> Result<()> {
    let line = lab.agent(node)?.wait_for_line(reason, SOON, |line| {
        line.contains(&format!("reason=\"{reason}\"")) && ends.iter().all(|end| line.contains(end))
    })?;
    let said = line.split("fix=\"").nth(1).unwrap_or_default();
    ensure!(said.contains(fix), "no fix with {fix:?} in {line}");
    let counted = count(lab, node, "culvert_flow_failures_total", &[("reason", reason)])?;
    ensure!(counted > 0, "{reason} is not counted at {}", node.name());
    Ok(())
}

#[test]
fn peer_that_is_not_enrolled_is_named_with_the_label_to_set() {
    scenario(|| {
        let lab = Lab::builder().standard().strict().start()?;
        let (x1, b1) = (lab.pod("x1"), lab.pod("b1"));
        let _server = serve(b1, "[::]:80")?;
        fails(x1, b1.at(80), &[])?;
        let source = format!("src.addr={}:", x1.v4());
        let ends = [source.as_str(), "dst.workload=\"b1\""];
        told(&lab, NodeId::Node2, ends, "plaintext_refused", "istio.io/dataplane-mode=ambient")?;
        let decided = [("decision", "refuse"), ("kind", "peer_authentication")];
        let decided = count(&lab, NodeId::Node2, "culvert_policy_decisions_total", &decided)?;
        ensure!(decided > 0, "the decision is not counted");
        Ok(())
    });
}

#[test]
fn policy_that_denies_is_named_at_both_ends_with_what_to_change() {
    scenario(|| {
        let lab = Lab::builder().standard().policies(FRONT_ONLY).start()?;
        let (a1, a2, b1) = (lab.pod("a1"), lab.pod("a2"), lab.pod("b1"));
        let _server = serve(b1, "[::]:80")?;
        talk(a1, b1.at(80), &[])?;
        fails(a2, b1.at(80), &[])?;
        let ends = ["src.workload=\"a2\"", "dst.workload=\"b1\""];
        for node in NodeId::ALL {
            told(&lab, node, ends, "policy_denied", "action ALLOW")?;
        }
        let allowed = [("decision", "allow"), ("kind", "authorization_policy")];
        let refused = [("decision", "refuse"), ("kind", "nothing_allows")];
        for decided in [allowed, refused] {
            let counted = count(&lab, NodeId::Node2, "culvert_policy_decisions_total", &decided)?;
            ensure!(counted > 0, "{decided:?} is not counted");
        }
        Ok(())
    });
}

#[test]
fn authority_that_is_away_is_told_of_at_the_pod_that_needs_it() {
    scenario(|| {
        let mut lab = Lab::builder().standard().strict().start()?;
        lab.stop_ca()?;
        lab.add_pod(PodSpec::new("a9", NodeId::Node1))?;
        lab.wait_enrolled()?;
        let b1 = lab.pod("b1").at(80);
        let _server = serve(lab.pod("b1"), "[::]:80")?;
        fails(lab.pod("a9"), b1, &[])?;
        let ends = ["src.workload=\"a9\"", "dst.workload=\"b1\""];
        told(&lab, NodeId::Node1, ends, "no_identity", "reaches the authority")?;
        // What has a certificate works on.
        talk(lab.pod("a1"), b1, &[])?;
        Ok(())
    });
}

#[test]
fn kernel_tables_event_loops_and_pools_are_counted() {
    scenario(|| {
        let lab = Lab::builder().standard().start()?;
        let (a1, b1) = (lab.pod("a1"), lab.pod("b1"));
        let _server = serve(b1, "[::]:80")?;
        talk(a1, b1.at(80), &[])?;
        talk(a1, b1.at(80), &[])?;
        let sum = |name: &str, labels: &[(&str, &str)]| count(&lab, NodeId::Node1, name, labels);
        until("the tables to be counted", SOON, || {
            let most = sum("culvert_capture_table_max_entries", &[("table", "PODS")]).ok()?;
            (most == 4096).then_some(())
        })?;
        for table in ["LOCAL_PODS", "DESTINATIONS", "FLOWS", "DELIVERIES", "HOST_FLOWS"] {
            let most = sum("culvert_capture_table_max_entries", &[("table", table)])?;
            ensure!(most > 0, "{table} is not counted");
        }
        until("event loops to beat", SOON, || {
            let beats = sum("culvert_observe_loop_lag_seconds_count", &[("loop", "worker-0")]);
            (beats.ok()? > 0).then_some(())
        })?;
        until("handshakes to be timed", SOON, || {
            let handshakes = sum("culvert_identity_handshake_seconds_count", &[("role", "client")]);
            (handshakes.ok()? > 0).then_some(())
        })?;
        until("both flows to have got a place", SOON, || {
            (sum("culvert_tunnel_pool_flows_total", &[]).ok()? == 2).then_some(())
        })?;
        Ok(())
    });
}
