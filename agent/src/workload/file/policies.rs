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

#[derive(Default, Deserialize)]
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
    let mut parser = Parser { file, seen: HashMap::new() };
    raw.into_iter().map(|raw| parser.policy(raw)).collect()
}

struct Parser<'a> {
    file: &'a Path,
    // Namespace and name of each document so far, and its line.
    seen: HashMap<(String, String), u64>,
}

impl Parser<'_> {
    fn policy(&mut self, raw: RawPolicy) -> Result<PeerAuthentication, YamlError> {
        let RawPolicy { api_version, kind, metadata, spec, .. } = raw;
        if !matches!(&*api_version.value, "security.istio.io/v1" | "security.istio.io/v1beta1") {
            let expected = "security.istio.io/v1 or security.istio.io/v1beta1";
            return Err(self.is_no(&api_version, "apiVersion", "version known here", expected));
        }
        if kind.value != "PeerAuthentication" {
            return Err(self.is_no(&kind, "kind", "kind known here", "PeerAuthentication"));
        }
        let created = self.created(metadata.creation_timestamp.as_ref())?;
        let (namespace, name) = self.name(metadata)?;
        let RawSpec { selector, mtls, port_level_mtls } = spec.unwrap_or_default();
        let selector = selector.map(|selector| selector.match_labels).unwrap_or_default();
        let ports = match port_level_mtls {
            Some(ports) => self.ports(ports, !selector.is_empty())?,
            None => BTreeMap::new(),
        };
        let mode = mtls.map(MtlsMode::from).unwrap_or_default();
        Ok(PeerAuthentication { name, namespace, created, selector, mode, ports })
    }

    fn name(&mut self, metadata: RawMetadata) -> Result<(String, String), YamlError> {
        let RawMetadata { name, namespace, .. } = metadata;
        if !is_dns_name(&name.value) {
            let expected = "a lower-case name of letters, digits, `-` and `.`";
            return Err(self.is_no(&name, "metadata.name", "name", expected));
        }
        let namespace = match namespace {
            Some(text) if is_dns_label(&text.value) => text.value,
            Some(text) => {
                let expected = "1 to 63 lower-case letters, digits and `-`";
                return Err(self.is_no(&text, "metadata.namespace", "namespace", expected));
            }
            // As kubectl does.
            None => "default".to_owned(),
        };
        let key = (namespace, name.value);
        if let Some(first) = self.seen.insert(key.clone(), name.referenced.line()) {
            let problem = format!("`{}/{}` already stands on line {first}", key.0, key.1);
            let expected = "one document for each name of a namespace";
            return Err(self.refuse(name.referenced, "metadata.name", &problem, expected));
        }
        Ok(key)
    }

    fn created(&self, text: Option<&Spanned<String>>) -> Result<Option<i128>, YamlError> {
        let Some(text) = text else { return Ok(None) };
        let time = OffsetDateTime::parse(&text.value, &Rfc3339).map_err(|_| {
            let expected = "such as 2026-01-31T12:00:00Z";
            self.is_no(text, "metadata.creationTimestamp", "time", expected)
        })?;
        Ok(Some(time.unix_timestamp_nanos()))
    }

    fn ports(
        &self,
        raw: Spanned<BTreeMap<String, Spanned<RawMtls>>>,
        has_selector: bool,
    ) -> Result<BTreeMap<u16, MtlsMode>, YamlError> {
        const FIELD: &str = "spec.portLevelMtls";
        if !has_selector && !raw.value.is_empty() {
            let expected = "`spec.selector.matchLabels` to say whose ports are meant";
            return Err(self.refuse(raw.referenced, FIELD, "there is no selector", expected));
        }
        let mut ports = BTreeMap::new();
        for (text, mtls) in raw.value {
            let port = text.parse::<u16>().ok().filter(|port| *port != 0);
            let port = port.ok_or_else(|| {
                let problem = format!("`{}` is no port", text.escape_debug());
                self.refuse(mtls.referenced, FIELD, &problem, "a number from 1 to 65535")
            })?;
            // `80` and `080` are two keys and one port.
            if ports.insert(port, mtls.value.into()).is_some() {
                let problem = format!("port {port} is given twice");
                return Err(self.refuse(mtls.referenced, FIELD, &problem, "each port once"));
            }
        }
        Ok(ports)
    }

    fn is_no(&self, text: &Spanned<String>, field: &str, what: &str, expected: &str) -> YamlError {
        let problem = format!("`{}` is no {what}", text.value.escape_debug());
        self.refuse(text.referenced, field, &problem, expected)
    }

    fn refuse(&self, place: Location, field: &str, problem: &str, expected: &str) -> YamlError {
        YamlError::at(self.file, place, format_args!("`{field}`: {problem}; expected {expected}"))
    }
}
