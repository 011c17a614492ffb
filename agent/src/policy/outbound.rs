//! Flows that leave a local workload.

use std::net::SocketAddr;
use std::sync::Arc;

use super::ILLEGAL_PORTS;
use super::verdict::{Refusal, Rule};
use crate::observe::Reason;
use crate::workload::{Snapshot, Workload};

/// What becomes of a flow that leaves a local workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outbound {
    /// Mutual TLS to the node or workload that speaks HBONE for the destination; nothing else
    /// will do, whatever goes wrong on the way.
    Tunnel {
        /// Whose identity the peer must prove.
        destination: Arc<Workload>,
    },
    /// Unprotected, to the original destination.
    Passthrough(PassthroughReason),
    /// Not at all.
    Refuse(Refusal),
}

/// Why a flow goes unprotected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PassthroughReason {
    /// No workload of the mesh has the address.
    UnknownDestination,
    /// The workload is known, but nobody speaks HBONE for it.
    NotEnrolled,
}

impl PassthroughReason {
    /// The text of a metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::UnknownDestination => "unknown_destination",
            Self::NotEnrolled => "not_enrolled",
        }
    }
}

/// Decides a flow from the local workload `source` to `destination`.
///
/// `source` has no say yet: authorization is the destination's. It is asked for so that a rule
/// about the source can come without a change to the callers.
pub fn outbound(snapshot: &Snapshot, _source: &Workload, destination: SocketAddr) -> Outbound {
    let Some(workload) = snapshot.by_address(destination.ip()) else {
        return Outbound::Passthrough(PassthroughReason::UnknownDestination);
    };
    if !workload.enrolled {
        return Outbound::Passthrough(PassthroughReason::NotEnrolled);
    }
    if ILLEGAL_PORTS.contains(&destination.port()) {
        return Outbound::Refuse(Refusal {
            reason: Reason::IllegalPort,
            rule: Rule::IllegalPort(destination.port()),
        });
    }
    Outbound::Tunnel { destination: Arc::clone(workload) }
}
