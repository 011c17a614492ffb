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
    /// Tell each policy of a cluster, in its status, what is made of it.
    Controller(controller::Options),
    /// The CNI plugin that holds pods' starts until they are steered.
    #[command(subcommand)]
    Cni(cni::Action),
    /// The certificate authority.
    #[command(subcommand)]
    Ca(culvert_ca::cli::Command),
}

fn main() -> ExitCode {
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
            let log = cli::start_log(log, *log_format, *access_log)?;
            cli::control_runtime()?.block_on(assemble::run(config, log))
        }
        Command::Release { config } => assemble::release(&Config::load(&config)?),
        Command::Certs(command) => Ok(cli::certificates(command)?),
        Command::Controller(options) => {
            cli::start_log(&options.log, LogFormat::Text, true)?;
            cli::control_runtime()?.block_on(controller::run(options))
        }
        Command::Cni(action) => Ok(cni::run(&action)?),
        Command::Ca(command) => culvert_ca::cli::run(command),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use serde_json::Value;

    use super::*;

    /// Every document of a manifest of the cluster.
    fn manifest(path: &str) -> Vec<Value> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../daemonset").join(path);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{path:?}: {error}"))
    }

    #[test]
    fn every_container_of_the_manifests_runs_a_command_of_this_program() {
        let mut seen = 0;
        for document in ["base/agent.yaml", "base/ca.yaml"].into_iter().flat_map(manifest) {
            for kind in ["containers", "initContainers"] {
                let pointer = format!("/spec/template/spec/{kind}");
                let containers = document.pointer(&pointer).and_then(Value::as_array);
                for container in containers.into_iter().flatten() {
                    let words = container["args"].as_array().unwrap().iter();
                    let mut words: Vec<_> = words.map(|word| word.as_str().unwrap()).collect();
                    words.insert(0, "culvert");
                    if words[1] == "controller" {
                        // It has its name from a variable, which a test does not set.
                        assert!(container["env"].to_string().contains("CULVERT_POD_NAME"));
                        words.push("--name=replica");
                    }
                    let parsed = Arguments::try_parse_from(words);
                    assert!(parsed.is_ok(), "{}: {}", container["name"], parsed.err().unwrap());
                    seen += 1;
                }
            }
        }
        assert_eq!(seen, 4, "agent, its CNI plugin, authority and controller");
    }

    #[test]
    fn configuration_of_the_manifests_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("agent.yaml");
        for path in [
            "base/agent-config.yaml",
            "overlays/permissive/agent-config.yaml",
            "overlays/development/agent-config.yaml",
        ] {
            let config = manifest(path).remove(0);
            let text = config["data"]["agent.yaml"].as_str().unwrap();
            fs::write(&file, format!("node: node1\n{text}")).unwrap();
            let config = Config::load(&file).unwrap_or_else(|error| panic!("{path}: {error}"));
            // What the manifests mount, and what they must not leave to a default.
            assert!(config.print().unwrap().contains("/host/proc"), "{path}");
        }
    }
}
