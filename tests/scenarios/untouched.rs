//! What the mesh leaves alone: shown by the counters of the kernel programs and by the client's
//! own port, which only a connection that nobody stands between carries to the server.

use crate::observed::{Counted, address, count, ip, serve, talk};
use anyhow::{Context, Result, ensure};
use culvert_tests::{Lab, NodeId, Place, PodSpec, SOON, scenario};
use std::net::{IpAddr, SocketAddr};

/// The server sees the client's very socket.
fn direct(place: &Place, to: SocketAddr) -> Result<()> {
    let said = talk(place, to, &[])?;
    ensure!(address(&said["peer"])? == to, "{said}");
    let (seen, own) = (address(&said["saw"]["peer"])?, address(&said["local"])?);
    ensure!(seen.port() == own.port(), "somebody stands between: {said}");
    ensure!(seen.ip().to_canonical() == own.ip().to_canonical(), "{said}");
    Ok(())
}

fn mapped(to: SocketAddr) -> SocketAddr {
    match to.ip() {
        IpAddr::V4(ip) => SocketAddr::from((ip.to_ipv6_mapped(), to.port())),
        IpAddr::V6(_) => to,
    }
}

/// Runs `body` and fails unless the kernel programs of both nodes counted just this meanwhile.
fn counting(
    lab: &Lab,
    node1: &[(&str, u64)],
    node2: &[(&str, u64)],
    body: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let before = [Counted::now(lab, NodeId::Node1)?, Counted::now(lab, NodeId::Node2)?];
    body()?;
    before[0].rose(lab, NodeId::Node1, node1)?;
    before[1].rose(lab, NodeId::Node2, node2)
}

#[test]
fn datagrams_go_between_enrolled_pods_as_without_a_mesh() {
    scenario(|| {
        let lab = Lab::builder().standard().strict().start()?;
        let (a1, b1) = (lab.pod("a1"), lab.pod("b1"));
        let server = b1.app(&["udp-echo", "--listen", "[::]:53"])?;
        server.wait_for("listening", SOON)?;
        counting(&lab, &[], &[], || {
            for to in [b1.at(53), b1.at6(53), mapped(b1.at(53))] {
                let to = to.to_string();
                let said = a1.run_app(&["udp", "--to", &to, "--count", "20"], SOON)?.json()?;
                ensure!(said["ok"] == 20 && said["peer"] == to, "{said}");
            }
            let seen = server.stdout();
            ensure!(seen.contains(&a1.v4().to_string()) && seen.contains(&a1.v6().to_string()));
            Ok(())
        })
    });
}

#[test]
fn connections_inside_a_pod_never_meet_the_agent() {
    scenario(|| {
        let lab = Lab::builder().standard().strict().start()?;
        let a1 = lab.pod("a1");
        let _server = serve(a1, "[::]:80")?;
        counting(&lab, &[], &[], || {
            let loopback4 = SocketAddr::from(([127, 0, 0, 1], 80));
            let loopback6: SocketAddr = "[::1]:80".parse()?;
            for to in [loopback4, loopback6, mapped(loopback4)] {
                direct(a1, to)?;
            }
            for to in [a1.at(80), a1.at6(80), mapped(a1.at(80))] {
                direct(a1, to)?;
            }
            Ok(())
        })
    });
}

#[test]
fn host_and_not_enrolled_pods_talk_among_themselves_untouched() {
    scenario(|| {
        let lab = Lab::builder()
            .standard()
            .pod(PodSpec::new("z1", NodeId::Node2).unlisted())
            .strict()
            .start()?;
        let (node1, node2) = (lab.node(NodeId::Node1), lab.node(NodeId::Node2));
        let (x1, y1, z1) = (lab.pod("x1"), lab.pod("y1"), lab.pod("z1"));
        let _servers = [serve(y1, "[::]:80")?, serve(z1, "[::]:80")?, serve(node2, "[::]:8080")?];
        counting(&lab, &[], &[], || {
            let host4 = SocketAddr::from((node2.v4(), 8080));
            let host6 = SocketAddr::from((node2.v6(), 8080));
            for from in [node1 as &Place, x1] {
                for to in [y1.at(80), y1.at6(80), z1.at(80), z1.at6(80), host4, host6] {
                    direct(from, to)?;
                }
            }
            direct(node2, y1.at(80))
        })
    });
}

#[test]
fn destination_known_not_to_be_enrolled_is_left_to_the_kernel() {
    scenario(|| {
        let lab = Lab::builder().standard().strict().start()?;
        let (a1, x1, y1) = (lab.pod("a1"), lab.pod("x1"), lab.pod("y1"));
        let _servers = [serve(x1, "[::]:80")?, serve(y1, "[::]:80")?];
        counting(&lab, &[("outbound_passed", 5)], &[], || {
            for to in [y1.at(80), y1.at6(80), mapped(y1.at(80)), x1.at(80), x1.at6(80)] {
                direct(a1, to)?;
            }
            Ok(())
        })
    });
}

#[test]
fn address_that_the_mesh_does_not_know_is_reached_directly_by_the_agent() {
    scenario(|| {
        let z1 = PodSpec::new("z1", NodeId::Node2).unlisted();
        let lab = Lab::builder().standard().pod(z1).strict().start()?;
        let (a1, z1, node2) = (lab.pod("a1"), lab.pod("z1"), lab.node(NodeId::Node2));
        let _servers = [serve(z1, "[::]:80")?, serve(node2, "[::]:8080")?];
        let targets = [
            z1.at(80),
            z1.at6(80),
            mapped(z1.at(80)),
            SocketAddr::from((node2.v4(), 8080)),
            SocketAddr::from((node2.v6(), 8080)),
        ];
        let steered = [("outbound_steered", 5), ("original_dst_handed_over", 5), ("flows", 5)];
        counting(&lab, &steered, &[], || {
            for to in targets {
                let said = talk(a1, to, &[])?;
                ensure!(address(&said["peer"])? == to, "{said}");
                ensure!(ip(&said["saw"]["peer"])? == ip(&said["local"])?, "{said}");
            }
            Ok(())
        })?;
        let labels = [("reporter", "source"), ("connection_security_policy", "unknown")];
        let flows = count(&lab, NodeId::Node1, "istio_tcp_connections_opened_total", &labels)?;
        ensure!(flows == 5, "{flows} flows are told as unprotected");
        Ok(())
    });
}

#[test]
fn destination_outside_of_the_mesh_ranges_is_not_steered_unless_it_is_enrolled() {
    scenario(|| {
        let lab = Lab::builder()
            .standard()
            .pod(PodSpec::new("z1", NodeId::Node1).unlisted())
            .pod(PodSpec::new("z2", NodeId::Node2).unlisted())
            .set("mesh", "ranges", "[\"10.11.2.0/24\"]")
            .start()?;
        let (a1, a2) = (lab.pod("a1"), lab.pod("a2"));
        let (outside, inside) = (lab.pod("z1"), lab.pod("z2"));
        let _servers =
            [serve(outside, "[::]:80")?, serve(inside, "[::]:80")?, serve(a2, "[::]:80")?];
        counting(&lab, &[("outbound_passed", 3)], &[], || {
            direct(a1, outside.at(80))?;
            direct(a1, mapped(outside.at(80)))?;
            direct(a1, inside.at6(80))
        })?;
        let steered = [("outbound_steered", 1), ("original_dst_handed_over", 1), ("flows", 1)];
        counting(&lab, &steered, &[], || talk(a1, inside.at(80), &[]).map(drop))?;
        // To be enrolled says more than a range: what the other end protects must not leave bare.
        let before = Counted::now(&lab, NodeId::Node1)?;
        talk(a1, a2.at(80), &[])?;
        let now = Counted::now(&lab, NodeId::Node1)?;
        ensure!(now.since(&before, "outbound_steered") == 1, "{now:?}");
        ensure!(now.since(&before, "inbound_hbone") == 1, "{now:?}");
        Ok(())
    });
}

#[test]
fn traffic_of_others_goes_on_while_agents_are_gone() {
    scenario(|| {
        let mut lab = Lab::builder().standard().strict().start()?;
        let _y1 = serve(lab.pod("y1"), "[::]:80")?;
        let _a1 = serve(lab.pod("a1"), "[::]:80")?;
        for node in NodeId::ALL {
            lab.kill_agent(node);
        }
        let (a1, x1, y1) = (lab.pod("a1"), lab.pod("x1"), lab.pod("y1"));
        direct(x1, y1.at(80)).context("between pods that are not enrolled")?;
        direct(a1, y1.at(80)).context("from an enrolled pod to one that is not")?;
        direct(a1, a1.at(80)).context("inside an enrolled pod")?;
        direct(lab.node(NodeId::Node1), y1.at6(80)).context("from the host")
    });
}
