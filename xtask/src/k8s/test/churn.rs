//! Pods that come, open a connection as their first act, and go: none may be lost or go out in
//! plaintext.

use super::applications::{self, BANK, ECHO, Pod, SHOP};
use super::subject::Subject;
use crate::checks::{self, Checks};
use anyhow::{Context, Result, ensure};
use culvert_tests::until;
use std::time::{Duration, Instant};

/// Pods in all.
const PODS: usize = 200;
/// How many are made at a time.
const BATCH: usize = 20;
/// Longest that a batch may take from its making to its end.
const BATCH_TIME: Duration = Duration::from_mins(3);

/// Under STRICT, so that a first connection in plaintext would be refused.
const STRICT: &str = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: bank}
spec: {mtls: {mode: STRICT}}
";

/// Creates and deletes them.
pub(crate) fn part(subject: &Subject, checks: &mut Checks) {
    checks::part("a churn of pods, each with a connection as its first act");
    checks.add("no first connection is lost", churn(subject));
}

fn churn(subject: &Subject) -> Result<String> {
    subject.kubectl().apply(STRICT)?;
    let address = applications::cluster_address(subject.kubectl(), BANK, "ledger")?;
    let to = format!("{address}:{ECHO}");
    let started = Instant::now();
    let mut longest = 0;
    for batch in 0..PODS / BATCH {
        longest = longest.max(one_batch(subject, batch, &to)?);
    }
    let took = started.elapsed().as_secs();
    subject.kubectl().delete(&["-n", BANK, "peerauthentication", "default"])?;
    Ok(format!("{PODS} pods in {took} s, all first connections answered, longest {longest} ms"))
}

/// Returns the longest that a first connection took, in milliseconds.
fn one_batch(subject: &Subject, batch: usize, to: &str) -> Result<u64> {
    let words = ["culvert-testapp", "steady", "--to", to, "--rounds", "1", "--patience", "20"];
    let names: Vec<_> = (0..BATCH).map(|number| format!("churn-{batch}-{number}")).collect();
    let documents: String = names
        .iter()
        .zip(subject.nodes().iter().cycle())
        .map(|(name, node)| {
            Pod::new(SHOP, name, &words).on(node).once().document(subject.applications_image())
        })
        .collect();
    subject.kubectl().apply(&documents)?;
    let mut longest = 0;
    for name in &names {
        let phase = until("a pod's end", BATCH_TIME, || {
            let words = ["-n", SHOP, "get", "pod", name, "-o", "jsonpath={.status.phase}"];
            let phase = subject.kubectl().ok(&words).ok()?;
            matches!(&*phase, "Succeeded" | "Failed").then_some(phase)
        })?;
        let line = subject.kubectl().last_line(SHOP, name)?;
        ensure!(phase == "Succeeded", "{name}'s first connection: {line}");
        longest = longest.max(line["longest_ms"].as_u64().context("the line of a client")?);
    }
    let mut words = vec!["-n", SHOP, "pod,serviceaccount"];
    words.extend(names.iter().map(String::as_str));
    subject.kubectl().delete(&words)?;
    Ok(longest)
}
