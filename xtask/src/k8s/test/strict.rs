//! STRICT, with the document of the classic lab, unchanged; and the kubelet's probes under it.

use super::applications::{self, OUTSIDE, PAGE, Pod, SHOP};
use super::subject::{SYSTEM, Subject};
use crate::checks::{self, Checks};
use anyhow::{Result, ensure};
use culvert_tests::until;
use std::time::{Duration, Instant};

/// As it stands in the lab that users have done.
pub(crate) const STRICT: &str = "\
apiVersion: security.istio.io/v1beta1
kind: PeerAuthentication
metadata:
  name: default
  namespace: default
spec:
  mtls:
    mode: STRICT
";

/// Longest until a policy holds, the starts of kubectl and curl in it.
const IN_FORCE: Duration = Duration::from_secs(5);

/// Applies it and looks who gets in.
pub(crate) fn part(subject: &Subject, checks: &mut Checks) {
    checks::part("STRICT: the PeerAuthentication of the classic lab");
    checks.add("a pod that is not in the mesh is refused", refused(subject));
    checks.add("the agent says who, why and what to do", told(subject));
    checks.add("pods of the mesh still talk", allowed(subject));
    checks.add("kubelet's probes work under STRICT", probes(subject));
    checks.add("another node's host is not taken for the kubelet", other_host(subject));
}

fn refused(subject: &Subject) -> Result<String> {
    let url = format!("http://{}/", applications::address(subject.kubectl(), SHOP, "backend")?);
    subject.kubectl().apply(STRICT)?;
    let started = Instant::now();
    let error = until("the refusal", IN_FORCE, || {
        applications::fetch(subject, (OUTSIDE, "stranger"), &url).err()
    })?;
    Ok(format!("after {:.1} s: {error:#}", started.elapsed().as_secs_f64()))
}

fn told(subject: &Subject) -> Result<String> {
    let agent = subject.agent_on(subject.nodes()[1])?;
    let log = subject.kubectl().ok(&["-n", SYSTEM, "logs", &agent, "-c", "agent", "--tail=200"])?;
    let line = log
        .lines()
        .rfind(|line| line.contains("plaintext where mutual TLS is required"))
        .map(str::to_owned);
    line.ok_or_else(|| anyhow::anyhow!("no line about it: {log}"))
}

fn allowed(subject: &Subject) -> Result<String> {
    let address = applications::cluster_address(subject.kubectl(), SHOP, "backend")?;
    let page = applications::fetch(subject, (SHOP, "frontend"), &format!("http://{address}/"))?;
    ensure!(page.contains(PAGE), "another page came");
    let page = applications::fetch(subject, (SHOP, "neighbour"), &format!("http://{address}/"))?;
    ensure!(page.contains(PAGE), "another page came on the same node");
    Ok("from the other node, and from the same one".into())
}

/// A pod whose readiness, liveness and startup are asked by HTTP and TCP.
fn probes(subject: &Subject) -> Result<String> {
    let serve = ["culvert-testapp", "echo", "--listen", "[::]:7000"];
    let document = Pod::new(SHOP, "probed", &serve).document(subject.applications_image())
        + "    readinessProbe: {tcpSocket: {port: 7000}, periodSeconds: 1, failureThreshold: 2}\n    \
           livenessProbe: {tcpSocket: {port: 7000}, periodSeconds: 1, failureThreshold: 2}\n";
    subject.kubectl().apply(&document)?;
    applications::ready(subject.kubectl(), SHOP, "pod/probed")?;
    let started = Instant::now();
    // Ten rounds of both probes must pass, so that is what is waited for.
    until("ten seconds of probes", Duration::from_mins(1), || {
        (started.elapsed() > Duration::from_secs(10)).then_some(())
    })?;
    let pod = subject.kubectl().get(&["-n", SHOP, "pod", "probed"])?;
    let status = &pod["status"]["containerStatuses"][0];
    ensure!(status["ready"] == true, "not ready: {status}");
    ensure!(status["restartCount"] == 0, "restarted by its liveness probe: {status}");
    subject.kubectl().delete(&["-n", SHOP, "pod", "probed"])?;
    Ok("ready and never restarted in ten rounds of both".into())
}

fn other_host(subject: &Subject) -> Result<String> {
    if !subject.is_own() {
        return Ok("skipped: needs the inside of a node, which only the lab gives".into());
    }
    let address = applications::address(subject.kubectl(), SHOP, "backend")?;
    let url = format!("http://{address}/");
    let words = ["curl", "-sS", "--max-time", "10", &url];
    let [other, own] = subject.nodes();
    let said = subject.node(own, &words)?.output()?;
    ensure!(said.status.success(), "the pod's own node was refused, so the kubelet would be");
    let said = subject.node(other, &words)?.output()?;
    ensure!(!said.status.success(), "host of {other} got in");
    Ok(String::from_utf8_lossy(&said.stderr).trim().to_owned())
}
