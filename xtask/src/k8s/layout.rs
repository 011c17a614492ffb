//! Names, addresses and places of the cluster's parts.

use std::net::Ipv4Addr;
use std::path::PathBuf;

/// Tells the cluster apart from others on this machine: a digit, 0 where nothing is said.
const VARIABLE: &str = "CULVERT_K8S";

/// Which of a machine's clusters this is.
fn number() -> u16 {
    let said = std::env::var(VARIABLE).unwrap_or_default();
    let digit = said.chars().next().and_then(|digit| digit.to_digit(10));
    digit.and_then(|digit| u16::try_from(digit).ok()).unwrap_or(0)
}

/// A name of this cluster's: the first has the plain one.
fn numbered(name: &str) -> String {
    match number() {
        0 => name.to_owned(),
        number => format!("{name}{number}"),
    }
}

/// The network namespace of this name.
pub(super) fn netns(name: &str) -> String {
    format!("{}-{name}", numbered("ck"))
}

/// The control plane's network namespace, which is also the switch that the nodes hang on.
pub(super) fn control() -> String {
    netns("control")
}

/// The cluster's cgroup, in each tree that is mounted.
pub(super) fn cgroup() -> String {
    numbered("culvert-k8s")
}

/// The API server's port as programs on this machine reach it.
pub(super) fn api_port() -> u16 {
    16443 + number()
}

/// Addresses of services.
pub(super) const SERVICES: &str = "10.46.0.0/16";
/// The API server's service.
pub(super) const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 46, 0, 1);
/// The name server's service.
pub(super) const DNS_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 46, 0, 10);
/// Addresses of pods, all nodes together.
pub(super) const PODS: &str = "10.45.0.0/16";
/// The control plane on the nodes' network.
pub(super) const CONTROL_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 44, 0, 1);
/// Most nodes that the addresses and a machine of modest size allow.
pub(super) const MOST_NODES: u8 = 5;

/// Where everything is that a running cluster writes.
pub(super) fn directory() -> PathBuf {
    std::env::temp_dir().join(numbered("culvert-k8s"))
}

/// The kubeconfig of the cluster's administrator.
pub(super) fn kubeconfig() -> PathBuf {
    directory().join("kubeconfig")
}

/// Where the words of the control plane's programs are.
pub(super) fn logs() -> PathBuf {
    directory().join("log")
}

/// A node, by its number from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NodeNumber(pub(super) u8);

impl NodeNumber {
    /// The first `count` nodes.
    pub(super) fn first(count: u8) -> impl Iterator<Item = Self> {
        (1..=count).map(Self)
    }

    /// The node's name in the cluster, and its host name.
    pub(super) fn name(self) -> String {
        format!("node{}", self.0)
    }

    /// Its network namespace.
    pub(super) fn netns(self) -> String {
        netns(&self.name())
    }

    /// Its address on the nodes' network.
    pub(super) fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 44, 0, 10 + self.0)
    }

    /// Addresses of its pods.
    pub(super) fn pods(self) -> String {
        format!("10.45.{}.0/24", self.0)
    }

    /// Its files.
    pub(super) fn directory(self) -> PathBuf {
        directory().join(self.name())
    }
}
