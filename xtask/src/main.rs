//! `cargo xtask`: the one entry a person needs to build, test and try Culvert.
//!
//! Each command is one file of this crate; each says what it does, shows progress on long steps,
//! and names the missing permission or tool together with the command that mends it.
#![forbid(unsafe_code)]

mod bench;
mod build;
mod build_ebpf;
mod check;
mod checks;
mod demo;
mod fuzz;
mod image;
mod interrupt;
mod k8s;
mod lab;
mod manifests;
mod manual;
mod observability;
mod paths;
mod pcap;
mod proto;
mod run;
mod setup;
mod test;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Build, test and try Culvert.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make this machine able to build Culvert and to run its tests; does nothing twice.
    Setup(setup::Arguments),
    /// Build the kernel programs.
    BuildEbpf,
    /// Build the kernel programs and the `culvert` binary that carries them.
    Build(build::Arguments),
    /// Write the container image, without a container engine.
    Image(image::Arguments),
    /// Make the Helm chart anew from the Kustomize base.
    Manifests(manifests::Arguments),
    /// Run the commands of the documentation on a cluster.
    Manual(manual::Arguments),
    /// Make the checked-in protocol code anew from its `.proto` files.
    Proto {
        /// Only compare, and fail on a difference.
        #[arg(long)]
        check: bool,
    },
    /// Check format, lints, the direction of the stages, words and dependencies.
    Check(check::Arguments),
    /// Show it: two nodes, real pods and programs, and what was really observed.
    Demo(demo::Arguments),
    /// Measure rate, latency, CPU time and memory beside plain TCP in the same run.
    Bench(bench::Arguments),
    /// Run the unit tests, then the scenarios on the real kernel.
    Test(test::Arguments),
    /// Ask a real Prometheus every query of the dashboards, rules and alerts.
    Observability(observability::Arguments),
    /// Fuzz the parsers of outside bytes.
    Fuzz(fuzz::Arguments),
    /// Use the two-node lab by hand.
    #[command(subcommand)]
    Lab(lab::Action),
    /// A real Kubernetes cluster on this machine.
    #[command(subcommand)]
    K8s(k8s::Action),
}

fn main() -> ExitCode {
    let done = |()| ExitCode::SUCCESS;
    let outcome = match Arguments::parse().command {
        Command::Setup(arguments) => setup::run(&arguments).map(done),
        Command::BuildEbpf => build_ebpf::run().map(drop).map(done),
        Command::Build(arguments) => build::run(&arguments).map(drop).map(done),
        Command::Image(arguments) => image::run(&arguments).map(done),
        Command::Check(arguments) => check::run(&arguments).map(done),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments).map(done),
        Command::Test(arguments) => test::run(&arguments),
        Command::Observability(arguments) => observability::run(&arguments),
        Command::Fuzz(arguments) => fuzz::run(&arguments).map(done),
        Command::Lab(action) => lab::run(&action),
        Command::Manifests(arguments) => manifests::run(&arguments).map(done),
        Command::Manual(arguments) => manual::run(&arguments).map(done),
        Command::K8s(action) => k8s::run(&action),
        Command::Proto { check } => proto::generate(check).map(done),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
