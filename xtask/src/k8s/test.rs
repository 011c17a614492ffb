//! `cargo xtask k8s test`: the checks of Culvert on a real cluster, one part after the other.

use super::cluster::{self, Cluster};
use super::{ready, smoke};
use crate::demo::checks::Checks;
use crate::{interrupt, run};
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::process::ExitCode;

/// On what is tested, and what.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The cluster of this file, instead of one that is brought up for the test.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Leave the cluster standing afterwards.
    #[arg(long)]
    keep: bool,
    /// Only the parts whose name holds this text.
    #[arg(long)]
    filter: Option<String>,
}

/// Checks that belong together.
struct Part {
    name: &'static str,
    /// Whether they enter nodes or stop programs, which only a cluster of ours lets them do.
    ours_only: bool,
    checks: fn(&Cluster, &mut Checks) -> Result<()>,
}

const PARTS: [Part; 1] = [Part { name: "smoke", ours_only: true, checks: smoke::checks }];

/// Runs the command.
pub(super) fn run(arguments: &Arguments) -> Result<ExitCode> {
    if let Some(file) = &arguments.kubeconfig {
        let mut checks = Checks::default();
        made(&Cluster::of(file.clone())?, arguments.filter.as_deref(), &mut checks);
        return Ok(judged(&checks));
    }
    // One that stands already is somebody's, and stays.
    let keep = arguments.keep || Cluster::exists();
    let interrupt = if keep {
        interrupt::Interrupt::default()
    } else {
        interrupt::clean_up_by(cluster::remove)?
    };
    let mut checks = Checks::new(interrupt);
    let cluster = if Cluster::exists() { Cluster::open()? } else { ready(2)? };
    made(&cluster, arguments.filter.as_deref(), &mut checks);
    if !keep {
        run::say("taking the cluster down");
        checks.add("the cluster is taken down", cluster::remove().map(|()| "nothing left".into()));
    }
    Ok(judged(&checks))
}

/// Checks the cluster that stands, without Culvert.
pub(super) fn smoke() -> Result<ExitCode> {
    let mut checks = Checks::default();
    smoke::checks(&Cluster::open()?, &mut checks).context("the checks did not run to their end")?;
    Ok(judged(&checks))
}

fn made(cluster: &Cluster, filter: Option<&str>, checks: &mut Checks) {
    let wanted = |part: &&Part| {
        filter.is_none_or(|text| part.name.contains(text)) && (cluster.is_ours() || !part.ours_only)
    };
    for part in PARTS.iter().filter(wanted) {
        if let Err(error) = (part.checks)(cluster, checks) {
            checks.add(&format!("{} runs to its end", part.name), Err(error));
        }
    }
}

fn judged(checks: &Checks) -> ExitCode {
    println!("{checks}");
    if checks.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
