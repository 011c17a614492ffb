//! The words of a verdict.

use std::fmt;

use crate::observe::Reason;

/// What decided a verdict, in the words of the configuration that a reader can look up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// A PeerAuthentication; `port` when its `portLevelMtls` decided.
    PeerAuthentication {
        /// Namespace of the policy.
        namespace: String,
        /// Name of the policy.
        name: String,
        /// The port whose own mode decided.
        port: Option<u16>,
    },
    /// A rule of an AuthorizationPolicy matched.
    AuthorizationPolicy {
        /// Namespace of the policy.
        namespace: String,
        /// Name of the policy.
        name: String,
        /// Where the rule stands in `spec.rules`, from 0.
        rule: usize,
    },
    /// There are ALLOW policies about the workload, and none of their rules matched.
    NothingAllows {
        /// Namespace of the first of them.
        namespace: String,
        /// Name of the first of them.
        name: String,
        /// How many more there are.
        others: usize,
    },
    /// No PeerAuthentication says anything: both plaintext and mutual TLS are taken.
    Default,
    /// The peer proved an identity.
    MutualTls,
    /// The connection comes from the node that the workload runs on, as the kubelet's probes do.
    NodeHost,
    /// The port belongs to the mesh itself.
    IllegalPort(u16),
    /// A Service has no endpoint for the port that could get a connection.
    NoEndpoint {
        /// Namespace of the Service.
        namespace: String,
        /// Name of the Service.
        name: String,
        /// The Service's own port.
        port: u16,
    },
}

impl Rule {
    /// What kind of rule it is: the text of a metric label.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::PeerAuthentication { .. } => "peer_authentication",
            Self::AuthorizationPolicy { .. } => "authorization_policy",
            Self::NothingAllows { .. } => "nothing_allows",
            Self::Default => "default",
            Self::MutualTls => "mutual_tls",
            Self::NodeHost => "node_host",
            Self::IllegalPort(_) => "illegal_port",
            Self::NoEndpoint { .. } => "no_endpoint",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PeerAuthentication { namespace, name, port: None } => {
                write!(f, "PeerAuthentication {namespace}/{name}")
            }
            Self::PeerAuthentication { namespace, name, port: Some(port) } => {
                write!(f, "PeerAuthentication {namespace}/{name} (port {port})")
            }
            Self::AuthorizationPolicy { namespace, name, rule } => {
                write!(f, "AuthorizationPolicy {namespace}/{name} (rules[{rule}])")
            }
            Self::NothingAllows { namespace, name, others } => {
                write!(f, "no rule allows it: AuthorizationPolicy {namespace}/{name}")?;
                if *others > 0 { write!(f, " and {others} more") } else { Ok(()) }
            }
            Self::Default => f.write_str("no PeerAuthentication, so PERMISSIVE"),
            Self::MutualTls => f.write_str("mutual TLS"),
            Self::NodeHost => f.write_str("node's own host"),
            Self::IllegalPort(port) => write!(f, "port {port} belongs to the mesh"),
            Self::NoEndpoint { namespace, name, port } => {
                write!(f, "Service {namespace}/{name}, port {port}")
            }
        }
    }
}

/// A flow that must not be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason} ({rule})")]
pub struct Refusal {
    /// For metric, log and HBONE status.
    pub reason: Reason,
    /// What decided so.
    pub rule: Rule,
}
