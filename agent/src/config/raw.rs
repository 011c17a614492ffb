//! The file as it is written: every field optional, nothing unknown.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_saphyr::Spanned;

use super::{LogFormat, WhenAgentDown};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Raw {
    pub(super) node: Option<Spanned<String>>,
    pub(super) trust_domain: Option<Spanned<String>>,
    pub(super) workloads: Option<Spanned<String>>,
    pub(super) policies: Option<Spanned<String>>,
    pub(super) kubernetes: Option<Kubernetes>,
    #[serde(default)]
    pub(super) mesh: Mesh,
    #[serde(default)]
    pub(super) ca: Ca,
    #[serde(default)]
    pub(super) capture: Capture,
    #[serde(default)]
    pub(super) tunnel: Tunnel,
    pub(super) workload_api: Option<WorkloadApi>,
    pub(super) removal: Option<Removal>,
    pub(super) cni: Option<Cni>,
    #[serde(default)]
    pub(super) observe: Observe,
    #[serde(default)]
    pub(super) admin: Admin,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Mesh {
    pub(super) root_namespace: Option<Spanned<String>>,
    pub(super) ranges: Option<Vec<Spanned<String>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Kubernetes {
    pub(super) kubeconfig: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) pod_ranges: Vec<Spanned<String>>,
    pub(super) netns_directory: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Ca {
    pub(super) address: Option<Spanned<String>>,
    pub(super) root_file: Option<Spanned<String>>,
    pub(super) bundle_file: Option<Spanned<String>>,
    pub(super) token_file: Option<Spanned<String>>,
    pub(super) certificate_ttl: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Capture {
    pub(super) cgroup: Option<Spanned<String>>,
    pub(super) pin_directory: Option<Spanned<String>>,
    pub(super) host_proc: Option<Spanned<String>>,
    pub(super) when_agent_down: Option<WhenAgentDown>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Tunnel {
    pub(super) workers: Option<Spanned<u64>>,
    pub(super) drain_timeout: Option<Spanned<String>>,
    pub(super) idle_timeout: Option<Spanned<String>>,
    pub(super) stream_window: Option<Spanned<u64>>,
    pub(super) streams_per_connection: Option<Spanned<u64>>,
    pub(super) connections_per_pair: Option<Spanned<u64>>,
    pub(super) connections: Option<Spanned<u64>>,
    pub(super) handshakes: Option<Spanned<u64>>,
    pub(super) handshakes_per_source: Option<Spanned<u64>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct WorkloadApi {
    pub(super) socket: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Removal {
    pub(super) namespace: Spanned<String>,
    pub(super) daemon_set: Spanned<String>,
    pub(super) kubeconfig: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Cni {
    pub(super) socket: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Observe {
    pub(super) metrics: Option<Spanned<String>>,
    pub(super) readiness: Option<Spanned<String>>,
    pub(super) log: Option<Spanned<String>>,
    pub(super) log_format: Option<LogFormat>,
    pub(super) access_log: Option<AccessLog>,
    pub(super) events: Option<bool>,
    pub(super) http: Option<bool>,
    pub(super) traces: Option<Traces>,
    #[serde(default)]
    pub(super) http_except_ports: Vec<Spanned<u64>>,
    pub(super) cluster: Option<Spanned<String>>,
    pub(super) max_series: Option<Spanned<u64>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Traces {
    pub(super) endpoint: Spanned<String>,
    pub(super) sample_ratio: Option<Spanned<f64>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Admin {
    pub(super) socket: Option<Spanned<String>>,
    pub(super) listen: Option<Spanned<String>>,
    pub(super) quit: Option<bool>,
}

/// `true`, `false`, or a mapping.
pub(super) struct AccessLog {
    pub(super) enabled: Option<bool>,
    pub(super) sample: Option<Spanned<f64>>,
    pub(super) max_per_second: Option<Spanned<u64>>,
}

impl<'de> Deserialize<'de> for AccessLog {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        struct Mapping {
            enabled: Option<bool>,
            sample: Option<Spanned<f64>>,
            max_per_second: Option<Spanned<u64>>,
        }
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = AccessLog;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false, or a mapping of enabled, sample and maxPerSecond")
            }

            fn visit_bool<E: de::Error>(self, enabled: bool) -> Result<AccessLog, E> {
                Ok(AccessLog { enabled: Some(enabled), sample: None, max_per_second: None })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<AccessLog, A::Error> {
                let Mapping { enabled, sample, max_per_second } =
                    Mapping::deserialize(MapAccessDeserializer::new(map))?;
                Ok(AccessLog { enabled, sample, max_per_second })
            }
        }
        deserializer.deserialize_any(Either)
    }
}
