//! `cargo xtask demo`: two nodes, real pods, real programs, and what was really observed.

pub(crate) mod applications;
mod asked;
mod certificates;
mod identities;
mod refusals;
mod rotation;
mod telemetry;
mod wire;

use crate::checks::{self, Checks};
use crate::setup::{self, Purpose};
use crate::{build, interrupt, lab, run};
use anyhow::{Context, Result, bail};
use culvert_tests::{Lab, NodeId, sweep};
use std::process::ExitCode;

/// Life of the demo's certificates: short, so that one is rotated before one's eyes.
const CERTIFICATE_TTL: &str = "30s";

/// How the demo runs.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Leave the lab running and say how to look around in it.
    #[arg(long)]
    keep: bool,
}

/// Runs the command; the exit code tells whether every check passed.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    setup::ensure(&[Purpose::Agent, Purpose::Kernel, Purpose::Run])?;
    build::run(&build::Arguments::default())?;
    culvert_tests::check().context("the demo cannot run here")?;

    let id =
        if arguments.keep { lab::ID.to_owned() } else { format!("demo-{}", std::process::id()) };
    if sweep::exists(&id) {
        bail!("a lab stands already; run `cargo xtask lab down` first");
    }
    let mut checks = Checks::new(interrupt::clean_up(&id)?);
    let outcome = show(&id, arguments.keep, &mut checks);
    if let Err(error) = outcome {
        checks.add("the demo runs to its end", Err(error));
    }
    println!("{checks}");
    if checks.failed() == 0 || arguments.keep {
        sweep::forget_logs(&id);
    } else {
        eprintln!("what agents and CA said: {}", sweep::kept_logs(&id).display());
    }
    Ok(if checks.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show(id: &str, keep: bool, checks: &mut Checks) -> Result<()> {
    run::say("building two nodes, six pods, the CA and two agents");
    let lab = Lab::builder()
        .named(id)
        .standard()
        .strict()
        .ca_argument("--min-ttl=10s")
        .ca_argument("--rotation-wait=2s")
        .set("ca", "certificateTtl", CERTIFICATE_TTL)
        .start()?;
    for id in NodeId::ALL {
        let agent = lab.agent(id)?.pid();
        checks::note(&format!("{}: agent is process {agent}", lab.node(id).name()));
    }
    let capture = wire::Capture::start(&lab)?;
    let applications = applications::start(&lab)?;
    applications.requests(&lab, checks);
    certificates::presented(&lab, checks);
    identities::inspected(&lab, checks);
    refusals::not_enrolled(&lab, checks);
    asked::inspected(&lab, checks);
    rotation::while_transferring(&lab, &applications, checks);
    telemetry::access_log(&lab, checks);
    telemetry::metrics(&lab, checks);
    telemetry::requests(&lab, checks);
    asked::page(&lab, checks);
    capture.judge(&lab, &applications, checks);
    if keep {
        applications.keep();
        println!("{}", lab::look_around(&lab));
        println!("  nginx serves on b1:80, nghttpd on b2:8080; they go with the lab\n");
        println!("{}", asked::address(&lab));
        lab.keep();
    } else {
        run::say("taking the lab down");
    }
    Ok(())
}
