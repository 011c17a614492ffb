//! `culvert cni`: holds a pod's start until its network namespace is steered.
//!
//! ```text
//!  runtime ── ADD ──▶ bridge, … ──▶ culvert-cni ── cni.sock ──▶ Server ── Announce ──▶ snapshot
//!                                        │                        │                       │
//!  first process of the pod ◀── result ──┘ ◀── steered ───────────┘ ◀──── enrolment ◀─────┘
//! ```
//!
//! Without it the agent learns of a pod from the API server, while the pod's first process runs
//! already: what it sends in these moments goes past the mesh. The plugin stands last in the chain
//! of the node's own network plugins and answers the runtime once all of the pod's connections are
//! captured. [`install`] puts it there, and takes it out again.

mod ask;
pub mod install;
pub mod off;
pub mod plugin;
mod protocol;
pub mod server;

pub use server::{Parts, Server, ServerError};

use std::path::{Path, PathBuf};

/// The name of the plugin: its `type` in a network configuration, and its file's in the directory
/// of plugins.
pub const PLUGIN: &str = "culvert-cni";

/// Where the agent listens for the plugin, unless set.
pub use crate::config::DEFAULT_CNI_SOCKET as DEFAULT_SOCKET;

/// Namespaces of which no pod is ever enrolled: they start whatever becomes of the agent, which
/// is a pod of one of them.
pub const EXEMPT: [&str; 2] = ["culvert-system", "kube-system"];

/// Whether a program was called under the name of the plugin, as runtimes call it: without a
/// single argument.
pub fn is_called(program: Option<&std::ffi::OsStr>) -> bool {
    program.map(Path::new).and_then(Path::file_name).is_some_and(|name| name == PLUGIN)
}

/// `culvert cni`.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Copy the plugin to this node, and put it into the node's network configuration.
    Install(install::Install),
    /// Take the plugin out of this node's network configuration, then its binary away.
    Remove(install::Remove),
}

/// Where runtimes look on a node.
#[derive(Clone, Debug, clap::Args)]
pub struct Directories {
    /// Where the runtime looks for plugins.
    #[arg(long, default_value = "/opt/cni/bin")]
    pub bin_dir: PathBuf,
    /// Where the runtime looks for network configurations; it takes the first.
    #[arg(long, default_value = "/etc/cni/net.d")]
    pub conf_dir: PathBuf,
    /// Where the agent listens for the plugin, the same path in its container as on the node.
    #[arg(long, default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
}

/// Runs `culvert cni`: an action, or the plugin itself.
///
/// # Errors
/// What could not be installed or removed. The plugin tells its errors on standard output, as CNI
/// has it, and then ends the process.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    match arguments.action {
        Some(Action::Install(command)) => Ok(install::install(&command)?),
        Some(Action::Remove(command)) => Ok(install::remove(&command)?),
        None => std::process::exit(plugin::main()),
    }
}
