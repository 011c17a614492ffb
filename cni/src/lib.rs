//! The CNI plugin: holds a pod's start until its network namespace is steered.
//!
//! ```text
//!  runtime ── ADD ──▶ bridge, … ──▶ culvert-cni ── protocol, over cni.sock ──▶ the agent
//! ```
//!
//! A program of its own beside the agent, because it runs on the node itself, with whatever
//! libraries that has, and once for each pod that starts: it is linked statically and has few
//! dependencies. The agent shares [`protocol`] and [`off`] with it, and is the one to put it onto
//! the node.
#![forbid(unsafe_code)]

pub mod ask;
pub mod off;
pub mod plugin;
pub mod protocol;

/// The name of the plugin: its `type` in a network configuration, and its file's in the directory
/// of plugins.
pub const PLUGIN: &str = "culvert-cni";

/// Where the agent listens for the plugin, unless set.
pub const DEFAULT_SOCKET: &str = "/run/culvert/cni.sock";

/// Namespaces of which no pod is ever enrolled: they start whatever becomes of the agent, which
/// is a pod of one of them.
pub const EXEMPT: [&str; 2] = ["culvert-system", "kube-system"];
