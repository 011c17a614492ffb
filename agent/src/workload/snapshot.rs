//! The mesh at one moment: immutable, indexed, swapped as a whole.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use culvert_spiffe::TrustDomain;
use ipnet::IpNet;

use super::model::{PeerAuthentication, Workload, WorkloadKey};
use super::policies::Policies;
use super::services::{Endpoint, Service, Services};

/// Everything the agent knows of the mesh at one moment.
///
/// Never changed, only replaced: who holds one sees workloads and policies that belong together.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Rises with each snapshot that differs from the one before.
    pub generation: u64,
    trust_domain: TrustDomain,
    root_namespace: String,
    workloads: Vec<Arc<Workload>>,
    by_address: HashMap<IpAddr, Arc<Workload>>,
    by_key: HashMap<WorkloadKey, Arc<Workload>>,
    policies: Arc<Policies>,
    services: Arc<Services>,
    pod_ranges: Arc<[IpNet]>,
}

/// Two entries that cannot both be true.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// Two workloads of one namespace and name.
    #[error("workload {0} appears twice; give each workload of a namespace its own name")]
    DuplicateWorkload(WorkloadKey),
    /// Two workloads with one address.
    #[error("address {address} belongs to both {first} and {second}; remove it from one of them")]
    DuplicateAddress {
        /// The address.
        address: IpAddr,
        /// Who had it first.
        first: WorkloadKey,
        /// Who claims it too.
        second: WorkloadKey,
    },
}

impl Snapshot {
    /// Puts a snapshot together. What has not changed since the last one is best handed over as
    /// the `Arc` that it was: who compares two snapshots then sees it at a glance.
    ///
    /// # Errors
    ///
    /// [`SnapshotError`] when two workloads share a key or an address.
    pub fn new(
        generation: u64,
        trust_domain: TrustDomain,
        root_namespace: &str,
        workloads: Vec<impl Into<Arc<Workload>>>,
        policies: impl Into<Arc<Policies>>,
    ) -> Result<Self, SnapshotError> {
        let workloads: Vec<Arc<Workload>> = workloads.into_iter().map(Into::into).collect();
        let mut by_address = HashMap::new();
        let mut by_key = HashMap::with_capacity(workloads.len());
        for workload in &workloads {
            if by_key.insert(workload.key(), Arc::clone(workload)).is_some() {
                return Err(SnapshotError::DuplicateWorkload(workload.key()));
            }
            for address in &workload.addresses {
                let Some(first) = by_address.insert(*address, Arc::clone(workload)) else {
                    continue;
                };
                return Err(SnapshotError::DuplicateAddress {
                    address: *address,
                    first: first.key(),
                    second: workload.key(),
                });
            }
        }
        Ok(Self {
            generation,
            trust_domain,
            root_namespace: root_namespace.to_owned(),
            workloads,
            by_address,
            by_key,
            policies: policies.into(),
            services: Arc::default(),
            pod_ranges: Arc::default(),
        })
    }

    /// The same with these Services; without them there are none.
    #[must_use]
    pub fn with_services(mut self, services: Arc<Services>) -> Self {
        self.services = services;
        self
    }

    /// The same with these ranges of pod addresses; without them, nothing is known of any.
    #[must_use]
    pub fn with_pod_ranges(mut self, ranges: &[IpNet]) -> Self {
        self.pod_ranges = ranges.into();
        self
    }

    /// Every Service of the cluster.
    pub fn services(&self) -> &Arc<Services> {
        &self.services
    }

    /// Whether traffic to a Service concerns the mesh: an endpoint of it is enrolled, or it has a
    /// port without any, of which the first to come may be.
    pub fn concerns_mesh(&self, service: &Service) -> bool {
        service.ports.values().any(|all| all.is_empty() || self.any_enrolled(all))
    }

    /// Whether one of these endpoints is an enrolled workload.
    pub fn any_enrolled(&self, endpoints: &[Endpoint]) -> bool {
        let pod = |endpoint: &Endpoint| self.by_address(endpoint.address.ip());
        endpoints.iter().filter_map(pod).any(|pod| pod.enrolled)
    }

    /// Whether pods have their addresses where this one is, so that one which nobody is known to
    /// have may be a pod's whose news are under way.
    pub fn is_pod_address(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.pod_ranges.iter().any(|range| range.contains(&address))
    }

    /// Who has this address. An IPv4-mapped IPv6 address finds the IPv4 one.
    pub fn by_address(&self, address: IpAddr) -> Option<&Arc<Workload>> {
        self.by_address.get(&address.to_canonical())
    }

    /// The workload of that namespace and name.
    pub fn by_key(&self, key: &WorkloadKey) -> Option<&Arc<Workload>> {
        self.by_key.get(key)
    }

    /// What metrics count the workload `key` under, such as a Deployment; who is not known counts
    /// under its own name.
    pub fn owner_of(&self, key: WorkloadKey) -> WorkloadKey {
        self.by_key.get(&key).map_or(key, |workload| workload.owner())
    }

    /// The workloads of one node, enrolled or not, in the order of the source.
    pub fn local<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Arc<Workload>> {
        self.workloads.iter().filter(move |workload| workload.node == node)
    }

    /// Every workload of the mesh, in the order of the source.
    pub fn workloads(&self) -> &[Arc<Workload>] {
        &self.workloads
    }

    /// Every policy of the mesh.
    pub fn policies(&self) -> &Arc<Policies> {
        &self.policies
    }

    /// Every PeerAuthentication, oldest first.
    pub fn peer_authentications(&self) -> &[PeerAuthentication] {
        self.policies.peer_authentications()
    }

    /// The trust domain of every identity here.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The namespace whose policies without selector hold for the whole mesh.
    pub fn root_namespace(&self) -> &str {
        &self.root_namespace
    }

    /// Whether both say the same about the mesh, whatever their generation.
    pub fn same_content(&self, other: &Self) -> bool {
        self.trust_domain == other.trust_domain
            && self.root_namespace == other.root_namespace
            && self.workloads == other.workloads
            && self.services == other.services
            && self.pod_ranges == other.pod_ranges
            && (Arc::ptr_eq(&self.policies, &other.policies) || self.policies == other.policies)
    }
}
