//! `culvert certs` against live agents, and what openssl says of its answers.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use culvert_tests::{Finished, Lab, NodeId, SOON, paths, scenario, until};

const FRONTEND: &str = "spiffe://cluster.local/ns/default/sa/frontend";

/// Runs `culvert certs` on node 1's host, against its agent.
fn certs(lab: &Lab, arguments: &[&str]) -> Result<Finished> {
    let (program, socket) = (paths::culvert()?, lab.directory().join("node1.sock"));
    let mut words = vec![program.to_str().context("UTF-8")?, "certs"];
    words.extend(["--socket", socket.to_str().context("UTF-8")?]);
    words.extend(arguments);
    lab.node(NodeId::Node1).run(&words, SOON)
}

fn openssl(lab: &Lab, arguments: &[&str]) -> Result<Finished> {
    let mut words = vec!["openssl"];
    words.extend(arguments);
    lab.node(NodeId::Node1).run(&words, SOON)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("UTF-8")
}

#[test]
fn table_and_json_list_every_identity_with_its_users() {
    scenario(|| {
        let lab = Lab::builder().standard().start()?;
        let all = until("both certificates", SOON, || {
            let text = certs(&lab, &["-o", "json"]).ok()?.ok().ok()?;
            let all: serde_json::Value = serde_json::from_str(&text).ok()?;
            let identities = all["identities"].as_array()?;
            identities.iter().all(|identity| identity["state"] == "held").then_some(all)
        })?;
        ensure!(all["node"] == "node1" && all["trustDomain"] == "cluster.local", "{all}");
        let frontend = all["identities"]
            .as_array()
            .and_then(|all| all.iter().find(|identity| identity["id"] == FRONTEND))
            .context("the frontend is listed")?;
        ensure!(frontend["users"] == serde_json::json!(["default/a1"]), "{frontend}");

        let table = certs(&lab, &[])?.ok()?;
        let mut lines = table.lines();
        let heads: Vec<_> = lines.next().context("a line of heads")?.split_whitespace().collect();
        let expected = ["IDENTITY", "SERIAL", "ISSUER", "FROM", "UNTIL", "RENEWAL", "USERS"];
        ensure!(heads == expected, "{table}");
        let row = lines.find(|line| line.starts_with(FRONTEND)).context("a row of the frontend")?;
        let serial = frontend["certificate"]["serial"].as_str().context("a serial")?;
        ensure!(row.contains(serial) && row.ends_with("default/a1"), "{table}");
        Ok(())
    });
}

#[test]
fn openssl_reads_and_verifies_what_is_shown() {
    scenario(|| {
        let lab = Lab::builder().standard().start()?;
        let (chain, root) = (lab.directory().join("shown.pem"), lab.directory().join("root.pem"));
        let shown = until("a certificate", SOON, || {
            certs(&lab, &["show", "default/frontend"]).ok()?.ok().ok()
        })?;
        fs::write(&chain, &shown)?;
        fs::write(&root, certs(&lab, &["show", "--root"])?.ok()?)?;
        ensure!(certs(&lab, &["show", FRONTEND])?.ok()? == shown, "by either spelling");

        let (chain, root) = (text(&chain)?, text(&root)?);
        let verified = openssl(
            &lab,
            &["verify", "-x509_strict", "-CAfile", root, "-untrusted", chain, chain],
        )?;
        ensure!(verified.stdout.trim().ends_with("OK"), "{verified:?}");
        let read = openssl(&lab, &["x509", "-noout", "-text", "-in", chain])?.ok()?;
        for wanted in [
            &format!("URI:{FRONTEND}"),
            "X509v3 Subject Alternative Name: critical",
            "CA:FALSE",
            "Digital Signature",
            "TLS Web Server Authentication, TLS Web Client Authentication",
        ] {
            ensure!(read.contains(wanted), "no `{wanted}` in\n{read}");
        }
        let serial = openssl(&lab, &["x509", "-noout", "-serial", "-in", chain])?.ok()?;
        let serial = serial.trim().strip_prefix("serial=").context("a serial")?.to_owned();
        ensure!(certs(&lab, &[])?.ok()?.contains(&serial), "the table has openssl's {serial}");
        Ok(())
    });
}

#[test]
fn exported_key_is_that_of_the_certificate_and_is_warned_of_and_counted() {
    scenario(|| {
        let lab = Lab::builder().standard().start()?;
        let directory = lab.directory().join("exported");
        let export = ["export", "default/frontend", "--dir", text(&directory)?];
        let done = until("the export", SOON, || {
            let done = certs(&lab, &export).ok()?;
            done.status.success().then_some(done)
        })?;
        ensure!(done.stderr.contains("WARNING") && done.stderr.contains(FRONTEND), "{done:?}");
        ensure!(!done.stdout.contains("PRIVATE"), "{done:?}");

        let [chain, key, root] =
            ["cert-chain.pem", "key.pem", "root-cert.pem"].map(|name| directory.join(name));
        for file in [&chain, &key, &root] {
            let mode = fs::metadata(file)?.permissions().mode() & 0o7777;
            ensure!(mode == 0o600, "{} has mode {mode:o}", file.display());
        }
        let (chain, key, root) = (text(&chain)?, text(&key)?, text(&root)?);
        let of_key = openssl(&lab, &["pkey", "-pubout", "-in", key])?.ok()?;
        let of_certificate = openssl(&lab, &["x509", "-noout", "-pubkey", "-in", chain])?.ok()?;
        ensure!(of_key == of_certificate, "{of_key}{of_certificate}");
        openssl(&lab, &["verify", "-CAfile", root, "-untrusted", chain, chain])?.ok()?;

        // The agent knows who it was, and counts it; the key is in no log.
        let log = lab.agent(NodeId::Node1)?.log();
        let line = log
            .lines()
            .find(|line| line.contains("private key exported"))
            .context("the agent warned")?;
        ensure!(line.contains("WARN") && line.contains(FRONTEND) && line.contains("uid"), "{line}");
        let secret = fs::read_to_string(key)?;
        let line_of_key = secret.lines().nth(1).context("a line of the key")?;
        ensure!(!log.contains(line_of_key), "the key is in the log");
        let metrics = lab.metrics(NodeId::Node1)?;
        let labels = [("what", "export"), ("status", "200")];
        let counted = metrics.sum("culvert_admin_requests_total", &labels);
        ensure!((counted - 1.0).abs() < 0.1, "{counted} exports counted");

        // What is there is not replaced unasked, and nothing is exported for a refusal.
        let refused = certs(&lab, &export)?;
        ensure!(!refused.status.success() && refused.stderr.contains("--force"), "{refused:?}");
        ensure!(fs::read_to_string(key)? == secret, "the key stayed");
        certs(&lab, &[&export[..], &["--force"]].concat())?.ok()?;
        Ok(())
    });
}

#[test]
fn errors_name_the_cause_and_the_way_out() {
    scenario(|| {
        let mut lab = Lab::builder().standard().start()?;
        let unknown = certs(&lab, &["show", "default/fronted"])?;
        ensure!(!unknown.status.success(), "{unknown:?}");
        ensure!(
            unknown.stderr.contains("no workload enrolled on node node1")
                && unknown.stderr.contains(FRONTEND),
            "{unknown:?}"
        );
        // Of the other node: this one holds no key for it.
        let other = certs(&lab, &["export", "default/backend", "--dir", "/nonexistent/never"])?;
        ensure!(!other.status.success() && other.stderr.contains("no workload"), "{other:?}");
        ensure!(!Path::new("/nonexistent").exists(), "nothing was made for a refusal");

        // The socket keeps others out, whoever lets them reach it.
        let (program, socket) = (paths::culvert()?, lab.directory().join("node1.sock"));
        let nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];
        let words = [&nobody[..], &[text(&program)?, "certs", "--socket", text(&socket)?]].concat();
        let refused = lab.node(NodeId::Node1).run(&words, SOON)?;
        ensure!(!refused.status.success(), "{refused:?}");
        ensure!(!refused.stdout.contains("spiffe://"), "{refused:?}");

        lab.stop_agent(NodeId::Node1)?;
        let stopped = certs(&lab, &[])?;
        ensure!(stopped.stderr.contains("is it running?"), "{stopped:?}");
        Ok(())
    });
}

#[test]
fn agent_leaves_no_core_file_with_keys() {
    scenario(|| {
        let lab = Lab::builder().standard().start()?;
        let pid = lab.agent(NodeId::Node1)?.pid();
        // Of a process that may not be dumped the kernel gives such files to root and no one else;
        // what another user may not read includes the memory.
        let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
        let core = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"))
            .context("a limit of core files")?;
        ensure!(core.split_whitespace().nth(4) == Some("0"), "{core}");
        Ok(())
    });
}
