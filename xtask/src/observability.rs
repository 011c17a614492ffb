//! `cargo xtask observability`: the dashboards, rules and alerts, by a real Prometheus.
//!
//! ```text
//!  rules ──promtool──▶ each alert is silent, then fires            (neither root nor a lab)
//!
//!  two nodes with traffic ◀──scrapes── prometheus ◀── every query of every dashboard and rule,
//!  agents :15020, authority                           and those of Istio's dashboards and Kiali
//! ```
//!
//! Grafana itself is no package of Debian and is not run; that the dashboards are well-formed is
//! held by the unit tests, that their queries find data is held here.

mod dashboards;
mod expression;
mod mesh;
mod others;
mod prometheus;
mod rules;
#[cfg(test)]
mod tests;

use crate::checks::{self, Checks};
use crate::setup::{self, Purpose};
use crate::{build, interrupt, paths, run};
use anyhow::{Context, Result, ensure};
use prometheus::Prometheus;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Longest until every query has found data: two scrapes, two evaluations, and a busy machine.
const LIMIT: Duration = Duration::from_mins(3);

/// What is checked.
#[derive(clap::Args, Default)]
pub(crate) struct Arguments {
    /// Only the rules, by `promtool`: neither root nor a lab is needed.
    #[arg(long)]
    pub(crate) rules: bool,
}

/// Something that is asked of Prometheus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Query {
    /// Where it stands, for a person.
    place: String,
    /// What is asked, without variables.
    ask: Ask,
}

/// The two forms of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Ask {
    /// An expression.
    Value(String),
    /// The values of a label, among the series of a selector.
    Labels { label: String, series: String },
}

/// Runs the command; the exit code tells whether every check passed.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    setup::ensure(&[Purpose::Observability])?;
    if arguments.rules {
        let mut checks = Checks::default();
        rules::judged(&mut checks);
        return Ok(finish(&checks));
    }
    setup::ensure(&[Purpose::Agent, Purpose::Kernel, Purpose::Run])?;
    build::run(&build::Arguments::default())?;
    culvert_tests::check().context("the lab cannot run here")?;
    let id = format!("observed-{}", std::process::id());
    let mut checks = Checks::new(interrupt::clean_up(&id)?);
    rules::judged(&mut checks);
    if let Err(error) = asked(&id, &mut checks) {
        checks.add("Prometheus is asked to the end", Err(error));
    }
    Ok(finish(&checks))
}

fn finish(checks: &Checks) -> ExitCode {
    println!("{checks}");
    if checks.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Builds the lab with traffic and asks everything.
fn asked(id: &str, checks: &mut Checks) -> Result<()> {
    run::say("building two nodes with traffic, and a Prometheus that scrapes them");
    let mut mesh = mesh::start(id)?;
    checks::part("every target answers Prometheus");
    checks.add("scrape", mesh.scraped());
    mesh.provoke()?;
    let prometheus = &mesh.prometheus;
    checks::part("every query returns data");
    for dashboard in dashboards::all()? {
        let queries = dashboard.queries()?;
        checks.add(&format!("dashboard {}", dashboard.uid), answered(prometheus, &queries));
    }
    checks.add("recording rules", answered(prometheus, &rules::recorded()?));
    checks.add("queries of Istio's dashboards and of Kiali", answered(prometheus, &others::all()));
    checks::part("alerts");
    checks.add("every alert is evaluated", rules::evaluated(prometheus));
    checks.add("their metrics exist", rules::metrics_exist(prometheus));
    checks.add("an alert fires for a refused edit", mesh.alarmed());
    Ok(())
}

/// Asks until every query has returned data; those that have not are named.
fn answered(prometheus: &Prometheus, queries: &[Query]) -> Result<String> {
    ensure!(!queries.is_empty(), "there is no query");
    let mut left: Vec<&Query> = queries.iter().collect();
    let all = culvert_tests::until("data", LIMIT, || {
        left.retain(|query| !matches!(prometheus.has_data(&query.ask), Ok(true)));
        left.is_empty().then_some(())
    });
    if all.is_err() {
        let told: Vec<_> = left
            .iter()
            .map(|query| match prometheus.has_data(&query.ask) {
                Ok(_) => format!("{}: no data: {}", query.place, query.ask),
                Err(error) => format!("{}: {error:#}: {}", query.place, query.ask),
            })
            .collect();
        anyhow::bail!("{} of {} queries\n{}", left.len(), queries.len(), told.join("\n"));
    }
    let names: BTreeSet<_> = queries.iter().flat_map(|query| query.ask.metrics()).collect();
    // What stands behind `or vector(0)` answers even when its metric is misspelt.
    let known = prometheus.names()?;
    let unknown: Vec<_> = names.iter().filter(|name| !known.contains(*name)).cloned().collect();
    ensure!(unknown.is_empty(), "no such metric: {}", unknown.join(", "));
    Ok(format!("{} queries, {} metrics", queries.len(), names.len()))
}

impl Ask {
    /// The metrics of ours that it names.
    fn metrics(&self) -> BTreeSet<String> {
        match self {
            Self::Value(text) | Self::Labels { series: text, .. } => expression::metrics(text),
        }
    }
}

impl std::fmt::Display for Ask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Value(expression) => f.write_str(expression),
            Self::Labels { label, series } => write!(f, "label_values({series}, {label})"),
        }
    }
}

/// Where all of it stands.
fn directory() -> PathBuf {
    paths::root().join("daemonset/observability")
}
