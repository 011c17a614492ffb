//! AuthorizationPolicy: who may talk to whom, at once, and for connections that are open too.

use super::applications::{self, BANK, ECHO, SHOP};
use super::subject::Subject;
use crate::checks::{self, Checks};
use anyhow::{Context, Result, ensure};
use culvert_tests::until;
use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

/// Longest until a policy holds, the starts of kubectl and of the client in it.
const IN_FORCE: Duration = Duration::from_secs(5);

const ALLOW_FRONTEND: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: frontend-only, namespace: bank}
spec:
  selector: {matchLabels: {app: ledger}}
  action: ALLOW
  rules:
  - from: [{source: {principals: [cluster.local/ns/default/sa/frontend]}}]
    to: [{operation: {ports: ['7000']}}]
";

const DENY_SHOP: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-shop, namespace: bank}
spec:
  action: DENY
  rules:
  - from: [{source: {namespaces: [default]}}]
";

const WITH_HTTP: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: with-http, namespace: bank}
spec:
  action: DENY
  rules:
  - to: [{operation: {ports: ['7999'], methods: [DELETE]}}]
";

/// Allows, denies, ends, and says what it cannot do.
pub(crate) fn part(subject: &Subject, checks: &mut Checks) {
    checks::part("AuthorizationPolicy");
    checks.add("ALLOW lets the named identity in and nobody else", allow(subject));
    checks.add("DENY ends an open connection, and what is new", deny(subject));
    checks.add("taken away, they talk again", lifted(subject));
    checks.add("what asks for HTTP says so in its status", status(subject));
}

fn to_ledger(subject: &Subject) -> Result<String> {
    let address = applications::cluster_address(subject.kubectl(), BANK, "ledger")?;
    Ok(format!("{address}:{ECHO}"))
}

fn allow(subject: &Subject) -> Result<String> {
    let to = to_ledger(subject)?;
    applications::talk(subject, (BANK, "teller"), &to)?;
    subject.kubectl().apply(ALLOW_FRONTEND)?;
    let started = Instant::now();
    until("the teller to be refused", IN_FORCE, || {
        applications::talk(subject, (BANK, "teller"), &to).err()
    })?;
    let took = started.elapsed();
    applications::talk(subject, (SHOP, "frontend"), &to)?;
    ensure!(
        applications::talk(subject, (SHOP, "neighbour"), &to).is_err(),
        "another account of the namespace got in"
    );
    Ok(format!("in force after {:.1} s", took.as_secs_f64()))
}

fn deny(subject: &Subject) -> Result<String> {
    let to = to_ledger(subject)?;
    let words = ["culvert-testapp", "ping", "--to", &to, "--every-ms", "20"];
    let mut child = subject.kubectl().exec_held(SHOP, "frontend", &words)?;
    let mut lines = BufReader::new(child.stdout.take().context("a pipe was asked for")?).lines();
    let first = lines.next().context("the client said nothing")??;
    ensure!(first.contains("connected"), "the client: {first}");
    subject.kubectl().apply(DENY_SHOP)?;
    let started = Instant::now();
    // The client ends by itself as soon as its connection does.
    let last = until("the open connection to end", IN_FORCE, || child.try_wait().ok().flatten());
    let took = started.elapsed();
    if last.is_err() {
        // It runs in the pod; without its input it ends there too.
        drop(child.stdin.take());
        child.kill()?;
        child.wait()?;
    }
    last?;
    let told = lines.next().transpose()?.unwrap_or_default();
    ensure!(
        applications::talk(subject, (SHOP, "frontend"), &to).is_err(),
        "DENY does not go before ALLOW"
    );
    Ok(format!("ended after {:.1} s: {told}", took.as_secs_f64()))
}

fn lifted(subject: &Subject) -> Result<String> {
    let names = ["-n", BANK, "authorizationpolicy", "no-shop", "frontend-only"];
    subject.kubectl().delete(&names)?;
    let to = to_ledger(subject)?;
    for from in [(SHOP, "frontend"), (SHOP, "neighbour"), (BANK, "teller")] {
        until("a connection", IN_FORCE, || applications::talk(subject, from, &to).ok())?;
    }
    Ok("all three".into())
}

fn status(subject: &Subject) -> Result<String> {
    subject.kubectl().apply(WITH_HTTP)?;
    let condition = until("a condition", Duration::from_secs(30), || {
        let words = ["-n", BANK, "authorizationpolicy", "with-http"];
        let object = subject.kubectl().get(&words).ok()?;
        object["status"]["conditions"].as_array()?.first().cloned()
    })?;
    subject.kubectl().delete(&["-n", BANK, "authorizationpolicy", "with-http"])?;
    let text = condition["message"].as_str().unwrap_or_default().to_owned();
    ensure!(text.contains("methods"), "the field is not named: {condition}");
    Ok(text)
}
