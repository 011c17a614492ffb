//! In by a label, out by its removal: what the applications and the wire see of it.

use super::applications::{self, BANK, OUTSIDE, PAGE, SHOP};
use super::subject::Subject;
use super::wire::{Capture, Caught};
use crate::checks::{self, Checks};
use anyhow::{Context, Result, ensure};
use culvert_tests::until;
use std::time::{Duration, Instant};

/// The label that Istio's users have.
const LABEL: &str = "istio.io/dataplane-mode=ambient";
/// The annotation that says that a pod is in.
const REDIRECTION: &str = "ambient.istio.io/redirection";
/// Longest that pods of a labelled namespace may take to be in the mesh.
const ENROLMENT: Duration = Duration::from_secs(30);

/// Before, with, and without the label again.
pub(crate) fn part(subject: &Subject, checks: &mut Checks) {
    checks::part("two namespaces of applications, and a label");
    checks.add("without the label, applications talk in plaintext", plaintext(subject));
    checks.add("labelled, the pods are in the mesh", enrol(subject));
    checks.add("mutual TLS on the wire, by the Service's address", encrypted(subject));
    checks.add("two namespaces talk, with the callers' own addresses", across(subject));
    checks.add("who is not in is passed through while nothing forbids it", permissive(subject));
    checks.add("the label removed, it is plaintext again", unlabelled(subject));
    checks.add("and labelled once more", enrol(subject));
}

/// Puts both namespaces in, and waits until every pod of them says so.
pub(crate) fn enrol(subject: &Subject) -> Result<String> {
    let started = Instant::now();
    for namespace in [SHOP, BANK] {
        label(subject, namespace, LABEL)?;
    }
    let mut pods = 0;
    for namespace in [SHOP, BANK] {
        pods += until("the pods' annotation", ENROLMENT, || {
            let all = annotated(subject, namespace).ok()?;
            all.iter().all(|said| *said).then_some(all.len())
        })?;
    }
    Ok(format!("{pods} pods within {:.1} s", started.elapsed().as_secs_f64()))
}

fn label(subject: &Subject, namespace: &str, label: &str) -> Result<()> {
    let words = ["label", "--overwrite", "namespace", namespace, label];
    subject.kubectl().ok(&words).map(drop)
}

/// Of each pod of a namespace, whether it is annotated as being in.
fn annotated(subject: &Subject, namespace: &str) -> Result<Vec<bool>> {
    let pods = subject.kubectl().get(&["-n", namespace, "pods"])?;
    let pods = pods["items"].as_array().context("a list")?;
    Ok(pods
        .iter()
        .filter(|pod| pod["spec"]["hostNetwork"] != true)
        .map(|pod| pod["metadata"]["annotations"][REDIRECTION] == "enabled")
        .collect())
}

/// The shop's page by its Service, and what the wire saw of it.
fn watched(subject: &Subject) -> Result<(String, Option<Caught>)> {
    let address = applications::cluster_address(subject.kubectl(), SHOP, "backend")?;
    let capture = if subject.is_own() {
        Some(Capture::start(subject.own()?, subject.nodes()[0])?)
    } else {
        None
    };
    let page = applications::fetch(subject, (SHOP, "frontend"), &format!("http://{address}/"));
    let caught = capture.map(Capture::stop).transpose()?;
    let page = page?;
    ensure!(page.contains(PAGE), "another page came: {page}");
    Ok((page, caught))
}

fn plaintext(subject: &Subject) -> Result<String> {
    let (_, caught) = watched(subject)?;
    let Some(caught) = caught else { return Ok("the page came; the wire is out of reach".into()) };
    ensure!(caught.holds(PAGE), "the page was not seen on the wire: the capture proves nothing");
    Ok("the page came, and stands readable on the wire".into())
}

/// The page comes, and no byte of it can be read on the wire.
pub(crate) fn encrypted(subject: &Subject) -> Result<String> {
    let (_, caught) = watched(subject)?;
    let Some(caught) = caught else { return Ok("the page came; the wire is out of reach".into()) };
    ensure!(!caught.holds(PAGE), "the page stands readable on the wire");
    let bytes = caught.bytes(super::HBONE);
    ensure!(bytes > 0, "nothing went to port {}", super::HBONE);
    let (plain, tunnels) = (caught.bytes(applications::HTTP), caught.tunnels()?);
    ensure!(plain == 0, "{plain} bytes of data went to port {}", applications::HTTP);
    Ok(format!("{bytes} bytes in the tunnel, {tunnels} TLS 1.3 handshakes, no readable byte"))
}

fn across(subject: &Subject) -> Result<String> {
    let kubectl = subject.kubectl();
    let service = applications::cluster_address(kubectl, BANK, "ledger")?;
    let to = format!("{service}:{}", applications::ECHO);
    applications::talk(subject, (SHOP, "frontend"), &to)?;
    let own = applications::address(kubectl, SHOP, "frontend")?;
    let backend = applications::address(kubectl, SHOP, "backend")?;
    applications::fetch(subject, (SHOP, "frontend"), &format!("http://{backend}/"))?;
    let log = kubectl.ok(&["-n", SHOP, "logs", "backend", "--tail=5"])?;
    let last = log.lines().rfind(|line| line.contains("GET / ")).unwrap_or_default();
    ensure!(last.contains(&own), "nginx saw another caller than {own}: {log}");
    Ok(format!("{SHOP} → {BANK}: echo; nginx's log: {last}"))
}

fn permissive(subject: &Subject) -> Result<String> {
    let address = applications::address(subject.kubectl(), SHOP, "backend")?;
    let page = applications::fetch(subject, (OUTSIDE, "stranger"), &format!("http://{address}/"))?;
    ensure!(page.contains(PAGE), "another page came");
    Ok("a pod outside the mesh gets the page".into())
}

fn unlabelled(subject: &Subject) -> Result<String> {
    for namespace in [SHOP, BANK] {
        label(subject, namespace, "istio.io/dataplane-mode-")?;
    }
    until("the annotations to go", ENROLMENT, || {
        let said = [SHOP, BANK].map(|namespace| annotated(subject, namespace).ok());
        said.iter().flatten().flatten().all(|said| !said).then_some(())
    })?;
    plaintext(subject)
}
