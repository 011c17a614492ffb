//! `openssl s_client` at the HBONE port: another implementation's word for what we promise of TLS.

use super::mint::Svid;
use super::stage::Stage;
use anyhow::{Result, ensure};
use culvert_tests::{Process, SOON, s_client, scenario};
use std::fs;
use std::process::Command;

/// Starts it in the attacker's pod.
fn dial(stage: &Stage, options: &[&str]) -> Result<Process> {
    stage.lab.pod("x1").spawn(&s_client::words(stage.victim(), options))
}

/// Writes an SVID as the files that openssl reads: certificate, rest of the chain, key.
fn written(stage: &Stage, svid: &Svid) -> Result<[String; 3]> {
    let at = |name: &str| stage.lab.directory().join(name).display().to_string();
    let files = ["x1.pem", "x1-chain.pem", "x1-key.pem"].map(at);
    let ders = [svid.chain[0].as_ref(), svid.chain[1].as_ref(), svid.key.secret_der()];
    for ((file, der), kind) in files.iter().zip(ders).zip(["x509", "x509", "pkey"]) {
        let from = format!("{file}.der");
        fs::write(&from, der)?;
        let words = [kind, "-inform", "DER", "-in", &from, "-out", file];
        let done = Command::new("openssl").args(words).output()?;
        ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    Ok(files)
}

#[test]
fn openssl_agrees_on_tls_at_the_hbone_port() {
    scenario(|| {
        let stage = Stage::build()?;
        let [certificate, chain, key] = written(&stage, &stage.mint.svid("x1")?)?;
        let root = stage.lab.ca_directory().join("root-cert.pem").display().to_string();
        let (groups, _) = s_client::group();
        let own = ["-cert", &certificate, "-cert_chain", &chain, "-key", &key];
        let theirs = ["-CAfile", &root, "-verify_return_error", "-x509_strict"];
        let common = ["-alpn", "h2", "-groups", groups];
        let options = [&own[..], &theirs, &common].concat();
        let said = s_client::settled(&dial(&stage, &options)?)?;
        s_client::holds(&said)?;
        ensure!(s_client::asks_for_certificate(&said.stdout), "nobody asks: {}", said.stdout);
        ensure!(s_client::presented(&said.stdout)?.len() == 2, "leaf and issuing were wanted");
        stage.unharmed()
    });
}

#[test]
fn openssl_without_certificate_or_with_older_tls_is_refused_at_the_hbone_port() {
    scenario(|| {
        let stage = Stage::build()?;
        let bare = dial(&stage, &["-alpn", "h2", "-tls1_3"])?;
        let said = bare.wait(SOON)?;
        ensure!(said.stderr.contains("alert certificate required"), "{}", said.stderr);
        stage.counted("no_certificate", 1, "peer sent no certificate")?;
        let older = dial(&stage, &["-alpn", "h2", "-tls1_2"])?;
        let said = older.wait(SOON)?;
        ensure!(said.stderr.contains("alert protocol version"), "{}", said.stderr);
        stage.unharmed()
    });
}
