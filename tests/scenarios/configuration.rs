//! The two files of a standalone mesh, edited while the agents run.

use crate::observed::{Counted, ECONNREFUSED, EPERM, count, fails, serve, talk};
use anyhow::{Context, Result, ensure};
use culvert_tests::{Lab, NodeId, PodSpec, SOON, scenario, until};
use std::fs;
use std::os::unix::fs::symlink;

const FAILURES: &str = "culvert_capture_enrol_failures_total";
const ENROLLED: &str = "culvert_capture_enrolled_workloads";
const RELOADS: &str = "culvert_workload_reload_total";

/// Whether a connection from the pod to b1 is carried by a tunnel.
fn tunnelled(lab: &Lab, name: &str) -> Result<bool> {
    let before = Counted::now(lab, NodeId::Node2)?;
    talk(lab.pod(name), lab.pod("b1").at(80), &[])?;
    let now = Counted::now(lab, NodeId::Node2)?;
    let plaintext = now.since(&before, "inbound_plaintext");
    ensure!(plaintext <= 1, "{plaintext} connections for one");
    Ok(plaintext == 0)
}

#[test]
fn edit_enrols_and_releases_a_workload_without_a_restart() {
    scenario(|| {
        let mut lab = Lab::builder().standard().start()?;
        let _server = serve(lab.pod("b1"), "[::]:80")?;
        let echo = lab.pod("y1").app(&["echo", "--listen", "[::]:80"])?;
        echo.wait_for("listening", SOON)?;
        let pid = lab.agent(NodeId::Node1)?.pid();
        ensure!(!tunnelled(&lab, "x1")?);
        let to = lab.pod("y1").at(80).to_string();
        let ping = ["ping", "--to", &to, "--every-ms", "20"];
        let older = lab.pod("x1").app(&ping)?;
        older.wait_for("connected", SOON)?;
        let own_echo = lab.pod("x1").app(&["echo", "--listen", "[::]:80"])?;
        own_echo.wait_for("listening", SOON)?;
        let to = lab.pod("x1").at(80).to_string();
        let inward = lab.pod("y1").app(&["ping", "--to", &to, "--every-ms", "20"])?;
        inward.wait_for("connected", SOON)?;

        lab.set_enrolled("x1", true)?;
        lab.wait_enrolled()?;
        ensure!(tunnelled(&lab, "x1")?, "x1 is enrolled, and its traffic is in the clear");
        let to = lab.pod("b1").at(81).to_string();
        let echo = lab.pod("b1").app(&["echo", "--listen", "[::]:81"])?;
        echo.wait_for("listening", SOON)?;
        let captured = lab.pod("x1").app(&["ping", "--to", &to, "--every-ms", "20"])?;
        captured.wait_for("connected", SOON)?;

        lab.set_enrolled("x1", false)?;
        lab.wait_enrolled()?;
        ensure!(!tunnelled(&lab, "x1")?, "x1 was released, and is captured still");
        // What the agent carried for it ends; what it never had goes on.
        let ended = captured.wait(SOON)?;
        ensure!(ended.stdout.contains("ConnectionReset"), "{}", ended.stdout);
        for process in [older, inward] {
            process.close_stdin();
            process.wait(SOON)?.ok()?;
        }
        ensure!(lab.agent(NodeId::Node1)?.pid() == pid);
        Ok(())
    });
}

#[test]
fn workload_that_becomes_known_is_reached_through_the_tunnel_from_then_on() {
    scenario(|| {
        let mut lab = Lab::builder().standard().start()?;
        let y1 = lab.pod("y1");
        let _server = serve(y1, "[::]:80")?;
        let before = Counted::now(&lab, NodeId::Node1)?;
        talk(lab.pod("a1"), y1.at(80), &[])?;
        before.rose(&lab, NodeId::Node1, &[("outbound_passed", 1)])?;
        lab.set_enrolled("y1", true)?;
        lab.wait_enrolled()?;
        let labels = [("destination_workload", "y1"), ("connection_security_policy", "mutual_tls")];
        // Node 1 follows the same file, at its own moment.
        until("a flow to y1 through the tunnel", SOON, || {
            talk(lab.pod("a1"), lab.pod("y1").at(80), &[]).ok()?;
            let name = "istio_tcp_connections_opened_total";
            (count(&lab, NodeId::Node1, name, &labels).ok()? > 0).then_some(())
        })
    });
}

#[test]
fn bad_edit_keeps_the_last_good_state_and_says_where_and_what_was_expected() {
    scenario(|| {
        let lab = Lab::builder().standard().start()?;
        let _server = serve(lab.pod("b1"), "[::]:80")?;
        let path = lab.directory().join("workloads.yaml");
        let good = fs::read_to_string(&path)?;
        let line_of = |text: &str, part: &str| -> Result<usize> {
            Ok(1 + text.lines().position(|line| line.contains(part)).context("the part")?)
        };
        let edits = [
            (
                good.replacen("serviceAccount:", "serviceAcount:", 1),
                "serviceAcount:",
                "expected one of",
            ),
            (
                good.replacen("10.11.2.2", "10.11.2.2222", 1),
                "10.11.2.2222",
                "is no IP address; expected",
            ),
            (good.replacen("name: a2", "name: a1 # again", 1), "# again", "already stands on line"),
        ];
        let mut refused = 0;
        for (text, part, expected) in edits {
            lab.write_workloads_text(&text)?;
            refused += 1;
            let place = format!("workloads.yaml:{}:", line_of(&text, part)?);
            for node in NodeId::ALL {
                let line = lab.agent(node)?.wait_for_line(expected, SOON, |line| {
                    line.contains("edit refused; the last good state stays")
                        && line.contains(&place)
                        && line.contains(expected)
                })?;
                ensure!(line.contains("ERROR"), "{line}");
                let counted = count(&lab, node, RELOADS, &[("result", "refused")])?;
                ensure!(counted == refused, "{counted} refused edits were counted, not {refused}");
                ensure!(count(&lab, node, ENROLLED, &[])? == 2);
            }
            ensure!(tunnelled(&lab, "a1")?, "the last good state is not in force");
        }
        lab.set_policies("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
            metadata:\n  name: default\n  namespace: istio-system\nspec:\n  mtls:\n    mode: STRICKT\n")?;
        // One bad file is told of at a time; the workloads come first.
        lab.write_workloads_text(&good)?;
        for node in NodeId::ALL {
            lab.agent(node)?.wait_for_line("the policies' fault", SOON, |line| {
                line.contains("policies.yaml:8:") && line.contains("STRICT")
            })?;
        }
        // PERMISSIVE still: not enrolled pods are let in.
        ensure!(!tunnelled(&lab, "x1")?);
        lab.set_policies("")?;
        for node in NodeId::ALL {
            lab.agent(node)?.wait_for("files are good again", SOON)?;
        }
        Ok(())
    });
}

#[test]
fn workload_with_an_address_that_the_file_does_not_list_is_refused_until_it_is_mended() {
    scenario(|| {
        let mut lab = Lab::builder().standard().start()?;
        let _server = serve(lab.pod("b1"), "[::]:80")?;
        lab.add_pod(PodSpec::new("odd", NodeId::Node1).unlisted())?;
        let odd = lab.pod("odd");
        odd.netns().ip("addr add 10.11.99.9/32 dev eth0\n")?;
        let _odd = serve(odd, "[::]:80")?;
        let said = format!(
            "default/odd is said to have {}, {}, but its namespace has",
            odd.v4(),
            odd.v6()
        );
        lab.set_enrolled("odd", true)?;
        let line = lab.agent(NodeId::Node1)?.wait_for(&said, SOON)?;
        ensure!(line.contains("10.11.99.9") && line.contains("correct `addresses`"), "{line}");
        until("the refusal to be counted", SOON, || {
            (count(&lab, NodeId::Node1, FAILURES, &[]).ok()? > 0).then_some(())
        })?;
        ensure!(count(&lab, NodeId::Node1, ENROLLED, &[])? == 2);
        // It is refused both ways, and others are not harmed.
        let refused = fails(lab.pod("odd"), lab.pod("b1").at(80), &[])?;
        ensure!(refused == ("connect".to_owned(), EPERM), "{refused:?}");
        for outside in ["x1", "y1"] {
            let refused = fails(lab.pod(outside), lab.pod("odd").at(80), &[])?;
            ensure!(refused == ("connect".to_owned(), ECONNREFUSED), "{refused:?}");
        }
        ensure!(tunnelled(&lab, "a1")?);
        until("node 2 to know of it", SOON, || {
            let failed = fails(lab.pod("b1"), lab.pod("odd").at(80), &[]).ok()?;
            (failed.0 == "exchange").then_some(())
        })?;
        // Tried again without another edit.
        lab.pod("odd").netns().ip("addr del 10.11.99.9/32 dev eth0\n")?;
        lab.wait_enrolled()?;
        ensure!(tunnelled(&lab, "odd")?);
        talk(lab.pod("b1"), lab.pod("odd").at(80), &[])?;
        Ok(())
    });
}

#[test]
fn workload_whose_namespace_is_missing_is_enrolled_when_it_appears() {
    scenario(|| {
        let mut lab = Lab::builder().standard().start()?;
        let _server = serve(lab.pod("b1"), "[::]:80")?;
        lab.add_pod(PodSpec::new("late", NodeId::Node1).unlisted())?;
        let link = lab.directory().join("late.netns");
        let late = lab.pod("late");
        let workloads = fs::read_to_string(lab.directory().join("workloads.yaml"))?;
        lab.write_workloads_text(&format!(
            "{workloads}  - name: late\n    namespace: default\n    serviceAccount: late\n    \
             node: node1\n    addresses: [\"{}\", \"{}\"]\n    netns: {}\n",
            late.v4(),
            late.v6(),
            link.display(),
        ))?;
        let agent = lab.agent(NodeId::Node1)?;
        let said = agent.wait_for(&format!("cannot enter {}", link.display()), SOON)?;
        ensure!(said.contains("default/late") && said.contains("is the pod running?"), "{said}");
        until("it to be tried again", SOON, || {
            (count(&lab, NodeId::Node1, FAILURES, &[]).ok()? > 1).then_some(())
        })?;
        ensure!(!tunnelled(&lab, "late")?);
        symlink(late.netns().path(), &link)?;
        until("it to be enrolled", SOON, || {
            (count(&lab, NodeId::Node1, ENROLLED, &[]).ok()? == 3).then_some(())
        })?;
        ensure!(tunnelled(&lab, "late")?);
        Ok(())
    });
}
