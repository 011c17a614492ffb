//! Why the plugin could not be installed or removed.

use std::{io, path::PathBuf};

use super::configuration::Malformed;

/// Why the plugin could not be installed or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstallError {
    /// A file cannot be read.
    #[error("cannot read {path}; run as root, and mount the node's directory")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {path}; run as root, and mount the node's directory writable")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The binary needs a loader and libraries that the node may not have.
    #[error(
        "{path} is no static program, and the node may lack its libraries; name a static one with \
         --from, or say --allow-dynamic on the node itself"
    )]
    Dynamic {
        /// The binary.
        path: PathBuf,
    },
    /// The binary is no program for this system.
    #[error("{path} is no 64-bit ELF program; name the program `culvert-cni` with --from")]
    NoProgram {
        /// The binary.
        path: PathBuf,
    },
    /// There is nothing to chain the plugin to.
    #[error(
        "no network configuration in {path}; install the node's network plugin first, or set --conf-dir"
    )]
    NoConfiguration {
        /// The directory.
        path: PathBuf,
    },
    /// A configuration is not what CNI describes.
    #[error("{path} is nothing that the plugin can be chained to; mend it, or set --conf-file")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: Malformed,
    },
    /// Standard output is gone.
    #[error("cannot write to standard output")]
    Print(#[source] io::Error),
    /// The process could not be set up to wait.
    #[error("cannot wait for signals; the node may be out of descriptors")]
    Runtime(#[source] io::Error),
}
