//! The words of the mesh as the agent knows it: workloads and PeerAuthentication policies.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use culvert_spiffe::SpiffeId;

use super::PodUid;
use crate::observe::{Party, workload_name};

/// Names one workload of the mesh: `namespace/name`. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadKey {
    namespace: Arc<str>,
    name: Arc<str>,
}

impl WorkloadKey {
    /// The key of the workload `name` in `namespace`.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The namespace part.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name part.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for WorkloadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One pod, or one entry of the workloads file: what has addresses and an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Its name, unique in its namespace.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The node that it runs on.
    pub node: String,
    /// At most one IPv4 and one IPv6 address; no two workloads share one.
    pub addresses: Vec<IpAddr>,
    /// Labels; selectors of policies match on them, telemetry names come from them.
    pub labels: BTreeMap<String, String>,
    /// Whether its traffic is captured, and so whether it can be reached by HBONE.
    pub enrolled: bool,
    /// Its network namespace; there for every enrolled workload of the agent's own node.
    pub netns: Option<PathBuf>,
    /// The pod's UID, where it is known; a process that asks for its identity must then be in a
    /// cgroup of that pod too.
    pub uid: Option<PodUid>,
    /// The SPIFFE ID of its service account.
    pub identity: SpiffeId,
}

impl Workload {
    /// What names this workload in the mesh.
    pub fn key(&self) -> WorkloadKey {
        WorkloadKey::new(&self.namespace, &self.name)
    }

    /// What metrics count it under: the workload that the pod is one of, such as a Deployment.
    ///
    /// The ends of an [`EdgeView`](crate::observe::EdgeView) are named so: whoever looks for the
    /// pods of an edge compares with this, not with [`Self::key`].
    pub fn owner(&self) -> WorkloadKey {
        WorkloadKey::new(&self.namespace, workload_name(&self.name, &self.labels))
    }
}

impl From<&Workload> for Party {
    fn from(workload: &Workload) -> Self {
        Self::workload(&workload.namespace, &workload.name, &workload.labels)
    }
}

impl From<Option<&Workload>> for Party {
    fn from(workload: Option<&Workload>) -> Self {
        workload.map(Self::from).unwrap_or_default()
    }
}

/// A `mode` of PeerAuthentication.
///
/// Source: istio/api `security/v1beta1/peer_authentication.proto`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MtlsMode {
    /// Inherit from the level above; with nothing above it, permissive.
    #[default]
    Unset,
    /// The workload sends and takes plaintext. For what is *accepted* the same as permissive:
    /// a client that offers mutual TLS is not turned away.
    Disable,
    /// Plaintext and mutual TLS are both taken.
    Permissive,
    /// Only mutual TLS is taken.
    Strict,
}

impl MtlsMode {
    /// As it stands in YAML.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unset => "UNSET",
            Self::Disable => "DISABLE",
            Self::Permissive => "PERMISSIVE",
            Self::Strict => "STRICT",
        }
    }
}

impl fmt::Display for MtlsMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An Istio PeerAuthentication: which inbound connections a workload takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAuthentication {
    /// `metadata.name`, unique in its namespace.
    pub name: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.creationTimestamp` in nanoseconds since 1970; what has none is oldest, and of
    /// two alike the earlier name comes first.
    pub created: Option<i128>,
    /// `spec.selector.matchLabels`; empty selects every workload of the namespace.
    pub selector: BTreeMap<String, String>,
    /// `spec.mtls.mode`.
    pub mode: MtlsMode,
    /// `spec.portLevelMtls`: the workload's own ports, each before `mode`.
    pub ports: BTreeMap<u16, MtlsMode>,
}

impl PeerAuthentication {
    /// Whether the policy is for chosen workloads and not for a whole namespace.
    ///
    /// An empty `selector: {}` chooses all and so is no selector, as Istio's API documents it.
    pub fn has_selector(&self) -> bool {
        !self.selector.is_empty()
    }

    /// Whether each label of the selector stands on the workload, in the same namespace.
    pub fn selects(&self, workload: &Workload) -> bool {
        self.has_selector()
            && self.namespace == workload.namespace
            && self.selector.iter().all(|(key, value)| workload.labels.get(key) == Some(value))
    }
}
