//! Flows that arrive at a local workload.

use std::net::SocketAddr;

use culvert_spiffe::SpiffeId;

use super::ILLEGAL_PORTS;
use super::authorization::{Authorization, authorization, may_refuse};
use super::peer_authentication::{Acceptance, effective, ports_with_own_mode};
use super::verdict::{Refusal, Rule};
use crate::observe::Reason;
use crate::workload::{Snapshot, Workload};

/// All that counts about a flow that arrives at a local workload.
#[derive(Clone, Copy, Debug)]
pub struct InboundFlow<'a> {
    /// The local workload.
    pub destination: &'a Workload,
    /// Where it goes: an address of the workload, and the workload's own port, not a service's.
    pub to: SocketAddr,
    /// The peer's address as the kernel saw it.
    pub source: SocketAddr,
    /// Whom the TLS handshake proved the peer to be; none for plaintext.
    pub peer: Option<&'a SpiffeId>,
    /// The kernel saw the connection come from this node's own host namespace.
    pub from_node: bool,
}

/// What becomes of a flow that arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inbound {
    /// It may reach the application.
    Allow(Allowed),
    /// It may not.
    Refuse(Refusal),
}

impl Inbound {
    /// What was decided and what kind of rule did: the texts of metric labels.
    pub const fn labels(&self) -> [&'static str; 2] {
        match self {
            Self::Allow(Allowed { rule }) => ["allow", rule.kind()],
            Self::Refuse(Refusal { rule, .. }) => ["refuse", rule.kind()],
        }
    }
}

/// A flow that may reach the application. Only [`inbound`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    rule: Rule,
}

impl Allowed {
    /// What allowed it.
    pub fn rule(&self) -> &Rule {
        &self.rule
    }
}

/// Decides a flow that arrives at a local workload.
///
/// First, is it protected as it must be? A peer with a proven identity is taken in any mode:
/// DISABLE cannot turn off what a client sends. Plaintext is taken as [`effective`] says. Then, may
/// this peer? As [`authorization`] says.
///
/// Plaintext from the node's own host is not asked about, so that the kubelet's probes work whatever
/// the policies.
pub fn inbound(snapshot: &Snapshot, flow: &InboundFlow<'_>) -> Inbound {
    let refuse = |reason, rule| Inbound::Refuse(Refusal { reason, rule });
    let port = flow.to.port();
    if ILLEGAL_PORTS.contains(&port) {
        return refuse(Reason::IllegalPort, Rule::IllegalPort(port));
    }
    let protected = if flow.peer.is_some() {
        Rule::MutualTls
    } else if flow.from_node {
        return Inbound::Allow(Allowed { rule: Rule::NodeHost });
    } else {
        let effective = effective(snapshot, flow.destination, Some(port));
        match effective.acceptance {
            Acceptance::PlaintextToo => effective.rule,
            Acceptance::MutualTlsOnly => {
                return refuse(Reason::PlaintextRefused, effective.rule);
            }
        }
    };
    match authorization(snapshot, flow) {
        Authorization::NotAsked => Inbound::Allow(Allowed { rule: protected }),
        Authorization::Allow(rule) => Inbound::Allow(Allowed { rule }),
        Authorization::Refuse(rule) => refuse(Reason::PolicyDenied, rule),
    }
}

/// Whether every port of the workload takes plaintext from everybody, so that nothing is left to
/// decide for each connection.
///
/// The ports that the mesh listens on are no ports of the workload.
pub fn accepts_plaintext_everywhere(snapshot: &Snapshot, workload: &Workload) -> bool {
    let plaintext =
        |port| effective(snapshot, workload, port).acceptance == Acceptance::PlaintextToo;
    !may_refuse(snapshot, workload)
        && plaintext(None)
        && ports_with_own_mode(snapshot, workload)
            .filter(|port| !ILLEGAL_PORTS.contains(port))
            .all(|port| plaintext(Some(port)))
}
