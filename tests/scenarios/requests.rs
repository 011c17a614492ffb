//! HTTP requests between two pods, counted by both agents as they go by: nginx, nghttpd and curl,
//! whose bytes arrive as they were sent.

use crate::observed::count;
use anyhow::{Context, Result, ensure};
use culvert_tests::{Lab, NodeId, Place, PodSpec, Process, SOON, scenario, until};
use std::fs;
use std::path::Path;

/// What nginx and nghttpd serve.
const FILE: &str = "seen in passing\n";

/// nginx with a file, an answer of unknown length and a 503, on port 80.
fn nginx(place: &Place, directory: &Path) -> Result<Process> {
    fs::create_dir_all(directory).context("a directory")?;
    fs::write(directory.join("file"), FILE).context("a file")?;
    let at = directory.display();
    let settings = format!(
        "daemon off;\nuser root;\nworker_processes 1;\npid {at}/pid;\nerror_log stderr notice;\n\
         events {{}}\nhttp {{\n  access_log off;\n  gzip on;\n  gzip_types *;\n  gzip_min_length 1;\n  \
         server {{\n    listen 80;\n    root {at};\n    location /out {{ return 503; }}\n  }}\n}}\n"
    );
    let path = directory.join("nginx.conf");
    fs::write(&path, settings).context("settings")?;
    let server = place.spawn(&["nginx", "-c", &path.to_string_lossy()])?;
    server.wait_for("start worker process", SOON)?;
    Ok(server)
}

/// nghttpd with the same file, on port 81, in clear text.
fn nghttpd(place: &Place, directory: &Path) -> Result<Process> {
    let words = ["nghttpd", "--no-tls", "-v", "-d", &directory.to_string_lossy(), "81"];
    let server = place.spawn(&words)?;
    server.wait_for("listen", SOON)?;
    Ok(server)
}

fn curl(place: &Place, words: &[&str]) -> Result<String> {
    let all = [&["curl", "-sS", "--max-time", "20"], words].concat();
    place.run(&all, SOON)?.ok()
}

/// Waits until both agents have counted this many; each once, and no more.
fn both_count(lab: &Lab, labels: &[(&str, &str)], wanted: u64) -> Result<()> {
    for (id, reporter) in [(NodeId::Node1, "source"), (NodeId::Node2, "destination")] {
        let labels = [&[("reporter", reporter)], labels].concat();
        let what = format!("{wanted} requests with {labels:?}");
        let reached = || {
            let found = count(lab, id, "istio_requests_total", &labels).ok();
            found.filter(|found| *found >= wanted)
        };
        let found = until(&what, SOON, reached)?;
        ensure!(found == wanted, "{found} instead of {what}");
    }
    Ok(())
}

/// The durations of an agent's requests hang together.
fn histogram_is_whole(lab: &Lab, id: NodeId, requests: u64) -> Result<()> {
    let name = |part: &str| format!("istio_request_duration_milliseconds_{part}");
    let below = |le| count(lab, id, &name("bucket"), &[("le", le)]);
    let (all, minute) = (below("+Inf")?, below("60000")?);
    let number = count(lab, id, &name("count"), &[])?;
    ensure!(number >= requests && all == number && minute == number, "{number} {all} {minute}");
    let sum = lab.metrics(id)?.sum(&name("sum"), &[]);
    ensure!(sum > 0.0, "{sum} ms for {number}");
    Ok(())
}

#[test]
fn requests_of_real_programs_are_counted_at_both_ends() {
    scenario(|| {
        let lab = Lab::builder().standard().strict().start()?;
        let (a1, b1) = (lab.pod("a1"), lab.pod("b1"));
        let directory = lab.directory().join("served");
        let _servers = [nginx(b1, &directory)?, nghttpd(b1, &directory)?];
        let one = format!("http://{}", b1.at(80));
        let two = format!("http://{}", b1.at(81));
        let (file, none, out) =
            (format!("{one}/file"), format!("{one}/none"), format!("{one}/out"));

        // One connection: a file, the same packed and of unknown length, its head alone, and two
        // failures.
        let said = curl(a1, &[&file, &file, &file])?;
        ensure!(said == FILE.repeat(3), "{said}");
        ensure!(curl(a1, &["--compressed", &file])? == FILE);
        curl(a1, &["--head", &file, &file])?;
        curl(a1, &[&none, &out])?;
        let expected = [("200", 6), ("404", 1), ("503", 1)];
        for (code, wanted) in expected {
            let labels = [
                ("response_code", code),
                ("request_protocol", "http"),
                ("response_flags", "-"),
                ("connection_security_policy", "mutual_tls"),
                ("source_workload", "a1"),
                ("destination_workload", "b1"),
                ("source_principal", "spiffe://cluster.local/ns/default/sa/frontend"),
                ("destination_principal", "spiffe://cluster.local/ns/default/sa/backend"),
            ];
            both_count(&lab, &labels, wanted)?;
        }

        // The same in HTTP/2: two streams of one connection, a missing file, and one that says
        // that it is gRPC.
        let (file, none) = (format!("{two}/file"), format!("{two}/none"));
        let h2 = "--http2-prior-knowledge";
        let said = a1.run(&["nghttp", &file, &format!("{file}?again")], SOON)?.ok()?;
        ensure!(said == FILE.repeat(2), "{said}");
        curl(a1, &[h2, &none])?;
        curl(a1, &[h2, "-H", "content-type: application/grpc+proto", &file])?;
        both_count(&lab, &[("response_code", "200"), ("request_protocol", "http")], 8)?;
        both_count(&lab, &[("response_code", "404")], 2)?;
        both_count(&lab, &[("request_protocol", "grpc"), ("response_code", "200")], 1)?;

        for id in [NodeId::Node1, NodeId::Node2] {
            histogram_is_whole(&lab, id, 12)?;
            let counted = |name: &str, labels: &[(&str, &str)]| count(&lab, id, name, labels);
            ensure!(counted("culvert_observe_http_gave_up_total", &[])? == 0);
            ensure!(counted("culvert_observe_http_flows_total", &[("version", "1")])? >= 4);
            ensure!(counted("culvert_observe_http_flows_total", &[("version", "2")])? >= 3);
        }
        Ok(())
    });
}

#[test]
fn http_is_not_read_where_it_is_turned_off() {
    scenario(|| {
        let quiet = PodSpec::new("q1", NodeId::Node1).label("culvert.io/observe-http", "false");
        let lab = Lab::builder().standard().pod(quiet);
        let lab = lab.set("observe", "httpExceptPorts", "[81]").start()?;
        let b1 = lab.pod("b1");
        let directory = lab.directory().join("served");
        let _servers = [nginx(b1, &directory)?, nghttpd(b1, &directory)?];
        let at = |port| format!("http://{}/file", b1.at(port));
        ensure!(curl(lab.pod("q1"), &[&at(80)])? == FILE);
        ensure!(curl(lab.pod("a1"), &["--http2-prior-knowledge", &at(81)])? == FILE);
        // Last what is counted: once it is, what came before would be as well.
        ensure!(curl(lab.pod("a1"), &[&at(80)])? == FILE);
        both_count(&lab, &[("source_workload", "a1")], 1)?;
        both_count(&lab, &[], 1)?;
        let opened = [("reporter", "source"), ("source_workload", "q1")];
        let opened = count(&lab, NodeId::Node1, "istio_tcp_connections_opened_total", &opened)?;
        ensure!(opened == 1, "{opened} flows of q1: it is in the mesh all the same");
        Ok(())
    });
}
