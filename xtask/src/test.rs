//! `cargo xtask test`: builds everything, runs the unit tests, asks other implementations what they
//! make of our certificates, runs the scenarios on the real kernel, one after the other, asks a real
//! Prometheus what the dashboards ask, and then runs the checks on a real cluster.

use crate::setup::{self, Purpose};
use crate::{build, k8s, observability, run};
use anyhow::{Context, Result};
use std::process::{Command, ExitCode, ExitStatus, Stdio};

/// What is tested.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only tests whose name holds this text.
    #[arg(long)]
    filter: Option<String>,
    /// Only the unit tests, which need neither root nor the kernel programs.
    #[arg(long, conflicts_with = "scenarios")]
    unit: bool,
    /// Only the scenarios.
    #[arg(long)]
    scenarios: bool,
    /// Not the checks on a real cluster, whose programs take some minutes to build once.
    #[arg(long)]
    no_cluster: bool,
}

/// Runs the command; the exit code is the test runner's own.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    setup::ensure(&[Purpose::Agent])?;
    if !arguments.unit {
        setup::ensure(&[Purpose::Kernel, Purpose::Run])?;
        build::with_tests()?;
    }
    let mut worst = 0;
    let mut keep_worst = |status: ExitStatus| worst = worst.max(status.code().unwrap_or(1));
    if !arguments.scenarios {
        // Tests across crates are scenarios, so libraries, binaries and examples in comments are all.
        run::say("running the unit tests");
        keep_worst(unit(arguments, &["--lib", "--bins"])?);
        keep_worst(unit(arguments, &["--doc"])?);
    }
    if !arguments.unit {
        run::say("asking other implementations: openssl, Go");
        keep_worst(started(across(arguments, "interop"))?);
        run::say("counting what a thousand identities take");
        keep_worst(started(across(arguments, "identities"))?);
        run::say("explaining connections from files alone, as a CI does");
        keep_worst(started(across(arguments, "explain"))?);
        keep_worst(scenarios(arguments)?);
    }
    // A name that is looked for is one of a test.
    let everything = !arguments.unit && !arguments.scenarios && arguments.filter.is_none();
    if everything {
        worst = worst.max(observed()?);
    }
    if everything && !arguments.no_cluster {
        if setup::is_root() {
            run::say("running the checks on a real cluster");
            worst = worst.max(i32::from(!k8s::passed()?));
        } else {
            eprintln!("note: the checks on a real cluster need root and are skipped");
        }
    }
    Ok(ExitCode::from(u8::try_from(worst).unwrap_or(1)))
}

/// Dashboards and rules by a real Prometheus; without root only the rules.
fn observed() -> Result<i32> {
    run::say("asking Prometheus what the dashboards and rules ask");
    let rules = !setup::is_root();
    if rules {
        eprintln!("note: the queries need a lab, so root, and are skipped; the rules are tested");
    }
    let code = observability::run(&observability::Arguments { rules })?;
    Ok(i32::from(code != ExitCode::SUCCESS))
}

fn unit(arguments: &Arguments, which: &[&str]) -> Result<ExitStatus> {
    let mut cargo = build::cargo("test");
    // A failure in one crate does not hide those of the next.
    cargo.args(which).arg("--no-fail-fast").args(&arguments.filter);
    started(cargo)
}

fn scenarios(arguments: &Arguments) -> Result<ExitStatus> {
    run::say("running the scenarios");
    let mut cargo = across(arguments, "scenarios");
    cargo
        // Each scenario has the machine's two nodes for itself.
        .args(["--", "--test-threads=1"]);
    if setup::is_root() {
        // Whoever has the rights wants every scenario run, not skipped.
        cargo.env("CULVERT_TEST_STRICT", "1");
    } else {
        eprintln!("note: scenarios need root and are skipped; run `sudo -E cargo xtask test`");
    }
    started(cargo)
}

/// One of the test programs across crates.
fn across(arguments: &Arguments, program: &str) -> Command {
    let mut cargo = build::cargo("test");
    cargo.args(["--test", program, "--no-fail-fast"]).args(&arguments.filter);
    cargo
}

fn started(mut cargo: Command) -> Result<ExitStatus> {
    cargo
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("could not start `{}`", run::shown(&cargo)))
}
