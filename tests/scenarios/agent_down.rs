//! An agent that is gone, and the one that comes after it.

use anyhow::{Context, Result, ensure};
use culvert_tests::{Builder, Lab, NodeId, PodSpec, Process, SOON, Signal, scenario, until};
use serde_json::Value;

/// A refusal must be one at once, not after a wait.
const AT_ONCE_US: u64 = 1_000_000;

/// Traffic of a node that is none of the agent's business; it must never stop.
struct Bystanders(Vec<(&'static str, Process)>);

impl Bystanders {
    /// A ping and short connections between pods that are not enrolled, inside of a pod, and
    /// between the hosts.
    fn start(lab: &Lab) -> Result<(Self, Vec<Process>)> {
        let (node1, node2) = (lab.node(NodeId::Node1), lab.node(NodeId::Node2));
        let (x1, y1, a1) = (lab.pod("x1"), lab.pod("y1"), lab.pod("a1"));
        let echo = ["echo", "--listen", "[::]:90"];
        let servers = vec![
            x1.server(&echo)?,
            y1.server(&echo)?,
            a1.server(&echo)?,
            node1.server(&echo)?,
            node2.server(&echo)?,
        ];
        let hosts = [format!("{}:90", node2.v4()), format!("{}:90", node1.v4())];
        let own = [a1.at(90).to_string(), "127.0.0.1:90".to_owned(), "[::1]:90".to_owned()];
        let mut clients = Vec::new();
        for (what, from, to) in [
            ("not enrolled, out", &**x1, &y1.at(90).to_string()),
            ("not enrolled, in", &**y1, &x1.at6(90).to_string()),
            ("own address", &**a1, &own[0]),
            ("loopback", &**a1, &own[1]),
            ("loopback, IPv6", &**a1, &own[2]),
            ("host to host", &**node1, &hosts[0]),
            ("host from host", &**node2, &hosts[1]),
        ] {
            let ping = from.app(&["ping", "--to", to, "--every-ms", "5"])?;
            ping.wait_for("connected", SOON).with_context(|| what)?;
            clients.push((what, ping));
            let short =
                ["short", "--to", to, "--count", "1", "--parallel", "1", "--until-stdin-ends"];
            clients.push((what, from.app(&short)?));
        }
        Ok((Self(clients), servers))
    }

    fn end(self) -> Result<()> {
        for (_, client) in &self.0 {
            client.close_stdin();
        }
        for (what, client) in &self.0 {
            let said = client.wait(SOON)?.json().with_context(|| *what)?;
            ensure!(said["failed"] == 0 && said["ok"].as_u64() > Some(10), "{what}: {said}");
            ensure!(said["longest_ms"].as_u64().is_none_or(|ms| ms < 1000), "{what}: {said}");
        }
        Ok(())
    }
}

/// With a pod that the mesh has never heard of: what goes there passes through the agent.
fn lab() -> Builder {
    Lab::builder().standard().pod(PodSpec::new("z2", NodeId::Node2).unlisted())
}

fn talk(lab: &Lab, from: &str, to: &str) -> Result<Value> {
    let said = lab.pod(from).run_app(&["talk", "--to", to], SOON)?.stdout;
    serde_json::from_str(said.lines().last().unwrap_or_default()).with_context(|| said.clone())
}

fn refused_at_once(lab: &Lab, from: &str, to: &str) -> Result<()> {
    let said = talk(lab, from, to)?;
    ensure!(said["error"] == "ConnectionRefused", "{from} to {to}: {said}");
    ensure!(said["us"].as_u64().is_some_and(|us| us < AT_ONCE_US), "{from} to {to}: {said}");
    Ok(())
}

fn works(lab: &Lab, from: &str, to: &str) -> Result<()> {
    let said = talk(lab, from, to)?;
    ensure!(said["echoed"] == true, "{from} to {to}: {said}");
    Ok(())
}

#[test]
fn without_an_agent_enrolled_pods_are_refused_and_all_else_goes_on() {
    scenario(|| {
        let mut lab = lab().start()?;
        let (bystanders, _echoes) = Bystanders::start(&lab)?;
        let echo = ["echo", "--listen", "[::]:80"];
        let _servers = ["a1", "b1", "y1", "z2"]
            .map(|pod| lab.pod(pod).server(&echo))
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        let pod = |name| lab.pod(name).clone();
        let (a1, b1, y1, z2) = (pod("a1"), pod("b1"), pod("y1"), pod("z2"));
        works(&lab, "a1", &b1.at(80).to_string())?;
        works(&lab, "b1", &a1.at6(80).to_string())?;
        for round in 0..3 {
            lab.kill_agent(NodeId::Node1);
            for to in [b1.at(80), b1.at6(80), z2.at(80), z2.at6(80)] {
                refused_at_once(&lab, "a1", &to.to_string())?;
            }
            // What is known not to be in the mesh is never steered.
            works(&lab, "a1", &y1.at(80).to_string())?;
            for to in [a1.at(80), a1.at6(80)] {
                refused_at_once(&lab, "y1", &to.to_string())?;
            }
            // Refused to the other node's agent, which can only reset what it has accepted; a
            // reset that comes before the client looks at its peer is told as `NotConnected`.
            let said = talk(&lab, "b1", &a1.at(80).to_string())?;
            let reset = said["error"] == "ConnectionReset" || said["error"] == "NotConnected";
            ensure!(reset, "round {round}: {said}");
            ensure!(said["us"].as_u64().is_none_or(|us| us < AT_ONCE_US), "round {round}: {said}");
            lab.start_agent(NodeId::Node1)?;
            works(&lab, "a1", &b1.at(80).to_string())?;
            works(&lab, "b1", &a1.at6(80).to_string())?;
            works(&lab, "y1", &a1.at(80).to_string())?;
            works(&lab, "a1", &z2.at6(80).to_string())?;
        }
        bystanders.end()
    });
}

#[test]
fn without_an_agent_pods_pass_where_that_is_set_but_never_into_strict() {
    scenario(|| {
        let mut lab = lab()
            .set("capture", "whenAgentDown", "pass")
            .policies(
                "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata:\n  \
                 name: strict\n  namespace: default\nspec:\n  selector:\n    matchLabels:\n      \
                 app: a2\n  mtls:\n    mode: STRICT\n",
            )
            .start()?;
        let serve = ["echo", "--listen", "[::]:80"];
        let _servers = ["a1", "a2", "b1", "z2"]
            .map(|pod| lab.pod(pod).server(&serve))
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        let at = |pod: &str| [lab.pod(pod).at(80).to_string(), lab.pod(pod).at6(80).to_string()];
        let (a1, a2, b1, z2) = (at("a1"), at("a2"), at("b1"), at("z2"));
        lab.kill_agent(NodeId::Node1);
        for family in 0..2 {
            works(&lab, "a1", &b1[family])?;
            works(&lab, "a1", &z2[family])?;
            works(&lab, "a2", &z2[family])?;
            works(&lab, "y1", &a1[family])?;
            refused_at_once(&lab, "y1", &a2[family])?;
            refused_at_once(&lab, "x1", &a2[family])?;
        }
        // A policy that changed before is the one that counts.
        lab.start_agent(NodeId::Node1)?;
        for family in 0..2 {
            works(&lab, "a1", &b1[family])?;
            works(&lab, "y1", &a1[family])?;
        }
        lab.set_policies(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata:\n  \
             name: strict\n  namespace: istio-system\nspec:\n  mtls:\n    mode: STRICT\n",
        )?;
        until("the policy to be in force", SOON, || {
            talk(&lab, "y1", &a1[0]).ok().filter(|said| said["echoed"] != true)
        })?;
        lab.kill_agent(NodeId::Node1);
        for to in &a1 {
            refused_at_once(&lab, "y1", to)?;
        }
        Ok(())
    });
}

#[test]
fn new_agent_sweeps_what_the_old_one_left_of_pods_that_are_gone() {
    scenario(|| {
        let mut lab = Lab::builder().standard().start()?;
        let before = lab.kernel_state(NodeId::Node1)?;
        ensure!(
            before["PODS"] == 2 && before["LOCAL_PODS"] == 4 && before["links"] == 2,
            "{before:?}"
        );
        let _servers = ["a1", "b1", "x1", "y1"]
            .map(|pod| lab.pod(pod).server(&["echo", "--listen", "[::]:80"]))
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        let (b1, y1) = (lab.pod("b1").at(80).to_string(), lab.pod("y1").at(80).to_string());
        lab.kill_agent(NodeId::Node1);
        lab.remove_pods(&["a2"], |_| Ok(()))?;
        // One that stays as a pod, but leaves the mesh.
        lab.set_enrolled("a1", false)?;
        lab.start_agent(NodeId::Node1)?;
        let state = lab.kernel_state(NodeId::Node1)?;
        for name in ["PODS", "LOCAL_PODS", "LISTENERS", "links", "FLOWS", "DELIVERIES"] {
            ensure!(state[name] == 0, "{name} are left: {state:?}");
        }
        works(&lab, "a1", &y1)?;
        works(&lab, "y1", &lab.pod("a1").at(80).to_string())?;
        lab.set_enrolled("a1", true)?;
        until("a1 to be enrolled", SOON, || {
            let state = lab.kernel_state(NodeId::Node1).ok()?;
            (state["PODS"] == 1 && state["links"] == 1).then_some(())
        })?;
        works(&lab, "a1", &b1)?;
        let state = lab.kernel_state(NodeId::Node1)?;
        ensure!(state["LOCAL_PODS"] == 2, "{state:?}");
        ensure!(state["LISTENERS"] * 2 == before["LISTENERS"], "{state:?}, once {before:?}");
        Ok(())
    });
}

#[test]
fn new_agent_takes_over_from_a_running_one_without_a_failed_connection() {
    scenario(|| {
        let mut lab = lab().start()?;
        let echo = ["echo", "--listen", "[::]:80"];
        let _servers = ["a1", "b1", "z2"]
            .map(|pod| lab.pod(pod).server(&echo))
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        let until_told = |from: &str, to: &str| {
            let short =
                ["short", "--to", to, "--count", "1", "--parallel", "2", "--until-stdin-ends"];
            lab.pod(from).app(&short)
        };
        let clients = [
            ("out", until_told("a1", &lab.pod("b1").at(80).to_string())?),
            ("in", until_told("b1", &lab.pod("a1").at6(80).to_string())?),
            ("out of the mesh", until_told("a2", &lab.pod("z2").at(80).to_string())?),
            ("into the mesh", until_told("y1", &lab.pod("a1").at(80).to_string())?),
        ];
        for node in [NodeId::Node1, NodeId::Node2, NodeId::Node1] {
            let opened = |lab: &Lab| {
                let metrics = lab.metrics(node);
                metrics.map_or(0.0, |m| m.sum("istio_tcp_connections_opened_total", &[]))
            };
            until("traffic", SOON, || (opened(&lab) > 50.0).then_some(()))?;
            let old = lab.take_over_agent(node)?;
            old.signal(Signal::Terminate)?;
            let ended = old.wait(SOON)?;
            ensure!(ended.status.success(), "the old agent ended with {}", ended.status);
            lab.wait_ready(node)?;
            until("traffic through the new agent", SOON, || (opened(&lab) > 50.0).then_some(()))?;
        }
        for (_, client) in &clients {
            client.close_stdin();
        }
        for (what, client) in &clients {
            let said = client.wait(SOON)?.stdout;
            println!("{what}: {said}");
            ensure!(said.contains("\"failed\":0"), "{what}: {said}");
        }
        Ok(())
    });
}
