//! Why a call failed, as CNI has it: a number, a text, and what lies behind.

use std::{error::Error, io, path::PathBuf};

use serde_json::{Value, json};

use super::invocation::VERSIONS;
use crate::protocol::Reason;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum PluginError {
    /// The runtime speaks a version that we do not.
    #[error("CNI version `{version}` has no {verb} here; use one of {}", VERSIONS.join(", "))]
    Version { version: String, verb: &'static str },
    /// A word of the environment is missing or wrong.
    #[error("{name} is {problem}; a runtime sets it for each call")]
    Environment { name: &'static str, problem: &'static str },
    /// Standard input could not be read.
    #[error("cannot read the network configuration from standard input")]
    Input(#[source] io::Error),
    /// It is no JSON, or lacks a field.
    #[error("the network configuration cannot be read; it is JSON, as CNI describes it")]
    Decode(#[source] serde_json::Error),
    /// Nothing stands before this plugin.
    #[error(
        "there is no `prevResult`; list `{}` after the plugin that makes the interface",
        crate::PLUGIN
    )]
    NotChained,
    /// The plugins before this one tell an address that is none.
    #[error("`{text}` in `prevResult` is no address; mend the plugin that wrote it")]
    Address { text: String },
    /// The namespace is not there.
    #[error("there is no network namespace at {path}; the runtime makes it before it calls")]
    Namespace {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// No agent answers, and pods must not start without.
    #[error(
        "no culvert agent answers at {socket}, so it cannot be told whether this pod must be \
         protected; it starts once the agent runs (see the pods of culvert-agent), or remove \
         the plugin with `culvert cni remove`"
    )]
    Away {
        socket: PathBuf,
        #[source]
        source: io::Error,
    },
    /// An agent is there and does not answer.
    #[error("the culvert agent at {socket} does not answer; see its log")]
    Silent {
        socket: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The agent said no.
    #[error("culvert agent: {message}")]
    Failed { reason: Reason, message: String },
}

impl PluginError {
    /// CNI specification, section 5 (error codes); from 100 on our own.
    pub(super) fn code(&self) -> u32 {
        match self {
            Self::Version { .. } => 1,
            Self::Environment { .. } => 4,
            Self::Input(_) | Self::Namespace { .. } => 5,
            Self::Decode(_) => 6,
            Self::NotChained | Self::Address { .. } => 7,
            Self::Away { .. }
            | Self::Silent { .. }
            | Self::Failed { reason: Reason::Later, .. } => 11,
            Self::Failed { reason: Reason::Request, .. } => 100,
            Self::Failed { reason: Reason::Namespace, .. } => 101,
            Self::Failed { reason: Reason::Caller, .. } => 102,
        }
    }

    /// The error as it goes to standard output, in the version of the call.
    pub(super) fn document(&self, version: Option<&str>) -> Value {
        let version = version.unwrap_or(VERSIONS[VERSIONS.len() - 1]);
        let mut behind = Vec::new();
        let mut next = self.source();
        while let Some(error) = next {
            behind.push(error.to_string());
            next = error.source();
        }
        json!({
            "cniVersion": version,
            "code": self.code(),
            "msg": self.to_string(),
            "details": behind.join(": "),
        })
    }
}
