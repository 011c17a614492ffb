//! Why the agent's end could not be had, or a question could not be answered well.

use std::{io, path::PathBuf};

use super::super::protocol::Reason;
use crate::{
    admin::AdminError,
    observe::RegisterError,
    workload::{AnnounceError, WorkloadKey},
};

/// Why the agent's end could not be had, or a question could not be answered well.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The socket cannot be had.
    #[error(transparent)]
    Socket(#[from] AdminError),
    /// A metric's name is taken.
    #[error(transparent)]
    Metrics(#[from] RegisterError),
    /// A word of the request is not what Kubernetes has there.
    #[error("`{value}` is no {what}; the runtime passes what the kubelet gave it in CNI_ARGS")]
    Word {
        /// Which word.
        what: &'static str,
        /// What came.
        value: String,
    },
    /// There is no namespace at the path, for this agent.
    #[error(
        "this agent sees no network namespace at {path}; mount that directory of the node into \
         its container, with mount propagation HostToContainer"
    )]
    Unseen {
        /// The path, in the agent's own words.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The path leads the agent and the plugin to two namespaces.
    #[error(
        "this agent sees another network namespace at {path} than the plugin does; the pod was \
         made anew, or the directory is not the node's"
    )]
    OtherNamespace {
        /// The path, in the agent's own words.
        path: PathBuf,
    },
    /// The pod is known, in another namespace.
    #[error("pod {pod} is steered in another namespace than this; the pod must be made anew")]
    Elsewhere {
        /// The pod.
        pod: WorkloadKey,
    },
    /// Nobody decided.
    #[error(transparent)]
    Announce(#[from] AnnounceError),
    /// It took too long.
    #[error(
        "pod {pod} is to be in the mesh and was not steered within {seconds} s; the agent's log \
         says why, and the kubelet tries again"
    )]
    Late {
        /// The pod.
        pod: WorkloadKey,
        /// How long it was waited.
        seconds: u64,
    },
}

impl ServerError {
    /// What the plugin is to make of it.
    pub(super) fn reason(&self) -> Reason {
        match self {
            Self::Socket(_) | Self::Metrics(_) | Self::Announce(_) | Self::Late { .. } => {
                Reason::Later
            }
            Self::Word { .. } => Reason::Request,
            Self::Unseen { .. } | Self::OtherNamespace { .. } | Self::Elsewhere { .. } => {
                Reason::Namespace
            }
        }
    }
}
