//! From the file's fields to values: defaults, ranges, relative paths.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use serde_saphyr::{Location, Spanned};

use super::yaml::YamlError;
use super::{
    AccessLog, Admin, Ca, Capture, Cni, Config, DEFAULT_ADMIN_SOCKET, DEFAULT_CNI_SOCKET,
    HumanDuration, Kubernetes, Mesh, NODE_VARIABLE, OFF, Observe, Removal, Share, Traces, Tunnel,
    WorkloadApi, is_dns_name, raw,
};

/// Linux: `sun_path` has 108 bytes, one of them a final zero; four are left for the other name
/// under which a socket is made.
const MAX_SOCKET_BYTES: usize = 103;

/// Sets of labels that flows are counted under: enough for 100 workloads of a node that each have
/// 100 peers in both directions.
const MAX_SERIES: u32 = 25_000;
/// Letters of a cluster's name; it stands twice in each line of the metrics.
const CLUSTER_NAME: usize = 63;

/// Turns the file's fields into values; knows the file for errors and relative paths.
pub(super) struct Parser<'a> {
    pub(super) file: &'a Path,
    /// [`NODE_VARIABLE`]'s value, if it is set.
    pub(super) node: Option<String>,
}

impl Parser<'_> {
    pub(super) fn config(&self, raw: raw::Raw) -> Result<Config, YamlError> {
        let workloads = self.workloads(&raw)?;
        let node = self.node(raw.node)?;
        Ok(Config {
            trust_domain: self.value(raw.trust_domain, "trustDomain", "cluster.local")?,
            workloads,
            policies: raw.policies.map(|p| self.path(Some(p), "policies", "")).transpose()?,
            kubernetes: raw.kubernetes.map(|cluster| self.kubernetes(cluster)).transpose()?,
            mesh: self.mesh(raw.mesh)?,
            ca: self.ca(raw.ca, &node)?,
            capture: self.capture(raw.capture)?,
            tunnel: self.tunnel(raw.tunnel)?,
            workload_api: raw.workload_api.map(|api| self.workload_api(api)).transpose()?,
            removal: raw.removal.map(|removal| self.removal(removal)).transpose()?,
            cni: raw.cni.map(|cni| self.cni(cni)).transpose()?,
            observe: self.observe(raw.observe)?,
            admin: self.admin(raw.admin)?,
            node,
        })
    }

    fn admin(&self, raw: raw::Admin) -> Result<Admin, YamlError> {
        let field = "admin.listen";
        let listen = match raw.listen {
            Some(text) if text.value == OFF => None,
            Some(text) => {
                let address: SocketAddr = text.value.parse().map_err(|_| {
                    let problem = format!("`{}` is no address to listen on", text.value);
                    let expected = "off, or such as 127.0.0.1:15000 or [::1]:15000";
                    self.refuse(text.referenced, field, problem, expected)
                })?;
                if !address.ip().is_loopback() {
                    let problem = format!("`{address}` can be reached from elsewhere");
                    let expected = "an address of the loopback, such as 127.0.0.1:15000, or off; \
                                    whoever may ask can see all connections";
                    return Err(self.refuse(text.referenced, field, problem, expected));
                }
                Some(address)
            }
            None => Some(SocketAddr::from(([127, 0, 0, 1], 15000))),
        };
        Ok(Admin {
            socket: self.socket(raw.socket, "admin.socket", DEFAULT_ADMIN_SOCKET)?,
            listen,
            quit: raw.quit.unwrap_or(false),
        })
    }

    /// The environment's word counts before the file's: a file may be the same for all nodes.
    fn node(&self, written: Option<Spanned<String>>) -> Result<String, YamlError> {
        match (&self.node, written) {
            (Some(node), _) if is_dns_name(node) => Ok(node.clone()),
            (Some(node), _) => {
                let problem = format!("`{node}` is no name");
                let expected = "the name of this node: lower-case letters, digits, `-` and `.`";
                Err(self.refuse(Location::UNKNOWN, NODE_VARIABLE, problem, expected))
            }
            (None, Some(node)) => {
                self.name(node, "node", "the name of this node in the workloads file")
            }
            (None, None) => Err(YamlError {
                file: self.file.to_owned(),
                line: 1,
                column: 1,
                problem: format!(
                    "field `node` is missing; write it here, or set {NODE_VARIABLE} in the \
                     environment"
                ),
            }),
        }
    }

    /// The workloads file; none where a cluster says what the mesh is.
    fn workloads(&self, raw: &raw::Raw) -> Result<Option<PathBuf>, YamlError> {
        if raw.kubernetes.is_none() {
            return self.path(raw.workloads.clone(), "workloads", "workloads.yaml").map(Some);
        }
        let files = [("workloads", &raw.workloads), ("policies", &raw.policies)];
        let both = files.into_iter().find_map(|(field, file)| Some((field, file.as_ref()?)));
        match both {
            None => Ok(None),
            Some((field, file)) => {
                let problem = "stands beside `kubernetes`";
                Err(self.refuse(file.referenced, field, problem, "one of the two"))
            }
        }
    }

    fn kubernetes(&self, raw: raw::Kubernetes) -> Result<Kubernetes, YamlError> {
        let ranges = raw.pod_ranges.iter();
        Ok(Kubernetes {
            kubeconfig: raw
                .kubeconfig
                .map(|file| self.path(Some(file), "kubernetes.kubeconfig", ""))
                .transpose()?,
            pod_ranges: ranges
                .map(|range| self.range(range, "kubernetes.podRanges"))
                .collect::<Result<_, _>>()?,
            netns_directory: self.path(
                raw.netns_directory,
                "kubernetes.netnsDirectory",
                "/run/netns",
            )?,
        })
    }

    fn mesh(&self, raw: raw::Mesh) -> Result<Mesh, YamlError> {
        let root_namespace = match raw.root_namespace {
            Some(name) => self.name(name, "mesh.rootNamespace", "the name of a namespace")?,
            None => "istio-system".to_owned(),
        };
        let ranges = match raw.ranges {
            Some(ranges) => {
                let ranges = ranges.iter().map(|range| self.range(range, "mesh.ranges"));
                ranges.collect::<Result<_, _>>()?
            }
            None => {
                vec![IpNet::from(ipnet::Ipv4Net::default()), IpNet::from(ipnet::Ipv6Net::default())]
            }
        };
        Ok(Mesh { root_namespace, ranges })
    }

    fn ca(&self, raw: raw::Ca, node: &str) -> Result<Ca, YamlError> {
        Ok(Ca {
            address: self.value(raw.address, "ca.address", "127.0.0.1:15012")?,
            root_file: self.path(raw.root_file, "ca.rootFile", "root-cert.pem")?,
            bundle_file: self.path(
                raw.bundle_file,
                "ca.bundleFile",
                &format!("{node}.bundle.json"),
            )?,
            token_file: self.path(raw.token_file, "ca.tokenFile", &format!("{node}.token"))?,
            certificate_ttl: self.duration(
                raw.certificate_ttl,
                "ca.certificateTtl",
                "24h",
                Duration::from_secs(10)..=Duration::from_hours(90 * 24),
            )?,
        })
    }

    fn capture(&self, raw: raw::Capture) -> Result<Capture, YamlError> {
        if let (Some(host), None) = (&raw.host_proc, &raw.cgroup) {
            let problem = "there is no `capture.cgroup` beside it";
            let expected = "both: a container's own cgroup tree holds no pods but itself";
            return Err(self.refuse(host.referenced, "capture.hostProc", problem, expected));
        }
        Ok(Capture {
            host_proc: raw
                .host_proc
                .map(|p| self.path(Some(p), "capture.hostProc", ""))
                .transpose()?,
            cgroup: raw.cgroup.map(|c| self.path(Some(c), "capture.cgroup", "")).transpose()?,
            pin_directory: self.path(
                raw.pin_directory,
                "capture.pinDirectory",
                "/sys/fs/bpf/culvert",
            )?,
            when_agent_down: raw.when_agent_down.unwrap_or_default(),
        })
    }

    fn tunnel(&self, raw: raw::Tunnel) -> Result<Tunnel, YamlError> {
        let number = |value, field, default, range| self.number(value, field, default, range);
        let workers = match raw.workers {
            Some(workers) if workers.value > 1024 => {
                let problem = format!("{} is out of range", workers.value);
                let expected = "0 for one a core, or 1 to 1024";
                return Err(self.refuse(workers.referenced, "tunnel.workers", &problem, expected));
            }
            Some(workers) => usize::try_from(workers.value).ok().and_then(NonZeroUsize::new),
            None => None,
        };
        let drain_timeout = self.duration(
            raw.drain_timeout,
            "tunnel.drainTimeout",
            "30s",
            Duration::ZERO..=Duration::from_hours(1),
        )?;
        let idle_timeout = self.duration(
            raw.idle_timeout,
            "tunnel.idleTimeout",
            "5m",
            Duration::from_secs(1)..=Duration::from_hours(24),
        )?;
        Ok(Tunnel {
            workers,
            drain_timeout,
            idle_timeout,
            // RFC 9113: windows go up to 2^31 - 1, and below 64 KiB nothing flows well.
            stream_window: number(
                raw.stream_window,
                "tunnel.streamWindow",
                1 << 20,
                65_535..=1 << 26,
            )?,
            streams_per_connection: number(
                raw.streams_per_connection,
                "tunnel.streamsPerConnection",
                100,
                1..=10_000,
            )?,
            connections_per_pair: number(
                raw.connections_per_pair,
                "tunnel.connectionsPerPair",
                256,
                1..=65_536,
            )?,
            connections: number(raw.connections, "tunnel.connections", 16_384, 1..=1 << 20)?,
            handshakes: number(raw.handshakes, "tunnel.handshakes", 512, 1..=1 << 16)?,
            handshakes_per_source: number(
                raw.handshakes_per_source,
                "tunnel.handshakesPerSource",
                128,
                1..=1 << 16,
            )?,
        })
    }

    fn workload_api(&self, raw: raw::WorkloadApi) -> Result<WorkloadApi, YamlError> {
        Ok(WorkloadApi { socket: self.socket(Some(raw.socket), "workloadApi.socket", "")? })
    }

    fn removal(&self, raw: raw::Removal) -> Result<Removal, YamlError> {
        let namespace = self.name(raw.namespace, "removal.namespace", "the name of a namespace")?;
        let expected = "the name of the agents' DaemonSet";
        Ok(Removal {
            namespace,
            daemon_set: self.name(raw.daemon_set, "removal.daemonSet", expected)?,
            kubeconfig: raw
                .kubeconfig
                .map(|path| self.path(Some(path), "removal.kubeconfig", ""))
                .transpose()?,
        })
    }

    fn cni(&self, raw: raw::Cni) -> Result<Cni, YamlError> {
        Ok(Cni { socket: self.socket(raw.socket, "cni.socket", DEFAULT_CNI_SOCKET)? })
    }

    /// A whole number within a range.
    fn number(
        &self,
        value: Option<Spanned<u64>>,
        field: &str,
        default: u32,
        range: RangeInclusive<u32>,
    ) -> Result<u32, YamlError> {
        let Some(value) = value else { return Ok(default) };
        match u32::try_from(value.value) {
            Ok(number) if range.contains(&number) => Ok(number),
            _ => {
                let problem = format!("{} is out of range", value.value);
                let expected = format!("{} to {}", range.start(), range.end());
                Err(self.refuse(value.referenced, field, &problem, expected))
            }
        }
    }

    fn observe(&self, raw: raw::Observe) -> Result<Observe, YamlError> {
        Ok(Observe {
            metrics: self.listen(raw.metrics, "observe.metrics", 15020)?,
            readiness: self.listen(raw.readiness, "observe.readiness", 15021)?,
            log: self.filter(raw.log)?,
            log_format: raw.log_format.unwrap_or_default(),
            access_log: self.access_log(raw.access_log)?,
            events: raw.events.unwrap_or(true),
            http: raw.http.unwrap_or(true),
            http_except_ports: self.ports(raw.http_except_ports)?,
            traces: raw.traces.map(|traces| self.traces(traces)).transpose()?,
            cluster: self.cluster(raw.cluster)?,
            max_series: self.number(
                raw.max_series,
                "observe.maxSeries",
                MAX_SERIES,
                1..=10_000_000,
            )?,
        })
    }

    fn access_log(&self, raw: Option<raw::AccessLog>) -> Result<AccessLog, YamlError> {
        let default = AccessLog::default();
        let Some(raw) = raw else { return Ok(default) };
        let sample = match raw.sample {
            Some(share) if (0.0..=1.0).contains(&share.value) => share.value,
            Some(share) => {
                let problem = format!("{} is no share", share.value);
                let expected = "0 to 1, such as 0.01 for one in a hundred";
                let field = "observe.accessLog.sample";
                return Err(self.refuse(share.referenced, field, problem, expected));
            }
            None => default.sample,
        };
        let max_per_second = self.number(
            raw.max_per_second,
            "observe.accessLog.maxPerSecond",
            default.max_per_second,
            1..=1_000_000,
        )?;
        let enabled = raw.enabled.unwrap_or(default.enabled);
        Ok(AccessLog { enabled, sample, max_per_second })
    }

    fn traces(&self, raw: raw::Traces) -> Result<Traces, YamlError> {
        let mut endpoint = raw.endpoint;
        // As OpenTelemetry's own settings have it.
        if let Some(rest) = endpoint.value.strip_prefix("http://") {
            endpoint.value = rest.trim_end_matches('/').to_owned();
        }
        let sample_ratio = match raw.sample_ratio {
            None => Share::HUNDREDTH,
            Some(ratio) => Share::new(ratio.value).ok_or_else(|| {
                let problem = format!("{} is no share", ratio.value);
                self.refuse(ratio.referenced, "observe.traces.sampleRatio", problem, "0 to 1")
            })?,
        };
        let endpoint = self.value(Some(endpoint), "observe.traces.endpoint", "")?;
        Ok(Traces { endpoint, sample_ratio })
    }

    fn ports(&self, ports: Vec<Spanned<u64>>) -> Result<Vec<u16>, YamlError> {
        let port = |port: Spanned<u64>| match u16::try_from(port.value) {
            Ok(number) if number != 0 => Ok(number),
            _ => {
                let problem = format!("{} is no port", port.value);
                let field = "observe.httpExceptPorts";
                Err(self.refuse(port.referenced, field, problem, "1 to 65535"))
            }
        };
        ports.into_iter().map(port).collect()
    }

    fn cluster(&self, raw: Option<Spanned<String>>) -> Result<Option<String>, YamlError> {
        let Some(raw) = raw else { return Ok(None) };
        let fits = (1..=CLUSTER_NAME).contains(&raw.value.len());
        if fits && raw.value.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(Some(raw.value));
        }
        let problem = format!("`{}` is no name of a cluster", raw.value);
        let expected = format!("1 to {CLUSTER_NAME} letters, without spaces");
        Err(self.refuse(raw.referenced, "observe.cluster", problem, expected))
    }

    fn refuse(
        &self,
        location: Location,
        field: &str,
        problem: impl fmt::Display,
        expected: impl fmt::Display,
    ) -> YamlError {
        let problem = format!("`{field}`: {problem}; expected {expected}");
        YamlError::at(self.file, location, problem)
    }

    /// A value whose own error says what was expected.
    fn value<T>(
        &self,
        text: Option<Spanned<String>>,
        field: &str,
        default: &str,
    ) -> Result<T, YamlError>
    where
        T: FromStr<Err: fmt::Display>,
    {
        let (text, location) = match text {
            Some(text) => (text.value, text.referenced),
            None => (default.to_owned(), Location::UNKNOWN),
        };
        text.parse().map_err(|error: T::Err| {
            YamlError::at(self.file, location, format_args!("`{field}`: {error}"))
        })
    }

    fn duration(
        &self,
        text: Option<Spanned<String>>,
        field: &str,
        default: &str,
        range: RangeInclusive<Duration>,
    ) -> Result<Duration, YamlError> {
        let location = text.as_ref().map_or(Location::UNKNOWN, |t| t.referenced);
        let HumanDuration(duration) = self.value(text, field, default)?;
        if range.contains(&duration) {
            return Ok(duration);
        }
        let problem = format!("{} is out of range", HumanDuration(duration));
        let (least, most) = (HumanDuration(*range.start()), HumanDuration(*range.end()));
        Err(self.refuse(location, field, problem, format_args!("{least} to {most}")))
    }

    fn path(
        &self,
        text: Option<Spanned<String>>,
        field: &str,
        default: &str,
    ) -> Result<PathBuf, YamlError> {
        let path = match text {
            Some(text) if text.value.is_empty() || text.value.contains('\0') => {
                let expected = "a path, relative to this file or absolute";
                return Err(self.refuse(text.referenced, field, "no path", expected));
            }
            Some(text) => PathBuf::from(text.value),
            None => PathBuf::from(default),
        };
        // Joining an absolute path yields that path.
        Ok(self.file.parent().unwrap_or(Path::new("")).join(path))
    }

    /// The path of a unix socket, which the kernel bounds.
    fn socket(
        &self,
        text: Option<Spanned<String>>,
        field: &str,
        default: &str,
    ) -> Result<PathBuf, YamlError> {
        let location = text.as_ref().map_or(Location::UNKNOWN, |text| text.referenced);
        let path = self.path(text, field, default)?;
        if path.as_os_str().len() > MAX_SOCKET_BYTES {
            let problem = format!("`{}` is too long for a socket", path.display());
            let expected = format!("a path of at most {MAX_SOCKET_BYTES} bytes");
            return Err(self.refuse(location, field, problem, expected));
        }
        Ok(path)
    }

    fn name(
        &self,
        text: Spanned<String>,
        field: &str,
        expected: &str,
    ) -> Result<String, YamlError> {
        if is_dns_name(&text.value) {
            return Ok(text.value);
        }
        let problem = format!("`{}` is no name", text.value);
        let expected = format!("{expected}: lower-case letters, digits, `-` and `.`");
        Err(self.refuse(text.referenced, field, problem, expected))
    }

    fn range(&self, text: &Spanned<String>, field: &str) -> Result<IpNet, YamlError> {
        let refuse = |problem: &str| {
            let problem = format!("`{}` {problem}", text.value);
            let expected = "an address and a prefix length with no bit set behind it, such as \
                            10.0.0.0/8 or fd00::/8";
            self.refuse(text.referenced, field, problem, expected)
        };
        let range: IpNet = text.value.parse().map_err(|_| refuse("is no range"))?;
        if range.addr() == range.network() { Ok(range) } else { Err(refuse("has bits set")) }
    }

    fn listen(
        &self,
        text: Option<Spanned<String>>,
        field: &str,
        port: u16,
    ) -> Result<SocketAddr, YamlError> {
        let Some(text) = text else {
            return Ok(SocketAddr::from(([0, 0, 0, 0], port)));
        };
        text.value.parse().map_err(|_| {
            let problem = format!("`{}` is no address to listen on", text.value);
            let expected = format!("such as 0.0.0.0:{port}, 127.0.0.1:{port} or [::]:{port}");
            self.refuse(text.referenced, field, problem, expected)
        })
    }

    fn filter(&self, text: Option<Spanned<String>>) -> Result<String, YamlError> {
        let Some(text) = text else { return Ok("info".to_owned()) };
        match text.value.parse::<tracing_subscriber::filter::Targets>() {
            Ok(_) => Ok(text.value),
            // EnvFilter's syntax is wider: spans and fields in brackets.
            Err(_) if text.value.parse::<tracing_subscriber::EnvFilter>().is_ok() => Ok(text.value),
            Err(_) => {
                let problem = format!("`{}` is no log filter", text.value);
                let expected = "such as info, or warn,culvert_agent::tunnel=debug";
                Err(self.refuse(text.referenced, "observe.log", problem, expected))
            }
        }
    }
}
