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
pub struct Services(HashMap<IpAddr, Arc<Service>>);

impl Services {
    /// The Service of an address. An IPv4-mapped IPv6 address finds the IPv4 one.
    pub fn by_address(&self, address: IpAddr) -> Option<&Arc<Service>> {
        self.0.get(&address.to_canonical())
    }

    /// Every address with its Service, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, &Arc<Service>)> {
        self.0.iter().map(|(address, service)| (*address, service))
    }

    /// How many addresses there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(IpAddr, Arc<Service>)> for Services {
    fn from_iter<I: IntoIterator<Item = (IpAddr, Arc<Service>)>>(services: I) -> Self {
        Self(services.into_iter().collect())
    }
}
