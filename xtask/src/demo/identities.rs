//! What an agent holds, what the authority stands on, and a root that is replaced under traffic.

use crate::checks::{self, Checks};
use anyhow::{Context, Result, ensure};
use culvert_tests::{LONG, Lab, NodeId, SOON, paths, until};
use serde_json::Value;
use std::fs;

/// Shows and checks the identities of node 1, then replaces the root.
pub(crate) fn inspected(lab: &Lab, checks: &mut Checks) {
    checks::part("identities: what the agent of node 1 holds, and the authority's roots");
    checks.add("culvert certs lists who uses which certificate", listed(lab));
    checks.add("openssl verifies what culvert certs shows", verified(lab));
    checks.add("a new root signs, and requests go on", root_replaced(lab));
}

fn listed(lab: &Lab) -> Result<String> {
    let table = certs(lab, &[])?;
    checks::note(&table);
    let id = lab.pod("a1").spiffe_id("cluster.local");
    let row =
        table.lines().find(|line| line.starts_with(&id)).context("a1's identity is missing")?;
    ensure!(row.ends_with("default/a1"), "{row}");
    Ok(format!("{id} is used by default/a1"))
}

fn verified(lab: &Lab) -> Result<String> {
    let (chain, root) = (lab.directory().join("shown.pem"), lab.directory().join("roots.pem"));
    fs::write(&chain, certs(lab, &["show", "default/frontend"])?)?;
    fs::write(&root, certs(lab, &["show", "--root"])?)?;
    let (chain, root) = (chain.display().to_string(), root.display().to_string());
    let words = ["openssl", "verify", "-x509_strict", "-CAfile", &root, "-untrusted", &chain];
    let said = lab.node(NodeId::Node1).run(&[&words[..], &[&chain]].concat(), SOON)?.ok()?;
    ensure!(said.trim().ends_with(": OK"), "{said}");
    Ok("culvert certs show default/frontend | openssl verify -x509_strict: OK".to_owned())
}

/// The demo's authority waits seconds between a root's announcement and its use, not minutes.
fn root_replaced(lab: &Lab) -> Result<String> {
    let said = lab.ca_command(&["rotate-root"])?.ok()?;
    checks::note(&format!("culvert ca rotate-root\n{said}"));
    let signs = |status: &Value| status["signs"]["root"].as_u64();
    until("root 2 to sign", LONG, || status(lab).ok().filter(|status| signs(status) == Some(2)))?;
    checks::note(&lab.ca_command(&["status"])?.ok()?);
    let url = format!("http://{}/", lab.pod("b1").v4());
    let words = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", &url];
    let code = lab.pod("a1").run(&words, SOON)?.ok()?;
    ensure!(code.trim() == "200", "a request after the change ended with {code}");
    Ok("root 2 signs, root 1 drains, both are believed; a1 still reaches b1".to_owned())
}

fn status(lab: &Lab) -> Result<Value> {
    Ok(serde_json::from_str(&lab.ca_command(&["status", "-o", "json"])?.ok()?)?)
}

fn certs(lab: &Lab, arguments: &[&str]) -> Result<String> {
    let program = paths::culvert()?.display().to_string();
    let socket = lab.directory().join("node1.sock").display().to_string();
    let words = [&[program.as_str(), "certs"], arguments, &["--socket", &socket]].concat();
    lab.node(NodeId::Node1).run(&words, SOON)?.ok()
}
