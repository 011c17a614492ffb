//! `cargo xtask build`: the kernel programs, then the `culvert` binary that carries them.

use crate::{build_ebpf, paths, run};
use anyhow::Result;
use std::path::PathBuf;
use std::process::Command;

/// How the binary is built.
#[derive(clap::Args, Default)]
pub(crate) struct Arguments {
    /// Optimised, as it is shipped.
    #[arg(long)]
    pub(crate) release: bool,
}

/// Builds the program that plays applications in the lab.
pub(crate) fn testapp() -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(paths::root())
        .args(["build", "--package", "culvert-tests", "--bin", "culvert-testapp"])
        .env("CARGO_TARGET_DIR", paths::target());
    run::plain("building the applications of the lab", &mut cargo)
}

/// Builds everything and tells where the binary is.
pub(crate) fn run(arguments: &Arguments) -> Result<PathBuf> {
    build_ebpf::run()?;
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(paths::root())
        .args(["build", "--package", "culvert-agent", "--bin", "culvert"])
        .env("CARGO_TARGET_DIR", paths::target());
    let profile = if arguments.release {
        cargo.arg("--release");
        "release"
    } else {
        "debug"
    };
    run::plain("building culvert", &mut cargo)?;
    let binary = paths::target().join(profile).join("culvert");
    run::say(format!("built {}", binary.display()));
    Ok(binary)
}
