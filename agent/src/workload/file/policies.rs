//! `policies.yaml`: a stream of Istio's PeerAuthentication documents, unchanged.
//!
//! Source: istio/api `security/v1beta1/peer_authentication.proto` and its CRD rules.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_saphyr::{Location, Spanned};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::config::{YamlError, is_dns_label, is_dns_name, yaml};
use crate::workload::model::{MtlsMode, PeerAuthentication};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawPolicy {
    api_version: Spanned<String>,
    kind: Spanned<String>,
    metadata: RawMetadata,
    spec: Option<RawSpec>,
    #[serde(default, rename = "status")]
    _status: IgnoredAny,
}

// What `kubectl get -o yaml` adds is let by, so that its output can be used as it is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawMetadata {
    name: Spanned<String>,
    namespace: Option<Spanned<String>>,
    creation_timestamp: Option<Spanned<String>>,
    #[serde(default, rename = "labels")]
    _labels: IgnoredAny,
    #[serde(default, rename = "annotations")]
    _annotations: IgnoredAny,
    #[serde(default, rename = "uid")]
    _uid: IgnoredAny,
    #[serde(default, rename = "resourceVersion")]
    _resource_version: IgnoredAny,
    #[serde(default, rename = "generation")]
    _generation: IgnoredAny,
    #[serde(default, rename = "managedFields")]
    _managed_fields: IgnoredAny,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawSpec {
    selector: Option<RawSelector>,
    mtls: Option<RawMtls>,
    port_level_mtls: Option<Spanned<BTreeMap<String, Spanned<RawMtls>>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawSelector {
    #[serde(default)]
    match_labels: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMtls {
    #[serde(default)]
    mode: RawMode,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum RawMode {
    #[default]
    Unset,
    Disable,
    Permissive,
    Strict,
}

impl From<RawMtls> for MtlsMode {
    fn from(raw: RawMtls) -> Self {
        match raw.mode {
            RawMode::Unset => Self::Unset,
            RawMode::Disable => Self::Disable,
            RawMode::Permissive => Self::Permissive,
            RawMode::Strict => Self::Strict,
        }
    }
}

/// Reads the text of a policies file.
///
/// # Errors
///
/// [`YamlError`] at the first document that is wrong in itself or has the name of an earlier one.
pub fn parse(file: &Path, text: &str) -> Result<Vec<PeerAuthentication>, YamlError> {
    let raw: Vec<RawPolicy> = yaml::stream(file, text)?;
    let mut seen = HashMap::new();
    raw.into_iter().map(|raw| policy(file, raw, &mut seen)).collect()
}

fn policy(
    file: &Path,
    raw: RawPolicy,
    seen: &mut HashMap<(String, String), u64>,
) -> Result<PeerAuthentication, YamlError> {
    let refuse = |place: Location, field: &str, problem: &str, expected: &str| {
        YamlError::at(file, place, format_args!("`{field}`: {problem}; expected {expected}"))
    };
    let is_no = |text: &Spanned<String>, field: &str, what: &str, expected: &str| {
        let problem = format!("`{}` is no {what}", text.value.escape_debug());
        refuse(text.referenced, field, &problem, expected)
    };
    if !matches!(&*raw.api_version.value, "security.istio.io/v1" | "security.istio.io/v1beta1") {
        let expected = "security.istio.io/v1 or security.istio.io/v1beta1";
        return Err(is_no(&raw.api_version, "apiVersion", "version known here", expected));
    }
    if raw.kind.value != "PeerAuthentication" {
        return Err(is_no(&raw.kind, "kind", "kind known here", "PeerAuthentication"));
    }
    let RawMetadata { name, namespace, creation_timestamp, .. } = raw.metadata;
    if !is_dns_name(&name.value) {
        let expected = "a lower-case name of letters, digits, `-` and `.`";
        return Err(is_no(&name, "metadata.name", "name", expected));
    }
    let namespace = match namespace {
        Some(text) if is_dns_label(&text.value) => text.value,
        Some(text) => {
            let expected = "1 to 63 lower-case letters, digits and `-`";
            return Err(is_no(&text, "metadata.namespace", "namespace", expected));
        }
        // As kubectl does.
        None => "default".to_owned(),
    };
    let created = match creation_timestamp {
        Some(text) => match OffsetDateTime::parse(&text.value, &Rfc3339) {
            Ok(time) => Some(time.unix_timestamp_nanos()),
            Err(_) => {
                let expected = "such as 2026-01-31T12:00:00Z";
                return Err(is_no(&text, "metadata.creationTimestamp", "time", expected));
            }
        },
        None => None,
    };
    let key = (namespace.clone(), name.value.clone());
    if let Some(first) = seen.insert(key, name.referenced.line()) {
        let problem = format!("`{namespace}/{}` already stands on line {first}", name.value);
        let expected = "one document for each name of a namespace";
        return Err(refuse(name.referenced, "metadata.name", &problem, expected));
    }
    let spec = raw.spec.unwrap_or(RawSpec { selector: None, mtls: None, port_level_mtls: None });
    let selector = spec.selector.map(|selector| selector.match_labels).unwrap_or_default();
    let mut ports = BTreeMap::new();
    if let Some(raw_ports) = spec.port_level_mtls {
        if selector.is_empty() && !raw_ports.value.is_empty() {
            let problem = "there is no selector";
            let expected = "`spec.selector.matchLabels` to say whose ports are meant";
            return Err(refuse(raw_ports.referenced, "spec.portLevelMtls", problem, expected));
        }
        for (port, mtls) in raw_ports.value {
            let number = port.parse::<u16>().ok().filter(|number| *number != 0);
            let Some(number) = number else {
                let problem = format!("`{}` is no port", port.escape_debug());
                let expected = "a number from 1 to 65535";
                return Err(refuse(mtls.referenced, "spec.portLevelMtls", &problem, expected));
            };
            if ports.insert(number, mtls.value.into()).is_some() {
                let problem = format!("port {number} is given twice");
                let expected = "each port once";
                return Err(refuse(mtls.referenced, "spec.portLevelMtls", &problem, expected));
            }
        }
    }
    Ok(PeerAuthentication {
        name: name.value,
        namespace,
        created,
        selector,
        mode: spec.mtls.map(MtlsMode::from).unwrap_or_default(),
        ports,
    })
}
