//! Flows that arrive at a local workload.

use std::net::SocketAddr;

use culvert_spiffe::SpiffeId;

use super::ILLEGAL_PORTS;
use super::peer_authentication::{Acceptance, effective, ports_with_own_mode};
use super::verdict::{Refusal, Rule};
use crate::observe::Reason;
use crate::workload::{Snapshot, Workload};

/// All that counts about a flow that arrives at a local workload.
#[derive(Clone, Copy, Debug)]
pub struct InboundFlow<'a> {
    /// The local workload.
    pub destination: &'a Workload,
    /// The workload's own port, not a service's.
    pub port: u16,
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
/// A peer with a proven identity is taken in any mode: DISABLE cannot turn off what a client
/// sends. Plaintext is taken from the node's own host, so that the kubelet's probes work under
/// STRICT, and else as [`effective`] says.
pub fn inbound(snapshot: &Snapshot, flow: &InboundFlow<'_>) -> Inbound {
    if ILLEGAL_PORTS.contains(&flow.port) {
        return Inbound::Refuse(Refusal {
            reason: Reason::IllegalPort,
            rule: Rule::IllegalPort(flow.port),
        });
    }
    if flow.peer.is_some() {
        return Inbound::Allow(Allowed { rule: Rule::MutualTls });
    }
    if flow.from_node {
        return Inbound::Allow(Allowed { rule: Rule::NodeHost });
    }
    let effective = effective(snapshot, flow.destination, Some(flow.port));
    match effective.acceptance {
        Acceptance::PlaintextToo => Inbound::Allow(Allowed { rule: effective.rule }),
        Acceptance::MutualTlsOnly => {
            Inbound::Refuse(Refusal { reason: Reason::PlaintextRefused, rule: effective.rule })
        }
    }
}

/// Whether every port of the workload takes plaintext, so that nothing is left to decide for each
/// connection.
///
/// The ports that the mesh listens on are no ports of the workload.
pub fn accepts_plaintext_everywhere(snapshot: &Snapshot, workload: &Workload) -> bool {
    let plaintext =
        |port| effective(snapshot, workload, port).acceptance == Acceptance::PlaintextToo;
    plaintext(None)
        && ports_with_own_mode(snapshot, workload)
            .filter(|port| !ILLEGAL_PORTS.contains(port))
            .all(|port| plaintext(Some(port)))
}
