//! Who takes part in a flow, as metrics and logs name it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use culvert_spiffe::SpiffeId;

use super::reason::ResponseFlags;

/// What Istio's dashboards expect where nothing is known.
pub(super) const UNKNOWN: &str = "unknown";

/// The labels of the TCP metrics, in ztunnel's order.
///
/// Source: istio/ztunnel `src/proxy/metrics.rs`, `CommonTrafficLabels`.
pub(super) const LABELS: [&str; 23] = [
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_service",
    "destination_service_namespace",
    "destination_service_name",
    "destination_workload",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
    "request_protocol",
    "response_flags",
    "connection_security_policy",
];

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

/// One end of a flow, as far as it is known. The default knows nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Party(Option<Known>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    workload: String,
    namespace: String,
    service: String,
    revision: String,
}

impl Party {
    /// A workload with its labels, from which come the canonical service (its name if no label
    /// says it) and revision (`latest`).
    ///
    /// Source: istio/api `label/labels.yaml`, `service.istio.io/canonical-name`.
    pub fn workload(namespace: &str, name: &str, labels: &BTreeMap<String, String>) -> Self {
        let first = |keys: [&str; 3], otherwise: &str| {
            let found = keys.iter().find_map(|key| labels.get(*key));
            found.map_or(otherwise, String::as_str).to_owned()
        };
        Self(Some(Known {
            workload: name.to_owned(),
            namespace: namespace.to_owned(),
            service: first(
                ["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"],
                name,
            ),
            revision: first(
                ["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"],
                "latest",
            ),
        }))
    }

    pub(super) fn name(&self) -> Option<&str> {
        self.0.as_ref().map(|known| known.workload.as_str())
    }

    pub(super) fn namespace(&self) -> Option<&str> {
        self.0.as_ref().map(|known| known.namespace.as_str())
    }

    fn service(&self) -> Option<&str> {
        self.0.as_ref().map(|known| known.service.as_str())
    }

    fn revision(&self) -> Option<&str> {
        self.0.as_ref().map(|known| known.revision.as_str())
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
    /// How the flow is protected.
    pub security: Security,
    /// The source's address as the application will see it.
    pub source_address: SocketAddr,
    /// The other end of the connection on the wire: port 15008 when tunnelled.
    pub destination_address: SocketAddr,
    /// The final destination inside the tunnel, if there is a tunnel.
    pub hbone_address: Option<SocketAddr>,
}

impl FlowLabels {
    /// The label values, in the order of [`LABELS`], for a flow that ends with these flags.
    pub(super) fn values(&self, flags: ResponseFlags) -> [&str; LABELS.len()] {
        let (source, destination) = (&self.source, &self.destination);
        [
            self.reporter.label(),
            known(source.name()),
            known(source.service()),
            known(source.revision()),
            known(source.namespace()),
            principal(self.source_principal.as_ref()),
            known(source.service()),
            known(source.revision()),
            UNKNOWN,
            UNKNOWN,
            UNKNOWN,
            UNKNOWN,
            known(destination.name()),
            known(destination.service()),
            known(destination.revision()),
            known(destination.namespace()),
            principal(self.destination_principal.as_ref()),
            known(destination.service()),
            known(destination.revision()),
            UNKNOWN,
            "tcp",
            flags.label(),
            self.security.label(),
        ]
    }

    /// Whom the log may name: only what mutual TLS proved.
    pub(super) fn proven<'a>(&self, principal: Option<&'a SpiffeId>) -> Option<&'a str> {
        principal.filter(|_| self.security == Security::MutualTls).map(SpiffeId::as_str)
    }
}

fn known(value: Option<&str>) -> &str {
    value.unwrap_or(UNKNOWN)
}

fn principal(id: Option<&SpiffeId>) -> &str {
    id.map_or(UNKNOWN, SpiffeId::as_str)
}
