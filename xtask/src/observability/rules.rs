//! The rules: their form and their tests by `promtool`, and what a Prometheus makes of them.

use super::dashboards::{list, text};
use super::prometheus::Prometheus;
use super::{Ask, Query, directory, expression};
use crate::checks::{self, Checks};
use crate::run;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// Longest that `promtool` may take.
const LIMIT: Duration = Duration::from_mins(3);

/// Metrics that only an agent in a cluster has, or the controller, by their beginnings.
pub(super) const IN_A_CLUSTER: [&str; 4] =
    ["culvert_cni_", "culvert_controller_", "culvert_workload_faulty_", "culvert_workload_watch_"];

/// A rule.
pub(super) struct Rule {
    /// The alert's name, or the recorded metric's.
    pub(super) name: String,
    /// Whether it is an alert.
    pub(super) alert: bool,
    /// What is evaluated.
    pub(super) expression: String,
}

/// The file with all rules.
pub(super) fn file() -> PathBuf {
    directory().join("alerts/culvert.rules.yaml")
}

/// All rules.
pub(super) fn all() -> Result<Vec<Rule>> {
    let rules = documents()?;
    let rules = rules.iter().map(|rule| {
        let alert = rule["alert"].is_string();
        let name = text(rule, if alert { "alert" } else { "record" });
        Rule { name, alert, expression: text(rule, "expr") }
    });
    Ok(rules.collect())
}

/// All rules as they are written.
pub(super) fn documents() -> Result<Vec<Value>> {
    let rules = yaml(&file())?;
    Ok(list(&rules["groups"]).flat_map(|group| list(&group["rules"])).cloned().collect())
}

/// The files with their tests.
pub(super) fn tests() -> Result<Vec<PathBuf>> {
    let folder = directory().join("alerts/tests");
    let mut files: Vec<_> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    Ok(files)
}

/// A file of YAML.
pub(super) fn yaml(path: &std::path::Path) -> Result<Value> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_saphyr::from_str(&text).with_context(|| path.display().to_string())
}

/// Lets `promtool` judge the rules' form, and run their tests.
pub(super) fn judged(checks: &mut Checks) {
    checks::part("rules, by promtool");
    let mut check = Command::new("promtool");
    check.args(["check", "rules"]).arg(file());
    checks.add("promtool check rules", promtool(&mut check));
    let tested = tests().and_then(|files| {
        let mut test = Command::new("promtool");
        test.args(["test", "rules"]).args(&files);
        promtool(&mut test)?;
        let alerts = all()?.iter().filter(|rule| rule.alert).count();
        Ok(format!("{alerts} alerts in {} files: each silent, then firing", files.len()))
    });
    checks.add("promtool test rules", tested);
}

fn promtool(command: &mut Command) -> Result<String> {
    let said = run::read_within(command, LIMIT)?;
    let lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    Ok(lines.collect::<Vec<_>>().join(" "))
}

/// What the recording rules record.
pub(super) fn recorded() -> Result<Vec<Query>> {
    let records = all()?.into_iter().filter(|rule| !rule.alert);
    Ok(records.map(|rule| Query { place: rule.name.clone(), ask: Ask::Value(rule.name) }).collect())
}

/// Whether every rule was evaluated without an error, and every text of an alert came out.
pub(super) fn evaluated(prometheus: &Prometheus) -> Result<String> {
    let rules = prometheus.rules()?;
    let wanted = all()?.len();
    ensure!(rules.len() == wanted, "Prometheus has {} rules of {wanted}", rules.len());
    for rule in &rules {
        let name = text(rule, "name");
        ensure!(rule["health"] == "ok", "{name}: {} {}", rule["health"], rule["lastError"]);
        for alert in list(&rule["alerts"]) {
            let said = alert["annotations"].to_string();
            ensure!(!said.contains("<error"), "{name} says {said}");
            ensure!(!said.contains("<no value>"), "{name} says {said}");
        }
    }
    Ok(format!("{wanted} rules, all healthy"))
}

/// Whether every metric in a rule is one that was scraped, or one that only a cluster has.
pub(super) fn metrics_exist(prometheus: &Prometheus) -> Result<String> {
    let known = prometheus.names()?;
    let named: BTreeSet<_> =
        all()?.iter().flat_map(|rule| expression::metrics(&rule.expression)).collect();
    let in_a_cluster = |name: &str| IN_A_CLUSTER.iter().any(|start| name.starts_with(start));
    let missing: Vec<_> = named
        .iter()
        .filter(|name| !known.contains(*name) && !in_a_cluster(name))
        .cloned()
        .collect();
    ensure!(missing.is_empty(), "nobody serves {}", missing.join(", "));
    let seen = named.iter().filter(|name| known.contains(*name)).count();
    Ok(format!("{seen} scraped here, {} only in a cluster", named.len() - seen))
}
