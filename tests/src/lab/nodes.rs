//! The nodes and the pods of a lab.

use crate::files::PodSpec;
use crate::place::Place;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Deref;

/// One of the two nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodeId {
    /// The first; the CA runs there too.
    Node1,
    /// The second.
    Node2,
}

impl NodeId {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Node1, Self::Node2];

    /// As the configuration calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Node1 => "node1",
            Self::Node2 => "node2",
        }
    }

    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Node1 => Self::Node2,
            Self::Node2 => Self::Node1,
        }
    }

    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Node1 => 0,
            Self::Node2 => 1,
        }
    }

    /// Its number in the addresses.
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Node1 => 1,
            Self::Node2 => 2,
        }
    }
}

/// A node: its host namespace is the place that it is used as.
#[derive(Debug, Clone)]
pub struct Node {
    pub(crate) id: NodeId,
    pub(crate) host: Place,
    /// Where its agent runs, and the one that takes over from it: the host's namespace, or
    /// namespaces of their own, see [`super::Builder::contained`].
    pub(crate) agents: [Place; 2],
}

impl Node {
    /// Its address on the wire between the nodes.
    pub fn v4(&self) -> Ipv4Addr {
        wire4(self.id)
    }

    /// The same of IPv6.
    pub fn v6(&self) -> Ipv6Addr {
        wire6(self.id)
    }

    /// Which of the two it is.
    pub fn id(&self) -> NodeId {
        self.id
    }
}

impl Deref for Node {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.host
    }
}

/// A pod: the place where its programs run, with its addresses.
#[derive(Debug, Clone)]
pub struct Pod {
    pub(crate) spec: PodSpec,
    pub(crate) place: Place,
    /// Its number in the addresses of its node; 1 is the node's own.
    pub(crate) number: u8,
}

impl Pod {
    /// Its IPv4 address.
    pub fn v4(&self) -> Ipv4Addr {
        pod4(self.spec.node, self.number)
    }

    /// Its IPv6 address.
    pub fn v6(&self) -> Ipv6Addr {
        pod6(self.spec.node, self.number)
    }

    /// Its IPv4 address with a port.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.v4()), port)
    }

    /// Its IPv6 address with a port.
    pub fn at6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V6(self.v6()), port)
    }

    /// The node that it is on.
    pub fn node(&self) -> NodeId {
        self.spec.node
    }

    /// Its identity in a trust domain.
    pub fn spiffe_id(&self, trust_domain: &str) -> String {
        let PodSpec { namespace, service_account, .. } = &self.spec;
        format!("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}")
    }
}

impl Deref for Pod {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

/// Numbers in the addresses of agents that have namespaces of their own.
pub(crate) const AGENT_NUMBERS: [u8; 2] = [253, 254];

pub(crate) const fn wire4(node: NodeId) -> Ipv4Addr {
    Ipv4Addr::new(10, 11, 0, node.number())
}

pub(crate) fn wire6(node: NodeId) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x11, 0, 0, 0, 0, 0, u16::from(node.number()))
}

pub(crate) const fn pod4(node: NodeId, number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 11, node.number(), number)
}

pub(crate) fn pod6(node: NodeId, number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x11, u16::from(node.number()), 0, 0, 0, 0, u16::from(number))
}
