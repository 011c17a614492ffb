//! `/connections` and `/map.json`: what flows and flowed, as data for people.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::answer::{now, rfc3339};
use super::certificates::serial_and_end;
use super::mesh::{deciding, mtls};
use super::model::{
    Connection, Connections, Destination, Edge, End, Map, MapCertificate, MapWorkload, PolicyKind,
    Quantiles, Security, Source,
};
use super::state::State;
use crate::identity::IdentityStatus;
use crate::observe::{self, EdgeView, FlowView, Path};
use crate::workload::{Snapshot, Workload, WorkloadKey};

/// Connections that are named where no limit is given.
pub(super) const USUAL: usize = 1000;
/// Most connections that are named.
pub(super) const MOST: usize = 100_000;

impl State {
    pub(super) fn connections(&self, limit: usize) -> Connections {
        let found = self.parts.metrics.flows(limit.min(MOST));
        Connections {
            node: self.node().to_owned(),
            now: now(),
            total: found.total,
            connections: found.flows.into_iter().map(connection).collect(),
        }
    }

    pub(super) fn map(&self) -> Map {
        let (snapshot, edges) = (self.snapshot(), self.parts.metrics.edges());
        let ends = edges.iter().flat_map(|edge| [&edge.source, &edge.destination]);
        let seen: HashSet<WorkloadKey> = ends.filter_map(owner).collect();
        let is_there = |workload: &&Arc<Workload>| {
            workload.node == self.node() || seen.contains(&workload.owner())
        };
        let mut there: Vec<_> = snapshot.workloads().iter().filter(is_there).collect();
        there.sort_unstable_by_key(|workload| (&workload.namespace, &workload.name));
        let identities = self.parts.identities.identities();
        let by_id: HashMap<_, _> = identities.iter().map(|one| (&one.id, one)).collect();
        let workloads = there.into_iter().map(|workload| {
            let certificate = by_id.get(&workload.identity).filter(|_| {
                // Of another node's it is another certificate that counts.
                workload.node == self.node()
            });
            map_workload(&snapshot, workload, certificate.map(|status| certificate_of(status)))
        });
        Map {
            node: self.node().to_owned(),
            now: now(),
            workloads: workloads.collect(),
            edges: edges.into_iter().map(edge).collect(),
        }
    }
}

/// Who is meant by an end of an edge: [`Workload::owner`] of all its pods.
fn owner(end: &observe::End) -> Option<WorkloadKey> {
    Some(WorkloadKey::new(end.namespace.as_deref()?, end.workload.as_deref()?))
}

fn connection(flow: FlowView) -> Connection {
    let FlowView { source, destination, .. } = flow;
    let (dialled, hbone) = match flow.hbone_address {
        Some(inside) => (inside, Some(flow.destination_address)),
        None => (flow.destination_address, None),
    };
    Connection {
        id: flow.id,
        direction: flow.reporter.direction().to_owned(),
        path: flow.path.label().to_owned(),
        security: security(flow.security, flow.path),
        opened: rfc3339(flow.opened),
        source: Source {
            address: flow.source_address.to_string(),
            namespace: source.namespace,
            workload: source.workload,
            owner: source.owner,
            identity: source.identity.map(|id| id.to_string()),
        },
        destination: Destination {
            address: dialled.to_string(),
            hbone_address: hbone.map(|address| address.to_string()),
            service: flow.service.map(|service| service.host),
            namespace: destination.namespace,
            workload: destination.workload,
            owner: destination.owner,
            identity: destination.identity.map(|id| id.to_string()),
        },
        bytes_sent: flow.sent,
        bytes_received: flow.received,
        requests: flow.requests,
    }
}

/// What the kernel carries from socket to socket is never on a wire.
const fn security(security: observe::Security, path: Path) -> Security {
    match (security, path) {
        (observe::Security::MutualTls, _) => Security::MutualTls,
        (observe::Security::Unknown, Path::Kernel) => Security::Local,
        (observe::Security::Unknown, Path::Tunnel | Path::Direct) => Security::Plaintext,
    }
}

fn map_workload(
    snapshot: &Snapshot,
    workload: &Workload,
    certificate: Option<MapCertificate>,
) -> MapWorkload {
    let policies = deciding(snapshot, workload).into_iter();
    let policies = policies.map(|(kind, namespace, name)| {
        let kind = match kind {
            PolicyKind::PeerAuthentication => "PeerAuthentication",
            PolicyKind::AuthorizationPolicy => "AuthorizationPolicy",
        };
        format!("{kind} {namespace}/{name}")
    });
    MapWorkload {
        namespace: workload.namespace.clone(),
        name: workload.name.clone(),
        workload: workload.owner().name().to_owned(),
        identity: workload.identity.to_string(),
        enrolled: workload.enrolled,
        node: workload.node.clone(),
        addresses: workload.addresses.clone(),
        mtls: mtls(snapshot, workload).mode,
        policies: policies.collect(),
        certificate,
    }
}

fn certificate_of(status: &IdentityStatus) -> MapCertificate {
    let (serial, not_after) = status.held.as_ref().map(serial_and_end).unzip();
    MapCertificate { state: status.phase.to_owned(), not_after, serial }
}

fn edge(edge: EdgeView) -> Edge {
    let failed: BTreeMap<String, u64> =
        edge.failed.iter().map(|(reason, count)| (reason.label().to_owned(), *count)).collect();
    Edge {
        reporter: edge.reporter.label().to_owned(),
        source: end(edge.source),
        destination: end(edge.destination),
        service: edge.service.map(|service| service.host),
        port: edge.port,
        security: security(edge.security, edge.path),
        open: edge.open,
        opened: edge.opened,
        failed: failed.values().sum(),
        refused: failed,
        bytes_sent: edge.sent,
        bytes_received: edge.received,
        requests: edge.requests,
        handshake_ms: edge.handshake.map(millis),
        first_byte_ms: edge.first_byte.map(millis),
        last_opened: rfc3339(edge.last_opened),
        strangers: edge.strangers,
    }
}

fn end(end: observe::End) -> End {
    End {
        namespace: end.namespace,
        workload: end.workload,
        identity: end.identity.map(|id| id.to_string()),
    }
}

fn millis(of: observe::Quantiles) -> Quantiles {
    // Microseconds are as exact as these are.
    let millis = |time: std::time::Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
    Quantiles { p50: millis(of.p50), p99: millis(of.p99) }
}
