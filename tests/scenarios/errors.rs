//! Destinations that cannot be reached: what the application gets, without and with Culvert.
//!
//! docs/architecture.md, "What the application sees", tells users the same.

use crate::observed::{ECONNREFUSED, fails};
use anyhow::{Context, Result, ensure};
use culvert_tests::{Builder, Lab, NodeId, Place, PodSpec, SOON, scenario};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

const ENETUNREACH: i64 = 101;
const ECONNRESET: i64 = 104;

/// An address that no route leads to from a node.
const NOWHERE: [&str; 2] = ["203.0.113.9", "2001:db8::9"];

fn lab() -> Builder {
    Lab::builder().standard().pod(PodSpec::new("z1", NodeId::Node2).unlisted())
}

fn nowhere() -> Result<Vec<SocketAddr>> {
    NOWHERE.iter().map(|ip| Ok(SocketAddr::new(ip.parse::<IpAddr>()?, 80))).collect()
}

/// The connect itself fails, however the application connects.
fn gets(place: &Place, to: SocketAddr, errno: i64) -> Result<()> {
    for how in [&[][..], &["--nonblocking"]] {
        let got = fails(place, to, how)?;
        ensure!(got == ("connect".to_owned(), errno), "{} to {to} {how:?}: {got:?}", place.name());
    }
    Ok(())
}

/// The connection comes about, to the agent, and is reset. An application that asks for
/// `SO_ERROR` late enough finds the reset there already.
fn is_reset(place: &Place, to: SocketAddr) -> Result<()> {
    let started = Instant::now();
    let got = fails(place, to, &[])?;
    ensure!(got == ("exchange".to_owned(), ECONNRESET), "{} to {to}: {got:?}", place.name());
    let got = fails(place, to, &["--nonblocking"])?;
    ensure!(got.1 == ECONNRESET, "{} to {to}: {got:?}", place.name());
    // What the kernel says at once is passed on at once.
    let took = started.elapsed();
    ensure!(took < Duration::from_secs(8), "{} to {to} took {took:?}", place.name());
    Ok(())
}

#[test]
fn without_a_mesh_the_connect_itself_fails() {
    scenario(|| {
        let lab = lab().without_agents().start()?;
        let a1 = lab.pod("a1");
        for pod in ["b1", "a2", "z1", "y1"].map(|name| lab.pod(name)) {
            gets(a1, pod.at(9), ECONNREFUSED)?;
            gets(a1, pod.at6(9), ECONNREFUSED)?;
        }
        for to in nowhere()? {
            gets(a1, to, ENETUNREACH)?;
        }
        Ok(())
    });
}

#[test]
fn port_that_nobody_listens_on_resets_a_connection_through_the_mesh() {
    scenario(|| {
        let lab = lab().strict().start()?;
        let a1 = lab.pod("a1");
        for pod in [lab.pod("b1"), lab.pod("a2")] {
            is_reset(a1, pod.at(9))?;
            is_reset(a1, pod.at6(9))?;
            // The destination's agent names the reason that the kernel gave it, the source's
            // that the other end could not.
            let to = format!("dst.hbone_addr={}", pod.at(9));
            let ends = [(pod.node(), "connect_refused"), (NodeId::Node1, "connect_failed")];
            for (node, reason) in ends {
                let reason = format!("reason=\"{reason}\"");
                lab.agent(node)?.wait_for_line(&reason, SOON, |line| {
                    line.contains(&to) && line.contains(&reason)
                })?;
            }
        }
        Ok(())
    });
}

#[test]
fn destination_outside_the_mesh_resets_where_the_agent_had_to_be_asked() {
    scenario(|| {
        let lab = lab().start()?;
        let a1 = lab.pod("a1");
        is_reset(a1, lab.pod("z1").at(9))?;
        is_reset(a1, lab.pod("z1").at6(9))?;
        for to in nowhere()? {
            is_reset(a1, to)?;
        }
        let agent = lab.agent(NodeId::Node1)?;
        for (to, reason) in [
            (lab.pod("z1").at(9), "connect_refused"),
            (nowhere()?[0], "connect_unreachable"),
            (nowhere()?[1], "connect_unreachable"),
        ] {
            let to = format!("dst.addr={to}");
            let reason = format!("reason=\"{reason}\"");
            agent.wait_for_line(&reason, SOON, |line| {
                line.contains(&to) && line.contains(&reason)
            })?;
        }
        Ok(())
    });
}

#[test]
fn destination_that_the_kernel_is_left_to_reach_keeps_its_very_error() {
    scenario(|| {
        let lab = lab().set("mesh", "ranges", "[\"10.11.2.0/25\"]").start()?;
        let a1 = lab.pod("a1");
        // Known not to be enrolled.
        gets(a1, lab.pod("y1").at(9), ECONNREFUSED)?;
        gets(a1, lab.pod("y1").at6(9), ECONNREFUSED)?;
        // Outside of the mesh's ranges.
        gets(a1, lab.pod("z1").at6(9), ECONNREFUSED)?;
        for to in nowhere()? {
            gets(a1, to, ENETUNREACH)?;
        }
        Ok(())
    });
}

#[test]
fn mesh_destination_without_its_agent_resets_and_is_not_reached_in_plaintext() {
    scenario(|| {
        let mut lab = lab().start()?;
        let server = lab.pod("b1").app(&["serve", "--listen", "[::]:80"])?;
        server.wait_for("listening", SOON)?;
        // With a connection of the pool that was good until now, and without.
        crate::observed::talk(lab.pod("a1"), lab.pod("b1").at(80), &[])?;
        let seen = server.stdout();
        lab.kill_agent(NodeId::Node2);
        let b1 = lab.pod("b1");
        for client in [lab.pod("a1"), lab.pod("a2")] {
            is_reset(client, b1.at(80))?;
            is_reset(client, b1.at6(80))?;
        }
        ensure!(server.stdout() == seen, "something arrived: {}", server.stdout());
        let to = format!("dst.hbone_addr={}", b1.at(80));
        lab.agent(NodeId::Node1)?.wait_for_line("its end", SOON, |line| {
            line.contains(&to) && line.contains("reason=\"connect_refused\"")
        })?;
        Ok(())
    });
}

#[test]
fn destination_that_does_not_answer_resets_after_ten_seconds() {
    scenario(|| {
        let lab = lab().start()?;
        let silent: SocketAddr = "10.11.2.250:80".parse()?;
        lab.node(NodeId::Node2).netns().ip("route add blackhole 10.11.2.250\n")?;
        let started = Instant::now();
        let got = fails(lab.pod("a1"), silent, &[])?;
        ensure!(got == ("exchange".to_owned(), ECONNRESET), "{got:?}");
        let took = started.elapsed();
        ensure!(took >= Duration::from_secs(9), "given up after {took:?}");
        let agent = lab.agent(NodeId::Node1)?;
        agent
            .wait_for_line("a timeout", SOON, |line| {
                line.contains("dst.addr=10.11.2.250:80")
                    && line.contains("reason=\"connect_timed_out\"")
            })
            .context("the log names it")?;
        Ok(())
    });
}
