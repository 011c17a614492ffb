//! Away again: a node is as it was.

use super::applications::{self, PAGE, SHOP};
use super::install;
use super::subject::{SYSTEM, Subject};
use crate::checks::{self, Checks};
use anyhow::{Result, anyhow, ensure};
use culvert_tests::until;
use std::collections::BTreeSet;
use std::time::Duration;

/// Longest until the last trace is gone.
const CLEAN: Duration = Duration::from_mins(2);

/// What of a node Culvert could leave behind, one line each.
pub(crate) fn traces(subject: &Subject) -> Result<Vec<BTreeSet<String>>> {
    const LOOK: &str = "
        find /sys/fs/bpf -mindepth 1 2>/dev/null
        find /run/culvert -mindepth 1 2>/dev/null
        find /etc/cni/net.d -type f -exec sha256sum {} + 2>/dev/null
        find /opt/cni/bin -name 'culvert*' 2>/dev/null
        ip rule show; ip -6 rule show; ip route show table 100 2>/dev/null
        iptables-save 2>/dev/null | grep -i culvert
        for n in /run/netns/*; do
            nsenter --net=$n ip rule show 2>/dev/null | grep -v 'lookup \\(local\\|main\\|default\\)'
            nsenter --net=$n ip route show table 100 2>/dev/null
        done
        true";
    subject
        .nodes()
        .iter()
        .map(|node| {
            let said = subject.node(node, &["sh", "-c", LOOK])?.output()?;
            let text = String::from_utf8_lossy(&said.stdout).into_owned();
            Ok(text.lines().map(str::to_owned).collect())
        })
        .collect()
}

/// Programs and links of Culvert that the kernel knows, whoever holds them.
fn in_kernel() -> Result<Vec<String>> {
    let mut found = Vec::new();
    for what in ["prog", "link", "map"] {
        let output = std::process::Command::new("bpftool").args([what, "show"]).output()?;
        ensure!(
            output.status.success(),
            "bpftool {what}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        found.extend(text.lines().filter(|line| line.contains("culvert")).map(str::to_owned));
    }
    Ok(found)
}

/// Removes it as its guide says, puts it in and out again by Helm, and compares with what was there
/// `before` it came.
pub(crate) fn part(
    subject: &Subject,
    checks: &mut Checks,
    before: Option<Result<Vec<BTreeSet<String>>>>,
) {
    checks::part("away again");
    checks.add("removed by the commands of docs/install.md", install::removed(subject));
    applications_go_on(subject, checks);
    let before = before.transpose();
    let compare = |checks: &mut Checks| match &before {
        Ok(Some(before)) => checks.add("nodes are as they were", clean(subject, before)),
        Ok(None) => checks::note("skipped: needs the inside of a node, which only the lab gives"),
        Err(error) => checks.add("nodes are as they were", Err(anyhow!("{error:#}"))),
    };
    compare(checks);
    install::helm(subject, checks);
    compare(checks);
}

/// The applications talk, though Culvert is gone.
pub(crate) fn applications_go_on(subject: &Subject, checks: &mut Checks) {
    checks.add("the applications go on, without the mesh", works(subject));
}

fn works(subject: &Subject) -> Result<String> {
    let gone = subject.kubectl().try_run(&["get", "namespace", SYSTEM])?;
    ensure!(!gone.good, "the namespace {SYSTEM} is still there");
    let address = applications::cluster_address(subject.kubectl(), SHOP, "backend")?;
    let page = applications::fetch(subject, (SHOP, "frontend"), &format!("http://{address}/"))?;
    ensure!(page.contains(PAGE), "another page came");
    Ok("the page came".into())
}

fn clean(subject: &Subject, before: &[BTreeSet<String>]) -> Result<String> {
    let mut left = Vec::new();
    let outcome = until("nodes to be clean", CLEAN, || {
        let now = traces(subject).ok()?;
        left = before
            .iter()
            .zip(&now)
            .flat_map(|(before, now)| before.symmetric_difference(now).cloned())
            .chain(in_kernel().ok()?)
            .collect();
        left.is_empty().then_some(())
    });
    ensure!(outcome.is_ok(), "left or changed: {}", left.join("; "));
    Ok("no program, link, map, rule, route or file more or less".into())
}
