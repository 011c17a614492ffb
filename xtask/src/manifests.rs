//! `cargo xtask manifests`: makes the Helm chart from the Kustomize base, so that the two are one.
//!
//! ```text
//!  daemonset/base/*.yaml ──template──▶ daemonset/chart/templates/*.yaml
//!  daemonset/crds/*.yaml ──copy─────▶ daemonset/chart/crds/*.yaml
//!  daemonset/base/agent-config.yaml ──other lines──▶ daemonset/overlays/*/agent-config.yaml
//!  daemonset/observability/alerts/culvert.rules.yaml ──▶ prometheusrule.yaml beside it
//! ```
//!
//! Kustomize cannot change a line of a text in a `ConfigMap`, so overlays have all of it, made here.
//!
//! `chart/values.yaml` is written by hand, for its comments; a test compares every default in it
//! with what the base has at that place.

mod rendered;
mod template;
#[cfg(test)]
mod tests;

use crate::{paths, run};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What is done with the made files.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only compare them, and fail on a difference.
    #[arg(long)]
    check: bool,
    /// Also render everything with the real `helm` and `kubectl`, and compare what they say.
    #[arg(long)]
    render: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    generate(arguments.check)?;
    if arguments.render { render() } else { Ok(()) }
}

/// Renders everything with the real `helm` and `kubectl`, and compares what they say.
pub(crate) fn render() -> Result<()> {
    rendered::found()?.check()
}

/// What a template of the chart is made from.
struct Part {
    /// File below `daemonset/`.
    source: &'static str,
    /// Value that turns it on; without one it is always there.
    condition: Option<&'static str>,
}

const fn part(source: &'static str) -> Part {
    Part { source, condition: None }
}

const fn when(condition: &'static str, source: &'static str) -> Part {
    Part { source, condition: Some(condition) }
}

/// All of the base but the namespace, which Helm makes or finds.
const PARTS: &[Part] = &[
    part("base/agent-admission.yaml"),
    part("base/agent-config.yaml"),
    part("base/agent-rbac.yaml"),
    part("base/agent.yaml"),
    part("base/ca-rbac.yaml"),
    part("base/ca.yaml"),
    when("networkPolicy.enabled", "base/ca-network-policy.yaml"),
    when("podMonitor.enabled", "components/podmonitor/podmonitor.yaml"),
    when("priorityQuota.enabled", "components/priority-quota/resourcequota.yaml"),
];

/// Lines of the agent's configuration that an overlay has otherwise.
const OVERLAYS: &[(&str, &[(&str, &str)])] = &[
    ("permissive", &[("      whenAgentDown: refuse\n", "      whenAgentDown: pass\n")]),
    ("development", &[("      log: info\n", "      log: debug\n")]),
];

/// What the made files must be, by path below `daemonset/`.
fn made(daemonset: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let mut files = BTreeMap::new();
    for (path, text) in chart(daemonset)? {
        files.insert(Path::new("chart").join(path), text);
    }
    let rules = read(&daemonset.join("observability/alerts/culvert.rules.yaml"))?;
    files.insert(PathBuf::from("observability/alerts/prometheusrule.yaml"), rule_object(&rules));
    let config = read(&daemonset.join("base/agent-config.yaml"))?;
    for (overlay, lines) in OVERLAYS {
        files.insert(
            Path::new("overlays").join(overlay).join("agent-config.yaml"),
            changed(&config, lines)?,
        );
    }
    Ok(files)
}

/// The rules as an object of the Prometheus operator.
fn rule_object(rules: &str) -> String {
    let head = "\
# Made from culvert.rules.yaml. Do not edit.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: culvert
  namespace: culvert-system
  labels:
    app.kubernetes.io/part-of: culvert
spec:
";
    let body = rules.lines().skip_while(|line| line.starts_with('#')).map(|line| match line {
        "" => "\n".to_owned(),
        line => format!("  {line}\n"),
    });
    head.to_owned() + &body.collect::<String>()
}

/// A text with some lines replaced, each of which must be there once.
fn changed(text: &str, lines: &[(&str, &str)]) -> Result<String> {
    let head = "# Made from daemonset/base/agent-config.yaml. Do not edit.\n";
    let mut text = format!("{head}{text}");
    for (from, to) in lines {
        if text.matches(from).count() != 1 {
            bail!("agent-config.yaml: not there exactly once: {}", from.trim());
        }
        text = text.replace(from, to);
    }
    Ok(text)
}

/// What the files of the chart must be, by path below `daemonset/chart/`.
fn chart(daemonset: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let mut files = BTreeMap::new();
    for part in PARTS {
        let source = daemonset.join(part.source);
        let text = template::of(&read(&source)?, part.condition)
            .with_context(|| source.display().to_string())?;
        let name = Path::new(part.source).file_name().unwrap_or_default();
        files.insert(
            Path::new("templates").join(name),
            format!("{{{{- /* Made from daemonset/{}. Do not edit. */}}}}\n{text}", part.source),
        );
    }
    for entry in fs::read_dir(daemonset.join("crds"))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_owned();
        if name != "kustomization.yaml" {
            files.insert(Path::new("crds").join(name), read(&path)?);
        }
    }
    Ok(files)
}

/// Writes the files, or only compares them and fails on a difference.
pub(crate) fn generate(check: bool) -> Result<()> {
    let daemonset = paths::root().join("daemonset");
    let mut differ = Vec::new();
    for (path, text) in made(&daemonset)? {
        let place = daemonset.join(&path);
        if fs::read_to_string(&place).is_ok_and(|old| old == text) {
            continue;
        }
        if check {
            differ.push(path.display().to_string());
            continue;
        }
        fs::write(&place, text).with_context(|| format!("could not write {}", place.display()))?;
        run::say(format!("wrote {}", place.display()));
    }
    if !differ.is_empty() {
        bail!("not as the base makes them: {}; run `cargo xtask manifests`", differ.join(", "));
    }
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))
}
