//! What a person who called a command is told.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::transport::{AgentError, TransportError};
use crate::explain::ExplainError;
use crate::workload::offline::OfflineError;

/// Why a command could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CliError {
    /// No agent at all can be asked.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The agent could not be asked, or refused.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// A file of the export is there already.
    #[error("{path} exists; name another directory or replace it with --force")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A file could not be written.
    #[error("cannot write {path}; nothing is left half written")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The files do not say what the mesh is.
    #[error(transparent)]
    Offline(#[from] OfflineError),
    /// The question has no answer.
    #[error(transparent)]
    Explain(#[from] ExplainError),
    /// Agents were asked, and none has answered anything.
    #[error("no agent answers; see `culvert status`")]
    NoAnswer,
    /// Nobody can shake hands for somebody who is no workload.
    #[error("only a workload of the mesh can be probed from; name one as SRC")]
    NoProbe,
    /// The page cannot be served there.
    #[error("cannot listen on {address}; choose another --port")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Standard output is gone.
    #[error("cannot write to standard output")]
    Print(#[source] io::Error),
    /// An answer has no form as JSON.
    #[error("cannot write the answer as JSON; use -o yaml and report this")]
    Json(#[source] serde_json::Error),
    /// An answer has no form as YAML.
    #[error("cannot write the answer as YAML; use -o json and report this")]
    Yaml(#[source] serde_saphyr::SerializeError),
}
