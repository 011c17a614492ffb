//! The `culvert` command: arguments, logging, exit code; nothing else.

use std::{io::IsTerminal as _, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use culvert_agent::{
    assemble, cli, cni,
    config::{Config, LogFormat, Observe},
};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

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
            start_log(&config.observe)?;
            // Control work only; flows have threads of their own.
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .thread_name("control")
                .enable_all()
                .build()?;
            runtime.block_on(assemble::run(config))
        }
        Command::Release { config } => assemble::release(&Config::load(&config)?),
        Command::Certs(command) => Ok(cli::certificates(command)?),
        Command::Cni(arguments) => cni::run(arguments),
        Command::Ca(command) => culvert_ca::cli::run(command),
    }
}

fn start_log(observe: &Observe) -> anyhow::Result<()> {
    let mut filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .parse(&observe.log)?;
    if !observe.access_log {
        filter = filter.add_directive("access=off".parse()?);
    }
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match observe.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}
