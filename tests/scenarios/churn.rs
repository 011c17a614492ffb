//! Pods that come and go while others have traffic.

use anyhow::{Context, Result, ensure};
use culvert_tests::{KernelState, Lab, NodeId, PodSpec, Process, SOON, scenario, until};
use std::time::Duration;

/// Pods that come and go, half of them on each node.
const PODS: usize = 100;

/// Enough to make, enrol and remove them on two busy cores.
const A_WHILE: Duration = Duration::from_mins(1);

/// Descriptors that may come and go by themselves: a scrape, a request to the authority, tunnels.
const SLACK: usize = 16;

const MIB: u64 = 1 << 20;

fn names() -> Vec<String> {
    (0..PODS).map(|number| format!("c{number}")).collect()
}

fn specs() -> impl Iterator<Item = PodSpec> {
    // A few identities for all, as replicas have.
    (0..PODS).map(|number| {
        let node = if number % 2 == 0 { NodeId::Node1 } else { NodeId::Node2 };
        PodSpec::new(&format!("c{number}"), node).service_account("crowd")
    })
}

/// Waits until both agents have as many workloads enrolled.
fn enrolled(lab: &Lab, each: usize) -> Result<()> {
    for node in NodeId::ALL {
        until(&format!("{each} workloads on {}", node.name()), A_WHILE, || {
            let metrics = lab.metrics(node).ok()?;
            let now = metrics.sum("culvert_capture_enrolled_workloads", &[]);
            ((now - f64::from(u32::try_from(each).ok()?)).abs() < 0.5).then_some(())
        })?;
    }
    Ok(())
}

/// What must not grow: descriptors (each task of an agent's workers has one at least: a listener
/// or a connection), memory, and what is in the kernel.
#[derive(Debug)]
struct Kept {
    descriptors: usize,
    memory: u64,
    kernel: KernelState,
}

fn kept(lab: &Lab, node: NodeId) -> Result<Kept> {
    Ok(Kept {
        descriptors: lab.agent_descriptors(node)?,
        memory: lab.agent_memory(node)?,
        kernel: lab.kernel_state(node)?,
    })
}

/// Connections that come from pods of the crowd, that go to them, and from one to another.
fn connections(lab: &Lab) -> Result<Vec<(Process, Process)>> {
    let mut open = Vec::new();
    for (from, to) in
        [("c0", "b1"), ("a1", "c1"), ("c2", "c3"), ("c5", "c4"), ("x1", "c7"), ("y1", "c6")]
    {
        let to = lab.pod(to);
        let server = to.server(&["sink", "--listen", "[::]:85"])?;
        let address = to.at(85).to_string();
        let client = lab.pod(from).app(&["wait-end", "--to", &address, "--bytes", "1000"])?;
        client.wait_for("connected", SOON)?;
        open.push((client, server));
    }
    // Those that the agents carry have arrived once they are counted: the sinks print at the end.
    until("the connections to be open", SOON, || {
        let open = |node| lab.metrics(node).map_or(0.0, |m| m.sum("culvert_flow_open", &[]));
        (open(NodeId::Node1) > 4.5 && open(NodeId::Node2) > 4.5).then_some(())
    })?;
    Ok(open)
}

#[test]
fn hundred_pods_come_and_go_while_others_have_traffic() {
    scenario(|| {
        let mut lab = Lab::builder().standard().start()?;
        let (a1, b1) = (lab.pod("a1").clone(), lab.pod("b1").clone());
        let _echo = b1.server(&["echo", "--listen", "[::]:80"])?;
        let to = [b1.at(80).to_string(), b1.at6(80).to_string()];
        let ping = a1.app(&["ping", "--to", &to[0], "--every-ms", "2"])?;
        ping.wait_for("connected", SOON)?;
        let short =
            ["short", "--to", &to[1], "--count", "1", "--parallel", "1", "--until-stdin-ends"];
        let short = a1.app(&short)?;
        let names = names();
        let names: Vec<_> = names.iter().map(String::as_str).collect();

        let mut rounds = Vec::new();
        for round in 0..2 {
            let before = NodeId::ALL.map(|node| kept(&lab, node));
            lab.add_pods(specs())?;
            enrolled(&lab, 2 + PODS / 2)?;
            let open = connections(&lab)?;
            // What was told to the agents first, and only then the end of the namespaces.
            lab.remove_pods(&names, |lab| {
                enrolled(lab, 2)?;
                for (client, server) in &open {
                    let said = client.wait(SOON)?.stdout;
                    ensure!(said.contains("\"end\":\"reset\""), "round {round}, client: {said}");
                    let line = server.wait_for("\"end\":", SOON)?;
                    ensure!(line.contains("\"end\":\"reset\""), "round {round}, server: {line}");
                }
                Ok(())
            })?;
            rounds.push(before);
        }
        rounds.push(NodeId::ALL.map(|node| kept(&lab, node)));
        for (node, now) in NodeId::ALL.into_iter().zip(rounds.pop().context("the last")?) {
            let (now, first, second) = (
                now?,
                rounds[0][node as usize].as_ref().ok().context("the first")?,
                rounds[1][node as usize].as_ref().ok().context("the second")?,
            );
            println!("{}: {first:?}\n  then {second:?}\n  then {now:?}", node.name());
            let allowed = first.descriptors + SLACK;
            until("descriptors to be closed", SOON, || {
                (lab.agent_descriptors(node).ok()? <= allowed).then_some(())
            })
            .with_context(|| format!("{} had {}", node.name(), first.descriptors))?;
            // The second crowd finds the room that the first one left.
            ensure!(now.memory < second.memory + 8 * MIB, "{} leaks memory", node.name());
            for name in ["PODS", "LOCAL_PODS", "DESTINATIONS", "LISTENERS", "links"] {
                ensure!(now.kernel[name] == first.kernel[name], "{name}: {:?}", now.kernel);
            }
            // Between SYN and acceptance of the traffic that runs.
            ensure!(now.kernel["FLOWS"] < 8 && now.kernel["DELIVERIES"] < 8, "{:?}", now.kernel);
        }
        for client in [&ping, &short] {
            client.close_stdin();
            let said = client.wait(SOON)?.json()?;
            println!("{said}");
            ensure!(said["failed"] == 0 && said["ok"].as_u64() > Some(100), "{said}");
        }
        Ok(())
    });
}
