//! What goes between enrolled pods really goes through mutual TLS, and both agents say who spoke.

use crate::observed::{Counted, count, talk};
use anyhow::{Result, ensure};
use culvert_tests::{Lab, NodeId, Pod, SOON, scenario, until};

const BYTES: u64 = 1_000_000;

/// Sends a megabyte each way and looks at what the agents of both ends count for it.
fn bytes_are_counted_at_both_ends(lab: &Lab, client: &Pod, server: &Pod) -> Result<()> {
    let size = BYTES.to_string();
    let exchange = server.app(&["exchange", "--listen", "[::]:81", "--bytes", &size])?;
    exchange.wait_for("listening", SOON)?;
    let (source, destination) =
        (client.spiffe_id("cluster.local"), server.spiffe_id("cluster.local"));
    let at = |node, reporter, name: &str, security| {
        count(
            lab,
            node,
            &format!("istio_tcp_{name}_total"),
            &[
                ("reporter", reporter),
                ("source_workload", client.name()),
                ("destination_workload", server.name()),
                ("source_principal", &source),
                ("destination_principal", &destination),
                ("connection_security_policy", security),
            ],
        )
    };
    for to in [server.at(81), server.at6(81)] {
        let before = Counted::now(lab, server.node())?;
        let ends = [(client.node(), "source"), (server.node(), "destination")];
        let mut wanted = Vec::new();
        for (node, reporter) in ends {
            for (name, by) in [
                ("connections_opened", 1),
                ("connections_closed", 1),
                ("connections_failed", 0),
                ("sent_bytes", BYTES),
                ("received_bytes", BYTES),
            ] {
                let then = at(node, reporter, name, "mutual_tls")?;
                wanted.push((node, reporter, name, then + by));
            }
        }
        let to = to.to_string();
        let words = ["transfer", "--to", &to, "--bytes", &size, "--expect", &size];
        client.run_app(&words, SOON)?.ok()?;
        for (node, reporter, name, wanted) in wanted {
            // The last is counted a moment after the application has seen the end.
            until(&format!("{reporter} {name} to be {wanted}"), SOON, || {
                (at(node, reporter, name, "mutual_tls").ok()? == wanted).then_some(())
            })?;
        }
        let now = Counted::now(lab, server.node())?;
        ensure!(now.since(&before, "inbound_plaintext") == 0, "plaintext arrived");
        ensure!(now.since(&before, "inbound_delivered") == 1, "{now:?}");
    }
    Ok(())
}

#[test]
fn bytes_between_enrolled_pods_are_counted_as_mutual_tls_at_both_agents() {
    scenario(|| {
        let lab = Lab::builder().standard().start()?;
        bytes_are_counted_at_both_ends(&lab, lab.pod("a1"), lab.pod("b1"))?;
        // On one node as well: there is no short way around the tunnel.
        bytes_are_counted_at_both_ends(&lab, lab.pod("a1"), lab.pod("a2"))
    });
}

#[test]
fn each_source_is_named_by_its_own_certificate() {
    scenario(|| {
        let lab = Lab::builder().standard().strict().start()?;
        let b1 = lab.pod("b1");
        let _server = crate::observed::serve(b1, "[::]:80")?;
        for client in [lab.pod("a1"), lab.pod("a2"), lab.pod("b2")] {
            talk(client, b1.at(80), &[])?;
            let principal = client.spiffe_id("cluster.local");
            let labels = [("reporter", "destination"), ("source_principal", principal.as_str())];
            let opened = count(&lab, NodeId::Node2, "istio_tcp_connections_opened_total", &labels)?;
            ensure!(opened == 1, "{opened} flows of {principal}");
        }
        Ok(())
    });
}
