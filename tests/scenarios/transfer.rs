//! Large transfers and half-closed connections between two nodes.

use anyhow::{Result, ensure};
use culvert_tests::{LONG, Lab, NodeId, PodSpec, SOON, scenario};

const GIB: u64 = 1 << 30;
/// More than all buffers on the way hold together.
const MUCH: u64 = 40_000_000;

#[test]
fn a_gigabyte_goes_both_ways_unaltered() {
    scenario(|| {
        let lab = Lab::builder().standard().strict().start()?;
        let (a1, b1) = (lab.pod("a1"), lab.pod("b1"));
        let gib = GIB.to_string();
        let server = b1.server(&["exchange", "--listen", "[::]:80", "--bytes", &gib])?;
        let to = b1.at(80).to_string();
        let transfer = ["transfer", "--to", &to, "--bytes", &gib, "--expect", &gib];
        let said = a1.run_app(&transfer, LONG)?.json()?;
        println!("{said}");
        ensure!(
            said["matches"] == true && said["received"] == GIB && said["end"] == "fin",
            "{said}"
        );
        let line = server.wait_for("\"bytes\":", SOON)?;
        ensure!(line.contains(&format!("\"bytes\":{GIB}")), "{line}");
        ensure!(line.contains("\"matches\":true") && line.contains("\"end\":\"fin\""), "{line}");
        for node in NodeId::ALL {
            let metrics = lab.metrics(node)?;
            for name in ["istio_tcp_sent_bytes_total", "istio_tcp_received_bytes_total"] {
                let bytes = metrics.sum(name, &[("connection_security_policy", "mutual_tls")]);
                ensure!(bytes >= 1_073_741_824.0, "{}: {name} is {bytes}", node.name());
            }
        }
        Ok(())
    });
}

/// With a pod that the mesh has never heard of: what goes there passes through the agent.
fn lab() -> Result<Lab> {
    Lab::builder().standard().pod(PodSpec::new("z2", NodeId::Node2).unlisted()).start()
}

/// Both address families, both ways through the tunnel, and a destination outside of the mesh.
fn each_way(lab: &Lab, body: impl Fn(&str, &str, &str) -> Result<()>) -> Result<()> {
    for (from, to) in [("a1", "b1"), ("b2", "a2"), ("a1", "z2"), ("x1", "b1")] {
        for address in [lab.pod(to).at(80), lab.pod(to).at6(80)] {
            body(from, to, &address.to_string())
                .map_err(|error| error.context(format!("from {from} to {to} at {address}")))?;
        }
    }
    Ok(())
}

#[test]
fn client_that_half_closes_first_gets_all_that_follows() {
    scenario(|| {
        let lab = lab()?;
        let much = MUCH.to_string();
        each_way(&lab, |from, to, address| {
            // The server sends its first byte only after it has read the client's FIN.
            let answer = ["answer", "--listen", "[::]:80", "--bytes", &much];
            let server = lab.pod(to).server(&answer)?;
            let transfer = ["transfer", "--to", address, "--bytes", "1000000", "--expect", &much];
            let said = lab.pod(from).run_app(&transfer, LONG)?.json()?;
            ensure!(said["end"] == "fin" && said["matches"] == true, "{said}");
            let line = server.wait_for("\"bytes\":1000000", SOON)?;
            ensure!(line.contains("\"matches\":true") && line.contains("\"fin\""), "{line}");
            Ok(())
        })
    });
}

#[test]
fn server_that_half_closes_first_gets_all_that_follows() {
    scenario(|| {
        let lab = lab()?;
        let much = MUCH.to_string();
        each_way(&lab, |from, to, address| {
            // The client sends its first byte only after it has read the server's FIN.
            let source = ["source", "--listen", "[::]:80", "--bytes", "1000000"];
            let server = lab.pod(to).server(&source)?;
            let client = ["read-then-write", "--to", address, "--bytes", &much];
            let said = lab.pod(from).run_app(&client, LONG)?.json()?;
            ensure!(said["received"] == 1_000_000 && said["matches"] == true, "{said}");
            let line = server.wait_for(&format!("\"bytes\":{MUCH}"), LONG)?;
            ensure!(line.contains("\"matches\":true") && line.contains("\"fin\""), "{line}");
            Ok(())
        })
    });
}
