//! The table of commands: what can be typed, and what runs then.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use super::context::Context;
use super::exit::Exit;
use super::{
    certs, connections, control_runtime, dashboard, dump, explain, logging, manual, mesh,
    preflight, start_log, status, tls_check,
};
use crate::config::{Config, LogFormat, Observe};
use crate::{assemble, cni, controller};

/// Node-level mutual TLS for every pod, without sidecars.
#[derive(Parser)]
#[command(name = "culvert", version, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// Everything that the program does.
#[derive(Subcommand)]
enum Command {
    /// Run the node's agent.
    Agent {
        /// The agent's configuration.
        #[arg(long, default_value = "agent.yaml")]
        config: PathBuf,
        /// Print the configuration in force, with every default, and exit.
        #[arg(long)]
        print_config: bool,
    },
    /// Take everything that an agent left in the kernel out again.
    Release {
        /// The agent's configuration.
        #[arg(long, default_value = "agent.yaml")]
        config: PathBuf,
    },
    /// Show how every agent is: workloads, identities, authority, programs.
    Status(status::Command),
    /// Show the connections that are open, or watch them open and close.
    Connections(connections::Command),
    /// Serve the live map of all agents, as one, to a browser of this machine.
    Dashboard(dashboard::Command),
    /// Show what STRICT would cut in a namespace, by traffic really seen. Ends with 3 if anything.
    Preflight(preflight::Command),
    /// Show the workloads that agents know.
    Workloads(mesh::Command),
    /// Show the policies that agents know, and what in them does not hold as written.
    Policies(mesh::Command),
    /// Show the certificates that agents hold.
    Certs(certs::Certificates),
    /// Print everything that an agent has in force, without secrets.
    ConfigDump(dump::Command),
    /// Show the level of the agents' logs, or change it while they run.
    Logging(logging::Command),
    /// Print completions for a shell.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write manual pages.
    #[command(hide = true)]
    Man {
        /// The directory; made if it is not there.
        directory: PathBuf,
    },
    /// Say step by step whether a connection may be, and why; also from files alone.
    Explain(explain::Explain),
    /// Say which side of each pair speaks mutual TLS, in istioctl's form, and prove it.
    TlsCheck(tls_check::TlsCheck),
    /// Tell each policy of a cluster, in its status, what is made of it.
    Controller(controller::Options),
    /// The CNI plugin that holds pods' starts until they are steered.
    #[command(subcommand)]
    Cni(cni::Action),
    /// The certificate authority.
    #[command(subcommand)]
    Ca(culvert_ca::cli::Command),
}

/// Runs the program with the words of its command line, its own name first.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let words: Vec<_> = words.into_iter().collect();
    let context = Context::of(words.first().map(OsString::as_os_str));
    let matches = Arguments::command().bin_name(context.program()).try_get_matches_from(words);
    let arguments = match matches.and_then(|matches| Arguments::from_arg_matches(&matches)) {
        Ok(arguments) => arguments,
        // Help is printed and ends with 0, everything else with 2.
        Err(error) => error.exit(),
    };
    match run(arguments.command, &context) {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("culvert: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command, context: &Context) -> anyhow::Result<Exit> {
    let done = |result: anyhow::Result<()>| result.map(|()| Exit::Done);
    match command {
        Command::Agent { config, print_config } => done(agent(&config, print_config)),
        Command::Release { config } => done(assemble::release(&Config::load(&config)?)),
        Command::Status(command) => Ok(status::run(&command, context)?),
        Command::Connections(command) => Ok(connections::run(&command, context)?),
        Command::Dashboard(command) => Ok(dashboard::run(&command, context)?),
        Command::Preflight(command) => Ok(preflight::run(&command, context)?),
        Command::Workloads(command) => Ok(mesh::workloads(&command, context)?),
        Command::Policies(command) => Ok(mesh::policies(&command, context)?),
        Command::Certs(command) => Ok(certs::run(command, context)?),
        Command::ConfigDump(command) => Ok(dump::run(&command, context)?),
        Command::Logging(command) => Ok(logging::run(&command, context)?),
        Command::Completion { shell } => {
            done(manual::completion(shell, context).map_err(Into::into))
        }
        Command::Man { directory } => {
            for page in manual::pages(&directory)? {
                super::output::print(&format!("{}\n", page.display()))?;
            }
            Ok(Exit::Done)
        }
        Command::Explain(command) => Ok(explain::run(&command, *context)?),
        Command::TlsCheck(command) => Ok(tls_check::run(&command, *context)?),
        Command::Controller(options) => {
            start_log(&options.log, LogFormat::Text, true)?;
            done(control_runtime()?.block_on(controller::run(options)))
        }
        Command::Cni(action) => done(cni::run(&action).map_err(Into::into)),
        Command::Ca(command) => done(culvert_ca::cli::run(command)),
    }
}

fn agent(config: &std::path::Path, print_config: bool) -> anyhow::Result<()> {
    let config = Config::load(config)?;
    if print_config {
        super::output::print(&config.print()?)?;
        return Ok(());
    }
    let Observe { log, log_format, access_log, .. } = &config.observe;
    let log = start_log(log, *log_format, access_log.enabled)?;
    control_runtime()?.block_on(assemble::run(config, log))
}

#[cfg(test)]
mod tests;
