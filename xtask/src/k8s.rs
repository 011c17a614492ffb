//! `cargo xtask k8s`: a real Kubernetes cluster on this machine, without a registry or a network.
//!
//! etcd, API server, controllers, scheduler and a name server run in a network namespace; each
//! node has its own network, mounts, processes and cgroups, with containerd, kubelet and
//! kube-proxy. [docs/kubernetes-lab.md] has the drawing.

mod cgroup;
mod cluster;
mod component;
mod control;
mod images;
mod layout;
mod machine;
mod network;
mod node;
mod pki;
mod programs;
mod smoke;
mod test;

use crate::run;
use crate::setup::{self, Purpose};
use anyhow::{Context, Result, ensure};
use clap::Subcommand;
use cluster::Cluster;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::Instant;

/// What to do with the cluster.
#[derive(Subcommand)]
pub(crate) enum Action {
    /// Build its programs from Go modules, once, into the cache of tools.
    Build,
    /// Bring it up, and print its kubeconfig.
    Up {
        /// How many nodes it has.
        #[arg(long, default_value_t = 2)]
        nodes: u8,
    },
    /// Take it down, whole or half.
    Down,
    /// Tell whether it stands, and what runs on it.
    Status,
    /// Bring an image archive into every node.
    Load {
        /// The archive, as `cargo xtask image` writes it.
        file: PathBuf,
    },
    /// Run a command on a node, in all of its namespaces.
    Exec {
        /// The node (`node1`), or `control`: in the nodes' network, but no part of the cluster.
        node: String,
        /// The command and its arguments, after `--`.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Stop the API server, as in an outage, or start it again.
    Api {
        /// What to do.
        change: Change,
    },
    /// Check that the cluster does what Culvert needs of one.
    Smoke,
    /// Check Culvert on a cluster: on one of its own, which is taken down afterwards, or on yours.
    Test(test::Arguments),
}

/// What is done to the API server.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum Change {
    /// End it at once.
    Stop,
    /// Start it, and wait until it is ready.
    Start,
}

/// Runs the command.
pub(crate) fn run(action: &Action) -> Result<ExitCode> {
    match action {
        Action::Build => build()?,
        Action::Up { nodes } => up(*nodes)?,
        Action::Down => {
            run::say("taking the cluster down");
            cluster::remove()?;
        }
        Action::Status => {
            println!("{}", Cluster::open()?.kubectl(&["get", "node,pod", "-Ao", "wide"])?);
        }
        Action::Load { file } => Cluster::open()?.load(file)?,
        Action::Exec { node, command } => return exec(node, command),
        Action::Api { change: Change::Stop } => Cluster::open()?.stop_api_server()?,
        Action::Api { change: Change::Start } => Cluster::open()?.start_api_server()?,
        Action::Smoke => return test::smoke(),
        Action::Test(arguments) => return test::run(arguments),
    }
    Ok(ExitCode::SUCCESS)
}

/// The real `kubectl` and `helm`, built where they are not there yet.
pub(crate) fn clients() -> Result<(PathBuf, PathBuf)> {
    Ok((programs::ensure()?.join("kubectl"), programs::helm()?))
}

/// Runs the checks of Culvert on a cluster of its own, and tells whether all passed.
pub(crate) fn passed() -> Result<bool> {
    test::passed(&test::Arguments::for_tests())
}

fn build() -> Result<()> {
    let programs = programs::ensure()?;
    programs::helm()?;
    run::say(format!("the cluster's programs are in {}", programs.display()));
    Ok(())
}

/// Brings up a cluster on a machine that may lack what it needs.
fn ready(nodes: u8) -> Result<Cluster> {
    ensure!(setup::is_root(), "namespaces and cgroups need root; run again with `sudo -E`");
    ensure!(!Cluster::exists(), "a cluster stands already; `cargo xtask k8s down` removes it");
    setup::ensure(&[Purpose::Run, Purpose::Kubernetes])?;
    programs::ensure()?;
    let began = Instant::now();
    let cluster = Cluster::start(nodes)?;
    run::say(format!("the cluster is up after {:.0} s", began.elapsed().as_secs_f64()));
    Ok(cluster)
}

fn up(nodes: u8) -> Result<()> {
    let cluster = ready(nodes)?;
    println!(
        "export KUBECONFIG={}\nexport PATH={}:$PATH   # kubectl of the cluster's own version",
        cluster.kubeconfig().display(),
        cluster.programs().display(),
    );
    Ok(())
}

fn exec(node: &str, command: &[String]) -> Result<ExitCode> {
    let mut command = Cluster::open()?.node_exec(node, command)?;
    let status = command.stdin(Stdio::inherit()).status().context("could not start the command")?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}
