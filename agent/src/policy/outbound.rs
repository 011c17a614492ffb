//! Flows that leave a local workload.

#[cfg(test)]
mod tests;

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::ILLEGAL_PORTS;
use super::verdict::{Refusal, Rule};
use crate::observe::Reason;
use crate::workload::{Distance, Endpoint, Service, Snapshot, Workload};

/// A flow that leaves a local workload.
#[derive(Clone, Copy, Debug)]
pub struct OutboundFlow<'a> {
    /// Where it comes from.
    pub source: &'a Workload,
    /// The source's own address.
    pub client: IpAddr,
    /// Where the application wants to go.
    pub destination: SocketAddr,
    /// Any number, drawn anew for each flow: which of several endpoints gets it.
    pub draw: u64,
}

/// What becomes of a flow that leaves a local workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outbound {
    /// Mutual TLS to the node or workload that speaks HBONE for the destination; nothing else
    /// will do, whatever goes wrong on the way.
    Tunnel {
        /// Whose identity the peer must prove.
        destination: Arc<Workload>,
        /// Its own address and port: what was asked for, or an endpoint of the Service that was.
        to: SocketAddr,
    },
    /// Unprotected.
    Passthrough {
        /// The original destination, or an endpoint of the Service that it is.
        to: SocketAddr,
        /// Why.
        reason: PassthroughReason,
    },
    /// Not at all.
    Refuse(Refusal),
}

impl Outbound {
    /// What was decided and why: the texts of metric labels.
    pub const fn labels(&self) -> [&'static str; 2] {
        match self {
            Self::Tunnel { .. } => ["tunnel", "enrolled"],
            Self::Passthrough { reason, .. } => ["passthrough", reason.label()],
            Self::Refuse(Refusal { rule, .. }) => ["refuse", rule.kind()],
        }
    }
}

/// Why a flow goes unprotected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PassthroughReason {
    /// No workload of the mesh has the address.
    UnknownDestination,
    /// The workload is known, but nobody speaks HBONE for it.
    NotEnrolled,
    /// The Service has no such TCP port.
    UnknownPort,
    /// The endpoint is the source itself; the flow stays in its namespace.
    Itself,
}

impl PassthroughReason {
    /// The text of a metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::UnknownDestination => "unknown_destination",
            Self::NotEnrolled => "not_enrolled",
            Self::UnknownPort => "unknown_port",
            Self::Itself => "itself",
        }
    }
}

/// Decides over a flow of a local workload.
///
/// Authorization is the destination's. For a Service, an endpoint is drawn from the nearest that
/// are ready; those that are about to go count where no other is left.
pub fn outbound(snapshot: &Snapshot, flow: &OutboundFlow<'_>) -> Outbound {
    let destination = flow.destination;
    match snapshot.services().by_address(destination.ip()) {
        Some(service) => through_service(snapshot, flow, service),
        None => straight(snapshot, destination, destination),
    }
}

/// Whether more may be known of a destination in a moment, so that a flow should wait for it
/// rather than go unprotected or nowhere: an address in the pods' ranges that nobody is known to
/// have, or a Service without an endpoint.
pub fn awaits_news(snapshot: &Snapshot, destination: SocketAddr) -> bool {
    let address = destination.ip();
    match snapshot.services().by_address(address) {
        Some(service) => {
            let endpoints = service.ports.get(&destination.port());
            endpoints.is_some_and(|all| usable(service, all).next().is_none())
        }
        None => snapshot.by_address(address).is_none() && snapshot.is_pod_address(address),
    }
}

fn through_service(snapshot: &Snapshot, flow: &OutboundFlow<'_>, service: &Service) -> Outbound {
    let original = flow.destination;
    let Some(all) = service.ports.get(&original.port()) else {
        let reason = PassthroughReason::UnknownPort;
        return Outbound::Passthrough { to: original, reason };
    };
    let Some(endpoint) = choose(service, all, flow) else {
        return Outbound::Refuse(Refusal {
            reason: Reason::NoEndpoint,
            rule: Rule::NoEndpoint {
                namespace: service.namespace.clone(),
                name: service.name.clone(),
                port: original.port(),
            },
        });
    };
    let to = endpoint.address;
    if flow.source.addresses.contains(&to.ip()) {
        return Outbound::Passthrough { to, reason: PassthroughReason::Itself };
    }
    // Left to the cluster, a flow to the Service's address could come out at an endpoint that is
    // enrolled, and in plaintext. Where there is none, the cluster's own way is as good as any.
    let otherwise = if snapshot.any_enrolled(all) { to } else { original };
    straight(snapshot, to, otherwise)
}

/// Decides over a flow to a workload's own address; unprotected it would go to `otherwise`.
fn straight(snapshot: &Snapshot, to: SocketAddr, otherwise: SocketAddr) -> Outbound {
    let passthrough = |reason| Outbound::Passthrough { to: otherwise, reason };
    let Some(workload) = snapshot.by_address(to.ip()) else {
        return passthrough(PassthroughReason::UnknownDestination);
    };
    if !workload.enrolled {
        return passthrough(PassthroughReason::NotEnrolled);
    }
    if ILLEGAL_PORTS.contains(&to.port()) {
        return Outbound::Refuse(Refusal {
            reason: Reason::IllegalPort,
            rule: Rule::IllegalPort(to.port()),
        });
    }
    Outbound::Tunnel { destination: Arc::clone(workload), to }
}

/// Endpoints that the Service may lead to from here.
fn usable<'a>(service: &Service, all: &'a [Endpoint]) -> impl Iterator<Item = &'a Endpoint> {
    let local_only = service.local_only;
    all.iter().filter(move |endpoint| !local_only || endpoint.distance == Distance::Node)
}

fn choose<'a>(
    service: &Service,
    all: &'a [Endpoint],
    flow: &OutboundFlow<'_>,
) -> Option<&'a Endpoint> {
    let rank = |endpoint: &Endpoint| (endpoint.condition, endpoint.distance);
    let best = usable(service, all).map(rank).min()?;
    let candidates = || usable(service, all).filter(|endpoint| rank(endpoint) == best);
    if service.sticky {
        // Each client prefers the endpoints in an order of its own, so that the coming or going of
        // one moves only the clients of that one.
        return candidates().max_by_key(|endpoint| affinity(flow.client, endpoint.address));
    }
    let count = u64::try_from(candidates().count()).unwrap_or(u64::MAX);
    // Below the count, which is a length of a slice.
    candidates().nth(usize::try_from(flow.draw % count.max(1)).unwrap_or(0))
}

fn affinity(client: IpAddr, endpoint: SocketAddr) -> u64 {
    let mut hasher = DefaultHasher::new();
    (client, endpoint).hash(&mut hasher);
    hasher.finish()
}
