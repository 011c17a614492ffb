//! Data that is cut short never looks complete: whatever ends a flow other than its own two ends
//! is a reset to the application.

use anyhow::{Context, Result, ensure};
use culvert_tests::{Lab, NodeId, PodSpec, Process, SOON, Signal, scenario, until};

/// More than any test sends before it is cut.
const ENDLESS: &str = "100000000000";

/// Which pairs: through the tunnel both ways round, to outside of the mesh, and from there.
const PAIRS: [(&str, &str); 4] = [("a1", "b1"), ("b2", "a2"), ("a1", "z2"), ("x1", "b1")];

/// With pods that the mesh has never heard of: what goes there passes through the agent.
fn lab() -> Result<Lab> {
    Lab::builder()
        .standard()
        .pod(PodSpec::new("z1", NodeId::Node1).unlisted())
        .pod(PodSpec::new("z2", NodeId::Node2).unlisted())
        .start()
}

fn each_way(lab: &Lab, body: impl Fn(&str, &str, &str) -> Result<()>) -> Result<()> {
    for (from, to) in PAIRS {
        for address in [lab.pod(to).at(80), lab.pod(to).at6(80)] {
            body(from, to, &address.to_string())
                .with_context(|| format!("from {from} to {to} at {address}"))?;
        }
    }
    Ok(())
}

#[test]
fn reset_of_the_client_reaches_the_server_as_a_reset() {
    scenario(|| {
        let lab = lab()?;
        each_way(&lab, |from, to, address| {
            let echo = lab.pod(to).server(&["echo", "--listen", "[::]:80"])?;
            let reset = ["reset", "--to", address, "--bytes", "100000", "--answered"];
            lab.pod(from).run_app(&reset, SOON)?.ok()?;
            echo.wait_for("ConnectionReset", SOON)?;
            Ok(())
        })
    });
}

#[test]
fn reset_of_the_client_amid_its_data_is_never_an_end_of_the_data() {
    scenario(|| {
        let lab = lab()?;
        each_way(&lab, |from, to, address| {
            let sink = lab.pod(to).server(&["sink", "--listen", "[::]:80"])?;
            for _ in 0..10 {
                let reset = ["reset", "--to", address, "--bytes", "1000000"];
                lab.pod(from).run_app(&reset, SOON)?.ok()?;
            }
            // A whole one at the end: what came before it has been told by then.
            let whole = ["transfer", "--to", address, "--bytes", "7", "--expect", "0"];
            lab.pod(from).run_app(&whole, SOON)?.ok()?;
            sink.wait_for("\"bytes\":7", SOON)?;
            let log = sink.log();
            let complete = log.lines().filter(|line| line.contains("\"end\":\"fin\"")).count();
            ensure!(complete == 1, "cut data looked complete:\n{log}");
            Ok(())
        })
    });
}

#[test]
fn reset_of_the_server_reaches_the_client_as_a_reset() {
    scenario(|| {
        let lab = lab()?;
        each_way(&lab, |from, to, address| {
            let _server =
                lab.pod(to).server(&["resetting", "--listen", "[::]:80", "--bytes", "100000"])?;
            let client = ["wait-end", "--to", address, "--bytes", "100000"];
            let said = lab.pod(from).run_app(&client, SOON)?.json()?;
            ensure!(said["end"] == "reset", "{said}");
            Ok(())
        })
    });
}

/// Whether a program was told of a reset. The kernel tells each reset once: to the thread that
/// reads or to the one that writes, whichever asks first; the other one sees an end.
fn told_of_a_reset(said: &str) -> bool {
    ["\"end\":\"reset\"", "\"send\":\"reset\"", "ConnectionReset"]
        .iter()
        .any(|word| said.contains(word))
}

/// Waits until an agent has seen this much more, so that a transfer is surely under way.
fn under_way(lab: &Lab, node: NodeId, name: &str) -> Result<()> {
    let bytes = || lab.metrics(node).map(|metrics| metrics.sum(name, &[])).unwrap_or_default();
    let before = bytes();
    until("a transfer to be under way", SOON, || (bytes() > before + 20e6).then_some(()))
}

/// Ends a program as the kernel ends one that crashed, while it has data that it has not read.
fn crash(program: &Process) -> Result<()> {
    program.signal(Signal::Stop)?;
    program.kill();
    Ok(())
}

#[test]
fn crash_of_an_application_is_a_reset_at_the_other_end() {
    scenario(|| {
        let lab = lab()?;
        let (a1, b1) = (lab.pod("a1"), lab.pod("b1"));
        for to in [b1.at(80).to_string(), b1.at6(80).to_string()] {
            let exchange = ["exchange", "--listen", "[::]:80", "--bytes", ENDLESS];
            let transfer = ["transfer", "--to", &to, "--bytes", ENDLESS, "--expect", ENDLESS];
            let server = b1.server(&exchange)?;
            let client = a1.app(&transfer)?;
            under_way(&lab, NodeId::Node1, "istio_tcp_received_bytes_total")?;
            crash(&server)?;
            let said = client.wait(SOON)?.stdout;
            ensure!(told_of_a_reset(&said), "the client: {said}");

            let server = b1.server(&exchange)?;
            let client = a1.app(&transfer)?;
            under_way(&lab, NodeId::Node1, "istio_tcp_received_bytes_total")?;
            crash(&client)?;
            until("the server to be told of a reset", SOON, || {
                told_of_a_reset(&server.log()).then_some(())
            })
            .with_context(|| server.log())?;
        }
        Ok(())
    });
}

#[test]
fn crash_of_an_agent_is_a_reset_at_both_ends() {
    scenario(|| {
        let mut lab = lab()?;
        for crashed in NodeId::ALL {
            // Down only and up only: an agent that only sends has nothing unread, and the kernel
            // would end its side with a FIN.
            let mut clients = Vec::new();
            let mut servers = Vec::new();
            // Through the tunnel, to outside of the mesh, and from there as plaintext.
            let pairs = match crashed {
                NodeId::Node1 => [("a1", "b1"), ("b2", "a2"), ("a1", "z2"), ("y1", "a1")],
                NodeId::Node2 => [("a1", "b1"), ("b2", "a2"), ("b1", "z1"), ("x1", "b2")],
            };
            for (from, to) in pairs {
                let pod = lab.pod(to);
                let down = pod.server(&["source", "--listen", "[::]:80", "--bytes", ENDLESS])?;
                let up = pod.server(&["sink", "--listen", "[::]:81"])?;
                servers.push((to, up));
                servers.push((to, down));
                let from = lab.pod(from);
                clients.push((to, from.app(&["wait-end", "--to", &pod.at(80).to_string()])?));
                let upload = ["transfer", "--to", &pod.at6(81).to_string(), "--bytes", ENDLESS];
                clients.push((to, from.app(&[&upload[..], &["--expect", "0"]].concat())?));
            }
            // Each server has its connection, else one would wait for an end that cannot come.
            until("all flows to be open", SOON, || {
                let open = lab.metrics(crashed).ok()?.sum("culvert_flow_open", &[]);
                (open > 7.5).then_some(())
            })?;
            for name in ["istio_tcp_sent_bytes_total", "istio_tcp_received_bytes_total"] {
                under_way(&lab, crashed, name)?;
            }
            lab.kill_agent(crashed);
            for (to, client) in &clients {
                let said = client.wait(SOON)?.stdout;
                ensure!(told_of_a_reset(&said), "{crashed:?}, client to {to}: {said}");
            }
            for (to, server) in &servers {
                let line = server.wait_for_line("an end", SOON, |line| line.starts_with('{'))?;
                ensure!(told_of_a_reset(&line), "{crashed:?}, server of {to}: {line}");
            }
            drop((clients, servers));
            lab.start_agent(crashed)?;
        }
        Ok(())
    });
}
