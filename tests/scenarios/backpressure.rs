//! Readers that are slow or never read: they stop their own writer, and nobody else.

use anyhow::{Context, Result, ensure};
use culvert_tests::{LONG, Lab, NodeId, SOON, scenario};

const MIB: u64 = 1 << 20;
const MUCH: &str = "64000000";

/// How many HBONE connections a node's agent has opened so far.
fn tunnels(lab: &Lab, node: NodeId) -> Result<f64> {
    Ok(lab.metrics(node)?.sum("culvert_identity_handshakes_total", &[("role", "client")]))
}

#[test]
fn slow_reader_does_not_hold_up_fast_ones_of_its_tunnel() {
    scenario(|| {
        // One worker, so that all flows share one tunnel.
        let lab = Lab::builder().standard().strict().set("tunnel", "workers", "1").start()?;
        let (a1, b1) = (lab.pod("a1"), lab.pod("b1"));
        let _source = b1.server(&["source", "--listen", "[::]:80", "--bytes", "40000000"])?;
        let _exchange = b1.server(&["exchange", "--listen", "[::]:81", "--bytes", MUCH])?;
        let slow_sink = b1.server(&["slow-reader", "--listen", "[::]:82", "--rate", "3000000"])?;
        let at = |port| b1.at(port).to_string();
        // Slow in both directions, each with more than all buffers on the way hold.
        let slow_down = a1.app(&["read-slowly", "--to", &at(80), "--rate", "3000000"])?;
        let slow_up =
            a1.app(&["transfer", "--to", &at(82), "--bytes", "40000000", "--expect", "0"])?;
        let fast: Vec<_> = (0..4)
            .map(|_| a1.app(&["transfer", "--to", &at(81), "--bytes", MUCH, "--expect", MUCH]))
            .collect::<Result<_>>()?;
        for transfer in &fast {
            let said = transfer.wait(LONG)?.json()?;
            println!("{said}");
        }
        ensure!(slow_down.try_status().is_none(), "the slow reader is done: {}", slow_down.log());
        ensure!(
            !slow_sink.log().contains("\"bytes\""),
            "the slow sink is done: {}",
            slow_sink.log()
        );
        let opened = tunnels(&lab, NodeId::Node1)?;
        ensure!((opened - 1.0).abs() < 0.5, "{opened} tunnels, so not all flows shared one");
        let said = slow_down.wait(LONG)?.json()?;
        ensure!(said["received"] == 40_000_000 && said["end"] == "fin", "{said}");
        slow_up.wait(LONG)?.ok()?;
        let line = slow_sink.wait_for("\"bytes\":40000000", LONG)?;
        ensure!(line.contains("\"matches\":true") && line.contains("\"fin\""), "{line}");
        Ok(())
    });
}

#[test]
fn reader_that_never_reads_costs_bounded_memory_and_nobody_elses_time() {
    scenario(|| {
        const WRITERS: u64 = 24;
        let lab = Lab::builder().standard().strict().set("tunnel", "workers", "1").start()?;
        let (a1, b1) = (lab.pod("a1"), lab.pod("b1"));
        let _exchange = b1.server(&["exchange", "--listen", "[::]:81", "--bytes", MUCH])?;
        let never = b1.server(&["never-read", "--listen", "[::]:80"])?;
        let at = |port| b1.at(port).to_string();
        a1.run_app(&["transfer", "--to", &at(81), "--bytes", MUCH, "--expect", MUCH], LONG)?
            .ok()?;
        let before = NodeId::ALL.map(|node| lab.agent_memory(node).unwrap_or(u64::MAX));
        let writers: Vec<_> = (0..WRITERS)
            .map(|_| a1.app(&["stall", "--to", &at(80), "--to-the-end"]))
            .collect::<Result<_>>()?;
        for writer in &writers {
            let line = writer.wait_for("\"stalled\":", LONG)?;
            let said: serde_json::Value = serde_json::from_str(&line)?;
            // The kernel's buffers of four sockets and the tunnel's window.
            let stalled = said["stalled"].as_u64().context("a number")?;
            ensure!(stalled < 64 * MIB, "a writer could send {stalled} bytes");
        }
        for (node, before) in NodeId::ALL.into_iter().zip(before) {
            let now = lab.agent_memory(node)?;
            println!("{}: {} MiB, before {} MiB", node.name(), now / MIB, before / MIB);
            // A window of the tunnel, and as much again on its way, for each.
            ensure!(now < before + WRITERS * 2 * MIB + 16 * MIB, "{} holds {now}", node.name());
        }
        // Others go on, on the same tunnel.
        let transfer = ["transfer", "--to", &at(81), "--bytes", MUCH, "--expect", MUCH];
        println!("{}", a1.run_app(&transfer, LONG)?.json()?);
        let opened = tunnels(&lab, NodeId::Node1)?;
        ensure!((opened - 1.0).abs() < 0.5, "{opened} tunnels, so not all flows shared one");
        // The reader ends with unread data, as a program that crashed does.
        never.kill();
        for writer in &writers {
            let said = writer.wait(SOON)?.json()?;
            ensure!(said["end"] == "reset", "{said}");
        }
        Ok(())
    });
}
