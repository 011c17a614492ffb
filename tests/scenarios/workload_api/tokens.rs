//! JWT-SVIDs: own identity only, for given audiences, verified by keys that turn over.

use anyhow::{Context as _, Result, ensure};
use culvert_tests::{Lab, NodeId, SOON, scenario, until};

use super::{builder, call};

fn token(lab: &Lab, pod: &str, audience: &str) -> Result<String> {
    let said = call(lab, lab.pod(pod), "jwt", &["--audience", audience])?;
    Ok(said["token"].as_str().with_context(|| format!("no token: {said}"))?.to_owned())
}

#[test]
fn pod_gets_tokens_of_its_own_identity_only() {
    scenario(|| {
        let lab = builder("1h").start()?;
        let (own, other) =
            (lab.pod("a1").spiffe_id("cluster.local"), lab.pod("a2").spiffe_id("cluster.local"));
        let said = call(&lab, lab.pod("a1"), "jwt", &["--audience", "reports", "--id", &own])?;
        ensure!(said["id"] == own, "{said}");
        let foreign =
            ["spiffe://other.example/ns/default/sa/frontend", "frontend", "spiffe://cluster.local"];
        for id in foreign.into_iter().chain([other.as_str()]) {
            let said = call(&lab, lab.pod("a1"), "jwt", &["--audience", "reports", "--id", id])?;
            ensure!(said["code"] == "PermissionDenied", "{id}: {said}");
        }
        Ok(())
    });
}

#[test]
fn audiences_are_required_and_bounded() {
    scenario(|| {
        let lab = builder("1h").start()?;
        let long = "a".repeat(513);
        let many: Vec<_> = (0..17).flat_map(|_| ["--audience", "a"]).collect();
        let wrong: [&[&str]; 4] = [&[], &["--audience", ""], &["--audience", long.as_str()], &many];
        for arguments in wrong {
            let said = call(&lab, lab.pod("a1"), "jwt", arguments)?;
            ensure!(said["code"] == "InvalidArgument", "{arguments:?}: {said}");
        }
        for arguments in [["--audience", "", "--token", "t"], ["--audience", "a", "--token", ""]] {
            let said = call(&lab, lab.pod("a1"), "validate", &arguments)?;
            ensure!(said["code"] == "InvalidArgument", "{arguments:?}: {said}");
        }
        Ok(())
    });
}

#[test]
fn token_holds_for_its_audience_and_is_asked_for_once() {
    scenario(|| {
        let lab = builder("1h").start()?;
        let held = token(&lab, "a1", "reports")?;
        let validate = |audience, token: &str| {
            call(&lab, lab.pod("a2"), "validate", &["--audience", audience, "--token", token])
        };
        let said = validate("reports", &held)?;
        ensure!(said["id"] == lab.pod("a1").spiffe_id("cluster.local"), "{said}");
        let said = validate("other", &held)?;
        ensure!(said["code"] == "InvalidArgument", "{said}");
        // One letter of the signature is another.
        let (signed, signature) = held.rsplit_once('.').context("a token")?;
        let swapped = if signature.starts_with('A') { 'B' } else { 'A' };
        let said = validate("reports", &format!("{signed}.{swapped}{}", &signature[1..]))?;
        ensure!(said["code"] == "InvalidArgument", "{said}");
        // A second process gets the same token: the authority was asked once.
        ensure!(token(&lab, "a1", "reports")? == held, "asked for anew");
        ensure!(token(&lab, "a1", "more")? != held, "of another audience");
        let log = lab.ca()?.stdout();
        let signed = log.lines().filter(|line| line.contains("\"audience\":[\"reports\"]")).count();
        ensure!(signed == 1, "{signed} audit lines:\n{log}");
        Ok(())
    });
}

#[test]
fn tokens_verify_while_their_keys_turn_over() {
    scenario(|| {
        let lab = builder("1h")
            .ca_argument("--jwt-key-life=6s")
            .ca_argument("--jwt-key-lead=3s")
            .ca_argument("--jwt-ttl=4s")
            .ca_argument("--jwt-max-ttl=4s")
            .start()?;
        let mut keys = std::collections::BTreeSet::new();
        until("three keys to have signed", culvert_tests::LONG, || {
            let mut turn = || -> Result<bool> {
                let token = token(&lab, "a1", "reports")?;
                keys.insert(token.split('.').next().unwrap_or_default().to_owned());
                let arguments = ["--audience", "reports", "--token", &token];
                let said = call(&lab, lab.pod("a2"), "validate", &arguments)?;
                ensure!(said["id"].is_string(), "after {} keys: {said}", keys.len());
                Ok(keys.len() >= 3)
            };
            match turn() {
                Ok(false) => None,
                Ok(true) => Some(Ok(())),
                Err(error) => Some(Err(error)),
            }
        })??;
        ensure!(lab.metrics(NodeId::Node1).is_ok(), "the agent lives");
        lab.ca()?.wait_for("keys of JWT-SVIDs changed", SOON)?;
        Ok(())
    });
}
