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
//! captured. It is a program of its own, the crate `culvert-cni`; [`install`] puts it there, and
//! takes it out again.

pub mod install;
pub mod server;

pub use culvert_cni::{DEFAULT_SOCKET, PLUGIN, off};
pub use server::{Parts, Server, ServerError};

use std::path::PathBuf;

use culvert_cni::{ask, protocol};

/// `culvert cni`.
#[derive(clap::Subcommand)]
pub enum Action {
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

/// Runs `culvert cni …`.
///
/// # Errors
/// What could not be installed or removed.
pub fn run(action: &Action) -> Result<(), install::InstallError> {
    match action {
        Action::Install(command) => install::install(command),
        Action::Remove(command) => install::remove(command),
    }
}
