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

/// The workspace without the kernel programs. Every build selects the same packages: cargo unites
/// the features of what is selected, and another selection would build the dependencies again.
pub(crate) const SELECTION: [&str; 3] = ["--workspace", "--exclude", "culvert-ebpf"];

/// Builds everything and tells where the binary is.
pub(crate) fn run(arguments: &Arguments) -> Result<PathBuf> {
    build_ebpf::run()?;
    let mut cargo = cargo("build");
    cargo.args(["--bin", "culvert", "--bin", "culvert-testapp"]);
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

/// Builds the same for the tests, with the tests themselves: what only tests depend on changes
/// features of the dependencies, so everything is built once, that way.
pub(crate) fn with_tests() -> Result<()> {
    build_ebpf::run()?;
    run::plain("building culvert and its tests", cargo("build").args(["--bins", "--tests"]))
}

/// Builds the agent as it is shipped: optimised, and with the features that it asks for itself.
pub(crate) fn shipped() -> Result<PathBuf> {
    build_ebpf::run()?;
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(paths::root())
        .args(["build", "--release", "--package", "culvert-agent", "--bin", "culvert"])
        .env("CARGO_TARGET_DIR", paths::target());
    run::plain("building culvert as it is shipped", &mut cargo)?;
    Ok(paths::target().join("release/culvert"))
}

/// Builds the agent as it is shipped, and the load that calls its libraries and the authority's.
pub(crate) fn shipped_with_ca_load() -> Result<(PathBuf, PathBuf)> {
    build_ebpf::run()?;
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(paths::root())
        .args(["build", "--release", "--package", "culvert-agent", "--package", "culvert-bench"])
        .args(["--bin", "culvert", "--bin", "culvert-ca-load"])
        .env("CARGO_TARGET_DIR", paths::target());
    run::plain("building culvert as it is shipped, and the load", &mut cargo)?;
    let release = paths::target().join("release");
    Ok((release.join("culvert"), release.join("culvert-ca-load")))
}

/// Builds, as the agent is shipped, what fills its table of series and scrapes it.
pub(crate) fn scrape_load() -> Result<PathBuf> {
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(paths::root())
        .args(["build", "--release", "--package", "culvert-bench", "--bin", "culvert-scrape-load"])
        .env("CARGO_TARGET_DIR", paths::target());
    run::plain("building the load", &mut cargo)?;
    Ok(paths::target().join("release/culvert-scrape-load"))
}

/// Builds the load of the benchmark. It does next to nothing in user space, so the usual profile
/// is as fast.
pub(crate) fn load() -> Result<PathBuf> {
    run::plain("building the load", cargo("build").args(["--bin", "culvert-load"]))?;
    Ok(paths::target().join("debug/culvert-load"))
}

/// A cargo command on the selection of packages.
pub(crate) fn cargo(command: &str) -> Command {
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(paths::root())
        .arg(command)
        .args(SELECTION)
        .env("CARGO_TARGET_DIR", paths::target());
    cargo
}
