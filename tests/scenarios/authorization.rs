//! AuthorizationPolicy: who may connect to an enrolled pod, by mutual TLS and in plaintext.

use crate::observed::{count, fails, serve, talk};
use anyhow::{Result, ensure};
use culvert_tests::{Lab, NodeId, Place, SOON, scenario, until};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

const ECONNRESET: i64 = 104;

/// An AuthorizationPolicy of namespace `default`; `spec` in flow style.
fn policy(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  \
         name: {name}\n  namespace: default\nspec: {spec}\n"
    )
}

/// Only the service account of `a1` may connect to `b1`.
fn front_only() -> String {
    let frontend = "cluster.local/ns/default/sa/frontend";
    policy(
        "front-only",
        &format!(
            "{{selector: {{matchLabels: {{app: b1}}}}, rules: [{{from: [{{source: \
             {{principals: [\"{frontend}\"]}}}}]}}]}}"
        ),
    )
}

fn refused(place: &Place, to: SocketAddr) -> Result<()> {
    let got = fails(place, to, &[])?;
    ensure!(got == ("exchange".to_owned(), ECONNRESET), "{} to {to}: {got:?}", place.name());
    Ok(())
}

/// Waits for the line of the destination's agent that says who was refused, and by which rule.
fn named(lab: &Lab, source: IpAddr, rule: &str) -> Result<()> {
    let source = match source {
        IpAddr::V4(ip) => format!("src.addr={ip}:"),
        IpAddr::V6(ip) => format!("src.addr=[{ip}]:"),
    };
    let line = lab.agent(NodeId::Node2)?.wait_for_line(rule, SOON, |line| {
        line.contains(&source) && line.contains(&format!("({rule})"))
    })?;
    ensure!(line.contains("reason=\"policy_denied\""), "{line}");
    Ok(())
}

#[test]
fn authorization_policy_lets_in_whom_it_names_and_the_log_names_it() {
    scenario(|| {
        let not_82 = "{selector: {matchLabels: {app: b1}}, action: DENY, rules: [{to: [{operation: \
                      {ports: [\"83\"]}}]}, {to: [{operation: {ports: [\"82\"]}}]}]}";
        let text = format!("{}{}", front_only(), policy("not-82", not_82));
        let lab = Lab::builder().standard().policies(&text).start()?;
        let (a1, a2, b1, b2, x1) =
            (lab.pod("a1"), lab.pod("a2"), lab.pod("b1"), lab.pod("b2"), lab.pod("x1"));
        let servers = [serve(b1, "[::]:80")?, serve(b1, "[::]:82")?, serve(b2, "[::]:80")?];
        for to in [b1.at(80), b1.at6(80), b2.at(80)] {
            talk(a1, to, &[])?;
        }
        talk(a2, b2.at(80), &[])?;
        talk(x1, b2.at(80), &[])?;
        let seen = servers[0].stdout();
        let nobody = "no rule allows it: AuthorizationPolicy default/front-only";
        for (client, to) in [(a2, b1.at(80)), (a2, b1.at6(80)), (x1, b1.at(80)), (x1, b1.at6(80))] {
            refused(client, to)?;
            let own = if to.is_ipv4() { client.v4().into() } else { IpAddr::from(client.v6()) };
            named(&lab, own, nobody)?;
        }
        refused(a1, b1.at(82))?;
        named(&lab, a1.v4().into(), "AuthorizationPolicy default/not-82 (rules[1])")?;
        ensure!(servers[0].stdout() == seen, "the application was reached");
        ensure!(!servers[1].stdout().contains("local"), "the application was reached");
        // The kubelet's probes are not asked about.
        talk(lab.node(NodeId::Node2), b1.at(82), &[])?;
        let labels = [("direction", "inbound"), ("reason", "policy_denied")];
        let failures = count(&lab, NodeId::Node2, "culvert_flow_failures_total", &labels)?;
        ensure!(failures == 5, "{failures} refusals were counted");
        Ok(())
    });
}

#[test]
fn new_authorization_policy_ends_what_it_forbids_in_under_a_second() {
    scenario(|| {
        let everybody = policy("everybody", "{rules: [{}]}");
        let lab = Lab::builder().standard().policies(&everybody).start()?;
        let (a1, a2, x1, b1) = (lab.pod("a1"), lab.pod("a2"), lab.pod("x1"), lab.pod("b1"));
        let echo = b1.app(&["echo", "--listen", "[::]:80"])?;
        echo.wait_for("listening", SOON)?;
        let to = b1.at(80).to_string();
        let ping = ["ping", "--to", &to, "--every-ms", "20"];
        let [named, unnamed, plain, probe] =
            [a1.app(&ping)?, a2.app(&ping)?, x1.app(&ping)?, lab.node(NodeId::Node2).app(&ping)?];
        for process in [&named, &unnamed, &plain, &probe] {
            process.wait_for("connected", SOON)?;
        }
        let begin = Instant::now();
        lab.set_policies(&front_only())?;
        for (who, process) in [("mutual TLS", unnamed), ("plaintext", plain)] {
            let ended = process.wait(SOON)?;
            ensure!(ended.stdout.contains("ConnectionReset"), "{who}: {}", ended.stdout);
        }
        let took = begin.elapsed();
        ensure!(took < Duration::from_secs(1), "it took {took:?}");
        for source in [a2.v4(), x1.v4()] {
            let source = format!("src.addr={source}:");
            lab.agent(NodeId::Node2)?.wait_for_line("its end", SOON, |line| {
                line.contains(&source)
                    && line.contains("reason=\"policy_changed\"")
                    && line.contains("AuthorizationPolicy default/front-only")
            })?;
        }
        refused(a2, b1.at(80))?;
        refused(x1, b1.at(80))?;
        for process in [named, probe] {
            process.close_stdin();
            process.wait(SOON)?.ok()?;
        }
        // A policy with a fault does not come into force; what was, holds.
        lab.set_policies(&policy("wrong", "{rules: [{to: [{operation: {ports: [http]}}]}]}"))?;
        let fault = "`spec.rules[0].to[0].operation.ports[0]`: `http` is no port";
        lab.agent(NodeId::Node2)?.wait_for_line(fault, SOON, |line| line.contains(fault))?;
        refused(a2, b1.at(80))?;
        lab.set_policies(&everybody)?;
        until("the other to be let in again", SOON, || {
            a2.run_app(&["talk", "--to", &to], SOON).ok()?.ok().ok()
        })?;
        Ok(())
    });
}
