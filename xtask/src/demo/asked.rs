//! What `culvert` and the admin server answer to whoever asks: the pair that is checked, the refusal
//! that is explained, what a server's TLS demands, and the page.

use super::refusals::plain;
use crate::checks::{self, Checks};
use anyhow::{Context, Result, ensure};
use culvert_tests::{Finished, Lab, NodeId, Place, SOON, paths};

/// Where an agent's admin server answers, on its node alone.
const ADMIN: &str = "http://127.0.0.1:15000";

/// The exit code of `culvert explain` for a connection that may not be.
const DENIED: i32 = 3;

/// Asks all of it.
pub(crate) fn inspected(lab: &Lab, checks: &mut Checks) {
    checks::part("asked: what the policies and the agents say of a pair");
    checks.add("tls-check says OK and mTLS, and a handshake proves it", tls_check(lab));
    checks.add("explain says why x1 is refused, and what to do", refused(lab));
    checks.add("config_dump: servers demand a client certificate", demanded(lab));
}

/// Looks whether the page of the live map is there.
pub(crate) fn page(lab: &Lab, checks: &mut Checks) {
    checks.add("the live map is served", served(lab));
}

/// Where the page is, and how a browser of this machine reaches it, whose network is another.
pub(crate) fn address(lab: &Lab) -> String {
    let culvert = paths::culvert().map_or("culvert".to_owned(), |path| path.display().to_string());
    let socket = lab.directory().join("node1.sock");
    format!(
        "  the live map: {ADMIN}/ on node1 and on node2\n  in a browser of this machine: {culvert} \
         dashboard --socket {}\n",
        socket.display()
    )
}

/// `culvert` on a node, asking that node's agent.
fn culvert(lab: &Lab, on: NodeId, words: &[&str]) -> Result<Finished> {
    let program = paths::culvert()?.display().to_string();
    let socket = lab.directory().join(format!("{}.sock", on.name())).display().to_string();
    let mut all = vec![program.as_str()];
    all.extend(words);
    all.extend(["--socket", &socket]);
    checks::note(&format!("{}$ culvert {}", on.name(), words.join(" ")));
    lab.node(on).run(&all, SOON)
}

fn tls_check(lab: &Lab) -> Result<String> {
    let table = culvert(lab, NodeId::Node1, &["tls-check", "a1", "b1:80", "--probe"])?.ok()?;
    checks::note(&table);
    let mut lines = table.lines();
    let head: Vec<_> = lines.next().unwrap_or_default().split_whitespace().collect();
    ensure!(head.join(" ") == "HOST:PORT STATUS SERVER CLIENT AUTHN POLICY", "{head:?}");
    let row = lines.next().context("no pair in the table")?;
    let cells: Vec<_> = row.split_whitespace().collect();
    let [host, status, server, client, policy] = cells[..] else {
        anyhow::bail!("not five columns: {row}");
    };
    ensure!([status, server, client] == ["OK", "mTLS", "mTLS"], "{row}");
    ensure!(policy == "istio-system/default", "decided by {policy}");
    let peer = lab.pod("b1").spiffe_id("cluster.local");
    ensure!(table.contains(&peer), "the handshake does not show {peer}");
    Ok(format!("{host} {status}, by {policy}; the peer is {peer}"))
}

fn refused(lab: &Lab) -> Result<String> {
    let asked = ["explain", "x1", "b1:80"];
    let shown = culvert(lab, NodeId::Node2, &asked)?;
    checks::note(&plain(&shown.stdout));
    ensure!(shown.status.code() == Some(DENIED), "it ended with {}", shown.status);
    // Where a file says who is in the mesh; in a cluster it is the label.
    ensure!(shown.stdout.contains("enrolled: true"), "no word of what to set");
    let answer = culvert(lab, NodeId::Node2, &[&asked[..], &["-o", "json"]].concat())?;
    let answer: serde_json::Value =
        serde_json::from_str(&answer.stdout).context("the answer is no JSON")?;
    ensure!(answer["verdict"] == "deny", "{answer}");
    ensure!(answer["reason"] == "plaintext_refused", "{answer}");
    ensure!(answer["policy"] == "istio-system/default", "{answer}");
    Ok("deny, plaintext_refused, by istio-system/default".to_owned())
}

fn demanded(lab: &Lab) -> Result<String> {
    let dump = curl(lab.node(NodeId::Node2), "/config_dump")?;
    let wanted = "\"require_client_certificate\": true";
    let lines: Vec<_> = dump.lines().filter(|line| line.contains(wanted)).collect();
    checks::note(&format!("node2$ curl -s {ADMIN}/config_dump | grep require_client_certificate"));
    checks::note(&lines.join("\n"));
    ensure!(lines.len() >= 2, "b1 and b2 are servers, {} demand a certificate", lines.len());
    ensure!(!dump.contains("PRIVATE KEY"), "a private key is in the dump");
    Ok(format!("{} servers: {wanted}", lines.len()))
}

fn served(lab: &Lab) -> Result<String> {
    let page = curl(lab.node(NodeId::Node1), "/")?;
    let title = page.split_once("<title>").and_then(|(_, rest)| rest.split_once("</title>"));
    let (title, _) = title.context("what is served is no page")?;
    Ok(format!("`{}` at {ADMIN}/ on each node", title.trim()))
}

fn curl(place: &Place, path: &str) -> Result<String> {
    place.run(&["curl", "-sS", "-f", "-m", "10", &format!("{ADMIN}{path}")], SOON)?.ok()
}
