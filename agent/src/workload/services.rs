//! Services of a cluster: one address that stands for many workloads.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// A Service under one of its cluster addresses. Only its TCP ports are here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The endpoints of each port, of the address's family, ordered by address.
    pub ports: BTreeMap<u16, Vec<Endpoint>>,
    /// One client keeps to one endpoint (`sessionAffinity: ClientIP`).
    pub sticky: bool,
    /// Only endpoints of the client's own node will do (`internalTrafficPolicy: Local`).
    pub local_only: bool,
}

/// One place that a Service leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    // word: Kubernetes has it
    /// The workload's own address and port.
    pub address: SocketAddr,
    /// How far it is from the agent's node.
    pub distance: Distance,
    /// Whether it should get connections.
    pub condition: Condition,
}

/// How far an endpoint is, nearest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Distance {
    /// On the same node.
    Node,
    /// In the same zone.
    Zone,
    /// Anywhere else, or nobody says where.
    Elsewhere,
}

/// Whether an endpoint should get connections, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Condition {
    /// It should.
    Ready,
    /// It is about to go and still serves: it gets connections where no other is left.
    Ending,
}

/// Every Service of the cluster by its addresses. Never changed, only replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Services {
    by_address: HashMap<IpAddr, Arc<Service>>,
    /// By endpoint, those of the agent's own node alone.
    behind: HashMap<SocketAddr, Arc<Service>>,
}

impl Services {
    /// The Service of an address. An IPv4-mapped IPv6 address finds the IPv4 one.
    pub fn by_address(&self, address: IpAddr) -> Option<&Arc<Service>> {
        self.by_address.get(&address.to_canonical())
    }

    /// The Service that this endpoint of the agent's own node stands behind; of several the first
    /// by name.
    pub fn behind(&self, endpoint: SocketAddr) -> Option<&Arc<Service>> {
        self.behind.get(&SocketAddr::new(endpoint.ip().to_canonical(), endpoint.port()))
    }

    /// Every address with its Service, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, &Arc<Service>)> {
        self.by_address.iter().map(|(address, service)| (*address, service))
    }

    /// How many addresses there are.
    pub fn len(&self) -> usize {
        self.by_address.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_address.is_empty()
    }
}

impl FromIterator<(IpAddr, Arc<Service>)> for Services {
    fn from_iter<I: IntoIterator<Item = (IpAddr, Arc<Service>)>>(services: I) -> Self {
        let by_address: HashMap<IpAddr, Arc<Service>> = services.into_iter().collect();
        let mut behind: HashMap<SocketAddr, Arc<Service>> = HashMap::new();
        let name = |service: &Service| (service.namespace.clone(), service.name.clone());
        for service in by_address.values() {
            let endpoints = service.ports.values().flatten();
            for endpoint in endpoints.filter(|endpoint| endpoint.distance == Distance::Node) {
                let known = behind.entry(endpoint.address).or_insert_with(|| Arc::clone(service));
                if name(service) < name(known) {
                    *known = Arc::clone(service);
                }
            }
        }
        Self { by_address, behind }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, endpoints: &[(&str, Distance)]) -> Arc<Service> {
        let endpoint = |(address, distance): &(&str, Distance)| Endpoint {
            address: address.parse().unwrap(),
            distance: *distance,
            condition: Condition::Ready,
        };
        Arc::new(Service {
            name: name.to_owned(),
            namespace: "default".to_owned(),
            ports: BTreeMap::from([(80, endpoints.iter().map(endpoint).collect())]),
            sticky: false,
            local_only: false,
        })
    }

    #[test]
    fn an_endpoint_of_the_own_node_finds_the_first_service_it_stands_behind() {
        let (near, far) = ("10.0.0.1:8080", "10.0.0.2:8080");
        let both = [(near, Distance::Node), (far, Distance::Zone)];
        let services: Services = ["beta", "alpha", "gamma"]
            .into_iter()
            .enumerate()
            .map(|(at, name)| (format!("10.96.0.{at}").parse().unwrap(), service(name, &both)))
            .collect();
        let behind = |endpoint: &str| {
            services.behind(endpoint.parse().unwrap()).map(|service| service.name.as_str())
        };
        assert_eq!(behind(near), Some("alpha"));
        assert_eq!(behind("[::ffff:10.0.0.1]:8080"), Some("alpha"));
        assert_eq!(behind("10.0.0.1:9090"), None);
        assert_eq!(behind(far), None, "it has an agent of its own");
    }
}
