//! Installed as the guide says: its own commands, in its own order.

use super::applications;
use super::subject::{SYSTEM, Subject};
use super::{mesh, uninstall};
use crate::checks::{self, Checks};
use crate::manual::{self, Step};
use crate::paths;
use anyhow::{Context, Result, bail, ensure};
use std::fs;

/// The guide of installation.
const GUIDE: &str = "docs/install.md";
/// What begins the removal of a chart.
const REMOVAL: &str = "delete daemonset culvert-agent";

/// Starts the applications, then installs Culvert beside them; whether there is something to test.
pub(crate) fn part(subject: &Subject, checks: &mut Checks) -> bool {
    checks::part("applications, and an installation from nothing");
    let steps = [
        ("the applications run", applications::start(subject).map(|()| "all pods ready".into())),
        ("README and guide install alike", same_commands()),
    ];
    for (what, outcome) in steps {
        checks.add(what, outcome);
    }
    checks.add("manifests hold against the API server's own validation", validated(subject));
    let before = checks.failed();
    checks.add("installed by the commands of docs/install.md", installed(subject));
    checks.add("agents and authority are ready and restarted nothing", steady(subject));
    checks.failed() == before
}

/// The guide's commands of a sequence; none for the one that installs.
fn guide(sequence: Option<&str>) -> Result<Vec<Step>> {
    let mut all = read(GUIDE)?;
    all.retain(|step| step.sequence.as_deref() == sequence);
    ensure!(!all.is_empty(), "docs/install.md has no commands of {sequence:?}");
    Ok(all)
}

/// The commands of the chart: those that install, and those that remove.
fn guide_of_helm() -> Result<(Vec<Step>, Vec<Step>)> {
    let mut all = guide(Some("helm"))?;
    let removal = all.iter().position(|step| step.script.contains(REMOVAL));
    let rest = all.split_off(removal.context("the guide does not say how a chart is removed")?);
    Ok((all, rest))
}

fn read(manual: &str) -> Result<Vec<Step>> {
    let path = paths::root().join(manual);
    let text =
        fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
    manual::steps(manual, &text)
}

fn run(subject: &Subject, steps: &[Step]) -> Result<String> {
    let config = subject.kubectl().kubeconfig().display().to_string();
    let folder = subject.kubectl().program().parent().context("kubectl stands in a folder")?;
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", folder.display());
    let environment = [("KUBECONFIG", &*config), ("PATH", &*path)];
    for step in steps {
        for line in step.script.lines() {
            checks::note(&format!("$ {line}"));
        }
        step.run(&environment)?;
    }
    Ok(format!("{} blocks of commands", steps.len()))
}

/// Every command by which README installs stands in the guide, which is run.
fn same_commands() -> Result<String> {
    let readme = fs::read_to_string(paths::root().join("README.md"))?;
    let guide = fs::read_to_string(paths::root().join("docs/install.md"))?;
    let installs = |line: &&str| {
        line.starts_with("kubectl apply -k") || line.starts_with("kubectl -n culvert-system")
    };
    let commands: Vec<_> = readme.lines().map(str::trim).filter(installs).collect();
    ensure!(!commands.is_empty(), "README does not say how it is installed");
    let plain = |line: &str| line.split(" #").next().unwrap_or_default().trim().to_owned();
    for command in &commands {
        let command = plain(command);
        if !guide.lines().any(|line| plain(line) == command) {
            bail!("`{command}` of README is not in docs/install.md");
        }
    }
    Ok(format!("{} commands", commands.len()))
}

/// What the API server says of every object, with unknown fields refused; it keeps none of them.
fn validated(subject: &Subject) -> Result<String> {
    let kubectl = subject.kubectl();
    // Objects of a namespace can only be looked at when that is there.
    let namespace = paths::root().join("daemonset/base/namespace.yaml");
    let path =
        |path: &std::path::Path| path.to_str().map(str::to_owned).context("a path that is text");
    kubectl.ok(&["apply", "-f", &path(&namespace)?])?;
    let mut objects = 0;
    for overlay in ["default", "permissive", "development"] {
        let directory = path(&paths::root().join("daemonset/overlays").join(overlay))?;
        let words = ["apply", "--dry-run=server", "--validate=strict", "-k", &directory];
        let said = kubectl.try_run(&words)?;
        ensure!(said.good, "{overlay}: {}", said.stderr.trim());
        ensure!(!said.stderr.contains("Warning"), "{overlay}: {}", said.stderr.trim());
        objects += said.stdout.lines().count();
    }
    kubectl.delete(&["namespace", SYSTEM])?;
    Ok(format!("{objects} objects of three overlays"))
}

fn installed(subject: &Subject) -> Result<String> {
    let mut steps = guide(None)?;
    steps.retain(|step| !step.last);
    run(subject, &steps)
}

fn steady(subject: &Subject) -> Result<String> {
    let pods = subject.kubectl().get(&["-n", SYSTEM, "pods"])?;
    let pods = pods["items"].as_array().context("a list of pods")?;
    let mut seen = Vec::new();
    for pod in pods {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        for status in pod["status"]["containerStatuses"].as_array().into_iter().flatten() {
            ensure!(status["ready"] == true, "{name}: {status}");
            ensure!(status["restartCount"] == 0, "{name} was restarted: {status}");
        }
        seen.push(name);
    }
    ensure!(seen.len() >= 3, "only {}", seen.join(" "));
    Ok(seen.join(" "))
}

/// The other manuals' commands, on the cluster as it is now.
pub(crate) fn manuals(subject: &Subject, checks: &mut Checks) {
    checks::part("the commands of the manuals");
    // The guide was run to install, and README says the same as that.
    for manual in manual::MANUALS.iter().filter(|name| !["README.md", GUIDE].contains(name)) {
        let outcome = read(manual).and_then(|mut steps| {
            steps.retain(|step| step.sequence.is_none());
            run(subject, &steps)
        });
        checks.add(&format!("every command of {manual}"), outcome);
    }
}

/// Removes it as the guide says.
pub(crate) fn removed(subject: &Subject) -> Result<String> {
    let mut steps = guide(None)?;
    steps.retain(|step| step.last);
    ensure!(!steps.is_empty(), "docs/install.md does not say how it is removed");
    run(subject, &steps)
}

/// In again and out again, by the chart.
pub(crate) fn helm(subject: &Subject, checks: &mut Checks) {
    checks::part("the same by Helm");
    let outcome = guide_of_helm().and_then(|(first, _)| run(subject, &first));
    let good = outcome.is_ok();
    checks.add("installed by the chart", outcome);
    if good {
        checks.add("labelled, the pods are in the mesh", mesh::enrol(subject));
        checks.add("mutual TLS on the wire", mesh::encrypted(subject));
        let outcome = guide_of_helm().and_then(|(_, rest)| run(subject, &rest));
        checks.add("removed by the chart", outcome);
    }
    uninstall::applications_go_on(subject, checks);
}
