//! `cargo xtask k8s test`: Culvert on a real cluster, as a user installs and uses it, and what was
//! really observed of it.

mod applications;
mod authorization;
mod bad_objects;
mod churn;
mod install;
mod kubectl;
mod load;
mod mesh;
mod outages;
mod rolling;
mod seen;
mod strict;
mod subject;
mod uninstall;
mod wire;

use super::cluster::{self, Cluster};
use super::{ready, smoke};
use crate::checks::Checks;
use crate::interrupt::{self, Interrupt};
use crate::{build, image, run};
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use subject::Subject;

/// Port of the tunnel.
const HBONE: u16 = 15008;
/// The applications' image, as the lab's cluster has it.
const APPLICATIONS: &str = "localhost/lab/apps:1";

/// On what is tested, and what.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The cluster of this file, instead of one that is brought up for the test. It must have the
    /// images; what needs the inside of a node is left out, and said to be.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The image with the test's applications.
    #[arg(long, default_value = APPLICATIONS)]
    applications: String,
    /// The image archive of Culvert, as `cargo xtask image` writes it; built now without.
    #[arg(long, value_name = "FILE")]
    archive: Option<PathBuf>,
    /// Leave cluster and Culvert standing afterwards.
    #[arg(long)]
    keep: bool,
    /// Only the parts whose name holds this text, after an installation.
    #[arg(long)]
    filter: Option<String>,
    /// How many seconds the API server is away.
    #[arg(long, default_value_t = 600)]
    outage: u64,
}

/// Seconds that the API server is away where the checks are one of many tests. Ten minutes, as by
/// default, show no more, only longer.
const SHORT_OUTAGE: u64 = 60;

impl Arguments {
    /// As `cargo xtask test` runs it.
    pub(super) fn for_tests() -> Self {
        Self {
            kubeconfig: None,
            applications: APPLICATIONS.to_owned(),
            archive: None,
            keep: false,
            filter: None,
            outage: SHORT_OUTAGE,
        }
    }
}

/// Runs the command; the exit code tells whether every check passed.
pub(super) fn run(arguments: &Arguments) -> Result<ExitCode> {
    Ok(if passed(arguments)? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Makes the checks; whether every one passed.
pub(super) fn passed(arguments: &Arguments) -> Result<bool> {
    if let Some(file) = &arguments.kubeconfig {
        let subject = Subject::new(Cluster::of(file.clone())?, &arguments.applications)?;
        let mut checks = Checks::default();
        everything(&subject, arguments, &mut checks);
        return Ok(judged(&checks));
    }
    let archive = if let Some(archive) = &arguments.archive {
        archive.clone()
    } else {
        build::with_tests()?;
        image::of_tests()?
    };
    // One that stands already is somebody's, and stays.
    let keep = arguments.keep || Cluster::exists();
    let interrupt =
        if keep { Interrupt::default() } else { interrupt::clean_up_by(cluster::remove)? };
    let mut checks = Checks::new(interrupt);
    let cluster = if Cluster::exists() { Cluster::open()? } else { ready(2)? };
    cluster.load(&archive)?;
    everything(&Subject::new(cluster, APPLICATIONS)?, arguments, &mut checks);
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
    Ok(if judged(&checks) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Each part stands on its own, once Culvert is installed and its pods are enrolled.
type Part = fn(&Subject, &mut Checks);

const PARTS: [(&str, Part); 7] = [
    ("seen", seen::part),
    ("strict", strict::part),
    ("authorization", authorization::part),
    ("bad objects", bad_objects::part),
    ("rolling update", rolling::part),
    ("churn", churn::part),
    ("manuals", install::manuals),
];

fn everything(subject: &Subject, arguments: &Arguments, checks: &mut Checks) {
    let wanted = |name: &str| arguments.filter.as_ref().is_none_or(|text| name.contains(&**text));
    let before = subject.is_own().then(|| uninstall::traces(subject));
    if !install::part(subject, checks) {
        return;
    }
    mesh::part(subject, checks);
    for (name, part) in PARTS {
        if wanted(name) {
            part(subject, checks);
        }
    }
    if wanted("outages") {
        outages::part(subject, checks, Duration::from_secs(arguments.outage));
    }
    if wanted("uninstall") && !arguments.keep {
        uninstall::part(subject, checks, before);
    }
}

fn judged(checks: &Checks) -> bool {
    println!("{checks}");
    checks.failed() == 0
}
