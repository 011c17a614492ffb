//! A clean stop: what runs may end, what is new is refused, what takes too long is reset.

use anyhow::{Result, ensure};
use culvert_tests::{LONG, Lab, NodeId, Process, SOON, Signal, scenario, until};

/// More than all buffers on the way hold; at [`RATE`] it takes some seconds.
const BYTES: &str = "40000000";
const RATE: &str = "8000000";

/// Tells an agent to stop and waits until it has begun to.
fn begin_to_stop(lab: &Lab, node: NodeId) -> Result<()> {
    lab.agent(node)?.signal(Signal::Terminate)?;
    lab.agent(node)?.wait_for("draining", SOON).map(drop)
}

fn refused(lab: &Lab, from: &str, to: &str) -> Result<()> {
    let to = lab.pod(to).at(9).to_string();
    until("new connections to be refused", SOON, || {
        let said = lab.pod(from).run_app(&["talk", "--to", &to], SOON).ok()?.stdout;
        said.contains("ConnectionRefused").then_some(())
    })
}

/// A download that takes its time; it has begun when this returns.
fn download(lab: &Lab, from: &str, to: &str, rate: &str) -> Result<Process> {
    let address = lab.pod(to).at(80).to_string();
    let client = lab.pod(from).app(&["read-slowly", "--to", &address, "--rate", rate])?;
    until("the download to be open at both ends", SOON, || {
        NodeId::ALL
            .iter()
            .all(|&node| {
                let open = lab.metrics(node).map(|metrics| metrics.sum("culvert_flow_open", &[]));
                open.is_ok_and(|open| open > 0.5)
            })
            .then_some(())
    })?;
    Ok(client)
}

#[test]
fn running_transfer_completes_while_an_agent_drains() {
    scenario(|| {
        let mut lab = Lab::builder().standard().strict().start()?;
        for stopped in NodeId::ALL {
            let server =
                lab.pod("b1").server(&["source", "--listen", "[::]:80", "--bytes", BYTES])?;
            let client = download(&lab, "a1", "b1", RATE)?;
            begin_to_stop(&lab, stopped)?;
            match stopped {
                // Nobody is to listen there: a connection that passed would say something else.
                NodeId::Node1 => refused(&lab, "a1", "b1")?,
                NodeId::Node2 => refused(&lab, "b2", "a2")?,
            }
            ensure!(client.try_status().is_none(), "the transfer ended before it was looked at");
            let said = client.wait(LONG)?.json()?;
            ensure!(said["end"] == "fin" && said["matches"] == true, "{stopped:?}: {said}");
            ensure!(said["received"] == 40_000_000, "{stopped:?}: {said}");
            let line = server.wait_for("\"end\":", SOON)?;
            ensure!(line.contains("\"fin\""), "{stopped:?}: {line}");
            let ended = lab.agent(stopped)?.wait(SOON)?;
            ensure!(ended.status.success(), "{stopped:?} ended with {}", ended.status);
            drop(server);
            lab.start_agent(stopped)?;
        }
        Ok(())
    });
}

#[test]
fn flow_that_outlasts_the_drain_is_reset() {
    scenario(|| {
        let mut lab =
            Lab::builder().standard().strict().set("tunnel", "drainTimeout", "2s").start()?;
        for stopped in NodeId::ALL {
            let server =
                lab.pod("b1").server(&["source", "--listen", "[::]:80", "--bytes", BYTES])?;
            // A minute and more.
            let client = download(&lab, "a1", "b1", "500000")?;
            // And one on which nothing moves.
            let sink = lab.pod("a2").server(&["sink", "--listen", "[::]:80"])?;
            let to = lab.pod("a2").at6(80).to_string();
            let idle = lab.pod("b2").app(&["wait-end", "--to", &to, "--bytes", "5"])?;
            idle.wait_for("connected", SOON)?;
            begin_to_stop(&lab, stopped)?;
            let ended = lab.agent(stopped)?.wait(SOON)?;
            ensure!(ended.status.success(), "{stopped:?} ended with {}", ended.status);
            for client in [&client, &idle] {
                let said = client.wait(SOON)?.stdout;
                ensure!(said.contains("\"end\":\"reset\""), "{stopped:?}: {said}");
            }
            server.wait_for("ConnectionReset", SOON)?;
            let line = sink.wait_for("\"end\":", SOON)?;
            ensure!(line.contains("\"end\":\"reset\""), "{stopped:?}: {line}");
            drop((server, sink));
            lab.start_agent(stopped)?;
        }
        Ok(())
    });
}
