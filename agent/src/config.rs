//! The agent's configuration, parsed once into values that cannot be wrong.
//!
//! ```yaml
//! node: node1                       # the only one that must be there; CULVERT_NODE goes before it
//! trustDomain: cluster.local
//! workloads: workloads.yaml         # paths are relative to this file
//! policies: policies.yaml           # optional
//! kubernetes:                       # instead of the two files; default: off
//!   kubeconfig: admin.conf          # default: the pod's own service account
//!   podRanges: []                   # besides the ranges that nodes tell
//!   netnsDirectory: /run/netns
//! mesh: {rootNamespace: istio-system, ranges: ["0.0.0.0/0", "::/0"]}
//! ca:
//!   address: 127.0.0.1:15012
//!   rootFile: root-cert.pem
//!   bundleFile: node1.bundle.json   # default: the node's name and .bundle.json; written
//!   tokenFile: node1.token          # default: the node's name and .token
//!   certificateTtl: 24h
//! capture:
//!   cgroup: /sys/fs/cgroup          # default: found from the mounts
//!   pinDirectory: /sys/fs/bpf/culvert
//!   hostProc: /host/proc            # default: none, the agent's namespaces are the node's
//!   whenAgentDown: refuse           # or pass
//! tunnel:
//!   workers: 0                      # one a core
//!   drainTimeout: 30s
//!   idleTimeout: 5m
//!   streamWindow: 1048576           # bytes
//!   streamsPerConnection: 100
//!   connectionsPerPair: 256
//!   connections: 16384
//!   handshakes: 512
//!   handshakesPerSource: 128
//! workloadApi:                      # default: off
//!   socket: /run/culvert-workload/api.sock
//! removal:                          # default: none
//!   namespace: culvert-system
//!   daemonSet: culvert-agent
//!   kubeconfig: /etc/kubeconfig     # default: that of `kubernetes`
//! cni:                              # default: off
//!   socket: /run/culvert/cni.sock
//! observe:
//!   metrics: 0.0.0.0:15020
//!   readiness: 0.0.0.0:15021
//!   log: info
//!   logFormat: text                 # or json
//!   accessLog:                      # or true, false
//!     enabled: true
//!     sample: 1                     # of clean ends
//!     maxPerSecond: 1000
//!   events: true                    # on pods, in a cluster
//!   http: true                      # requests are counted, read in passing
//!   httpExceptPorts: []
//!   traces:                         # default: off
//!     endpoint: 127.0.0.1:4317      # of a collector, OTLP over gRPC
//!     sampleRatio: 0.01
//!   cluster: Kubernetes             # default: none without `kubernetes`
//!   maxSeries: 25000                # sets of labels
//! admin:
//!   socket: /run/culvert/admin.sock
//!   listen: 127.0.0.1:15000         # or off
//!   quit: false
//! ```
//!
//! Values above are the defaults. Secrets never stand in it, only the paths of their files.

mod parser;
mod raw;
#[cfg(test)]
mod tests;
pub mod value;
pub mod yaml;

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use culvert_spiffe::TrustDomain;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use value::{HostPort, HumanDuration, Share};
pub use yaml::YamlError;

/// Where the admin socket is, unless set.
pub const DEFAULT_ADMIN_SOCKET: &str = "/run/culvert/admin.sock";
/// How a place to listen at is written that is none.
const OFF: &str = "off";

/// The environment variable that names the node, before the file's `node`: set by Kubernetes where
/// all nodes have the same file.
pub const NODE_VARIABLE: &str = "CULVERT_NODE";

/// Where the agent listens for the CNI plugin, unless set.
pub use culvert_cni::DEFAULT_SOCKET as DEFAULT_CNI_SOCKET;

/// Everything that a person sets for one node.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// Name of this node, as it stands in the workloads file. Required, here or in
    /// [`NODE_VARIABLE`].
    pub node: String,
    /// Trust domain of every identity. Default `cluster.local`.
    pub trust_domain: TrustDomain,
    /// The workloads file. Default `workloads.yaml`; none with [`Config::kubernetes`].
    pub workloads: Option<PathBuf>,
    /// The stream of PeerAuthentication documents. Default: none, so everything is PERMISSIVE.
    pub policies: Option<PathBuf>,
    /// The cluster that says what the mesh is, instead of the two files. Default: off.
    pub kubernetes: Option<Kubernetes>,
    /// What the mesh is.
    pub mesh: Mesh,
    /// The authority that certificates come from.
    pub ca: Ca,
    /// How the kernel's side is set up.
    pub capture: Capture,
    /// The data plane's limits.
    pub tunnel: Tunnel,
    /// The SPIFFE Workload API. Default: off.
    pub workload_api: Option<WorkloadApi>,
    /// What the agent's own objects in the cluster are called. Default: none, the agent always leaves
    /// its programs in the kernel.
    pub removal: Option<Removal>,
    /// The CNI plugin's end in the agent. Default: off.
    pub cni: Option<Cni>,
    /// Metrics, readiness and logs.
    pub observe: Observe,
    /// What an operator on the node may ask.
    pub admin: Admin,
}

/// What the mesh is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mesh {
    /// Where policies for the whole mesh live. Default `istio-system`.
    pub root_namespace: String,
    /// Destinations outside are never steered. Default: everything is inside.
    pub ranges: Vec<IpNet>,
}

/// The cluster that says what the mesh is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Kubernetes {
    /// How to reach the API server. Default: as the service account of the agent's own pod.
    pub kubeconfig: Option<PathBuf>,
    /// Where pods have their addresses, besides the ranges that nodes tell. Default: none.
    pub pod_ranges: Vec<IpNet>,
    /// Where the container runtime keeps network namespaces by name. Default `/run/netns`.
    pub netns_directory: PathBuf,
}

/// The authority that certificates come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ca {
    /// Where the CA listens. Default `127.0.0.1:15012`.
    pub address: HostPort,
    /// Roots that the CA's own certificate is checked against. Default `root-cert.pem`.
    pub root_file: PathBuf,
    /// Where the trust bundle in force is kept; written by the agent. Default: the node's name and
    /// `.bundle.json`.
    pub bundle_file: PathBuf,
    /// The node's token, read again for each request. Default: the node's name and `.token`.
    pub token_file: PathBuf,
    /// The life asked for, 10 seconds to 90 days; the CA may give less. Default 24 hours.
    #[serde(serialize_with = "human")]
    pub certificate_ttl: Duration,
}

/// How the kernel's side is set up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Capture {
    /// The cgroup2 directory to attach to. Default: found from the mounts.
    pub cgroup: Option<PathBuf>,
    /// Where programs, links and maps are pinned. Default `/sys/fs/bpf/culvert`.
    pub pin_directory: PathBuf,
    /// Where the host's `/proc` is mounted, for an agent in a container; its process 1 tells which
    /// network namespace is the node's. Default: none, the agent runs in that namespace itself.
    pub host_proc: Option<PathBuf>,
    /// What becomes of enrolled workloads' new connections while no agent runs. Default refuse.
    pub when_agent_down: WhenAgentDown,
}

/// What becomes of enrolled workloads' new connections while no agent runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenAgentDown {
    /// They are refused at once.
    #[default]
    Refuse,
    /// They go out unprotected.
    Pass,
}

/// The data plane's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tunnel {
    /// Event loops; none means one a core. Written as a number, 0 for one a core. Default 0.
    #[serde(serialize_with = "zero_for_none")]
    pub workers: Option<NonZeroUsize>,
    /// How long a stopping agent lets streams end by themselves, up to an hour. Default 30 seconds.
    #[serde(serialize_with = "human")]
    pub drain_timeout: Duration,
    /// How long a connection without streams is kept, 1 second to a day. Default 5 minutes.
    #[serde(serialize_with = "human")]
    pub idle_timeout: Duration,
    /// Bytes in flight towards us on one stream. Default 1 MiB.
    pub stream_window: u32,
    /// Streams of one HBONE connection at a time, both as its client and as its server. Times
    /// `streamWindow`, the most that one peer's connection can make us keep. Default 100.
    pub streams_per_connection: u32,
    /// HBONE connections of one worker from one local workload to one other. Default 256.
    pub connections_per_pair: u32,
    /// HBONE connections that one worker accepts. Default 16384.
    pub connections: u32,
    /// Of those, how many may be in their handshake. Default 512.
    pub handshakes: u32,
    /// Of those, how many may come from one address. Default 128.
    pub handshakes_per_source: u32,
}

impl Tunnel {
    /// How many event loops to run on this machine.
    pub fn worker_count(&self) -> NonZeroUsize {
        self.workers
            .or_else(|| std::thread::available_parallelism().ok())
            .unwrap_or(NonZeroUsize::MIN)
    }
}

/// The SPIFFE Workload API, for workloads of this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadApi {
    /// Where it listens: a unix socket, in a directory that only the agent may write.
    pub socket: PathBuf,
}

/// The objects of the cluster without which there is no agent. While one of them is deleted, an
/// agent that stops takes everything out of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Removal {
    /// The agents' namespace.
    pub namespace: String,
    /// The agents' DaemonSet.
    pub daemon_set: String,
    /// How to reach the API server. Default: as `kubernetes` does, or by the pod's service account.
    pub kubeconfig: Option<PathBuf>,
}

/// The CNI plugin's end in the agent: pods of this node start only once they are steered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cni {
    /// The unix socket that the plugin asks, of at most 103 bytes; the same path on the node and
    /// in the agent's container. Default [`DEFAULT_CNI_SOCKET`].
    pub socket: PathBuf,
}

/// Metrics, readiness and logs.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Observe {
    /// Where `/metrics` listens. Default `0.0.0.0:15020`.
    pub metrics: SocketAddr,
    /// Where `/healthz/ready`, `/healthz/started` and `/healthz/live` listen. Default `0.0.0.0:15021`.
    pub readiness: SocketAddr,
    /// Filter of the log, in `tracing`'s syntax. Default `info`.
    pub log: String,
    /// Form of the log. Default text.
    pub log_format: LogFormat,
    /// Whether, and how often, connections write lines.
    pub access_log: AccessLog,
    /// Whether troubles of this node's pods become Events on them, where there is a cluster.
    /// Default true.
    pub events: bool,
    /// Whether HTTP is read in passing. Default true.
    pub http: bool,
    /// Destination ports whose flows are not read for HTTP. Default: none.
    pub http_except_ports: Vec<u16>,
    /// Where spans of flows go. Default: nowhere.
    pub traces: Option<Traces>,
    /// What metrics call this cluster. Default `Kubernetes` in a cluster, else `unknown`.
    pub cluster: Option<String>,
    /// Sets of labels that flows are counted under. Default 25,000.
    pub max_series: u32,
}

/// Where spans of flows go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Traces {
    /// A collector that takes OTLP over gRPC in clear text.
    pub endpoint: HostPort,
    /// How many of the flows that begin here are recorded. Default 1 %.
    pub sample_ratio: Share,
}

/// The access log. In the file also `true` or `false` alone, for `enabled`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AccessLog {
    /// Whether connections write lines at all. Default true.
    pub enabled: bool,
    /// Which share of the connections that ended cleanly write a line, 0 to 1. Default 1.
    pub sample: f64,
    /// Lines a second of clean ends, and as many of failures. Default 1000.
    pub max_per_second: u32,
}

impl Default for AccessLog {
    fn default() -> Self {
        Self { enabled: true, sample: 1.0, max_per_second: 1000 }
    }
}

/// What an operator on the node may ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Admin {
    /// The unix socket that `culvert` asks, of at most 103 bytes. Default
    /// [`DEFAULT_ADMIN_SOCKET`].
    pub socket: PathBuf,
    /// Where the same is answered over TCP, but for private keys; a loopback address. Written as
    /// `off` for nowhere. Default `127.0.0.1:15000`.
    #[serde(serialize_with = "off_for_none")]
    pub listen: Option<SocketAddr>,
    /// Whether `POST /quitquitquit` ends the agent. Default false.
    pub quit: bool,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// A line for people.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read {path}; name an existing file with --config")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file says something that cannot be.
    #[error(transparent)]
    Invalid(#[from] YamlError),
}

/// Why a configuration cannot be printed.
#[derive(Debug, thiserror::Error)]
#[error("cannot print the configuration; use paths that are UTF-8")]
pub struct PrintError(#[source] serde_saphyr::SerializeError);

impl Config {
    /// Reads the file at `path`. Relative paths in it are taken from its own directory.
    ///
    /// # Errors
    ///
    /// [`ConfigError`]; a bad value names file, line, column, field and what was expected.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Ok(Self::parse_with(path, &text, std::env::var(NODE_VARIABLE).ok())?)
    }

    /// Reads the text of a file that stands, or would stand, at `path`.
    ///
    /// # Errors
    ///
    /// [`YamlError`] at the first thing that is wrong.
    pub fn parse(path: &Path, text: &str) -> Result<Self, YamlError> {
        Self::parse_with(path, text, None)
    }

    /// The same, with what the environment says of the node's name.
    fn parse_with(path: &Path, text: &str, node: Option<String>) -> Result<Self, YamlError> {
        let raw: raw::Raw = yaml::document(path, text)?;
        parser::Parser { file: path, node }.config(raw)
    }

    /// What is in force, as YAML with every field. Reads back as the same configuration.
    ///
    /// # Errors
    ///
    /// [`PrintError`] when a path is not UTF-8.
    pub fn print(&self) -> Result<String, PrintError> {
        serde_saphyr::to_string(self).map_err(PrintError)
    }
}

/// Whether the text is a name as Kubernetes has them: RFC 1123 subdomain, at most 253 bytes.
pub(crate) fn is_dns_name(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label)
}

/// Whether the text is an RFC 1123 label, at most 63 bytes, as namespaces are.
pub(crate) fn is_dns_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn human<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&HumanDuration(*duration))
}

#[expect(
    clippy::ref_option,
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands the field over by reference"
)]
fn zero_for_none<S: serde::Serializer>(
    number: &Option<NonZeroUsize>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let number = number.map_or(0, NonZeroUsize::get);
    // A usize has at most 64 bits on every platform with eBPF.
    serializer.serialize_u64(number as u64)
}

#[expect(
    clippy::ref_option,
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands the field over by reference"
)]
fn off_for_none<S: serde::Serializer>(
    address: &Option<SocketAddr>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match address {
        Some(address) => serializer.collect_str(address),
        None => serializer.serialize_str(OFF),
    }
}
