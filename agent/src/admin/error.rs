//! Why the admin socket could not be had.

use std::io;
use std::path::PathBuf;

/// Why the admin socket could not be had.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The directory of the socket cannot be made.
    #[error("cannot make directory {path} for the admin socket; set `admin.socket`")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Something that is no socket has its name.
    #[error("{path} exists and is no socket; remove it or set `admin.socket`")]
    NotASocket {
        /// `admin.socket`.
        path: PathBuf,
    },
    /// It cannot be listened on.
    #[error("cannot listen on {path}; set `admin.socket` to a place that root may write to")]
    Listen {
        /// `admin.socket`.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A metric is registered twice.
    #[error("admin metrics are registered already; start one admin server a registry")]
    Metrics(#[source] prometheus::Error),
}
