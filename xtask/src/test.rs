//! `cargo xtask test`: builds everything, runs the unit tests, then the scenarios on the real
//! kernel, one after the other.

use crate::setup::{self, Purpose};
use crate::{build, paths, run};
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
}

/// Runs the command; the exit code is the test runner's own.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let mut worst = 0;
    let mut keep_worst = |status: ExitStatus| worst = worst.max(status.code().unwrap_or(1));
    setup::ensure(&[Purpose::Agent])?;
    if !arguments.scenarios {
        keep_worst(unit(arguments)?);
    }
    if !arguments.unit {
        keep_worst(scenarios(arguments)?);
    }
    Ok(ExitCode::from(u8::try_from(worst).unwrap_or(1)))
}

fn unit(arguments: &Arguments) -> Result<ExitStatus> {
    run::say("running the unit tests");
    let mut cargo = cargo_test();
    // A failure in one crate does not hide those of the next.
    cargo.arg("--no-fail-fast").args(&arguments.filter);
    started(cargo)
}

fn scenarios(arguments: &Arguments) -> Result<ExitStatus> {
    setup::ensure(&[Purpose::Kernel, Purpose::Run])?;
    build::run(&build::Arguments::default())?;
    build::testapp()?;
    run::say("running the scenarios");
    let mut cargo = cargo_test();
    cargo
        .args(["--package", "culvert-tests", "--no-fail-fast"])
        .args(&arguments.filter)
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

fn cargo_test() -> Command {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(paths::root()).arg("test").env("CARGO_TARGET_DIR", paths::target());
    cargo
}

fn started(mut cargo: Command) -> Result<ExitStatus> {
    cargo
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("could not start `{}`", run::shown(&cargo)))
}
