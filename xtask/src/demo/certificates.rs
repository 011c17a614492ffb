//! The certificates that a workload presents, as `openssl` reads them.

use crate::checks::{self, Checks};
use anyhow::{Context, Result, ensure};
use culvert_tests::{Lab, NodeId, SOON};
use std::fs;

/// Port of the HBONE tunnel at every workload.
const HBONE_PORT: u16 = 15008;

/// What one look at a workload's tunnel port showed.
pub(super) struct Presented {
    /// Every certificate, the workload's own first, as PEM.
    pub(super) chain: Vec<String>,
    /// All that `openssl s_client` said.
    pub(super) said: String,
}

/// Shows and checks the chain that b1 presents.
pub(crate) fn presented(lab: &Lab, checks: &mut Checks) {
    checks::part("certificates: what b1 presents on port 15008, asked from the other node");
    let look = match look(lab, "b1") {
        Ok(look) => look,
        Err(error) => return checks.add("b1 presents a certificate", Err(error)),
    };
    let shown = openssl(lab, &look.chain[0], &["-noout", "-issuer", "-dates", "-serial"]);
    checks::note(&shown.unwrap_or_default());
    checks.add("TLS 1.3 is what the port speaks", protocol(&look));
    checks.add("the certificate names the workload", identity(lab, &look));
    checks.add("the chain leads to the CA's root", chain(lab, &look));
}

/// Opens a TLS connection to a pod's tunnel port from the host of the other node.
pub(super) fn look(lab: &Lab, pod: &str) -> Result<Presented> {
    let target = lab.pod(pod);
    let from = lab.node(target.node().other());
    let address = target.at(HBONE_PORT).to_string();
    let words = ["openssl", "s_client", "-connect", &address, "-alpn", "h2", "-showcerts"];
    // It ends when its input does; that nobody shows it a certificate is refused by the agent
    // only afterwards, so its exit code says nothing here.
    let finished = from.run(&words, SOON)?;
    let said = finished.stdout + &finished.stderr;
    let chain: Vec<_> = said
        .split("-----BEGIN CERTIFICATE-----")
        .skip(1)
        .filter_map(|part| part.split_once("-----END CERTIFICATE-----"))
        .map(|(body, _)| format!("-----BEGIN CERTIFICATE-----{body}-----END CERTIFICATE-----\n"))
        .collect();
    // The last one is repeated as "server certificate" by some versions.
    ensure!(!chain.is_empty(), "no certificate was presented: {}", last_line(&said));
    Ok(Presented { chain, said })
}

/// The serial number of the certificate that a pod presents now.
pub(super) fn serial(lab: &Lab, pod: &str) -> Result<String> {
    let look = look(lab, pod)?;
    Ok(openssl(lab, &look.chain[0], &["-noout", "-serial"])?.trim().to_owned())
}

fn protocol(look: &Presented) -> Result<String> {
    let line = look
        .said
        .lines()
        .find(|line| line.contains("TLSv1"))
        .context("openssl names no protocol")?;
    ensure!(line.contains("TLSv1.3"), "{line}");
    Ok(line.trim().to_owned())
}

fn identity(lab: &Lab, look: &Presented) -> Result<String> {
    let text = openssl(lab, &look.chain[0], &["-noout", "-ext", "subjectAltName"])?;
    checks::note(&text);
    let expected = lab.pod("b1").spiffe_id("cluster.local");
    let names: Vec<_> = text.lines().map(str::trim).filter(|line| line.contains(':')).collect();
    ensure!(names.last() == Some(&format!("URI:{expected}").as_str()), "names: {names:?}");
    Ok(expected)
}

fn chain(lab: &Lab, look: &Presented) -> Result<String> {
    let directory = lab.directory();
    let (leaf, rest) = (directory.join("leaf.pem"), directory.join("rest.pem"));
    fs::write(&leaf, &look.chain[0])?;
    fs::write(&rest, look.chain[1..].concat())?;
    let root = lab.ca_directory().join("root-cert.pem");
    let mut words = vec!["openssl".to_owned(), "verify".to_owned()];
    words.extend(["-CAfile".to_owned(), root.display().to_string()]);
    if look.chain.len() > 1 {
        words.extend(["-untrusted".to_owned(), rest.display().to_string()]);
    }
    words.push(leaf.display().to_string());
    let said = lab.node(NodeId::Node1).run(&words, SOON)?.ok()?;
    ensure!(said.trim().ends_with(": OK"), "{said}");
    Ok(format!("openssl verify says OK, {} certificates", look.chain.len()))
}

/// What `openssl x509` says of a certificate.
fn openssl(lab: &Lab, pem: &str, arguments: &[&str]) -> Result<String> {
    let path = lab.directory().join("shown.pem");
    fs::write(&path, pem)?;
    let path = path.display().to_string();
    let words = [&["openssl", "x509", "-in", &path], arguments].concat();
    lab.node(NodeId::Node1).run(&words, SOON)?.ok()
}

fn last_line(text: &str) -> &str {
    text.trim().lines().last().unwrap_or_default()
}
