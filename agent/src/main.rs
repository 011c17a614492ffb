//! The `culvert` command: arguments, logging, exit code; nothing else.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use culvert_agent::{
    assemble, cli, cni,
    config::{Config, LogFormat, Observe},
    controller,
};

/// Node-level mutual TLS for every pod, without sidecars.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

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
    /// Show the certificates that this node's agent holds.
    Certs(cli::Certificates),
    /// Hold pods' starts until they are steered: runs as a CNI plugin, where no command is given.
    Cni(cni::Arguments),
    /// Tell each policy of a cluster, in its status, what is made of it.
    Controller(controller::Options),
    /// The certificate authority.
    #[command(subcommand)]
    Ca(culvert_ca::cli::Command),
}

fn main() -> ExitCode {
    if cni::is_called(std::env::args_os().next().as_deref()) {
        std::process::exit(cni::plugin::main());
    }
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("culvert: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Agent { config, print_config: true } => {
            print!("{}", Config::load(&config)?.print()?);
            Ok(())
        }
        Command::Agent { config, print_config: false } => {
            let config = Config::load(&config)?;
            let Observe { log, log_format, access_log, .. } = &config.observe;
            cli::start_log(log, *log_format, *access_log)?;
            cli::control_runtime()?.block_on(assemble::run(config))
        }
        Command::Release { config } => assemble::release(&Config::load(&config)?),
        Command::Certs(command) => Ok(cli::certificates(command)?),
        Command::Cni(arguments) => cni::run(arguments),
        Command::Controller(options) => {
            cli::start_log(&options.log, LogFormat::Text, true)?;
            cli::control_runtime()?.block_on(controller::run(options))
        }
        Command::Ca(command) => culvert_ca::cli::run(command),
    }
}
