//! Why agents could not be asked.

use std::io;
use std::path::PathBuf;

use kube::config::{InferConfigError, KubeconfigError};

use crate::config::ConfigError;

/// Why no agent at all could be asked.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The runtime of the command could not be started.
    #[error("cannot start; the node may be out of descriptors or memory")]
    Runtime(#[source] io::Error),
    /// The configuration that should name the socket is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is no way to an API server.
    #[error("no cluster to ask; name a file with --kubeconfig or KUBECONFIG")]
    NoCluster(#[source] Box<InferConfigError>),
    /// A kubeconfig was named, and it is none, or it has no such context.
    #[error("cannot use the kubeconfig{}", of(.path.as_ref(), .context.as_ref()))]
    Kubeconfig {
        /// The file, where one was named.
        path: Option<PathBuf>,
        /// The context, where one was named.
        context: Option<String>,
        /// What is wrong with it.
        #[source]
        source: Box<KubeconfigError>,
    },
    /// The credentials cannot be used.
    #[error("cannot make a client of the API server; check certificates and credentials")]
    Client(#[source] Box<kube::Error>),
    /// The agents' pods cannot be listed.
    #[error(
        "cannot list the agents' pods in namespace {namespace}; you need the right to `list` pods \
         there: see docs/cli.md"
    )]
    List {
        /// Where.
        namespace: String,
        /// What the API server said.
        #[source]
        source: Box<kube::Error>,
    },
    /// The API server does not answer.
    #[error("API server did not answer within {seconds} s; look at the network and kubeconfig")]
    Silent {
        /// How long it was waited for.
        seconds: u64,
    },
    /// The cluster has no agent.
    #[error(
        "no agent's pod in namespace {namespace}{}; name another with --culvert-namespace",
        .node.as_ref().map(|node| format!(" on node {node}")).unwrap_or_default()
    )]
    NoAgents {
        /// Where.
        namespace: String,
        /// On which node alone.
        node: Option<String>,
    },
}

fn of(path: Option<&PathBuf>, context: Option<&String>) -> String {
    let mut text = path.map(|path| format!(" {}", path.display())).unwrap_or_default();
    if let Some(context) = context {
        text.extend([" with context `", context, "`"]);
    }
    text
}

/// Why one agent could not be asked, or what it refused.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Nothing listens there.
    #[error(
        "no agent listens at {place}: is it running? name its socket with --socket or --config, or \
         ask every agent of a cluster with --cluster"
    )]
    NotRunning {
        /// The socket or address.
        place: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The socket is there and we may not use it.
    #[error("may not use {place}; run this as root or as the agent's own user")]
    NotPermitted {
        /// The socket.
        place: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The agent's pod does not run.
    #[error("agent's {place} is {phase}; see `kubectl describe`")]
    NotReady {
        /// The pod.
        place: String,
        /// What the cluster says of it.
        phase: String,
    },
    /// The API server does not forward to the pod.
    #[error(
        "cannot forward to {place}; you need the right to `create` `pods/portforward` there: see \
         docs/cli.md"
    )]
    Forward {
        /// The pod.
        place: String,
        /// What the API server said.
        #[source]
        source: Box<kube::Error>,
    },
    /// The kubelet could not reach the agent's port.
    #[error("{place} does not take a forwarded connection: {complaint}")]
    Forwarded {
        /// The pod.
        place: String,
        /// What the kubelet said.
        complaint: String,
    },
    /// The agent accepted and then said nothing that fits.
    #[error("agent at {place} broke off; look in its log, and try again")]
    Broken {
        /// The socket, address or pod.
        place: String,
        /// What the HTTP library said.
        #[source]
        source: hyper::Error,
    },
    /// The agent did not answer in time.
    #[error(
        "agent at {place} did not answer within {seconds} s; look whether it is stopped or stuck"
    )]
    TimedOut {
        /// The socket, address or pod.
        place: String,
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
        "answer of the agent at {place} is not understood; use the agent's own version of this \
         program"
    )]
    Answer {
        /// The socket, address or pod.
        place: String,
        /// What is wrong with it.
        #[source]
        source: Option<serde_json::Error>,
    },
    /// What was given fits no request.
    #[error("`{path}` fits no request; blanks and control characters belong to no name")]
    Path {
        /// What would have been asked for.
        path: String,
    },
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
