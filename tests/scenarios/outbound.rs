//! Connections that leave an enrolled pod: what the application and the server see of them.

use crate::observed::{Counted, ECONNREFUSED, address, fails, ip, serve, talk};
use anyhow::{Result, ensure};
use culvert_tests::{Lab, NodeId, Pod, SOON, scenario};
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};

/// Both ends see what they would see without a mesh: the client its own address and the peer that
/// it asked for, the server the client's address and its own.
fn both_ends_see(client: &Pod, asked: SocketAddr, said: &Value) -> Result<()> {
    let own: IpAddr =
        if asked.ip().to_canonical().is_ipv4() { client.v4().into() } else { client.v6().into() };
    ensure!(address(&said["peer"])? == asked, "the client sees another peer: {said}");
    ensure!(ip(&said["local"])? == own, "the client has another address: {said}");
    ensure!(
        address(&said["local"])?.is_ipv4() == asked.is_ipv4(),
        "the client's own address is of another family: {said}"
    );
    ensure!(ip(&said["saw"]["peer"])? == own, "the server sees another source: {said}");
    ensure!(ip(&said["saw"]["local"])? == asked.ip().to_canonical(), "{said}");
    ensure!(address(&said["saw"]["local"])?.port() == asked.port(), "{said}");
    Ok(())
}

fn mapped(to: SocketAddr) -> SocketAddr {
    match to.ip() {
        IpAddr::V4(ip) => SocketAddr::from((ip.to_ipv6_mapped(), to.port())),
        IpAddr::V6(_) => to,
    }
}

#[test]
fn both_ends_see_the_addresses_that_they_would_see_without_a_mesh() {
    scenario(|| {
        let lab = Lab::builder().standard().strict().start()?;
        let a1 = lab.pod("a1");
        // b1 is on the other node, a2 on the same.
        for server in [lab.pod("b1"), lab.pod("a2")] {
            let before = Counted::now(&lab, NodeId::Node1)?;
            let _both = serve(server, "[::]:80")?;
            let _only4 = serve(server, "0.0.0.0:81")?;
            for to in [
                server.at(80),
                server.at6(80),
                mapped(server.at(80)),
                server.at(81),
                mapped(server.at(81)),
            ] {
                for how in [&[][..], &["--nonblocking"]] {
                    both_ends_see(a1, to, &talk(a1, to, how)?)?;
                }
            }
            let steered = Counted::now(&lab, NodeId::Node1)?.since(&before, "outbound_steered");
            ensure!(steered == 10, "{steered} of 10 connections were steered");
        }
        Ok(())
    });
}

#[test]
fn source_address_bound_by_the_application_is_kept() {
    scenario(|| {
        let lab = Lab::builder().standard().strict().start()?;
        let (a1, b1) = (lab.pod("a1"), lab.pod("b1"));
        let _server = serve(b1, "[::]:80")?;
        for (to, own, port) in [
            (b1.at(80), a1.at(0), 4321),
            (b1.at6(80), a1.at6(0), 4321),
            (mapped(b1.at(80)), mapped(a1.at(0)), 4322),
        ] {
            let said = talk(a1, to, &["--bind", &own.to_string()])?;
            both_ends_see(a1, to, &said)?;
            let own = SocketAddr::new(own.ip(), port);
            let said = talk(a1, to, &["--bind", &own.to_string()])?;
            both_ends_see(a1, to, &said)?;
            ensure!(address(&said["local"])? == own, "the port that it bound is kept: {said}");
        }
        Ok(())
    });
}

#[test]
fn each_port_serves_one_steered_connection_at_a_time() {
    const EADDRNOTAVAIL: i64 = 99;
    scenario(|| {
        let mesh = Lab::builder().standard().start()?;
        let plain = Lab::builder().standard().without_agents().start()?;
        for lab in [&mesh, &plain] {
            let (a1, b1, b2) = (lab.pod("a1"), lab.pod("b1"), lab.pod("b2"));
            let echo = b1.app(&["echo", "--listen", "[::]:80"])?;
            echo.wait_for("listening", SOON)?;
            let _server = serve(b2, "[::]:80")?;
            let (own, to) = (a1.at(4321).to_string(), b1.at(80).to_string());
            let held = a1.app(&["hold", "--to", &to, "--count", "1", "--bind", &own])?;
            held.wait_for("\"held\":1", SOON)?;
            // Four ports, all of them in use by connections to b1.
            a1.netns().sysctl("net/ipv4/ip_local_port_range", "20000 20003")?;
            let full = a1.app(&["hold", "--to", &to, "--count", "4"])?;
            full.wait_for("\"held\":4", SOON)?;
            for how in [&["--bind", &own][..], &[]] {
                // Known and documented: all steered connections go to one place, the agent, so
                // another destination does not make another connection of them.
                if lab.id() == mesh.id() {
                    let failed = fails(a1, b2.at(80), how)?;
                    ensure!(failed == ("connect".to_owned(), EADDRNOTAVAIL), "{failed:?}");
                } else {
                    talk(a1, b2.at(80), how)?;
                }
            }
        }
        Ok(())
    });
}

#[test]
fn socket_bound_to_a_device_reaches_the_mesh() {
    scenario(|| {
        let lab = Lab::builder().standard().strict().start()?;
        let (a1, b1) = (lab.pod("a1"), lab.pod("b1"));
        let _server = serve(b1, "[::]:80")?;
        for to in [b1.at(80), b1.at6(80), mapped(b1.at(80))] {
            both_ends_see(a1, to, &talk(a1, to, &["--device", "eth0"])?)?;
        }
        Ok(())
    });
}

#[test]
fn first_byte_sent_with_the_connect_arrives_once() {
    scenario(|| {
        let lab = Lab::builder().standard().strict().start()?;
        let (a1, b1) = (lab.pod("a1"), lab.pod("b1"));
        // The client may use fast open, and has no cookie yet or has one: both ways.
        a1.netns().sysctl("net/ipv4/tcp_fastopen", "3")?;
        let _server = serve(b1, "[::]:80")?;
        for to in [b1.at(80), b1.at6(80), b1.at(80), b1.at6(80)] {
            both_ends_see(a1, to, &talk(a1, to, &["--fast-open"])?)?;
        }
        Ok(())
    });
}

#[test]
fn socket_that_failed_can_be_connected_again() {
    scenario(|| {
        let mut lab = Lab::builder().standard().strict().start()?;
        let (a1, b1, y1) = (lab.pod("a1"), lab.pod("b1"), lab.pod("y1"));
        let _b1 = serve(b1, "[::]:80")?;
        let _y1 = serve(y1, "[::]:80")?;
        let _own = serve(a1, "[::]:80")?;
        // Refused by the kernel, then steered.
        let refused = y1.at(9).to_string();
        both_ends_see(a1, b1.at(80), &talk(a1, b1.at(80), &["--first", &refused])?)?;
        // Steered and taken back, then to where nothing is steered: no trace of the first.
        let steered = b1.at(80).to_string();
        let said = talk(a1, y1.at(80), &["--first", &steered])?;
        both_ends_see(a1, y1.at(80), &said)?;
        ensure!(said["saw"]["peer"] == mapped(address(&said["local"])?).to_string(), "{said}");
        let loopback = SocketAddr::from(([127, 0, 0, 1], 80));
        let said = talk(a1, loopback, &["--first", &steered])?;
        ensure!(address(&said["peer"])? == loopback, "{said}");
        // Steered twice to different places.
        let other = lab.pod("b2").at(80).to_string();
        both_ends_see(a1, b1.at(80), &talk(a1, b1.at(80), &["--first", &other])?)?;
        // Refused for want of an agent, then to where none is needed.
        lab.kill_agent(NodeId::Node1);
        let (a1, b1, y1) = (lab.pod("a1"), lab.pod("b1"), lab.pod("y1"));
        let refused = fails(a1, b1.at(80), &[])?;
        ensure!(refused == ("connect".to_owned(), ECONNREFUSED), "{refused:?}");
        both_ends_see(a1, y1.at(80), &talk(a1, y1.at(80), &["--first", &steered])?)?;
        Ok(())
    });
}

#[test]
fn multipath_socket_is_carried_as_plain_tcp() {
    scenario(|| {
        let lab = Lab::builder().standard().strict().start()?;
        let (a1, b1) = (lab.pod("a1"), lab.pod("b1"));
        let _server = serve(b1, "[::]:80")?;
        for to in [b1.at(80), b1.at6(80)] {
            let said = talk(a1, to, &["--multipath"])?;
            ensure!(ip(&said["saw"]["peer"])? == ip(&said["local"])?, "{said}");
            ensure!(ip(&said["saw"]["local"])? == to.ip(), "{said}");
            // Known and documented: the kernel answers for the whole socket, whose state is kept
            // with its first subflow.
            let steered_to = SocketAddr::new(ip(&said["local"])?, 15001);
            ensure!(address(&said["peer"])? == steered_to, "{said}");
        }
        Ok(())
    });
}
