//! `cargo xtask lab`: the two-node lab by hand.

use crate::{build, run};
use anyhow::{Context, Result, bail};
use clap::Subcommand;
use culvert_tests::{Lab, NodeId, sweep};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::ExitCode;

/// The lab that is used by hand; there is one at a time.
pub(crate) const ID: &str = "hand";

/// What to do with the lab.
#[derive(Subcommand)]
pub(crate) enum Action {
    /// Build it: two nodes, their agents, the CA, and the pods a1 a2 x1 (node 1), b1 b2 y1
    /// (node 2); x1 and y1 are not enrolled.
    Up {
        /// STRICT for the whole mesh.
        #[arg(long)]
        strict: bool,
        /// Only the namespaces, with neither CA nor agents.
        #[arg(long)]
        without_agents: bool,
    },
    /// Take it down.
    Down,
    /// Run a command in a pod, or in the host namespace of a node.
    Exec {
        /// A pod (`a1`) or a node (`node1`).
        place: String,
        /// The command and its arguments, after `--`.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
}

/// Runs the command.
pub(crate) fn run(action: &Action) -> Result<ExitCode> {
    match action {
        Action::Up { strict, without_agents } => up(*strict, *without_agents)?,
        Action::Down => {
            run::say("taking the lab down");
            sweep::remove(ID)?;
        }
        Action::Exec { place, command } => return exec(place, command),
    }
    Ok(ExitCode::SUCCESS)
}

fn up(strict: bool, without_agents: bool) -> Result<()> {
    if sweep::exists(ID) {
        bail!("the lab is up already; run `cargo xtask lab down` first");
    }
    build::run(&build::Arguments::default())?;
    run::say("building the lab");
    let mut builder = Lab::builder().named(ID).standard();
    if strict {
        builder = builder.strict();
    }
    if without_agents {
        builder = builder.without_agents();
    }
    let lab = builder.start()?;
    println!("{}", look_around(&lab));
    lab.keep();
    Ok(())
}

/// What a person can do in a lab that was left running.
pub(crate) fn look_around(lab: &Lab) -> String {
    let row = |name: &str, v4: Ipv4Addr, v6: Ipv6Addr| format!("  {name:<7} {v4:<14} {v6}");
    let nodes = NodeId::ALL.map(|id| lab.node(id));
    let rows: Vec<_> = nodes
        .iter()
        .map(|node| row(node.name(), node.v4(), node.v6()))
        .chain(lab.pods().iter().map(|pod| row(pod.name(), pod.v4(), pod.v6())))
        .collect();
    format!(
        "\n  place   address        IPv6\n{rows}\n\n  \
         files, of which workloads.yaml and policies.yaml may be edited: {files}\n  \
         what the agents and the CA say: {files}/logs\n\n  \
         cargo xtask lab exec b1 -- socat -v TCP-LISTEN:80,fork,reuseaddr EXEC:cat\n  \
         cargo xtask lab exec a1 -- curl -v http://10.11.2.2/\n  \
         cargo xtask lab exec node1 -- tcpdump -ni wire -X\n  \
         cargo xtask lab exec node1 -- curl -s http://127.0.0.1:15020/metrics\n  \
         cargo xtask lab down\n",
        rows = rows.join("\n"),
        files = lab.directory().display(),
    )
}

fn exec(place: &str, command: &[String]) -> Result<ExitCode> {
    if !sweep::exists(ID) {
        bail!("the lab is not up; run `cargo xtask lab up` first");
    }
    let place = sweep::place(ID, place)?;
    let status = place.command(command).status().context("could not start the command")?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}
