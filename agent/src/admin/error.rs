//! Why the admin socket, or another of the agent's own, could not be had.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why the admin socket, or another of the agent's own, could not be had.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The directory of the socket cannot be made.
    #[error("cannot make directory {path} for a socket; set `{setting}`")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What names the socket in the configuration.
        setting: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Something that is no socket has its name.
    #[error("{path} exists and is no socket; remove it or set `{setting}`")]
    NotASocket {
        /// The socket.
        path: PathBuf,
        /// What names it in the configuration.
        setting: &'static str,
    },
    /// It cannot be listened on.
    #[error("cannot listen on {path}; set `{setting}` to a place that root may write to")]
    Listen {
        /// The socket.
        path: PathBuf,
        /// What names it in the configuration.
        setting: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The address cannot be listened on.
    #[error(
        "cannot listen on {address}; free the port, or set `admin.listen` to another or to off"
    )]
    Address {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A metric is registered twice.
    #[error("admin metrics are registered already; start one admin server a registry")]
    Metrics(#[source] prometheus::Error),
}
