//! From Services and `EndpointSlice`s to what stands behind each cluster address.
//!
//! ```text
//!  Service ─ addresses, ports ─────────┐
//!  EndpointSlice ─ endpoints, ports ───┼─▶ Directory::services ─▶ Services
//!  Node ─ own zone ────────────────────┘
//! ```
//!
//! Headless Services, those of type `ExternalName`, and ports that are not TCP have nothing here:
//! who connects to them has an address of its own to go to, or passes.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::objects::{self, EndpointSlice, SERVICE_NAME};
use super::table::{Table, Touched};
use crate::workload::{Condition, Distance, Endpoint, Service, Services, WorkloadKey};

/// What is kept of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServiceRow {
    addresses: Vec<IpAddr>,
    /// Its own ports and their names, by which the slices name them.
    ports: Vec<(u16, Option<Box<str>>)>,
    sticky: bool,
    local_only: bool,
}

/// What is kept of an `EndpointSlice`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SliceRow {
    service: WorkloadKey,
    ports: Vec<(Option<Box<str>>, u16)>,
    endpoints: Vec<SliceEndpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct SliceEndpoint {
    address: IpAddr,
    on_own_node: bool,
    zone: Option<Box<str>>,
    condition: Condition,
}

impl SliceRow {
    /// The Service that it belongs to.
    pub(super) fn service_key(&self) -> &WorkloadKey {
        &self.service
    }
}

/// What is kept of a Service; nothing if it has no cluster address or no TCP port.
pub(super) fn service_row(service: &objects::Service) -> Option<ServiceRow> {
    let spec = &service.spec;
    if spec.kind.as_deref() == Some("ExternalName") {
        return None;
    }
    let all = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    // `None` is what a headless Service has there.
    let addresses: BTreeSet<IpAddr> = all.filter_map(|ip| ip.parse().ok()).collect();
    let ports: Vec<_> = spec
        .ports
        .iter()
        .flatten()
        .filter(|port| is_tcp(port.protocol.as_deref()))
        .filter_map(|port| Some((u16::try_from(port.number?).ok()?, name(port.name.as_deref()))))
        .collect();
    if addresses.is_empty() || ports.is_empty() {
        return None;
    }
    Some(ServiceRow {
        addresses: addresses.into_iter().collect(),
        ports,
        sticky: spec.session_affinity.as_deref() == Some("ClientIP"),
        local_only: spec.internal_traffic_policy.as_deref() == Some("Local"),
    })
}

/// What is kept of an `EndpointSlice`; nothing if it belongs to no Service.
pub(super) fn slice_row(slice: &EndpointSlice, own_node: &str) -> Option<SliceRow> {
    let labels = slice.metadata.labels.as_ref()?;
    let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
    let service = WorkloadKey::new(namespace, labels.get(SERVICE_NAME)?);
    let ports = slice
        .ports
        .iter()
        .flatten()
        .filter(|port| is_tcp(port.protocol.as_deref()))
        .filter_map(|port| Some((name(port.name.as_deref()), u16::try_from(port.number?).ok()?)))
        .collect();
    let mut endpoints = Vec::new();
    for endpoint in slice.endpoints.iter().flatten() {
        let Some(condition) = condition(&endpoint.conditions) else { continue };
        // All addresses of one endpoint lead to the same place; the API says to take the first.
        let Some(address) = endpoint.addresses.first().and_then(|ip| ip.parse().ok()) else {
            continue;
        };
        endpoints.push(SliceEndpoint {
            address,
            on_own_node: endpoint.node_name.as_deref() == Some(own_node),
            zone: endpoint.zone.as_deref().map(Into::into),
            condition,
        });
    }
    Some(SliceRow { service, ports, endpoints })
}

/// Source: kubernetes/api `discovery/v1/types.go`, `EndpointConditions`.
fn condition(conditions: &objects::Conditions) -> Option<Condition> {
    let ready = conditions.ready.unwrap_or(true);
    let serving = conditions.serving.unwrap_or(ready);
    let terminating = conditions.terminating.unwrap_or(false);
    match (ready, serving && terminating) {
        (true, _) => Some(Condition::Ready),
        (false, true) => Some(Condition::Ending),
        (false, false) => None,
    }
}

fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|protocol| protocol == "TCP")
}

/// A port's name; the only port of a Service may have none, or an empty one.
fn name(text: Option<&str>) -> Option<Box<str>> {
    text.filter(|text| !text.is_empty()).map(Into::into)
}

/// All Services and where they lead.
#[derive(Default)]
pub(super) struct Directory {
    services: Table<ServiceRow>,
    slices: Table<SliceRow>,
    /// Slices of each Service, and the Service of each slice.
    slices_of: HashMap<WorkloadKey, BTreeSet<WorkloadKey>>,
    service_of: HashMap<WorkloadKey, WorkloadKey>,
    /// What was made of each Service last.
    made: BTreeMap<WorkloadKey, Vec<(IpAddr, Arc<Service>)>>,
    changed: HashSet<WorkloadKey>,
    own_zone: Option<Box<str>>,
    all: Arc<Services>,
}

impl Directory {
    pub(super) fn services_table(&self) -> &Table<ServiceRow> {
        &self.services
    }

    pub(super) fn slices_table(&self) -> &Table<SliceRow> {
        &self.slices
    }

    pub(super) fn take_service(
        &mut self,
        event: kube::runtime::watcher::Event<(WorkloadKey, Option<ServiceRow>)>,
    ) -> Touched {
        let touched = self.services.take(event);
        self.changed.extend(touched.keys.iter().cloned());
        touched
    }

    pub(super) fn take_slice(
        &mut self,
        event: kube::runtime::watcher::Event<(WorkloadKey, Option<SliceRow>)>,
    ) -> Touched {
        let touched = self.slices.take(event);
        for key in &touched.keys {
            let now = self.slices.rows().get(key).map(|slice| slice.service.clone());
            let before = match &now {
                Some(service) => self.service_of.insert(key.clone(), service.clone()),
                None => self.service_of.remove(key),
            };
            if let Some(before) = before {
                if let Some(slices) = self.slices_of.get_mut(&before) {
                    slices.remove(key);
                    if slices.is_empty() {
                        self.slices_of.remove(&before);
                    }
                }
                self.changed.insert(before);
            }
            if let Some(now) = now {
                self.slices_of.entry(now.clone()).or_default().insert(key.clone());
                self.changed.insert(now);
            }
        }
        touched
    }

    /// The zone that the agent's node stands in.
    pub(super) fn set_own_zone(&mut self, zone: Option<&str>) {
        if self.own_zone.as_deref() != zone {
            self.own_zone = zone.map(Into::into);
            self.changed.extend(self.services.rows().keys().cloned());
        }
    }

    /// Every Service as it is now. The same `Arc` as before if none has changed.
    pub(super) fn services(&mut self) -> Arc<Services> {
        let mut differs = false;
        for key in std::mem::take(&mut self.changed) {
            let made = self.make(&key);
            let before = match &made {
                Some(made) => self.made.insert(key, made.clone()),
                None => self.made.remove(&key),
            };
            differs |= before != made;
        }
        if differs {
            // Two Services never have one address, the API server sees to that; the first by name
            // would have it.
            self.all = Arc::new(self.made.values().rev().flatten().cloned().collect());
        }
        Arc::clone(&self.all)
    }

    fn make(&self, key: &WorkloadKey) -> Option<Vec<(IpAddr, Arc<Service>)>> {
        let row = self.services.rows().get(key)?;
        let made = row.addresses.iter().map(|&address| {
            let ports = row.ports.iter();
            let ports =
                ports.map(|(port, name)| (*port, self.endpoints(key, name.as_deref(), address)));
            let service = Service {
                name: key.name().to_owned(),
                namespace: key.namespace().to_owned(),
                ports: ports.collect(),
                sticky: row.sticky,
                local_only: row.local_only,
            };
            (address, Arc::new(service))
        });
        Some(made.collect())
    }

    /// Endpoints of one port, of the family of `address`; each once.
    fn endpoints(
        &self,
        service: &WorkloadKey,
        name: Option<&str>,
        address: IpAddr,
    ) -> Vec<Endpoint> {
        let slices = self.slices_of.get(service).into_iter().flatten();
        let mut found: BTreeMap<SocketAddr, Endpoint> = BTreeMap::new();
        for slice in slices.filter_map(|key| self.slices.rows().get(key)) {
            for (_, port) in slice.ports.iter().filter(|(of, _)| of.as_deref() == name) {
                let own = slice.endpoints.iter();
                for endpoint in own.filter(|e| e.address.is_ipv4() == address.is_ipv4()) {
                    let address = SocketAddr::new(endpoint.address, *port);
                    let distance = self.distance(endpoint);
                    let new = Endpoint { address, distance, condition: endpoint.condition };
                    let known = found.entry(address).or_insert(new);
                    known.condition = known.condition.min(new.condition);
                }
            }
        }
        found.into_values().collect()
    }

    fn distance(&self, endpoint: &SliceEndpoint) -> Distance {
        if endpoint.on_own_node {
            Distance::Node
        } else if endpoint.zone.is_some() && endpoint.zone == self.own_zone {
            Distance::Zone
        } else {
            Distance::Elsewhere
        }
    }
}

#[cfg(test)]
mod tests;
