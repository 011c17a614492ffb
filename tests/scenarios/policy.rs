//! PERMISSIVE and STRICT: plaintext that reaches an enrolled pod.

use crate::observed::{Counted, address, count, fails, ip, serve, talk};
use anyhow::{Context, Result, ensure};
use culvert_tests::{Lab, NodeId, Place, PodSpec, Process, SOON, scenario, until};
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, TcpStream};

const ECONNRESET: i64 = 104;

/// A PeerAuthentication; `spec` is the lines under it, without their indentation.
fn policy(namespace: &str, name: &str, spec: &str) -> String {
    let spec = spec.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n");
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata:\n  \
         name: {name}\n  namespace: {namespace}\nspec:\n{spec}\n"
    )
}

fn mesh(mode: &str) -> String {
    policy("istio-system", "default", &format!("mtls:\n  mode: {mode}"))
}

/// The connection comes about, for the agent takes it to see what it is, and is then reset.
fn refused(place: &Place, to: SocketAddr) -> Result<()> {
    let got = fails(place, to, &[])?;
    ensure!(got == ("exchange".to_owned(), ECONNRESET), "{} to {to}: {got:?}", place.name());
    Ok(())
}

/// Waits for the line that says who was refused, where, and by which rule.
fn named(agent: &Process, source: IpAddr, to: SocketAddr, rule: &str) -> Result<()> {
    let source = match source {
        IpAddr::V4(ip) => format!("src.addr={ip}:"),
        IpAddr::V6(ip) => format!("src.addr=[{ip}]:"),
    };
    let (to, rule) = (format!("dst.addr={to}"), format!("({rule})"));
    let line = agent.wait_for_line(&format!("{source} {to} {rule}"), SOON, |line| {
        line.contains(&source) && line.contains(&to) && line.contains(&rule)
    })?;
    ensure!(line.contains("plaintext where mutual TLS is required"), "{line}");
    ensure!(line.contains("reason=\"plaintext_refused\""), "{line}");
    Ok(())
}

#[test]
fn plaintext_is_delivered_under_permissive_with_the_address_of_its_source() {
    scenario(|| {
        let lab =
            Lab::builder().standard().pod(PodSpec::new("z1", NodeId::Node1).unlisted()).start()?;
        let b1 = lab.pod("b1");
        let _server = serve(b1, "[::]:80")?;
        let before = Counted::now(&lab, NodeId::Node2)?;
        for name in ["x1", "y1", "z1"] {
            let client = lab.pod(name);
            for (to, own) in
                [(b1.at(80), IpAddr::from(client.v4())), (b1.at6(80), IpAddr::from(client.v6()))]
            {
                let said = talk(client, to, &[])?;
                ensure!(address(&said["peer"])? == to, "{said}");
                ensure!(ip(&said["local"])? == own && ip(&said["saw"]["peer"])? == own, "{said}");
                ensure!(ip(&said["saw"]["local"])? == to.ip(), "{said}");
            }
        }
        // Hosts have several addresses; what counts is that both ends speak of the same.
        for host in NodeId::ALL.map(|node| lab.node(node)) {
            for to in [b1.at(80), b1.at6(80)] {
                let said = talk(host, to, &[])?;
                ensure!(ip(&said["saw"]["peer"])? == ip(&said["local"])?, "{said}");
            }
        }
        let wanted = [("inbound_plaintext", 10), ("inbound_delivered", 10), ("flows", 10)];
        before.rose(&lab, NodeId::Node2, &wanted)?;
        let labels = [("reporter", "destination"), ("connection_security_policy", "unknown")];
        let name = "istio_tcp_connections_opened_total";
        let flows = count(&lab, NodeId::Node2, name, &labels)?;
        ensure!(flows == 10, "{flows} flows are told as unprotected");
        Ok(())
    });
}

#[test]
fn plaintext_port_that_nobody_listens_on_is_reset() {
    scenario(|| {
        let lab = Lab::builder().standard().start()?;
        // A documented difference: without a mesh the connect itself would be refused.
        refused(lab.pod("x1"), lab.pod("b1").at(9))?;
        refused(lab.pod("y1"), lab.pod("b1").at6(9))
    });
}

#[test]
fn plaintext_is_reset_under_strict_and_the_log_names_source_destination_and_rule() {
    scenario(|| {
        let lab = Lab::builder().standard().strict().start()?;
        let b1 = lab.pod("b1");
        let server = serve(b1, "[::]:80")?;
        let seen = server.stdout();
        for name in ["x1", "y1"] {
            let client = lab.pod(name);
            let agent = lab.agent(NodeId::Node2)?;
            for (to, own) in
                [(b1.at(80), IpAddr::from(client.v4())), (b1.at6(80), IpAddr::from(client.v6()))]
            {
                refused(client, to)?;
                named(agent, own, to, "PeerAuthentication istio-system/default")?;
            }
        }
        ensure!(server.stdout() == seen, "the application was reached: {}", server.stdout());
        let labels = [("direction", "inbound"), ("reason", "plaintext_refused")];
        let failures = count(&lab, NodeId::Node2, "culvert_flow_failures_total", &labels)?;
        ensure!(failures == 4, "{failures} refusals were counted");
        // There is no way back to plaintext for those who have an identity, either.
        talk(lab.pod("a1"), b1.at(80), &[])?;
        Ok(())
    });
}

#[test]
fn policy_of_a_workload_or_a_port_wins_over_that_of_the_mesh() {
    scenario(|| {
        let own = policy(
            "default",
            "only-metrics-in-plaintext",
            "selector:\n  matchLabels:\n    app: b1\nmtls:\n  mode: STRICT\nportLevelMtls:\n  \
             81:\n    mode: PERMISSIVE",
        );
        let open = policy(
            "default",
            "one-strict-port",
            "selector:\n  matchLabels:\n    app: b2\nmtls:\n  mode: PERMISSIVE\n\
             portLevelMtls:\n  81:\n    mode: STRICT",
        );
        let text = format!("{}{own}{open}", mesh("STRICT"));
        let lab = Lab::builder().standard().policies(&text).start()?;
        let (a2, b1, b2) = (lab.pod("a2"), lab.pod("b1"), lab.pod("b2"));
        let mut servers = Vec::new();
        for pod in [a2, b1, b2] {
            servers.extend([serve(pod, "[::]:80")?, serve(pod, "[::]:81")?]);
        }
        let x1 = lab.pod("x1");
        refused(x1, a2.at(80))?;
        refused(x1, b1.at(80))?;
        talk(x1, b1.at(81), &[])?;
        talk(x1, b2.at(80), &[])?;
        refused(x1, b2.at(81))?;
        let (source, agent) = (IpAddr::from(x1.v4()), lab.agent(NodeId::Node2)?);
        named(agent, source, b1.at(80), "PeerAuthentication default/only-metrics-in-plaintext")?;
        named(agent, source, b2.at(81), "PeerAuthentication default/one-strict-port (port 81)")?;
        for to in [b1.at(80), b1.at(81), b2.at(80), b2.at(81)] {
            talk(lab.pod("a1"), to, &[]).context("mutual TLS is taken everywhere")?;
        }
        Ok(())
    });
}

#[test]
fn edited_policy_holds_for_new_connections_and_ends_plaintext_that_it_forbids() {
    scenario(|| {
        let lab = Lab::builder().standard().policies(&mesh("PERMISSIVE")).start()?;
        let (a1, x1, b1) = (lab.pod("a1"), lab.pod("x1"), lab.pod("b1"));
        let node2 = lab.node(NodeId::Node2);
        let echo = b1.app(&["echo", "--listen", "[::]:80"])?;
        echo.wait_for("listening", SOON)?;
        let to = b1.at(80).to_string();
        let ping = ["ping", "--to", &to, "--every-ms", "20"];
        let [plain, tunnelled, probe] = [x1.app(&ping)?, a1.app(&ping)?, node2.app(&ping)?];
        for process in [&plain, &tunnelled, &probe] {
            process.wait_for("connected", SOON)?;
        }
        lab.set_policies(&mesh("STRICT"))?;
        let ended = plain.wait(SOON)?;
        ensure!(ended.stdout.contains("ConnectionReset"), "{}", ended.stdout);
        let source = format!("src.addr={}:", x1.v4());
        lab.agent(NodeId::Node2)?.wait_for_line("its end", SOON, |line| {
            line.contains(&source)
                && line.contains("reason=\"policy_changed\"")
                && line.contains("PeerAuthentication istio-system/default")
        })?;
        refused(x1, b1.at(80))?;
        // What the policy does not forbid goes on as if nothing had been.
        for process in [tunnelled, probe] {
            process.close_stdin();
            process.wait(SOON)?.ok()?;
        }
        lab.set_policies(&mesh("PERMISSIVE"))?;
        until("plaintext to be taken again", SOON, || {
            x1.run_app(&["talk", "--to", &to], SOON).ok()?.ok().ok()
        })?;
        Ok(())
    });
}

#[test]
fn probes_of_the_own_node_pass_under_strict_and_nobody_elses() {
    scenario(|| {
        let lab = Lab::builder().standard().strict().start()?;
        let b1 = lab.pod("b1");
        let server = serve(b1, "[::]:80")?;
        for to in [b1.at(80), b1.at6(80)] {
            let said = talk(lab.node(NodeId::Node2), to, &[])?;
            ensure!(ip(&said["saw"]["peer"])? == ip(&said["local"])?, "{said}");
        }
        let seen = server.stdout();
        for to in [b1.at(80), b1.at6(80)] {
            // The other node's host is no better than any machine.
            refused(lab.node(NodeId::Node1), to)?;
            refused(lab.pod("y1"), to)?;
        }
        ensure!(server.stdout() == seen, "the application was reached: {}", server.stdout());
        // A pod of the node that takes the very port that a probe has used.
        let said = talk(lab.node(NodeId::Node2), b1.at(80), &[])?;
        let port = address(&said["local"])?.port();
        let own = SocketAddr::from((lab.pod("y1").v4(), port));
        let got = fails(lab.pod("y1"), b1.at(80), &["--bind", &own.to_string()])?;
        ensure!(got == ("exchange".to_owned(), ECONNRESET), "{got:?}");
        Ok(())
    });
}

#[test]
fn source_port_of_a_delivery_lets_nobody_in_afterwards() {
    scenario(|| {
        let lab = Lab::builder().standard().strict().start()?;
        let (a1, b1) = (lab.pod("a1"), lab.pod("b1"));
        let server = serve(b1, "[::]:80")?;
        let second = serve(b1, "[::]:81")?;
        let reached = |server: &Process| -> Vec<String> {
            let told = server.stdout();
            told.lines().filter(|line| line.contains("\"local\"")).map(str::to_owned).collect()
        };
        for to in [b1.at(80), b1.at6(80)] {
            // Ended in order.
            let said = talk(a1, to, &[])?;
            let own = if to.is_ipv4() { a1.v4().into() } else { a1.v6().into() };
            let delivery = SocketAddr::new(own, address(&said["saw"]["peer"])?.port());
            let seen = reached(&server);
            from_that_port(&lab, delivery, to)?;
            ensure!(reached(&server) == seen, "it was reached: {}", server.stdout());
            // Ended by a reset, which leaves no socket behind. Only after an answer: a connection
            // that is reset at once may never be delivered.
            let to = SocketAddr::new(to.ip(), 81);
            let told = reached(&second).len();
            let reset = ["reset", "--to", &to.to_string(), "--bytes", "10", "--answered"];
            a1.run_app(&reset, SOON)?.ok()?;
            let line =
                until("the server to tell of it", SOON, || reached(&second).get(told).cloned())?;
            let said: serde_json::Value = serde_json::from_str(&line)?;
            let delivery = SocketAddr::new(own, address(&said["peer"])?.port());
            from_that_port(&lab, delivery, to)?;
            ensure!(reached(&second).len() == told + 1, "it was reached: {}", second.stdout());
        }
        Ok(())
    });
}

#[test]
fn source_port_of_a_delivery_that_failed_lets_nobody_in_afterwards() {
    scenario(|| {
        let lab = Lab::builder().standard().strict().start()?;
        let (a1, b1) = (lab.pod("a1"), lab.pod("b1"));
        // Few ports, so that those of the deliveries are known.
        b1.netns().sysctl("net/ipv4/ip_local_port_range", "20000 20003")?;
        for to in [b1.at(80), b1.at6(80)] {
            for _ in 0..4 {
                refused(a1, to)?;
            }
        }
        let server = serve(b1, "[::]:80")?;
        let seen = server.stdout();
        for (to, own) in [(b1.at(80), a1.v4().into()), (b1.at6(80), IpAddr::from(a1.v6()))] {
            for port in 20_000..=20_003 {
                from_that_port(&lab, SocketAddr::new(own, port), to)?;
            }
        }
        ensure!(server.stdout() == seen, "it was reached: {}", server.stdout());
        Ok(())
    });
}

/// A machine that the kernel programs know nothing of comes from that address and port.
fn from_that_port(lab: &Lab, from: SocketAddr, to: SocketAddr) -> Result<()> {
    let before = Counted::now(lab, NodeId::Node2)?;
    let heard = lab.pod("a1").netns().enter(|| -> Result<ErrorKind> {
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(from),
            socket2::Type::STREAM,
            Some(socket2::Protocol::TCP),
        )?;
        socket.set_reuse_address(true)?;
        socket.bind(&from.into())?;
        socket.set_read_timeout(Some(SOON))?;
        if let Err(error) = socket.connect_timeout(&to.into(), SOON) {
            return Ok(error.kind()); // the reset may be there before the connect has returned
        }
        let mut stream = TcpStream::from(socket);
        match stream.read(&mut [0; 100]) {
            Ok(length) => anyhow::bail!("{length} bytes came"),
            Err(error) => Ok(error.kind()),
        }
    })??;
    ensure!(heard == ErrorKind::ConnectionReset, "{from} to {to}: {heard:?}");
    // It met the agent, which counts what it refuses as a flow, and not the application.
    before.rose(lab, NodeId::Node2, &[("inbound_plaintext", 1), ("flows", 1)])
}
