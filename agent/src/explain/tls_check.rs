//! What `istioctl authn tls-check` told: which side of a pair speaks what.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::place::{Source, destinations};
use super::words::policy_of;
use super::{ExplainError, Mesh};
use crate::policy::{Acceptance, effective, ports_with_own_mode};
use crate::workload::offline::is_made_up;
use crate::workload::{Service, Workload};

/// What a side of a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Speaks {
    /// Mutual TLS only.
    #[serde(rename = "mTLS")]
    MutualTls,
    /// A server: both.
    #[serde(rename = "HTTP/mTLS")]
    Both,
    /// Plaintext only.
    #[serde(rename = "HTTP")]
    Plaintext,
}

impl Speaks {
    /// As istioctl wrote it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MutualTls => "mTLS",
            Self::Both => "HTTP/mTLS",
            Self::Plaintext => "HTTP",
        }
    }
}

/// One place that a name leads to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Checked {
    /// Namespace and name of the workload.
    pub workload: String,
    /// Its node.
    pub node: String,
    /// Its own address and port; port 0 stands for every port without a mode of its own.
    pub to: SocketAddr,
    /// The identity that it must prove.
    pub identity: String,
    /// What the workload takes.
    pub server: Speaks,
    /// What the source sends it.
    pub client: Speaks,
    /// The PeerAuthentication that decides, if one does.
    pub policy: Option<String>,
}

impl Checked {
    /// Whether the two understand each other.
    pub fn agrees(&self) -> bool {
        self.client == self.server || self.server == Speaks::Both
    }
}

/// A host and port, and where it leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pair {
    /// `HOST:PORT`, or `HOST:*` for every port of a workload that has no mode of its own.
    pub host: String,
    /// Each place it leads to.
    pub endpoints: Vec<Checked>,
}

/// Pairs of a source with each Service of the mesh, or with what `destination` names.
///
/// # Errors
///
/// [`ExplainError`] when source or destination is not known, or not clear.
pub fn tls_check(
    mesh: Mesh<'_>,
    source: &Source,
    destination: Option<&str>,
    namespace: Option<&str>,
) -> Result<Vec<Pair>, ExplainError> {
    let found = destinations(mesh, source, destination, namespace)?;
    let checker = Checker { mesh, enrolled: source.workload().is_some_and(|own| own.enrolled) };
    let mut pairs: BTreeMap<String, BTreeMap<SocketAddr, Checked>> = BTreeMap::new();
    for (service, port) in found.services {
        for number in service.ports.keys().filter(|number| port.is_none_or(|port| port == **number))
        {
            let host = format!("{}.{}.svc.cluster.local:{number}", service.name, service.namespace);
            pairs.entry(host).or_default().extend(checker.service(&service, *number));
        }
    }
    for (workload, port) in found.workloads {
        let ports = match port {
            Some(port) => BTreeSet::from([port]),
            None => ports_with_own_mode(mesh.snapshot, &workload).chain([0]).collect(),
        };
        for number in ports {
            let shown = if number == 0 { "*".to_owned() } else { number.to_string() };
            let host = format!("{}.{}:{shown}", workload.name, workload.namespace);
            pairs.entry(host).or_default().extend(checker.workload(&workload, number));
        }
    }
    let pairs = pairs
        .into_iter()
        .map(|(host, endpoints)| Pair { host, endpoints: endpoints.into_values().collect() });
    Ok(pairs.collect())
}

struct Checker<'a> {
    mesh: Mesh<'a>,
    enrolled: bool,
}

impl Checker<'_> {
    fn service(&self, service: &Service, port: u16) -> Vec<(SocketAddr, Checked)> {
        let endpoints = service.ports.get(&port).into_iter().flatten();
        let known = endpoints.filter_map(|endpoint| {
            let workload = self.mesh.snapshot.by_address(endpoint.address.ip())?;
            Some((endpoint.address, self.check(workload, endpoint.address)))
        });
        known.collect()
    }

    fn workload(&self, workload: &Workload, port: u16) -> Option<(SocketAddr, Checked)> {
        let to = SocketAddr::new(*workload.addresses.first()?, port);
        Some((to, self.check(workload, to)))
    }

    fn check(&self, workload: &Workload, to: SocketAddr) -> Checked {
        let port = (to.port() != 0).then_some(to.port());
        let effective = effective(self.mesh.snapshot, workload, port);
        let server = match (workload.enrolled, effective.acceptance) {
            (false, _) => Speaks::Plaintext,
            (true, Acceptance::MutualTlsOnly) => Speaks::MutualTls,
            (true, Acceptance::PlaintextToo) => Speaks::Both,
        };
        let both = self.enrolled && workload.enrolled;
        Checked {
            workload: workload.key().to_string(),
            node: workload.node.clone(),
            to,
            identity: workload.identity.to_string(),
            server,
            client: if both { Speaks::MutualTls } else { Speaks::Plaintext },
            policy: policy_of(&effective.rule).filter(|_| workload.enrolled),
        }
    }
}

impl Pair {
    /// What every place says, once each: `mTLS`, or `HTTP, mTLS` where they differ.
    pub fn each(&self, of: impl Fn(&Checked) -> &str) -> String {
        let words: BTreeSet<&str> = self.endpoints.iter().map(of).collect();
        if words.is_empty() {
            return "-".to_owned();
        }
        words.into_iter().collect::<Vec<_>>().join(", ")
    }

    /// Whether source and every place understand each other.
    pub fn agrees(&self) -> bool {
        self.endpoints.iter().all(Checked::agrees)
    }

    /// Takes from what another agent says of its own node's workloads.
    pub fn correct(&mut self, node: &str, other: &Self) {
        for endpoint in &mut self.endpoints {
            let better = other.endpoints.iter().find(|other| other.to == endpoint.to);
            if let Some(better) = better.filter(|_| endpoint.node == node) {
                endpoint.server = better.server;
                endpoint.policy.clone_from(&better.policy);
            }
        }
    }
}

/// Where a probe of an endpoint goes; nowhere for one without an address.
pub fn probed(endpoint: &Checked) -> Option<SocketAddr> {
    let reached = endpoint.client == Speaks::MutualTls && !is_made_up(endpoint.to.ip());
    reached.then(|| SocketAddr::new(endpoint.to.ip(), culvert_common::maps::HBONE_PORT))
}

/// What a destination names.
pub(super) struct Found {
    /// Services, each with the port that was asked for.
    pub(super) services: Vec<(Arc<Service>, Option<u16>)>,
    /// Workloads, likewise.
    pub(super) workloads: Vec<(Arc<Workload>, Option<u16>)>,
}
