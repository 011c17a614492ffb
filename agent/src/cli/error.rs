//! What a person who called the command is told.

use std::io;
use std::path::PathBuf;

use crate::config::ConfigError;

/// Why a command could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// No socket is there.
    #[error(
        "no agent listens at {socket}: is it running? name its socket with --socket or --config"
    )]
    NotRunning {
        /// The admin socket.
        socket: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The socket is there and we may not use it.
    #[error("may not use {socket}; run this as root or as the agent's own user")]
    NotPermitted {
        /// The admin socket.
        socket: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The agent accepted and then said nothing that fits.
    #[error("agent at {socket} broke off; look in its log, and try again")]
    Broken {
        /// The admin socket.
        socket: PathBuf,
        /// What the HTTP library said.
        #[source]
        source: hyper::Error,
    },
    /// The agent did not answer in time.
    #[error(
        "agent at {socket} did not answer within {seconds} s; look whether it is stopped or stuck"
    )]
    TimedOut {
        /// The admin socket.
        socket: PathBuf,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The agent refused.
    #[error("{error}{}", listed(.known))]
    Refused {
        /// What the agent said.
        error: String,
        /// Identities that there are, where an unknown one was asked for.
        known: Vec<String>,
    },
    /// The answer is not what this version understands.
    #[error(
        "answer of the agent at {socket} is not understood; use the agent's own version of this program"
    )]
    Answer {
        /// The admin socket.
        socket: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Option<serde_json::Error>,
    },
    /// The identity is no text that fits a request.
    #[error(
        "`{id}` is no identity; give spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT or NAMESPACE/ACCOUNT"
    )]
    Identity {
        /// What was given.
        id: String,
    },
    /// A file of the export is there already.
    #[error("{path} exists; name another directory or replace it with --force")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The export could not be written.
    #[error("cannot write {path}; nothing is left half written")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Standard output is gone.
    #[error("cannot write to standard output")]
    Print(#[source] io::Error),
    /// The runtime of the command could not be started.
    #[error("cannot start; the node may be out of descriptors or memory")]
    Runtime(#[source] io::Error),
    /// The configuration that should name the socket is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Most known identities that an error lists.
const LISTED: usize = 20;

fn listed(known: &[String]) -> String {
    if known.is_empty() {
        return String::new();
    }
    let mut text = String::from("; there are:");
    for id in known.iter().take(LISTED) {
        text.push_str("\n  ");
        text.push_str(id);
    }
    if known.len() > LISTED {
        let more = (known.len() - LISTED).to_string();
        text.extend(["\n  and ", &more, " more; see `culvert certs`"]);
    }
    text
}
