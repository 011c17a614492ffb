//! Who takes part in a flow, as metrics and logs name it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use culvert_spiffe::SpiffeId;

use super::owner::workload_name;

/// What Istio's dashboards expect where nothing is known.
pub(super) const UNKNOWN: &str = "unknown";

/// Which end of the flow this agent stands at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reporter {
    /// The flow leaves a local workload.
    Source,
    /// The flow arrives at a local workload.
    Destination,
}

impl Reporter {
    /// The `reporter` label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }

    /// The `direction` of logs and of Culvert's own metrics.
    pub const fn direction(self) -> &'static str {
        match self {
            Self::Source => "outbound",
            Self::Destination => "inbound",
        }
    }
}

/// How the flow is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Security {
    /// Both ends proved their identity in a TLS handshake that carries this flow.
    MutualTls,
    /// Nothing is known of any protection.
    Unknown,
}

impl Security {
    /// The `connection_security_policy` label; Kiali draws its lock from it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::MutualTls => "mutual_tls",
            Self::Unknown => UNKNOWN,
        }
    }
}

/// Which way the bytes of a flow take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Path {
    /// Through an HBONE tunnel.
    Tunnel,
    /// From socket to socket, unprotected.
    Direct,
    /// Between two sockets of one node, past the agent, inside the kernel.
    Kernel,
}

impl Path {
    /// As it stands in logs and answers.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Tunnel => "tunnel",
            Self::Direct => "direct",
            Self::Kernel => "kernel",
        }
    }
}

/// The domain of a cluster's own names, unless its administrator chose another.
const CLUSTER_DOMAIN: &str = "svc.cluster.local";

/// The Service that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its full name in DNS: `name.namespace.svc.cluster.local`.
    pub host: String,
}

impl ServiceName {
    /// The Service `name` of `namespace`.
    pub fn new(namespace: &str, name: &str) -> Self {
        let host = format!("{name}.{namespace}.{CLUSTER_DOMAIN}");
        Self { namespace: namespace.to_owned(), name: name.to_owned(), host }
    }
}

/// One end of a flow, as far as it is known. The default knows nothing. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Party(Option<Arc<Known>>);

#[derive(Debug)]
struct Known {
    pod: String,
    /// Whether its HTTP may be read in passing.
    http: bool,
    names: Names,
}

/// What the metrics say of a workload: pods of one workload are not told apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Names {
    workload: String,
    namespace: String,
    service: String,
    revision: String,
    app: String,
    version: String,
}

/// The label by which a workload keeps its HTTP from being read.
const READ_HTTP: &str = "culvert.io/observe-http";

impl Party {
    /// The pod `name` with its labels, from which come its workload, the canonical service (the
    /// workload's name if no label says it) and revision (`latest`), the application and its
    /// version (the canonical ones if no label `app` or `version` says them).
    ///
    /// Source: istio/api `label/labels.yaml`, `service.istio.io/canonical-name`.
    pub fn workload(namespace: &str, name: &str, labels: &BTreeMap<String, String>) -> Self {
        let first = |keys: &[&str], otherwise: &str| {
            let found = keys.iter().find_map(|key| labels.get(*key));
            found.map_or(otherwise, String::as_str).to_owned()
        };
        let workload = workload_name(name, labels);
        let service =
            first(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"], workload);
        let revision = first(
            &["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"],
            "latest",
        );
        let names = Names {
            workload: workload.to_owned(),
            namespace: namespace.to_owned(),
            app: first(&["app"], &service),
            version: first(&["version"], &revision),
            service,
            revision,
        };
        let http = labels.get(READ_HTTP).is_none_or(|value| value != "false");
        Self(Some(Arc::new(Known { pod: name.to_owned(), http, names })))
    }

    /// The pod's name, as the log has it.
    pub fn name(&self) -> Option<&str> {
        self.0.as_ref().map(|known| known.pod.as_str())
    }

    /// The name of the pod's workload, as the metrics have it.
    pub fn workload_name(&self) -> Option<&str> {
        self.names().map(|names| names.workload.as_str())
    }

    /// The workload's namespace.
    pub fn namespace(&self) -> Option<&str> {
        self.names().map(|names| names.namespace.as_str())
    }

    /// Whether its HTTP may be read in passing: unless its label `culvert.io/observe-http` is
    /// `false`.
    pub(super) fn http(&self) -> bool {
        self.0.as_ref().is_none_or(|known| known.http)
    }

    /// What its six labels of the metrics say: workload, canonical service and revision,
    /// namespace, application and version.
    pub(crate) fn values(&self) -> [&str; 6] {
        self.names().map_or([UNKNOWN; 6], Names::values)
    }

    /// What the metrics say of it.
    pub(super) fn names(&self) -> Option<&Names> {
        self.0.as_ref().map(|known| &known.names)
    }
}

impl Names {
    /// The values of its six labels: workload, canonical service and revision, namespace,
    /// application and version.
    pub(super) fn values(&self) -> [&str; 6] {
        [&self.workload, &self.service, &self.revision, &self.namespace, &self.app, &self.version]
    }
}

/// Everything that metrics and the access log say of a flow when it opens.
#[derive(Clone, Debug)]
pub struct FlowLabels {
    /// Which end this agent stands at.
    pub reporter: Reporter,
    /// Where the flow comes from.
    pub source: Party,
    /// Where it goes to.
    pub destination: Party,
    /// The source as its certificate proved it; never looked up.
    pub source_principal: Option<SpiffeId>,
    /// The destination as its certificate proved it, or, at the destination, its own.
    pub destination_principal: Option<SpiffeId>,
    /// The Service that was asked for, or that the destination stands behind.
    pub service: Option<ServiceName>,
    /// How the flow is protected.
    pub security: Security,
    /// Which way its bytes take.
    pub path: Path,
    /// The source's address as the application will see it.
    pub source_address: SocketAddr,
    /// The other end of the connection on the wire: port 15008 when tunnelled.
    pub destination_address: SocketAddr,
    /// The final destination inside the tunnel, if there is a tunnel.
    pub hbone_address: Option<SocketAddr>,
    /// The source is the node's own host, such as the kubelet with its probes.
    pub from_node: bool,
}

impl FlowLabels {
    /// A flow of which nothing is known but its two addresses, and that nothing protects.
    pub fn unknown(reporter: Reporter, source: SocketAddr, destination: SocketAddr) -> Self {
        Self {
            reporter,
            source: Party::default(),
            destination: Party::default(),
            source_principal: None,
            destination_principal: None,
            service: None,
            security: Security::Unknown,
            path: Path::Direct,
            source_address: source,
            destination_address: destination,
            hbone_address: None,
            from_node: false,
        }
    }

    /// Where the application's bytes end, inside the tunnel if there is one.
    pub fn final_address(&self) -> SocketAddr {
        self.hbone_address.unwrap_or(self.destination_address)
    }

    /// Whom the log may name: only what mutual TLS proved.
    pub(super) fn proven<'a>(&self, principal: Option<&'a SpiffeId>) -> Option<&'a str> {
        principal.filter(|_| self.security == Security::MutualTls).map(SpiffeId::as_str)
    }
}
