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
mod strict;
mod subject;
mod uninstall;
mod wire;

use super::Cluster;
use crate::checks::Checks;
use crate::{build, image, paths, run};
use anyhow::{Context, Result};
use kubectl::Kubectl;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use subject::Subject;

/// Port of the tunnel.
const HBONE: u16 = 15008;
/// The applications' image, as the lab's cluster has it.
const APPLICATIONS: &str = "localhost/lab/apps:1";

/// What is tested, and where.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A cluster that is there already, instead of one of this machine's own. It must have the two
    /// images; what needs the inside of a node is left out.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Image with the applications, where the cluster is not this machine's own.
    #[arg(long, default_value = APPLICATIONS)]
    applications: String,
    /// This image archive instead of one that is built now.
    #[arg(long)]
    archive: Option<PathBuf>,
    /// Leaves cluster and Culvert standing.
    #[arg(long)]
    keep: bool,
    /// Only the parts whose name holds this text; it is installed first in any case.
    #[arg(long)]
    only: Option<String>,
    /// Seconds that the API server is away.
    #[arg(long, default_value_t = 600)]
    outage: u64,
}

/// Runs the command; the exit code tells whether every check passed.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let subject = subject(arguments)?;
    let mut checks = Checks::default();
    everything(&subject, arguments, &mut checks);
    println!("{checks}");
    if subject.is_own() && !arguments.keep {
        run::say("taking the cluster down");
        super::cluster::remove()?;
    }
    Ok(if checks.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn subject(arguments: &Arguments) -> Result<Subject> {
    if let Some(kubeconfig) = &arguments.kubeconfig {
        let program = paths::which("kubectl").context("no `kubectl` here; install it")?;
        let kubectl = Kubectl::new(program, kubeconfig.clone());
        return Subject::new(kubectl, None, &arguments.applications);
    }
    build::with_tests()?;
    let archive = match &arguments.archive {
        Some(archive) => archive.clone(),
        None => image::of_tests()?,
    };
    if !Cluster::exists() {
        super::up(2)?;
    }
    let cluster = Cluster::open()?;
    cluster.load(&archive)?;
    let kubectl = Kubectl::new(cluster.programs().join("kubectl"), cluster.kubeconfig());
    Subject::new(kubectl, Some(cluster), APPLICATIONS)
}

fn everything(subject: &Subject, arguments: &Arguments, checks: &mut Checks) {
    let wanted = |name: &str| arguments.only.as_ref().is_none_or(|only| name.contains(&**only));
    let before = subject.is_own().then(|| uninstall::traces(subject));
    if !install::part(subject, checks) {
        return;
    }
    type Part = fn(&Subject, &mut Checks);
    let parts: [(&str, Part); 7] = [
        ("mesh", mesh::part),
        ("strict", strict::part),
        ("authorization", authorization::part),
        ("bad objects", bad_objects::part),
        ("rolling update", rolling::part),
        ("churn", churn::part),
        ("manuals", install::manuals),
    ];
    for (name, part) in parts {
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
