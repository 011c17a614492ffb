//! `policies.yaml`: a stream of Istio's PeerAuthentication and AuthorizationPolicy documents,
//! unchanged.
//!
//! What a document says is read by [`crate::workload::documents`], as in a cluster. But a person
//! who writes a file is there to mend it: what is wrong is refused with its place, where a cluster
//! would go by the stricter reading.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_saphyr::{Location, Spanned};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::located::{Located, Place};
use crate::config::{YamlError, is_dns_label, is_dns_name, yaml};
use crate::workload::documents::{
    Code, Effect, Findings, Metadata, authorization_policy, peer_authentication,
};
use crate::workload::{AuthorizationPolicy, PeerAuthentication, Policies};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawPolicy {
    api_version: Spanned<String>,
    kind: Spanned<String>,
    metadata: RawMetadata,
    spec: Option<Spanned<Located>>,
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
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default, rename = "uid")]
    _uid: IgnoredAny,
    #[serde(default, rename = "resourceVersion")]
    _resource_version: IgnoredAny,
    #[serde(default, rename = "generation")]
    _generation: IgnoredAny,
    #[serde(default, rename = "managedFields")]
    _managed_fields: IgnoredAny,
}

/// What stands in a policies file.
#[derive(Debug, Default)]
pub struct PolicyFile {
    /// The policies that are in force.
    pub policies: Policies,
    /// What is to be told of the documents.
    pub news: PolicyNews,
}

/// What is to be told of the documents.
#[derive(Debug, Default)]
pub struct PolicyNews {
    /// How many there are.
    pub documents: usize,
    /// What of them does not hold as it is written, each with the policy's kind and name.
    pub findings: Vec<(String, Findings)>,
}

/// Reads the text of a policies file for a mesh of this root namespace.
///
/// # Errors
///
/// [`YamlError`] at the first document that is wrong in itself or has the name of an earlier one
/// of its kind.
pub fn parse(file: &Path, text: &str, root_namespace: &str) -> Result<PolicyFile, YamlError> {
    let raw: Vec<RawPolicy> = yaml::stream(file, text)?;
    let mut parser = Parser {
        file,
        root_namespace,
        seen: HashMap::new(),
        peer_authentications: Vec::new(),
        authorization_policies: Vec::new(),
        findings: Vec::new(),
    };
    for raw in raw {
        parser.policy(raw)?;
    }
    let Parser { peer_authentications, authorization_policies, findings, seen, .. } = parser;
    let policies = Policies::new(peer_authentications, authorization_policies);
    Ok(PolicyFile { policies, news: PolicyNews { documents: seen.len(), findings } })
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    PeerAuthentication,
    AuthorizationPolicy,
}

struct Parser<'a> {
    file: &'a Path,
    root_namespace: &'a str,
    // Kind, namespace and name of each document so far, and its line.
    seen: HashMap<(Kind, String, String), u64>,
    peer_authentications: Vec<PeerAuthentication>,
    authorization_policies: Vec<AuthorizationPolicy>,
    findings: Vec<(String, Findings)>,
}

impl Parser<'_> {
    fn policy(&mut self, raw: RawPolicy) -> Result<(), YamlError> {
        let RawPolicy { api_version, kind, metadata, spec, .. } = raw;
        if !matches!(&*api_version.value, "security.istio.io/v1" | "security.istio.io/v1beta1") {
            let expected = "security.istio.io/v1 or security.istio.io/v1beta1";
            return Err(self.is_no(&api_version, "apiVersion", "version known here", expected));
        }
        let own = match kind.value.as_str() {
            "PeerAuthentication" => Kind::PeerAuthentication,
            "AuthorizationPolicy" => Kind::AuthorizationPolicy,
            _ => {
                let expected = "PeerAuthentication or AuthorizationPolicy";
                return Err(self.is_no(&kind, "kind", "kind known here", expected));
            }
        };
        let place = metadata.name.referenced;
        let metadata = self.metadata(own, metadata)?;
        let value = spec.as_ref().map(|spec| spec.value.to_value()).unwrap_or_default();
        let findings = match own {
            Kind::PeerAuthentication => {
                let read = peer_authentication(&metadata, &value, self.root_namespace);
                self.peer_authentications.extend(read.policy);
                read.findings
            }
            Kind::AuthorizationPolicy => {
                let read = authorization_policy(&metadata, &value);
                self.authorization_policies.extend(read.policy);
                read.findings
            }
        };
        self.refuse_wrong(&findings, place, spec.as_ref())?;
        if !findings.is_empty() {
            let Metadata { namespace, name, .. } = &metadata;
            self.findings.push((format!("{} {namespace}/{name}", kind.value), findings));
        }
        Ok(())
    }

    /// The first thing that is wrong, with its place; what is only to be known passes.
    fn refuse_wrong(
        &self,
        findings: &Findings,
        name: Location,
        spec: Option<&Spanned<Located>>,
    ) -> Result<(), YamlError> {
        let Some(finding) = findings.iter().find(|finding| finding.effect == Effect::Refused)
        else {
            return Ok(());
        };
        let place = match (spec, finding.path.steps().split_first()) {
            (Some(spec), Some((_, rest))) => {
                let whole = Place { key: spec.referenced, value: spec.referenced };
                let found = spec.value.place(rest, whole);
                if finding.code == Code::UnknownField { found.key } else { found.value }
            }
            _ => name,
        };
        Err(YamlError::at(self.file, place, finding))
    }

    fn metadata(&mut self, kind: Kind, raw: RawMetadata) -> Result<Metadata, YamlError> {
        let created = self.created(raw.creation_timestamp.as_ref())?;
        let RawMetadata { name, namespace, labels, annotations, .. } = raw;
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
        let key = (kind, namespace.clone(), name.value.clone());
        if let Some(first) = self.seen.insert(key, name.referenced.line()) {
            let problem = format!("`{namespace}/{}` already stands on line {first}", name.value);
            let expected = "one document for each name of a namespace";
            return Err(self.refuse(name.referenced, "metadata.name", &problem, expected));
        }
        Ok(Metadata { name: name.value, namespace, created, labels, annotations })
    }

    fn created(&self, text: Option<&Spanned<String>>) -> Result<Option<i128>, YamlError> {
        let Some(text) = text else { return Ok(None) };
        let time = OffsetDateTime::parse(&text.value, &Rfc3339).map_err(|_| {
            let expected = "such as 2026-01-31T12:00:00Z";
            self.is_no(text, "metadata.creationTimestamp", "time", expected)
        })?;
        Ok(Some(time.unix_timestamp_nanos()))
    }

    fn is_no(&self, text: &Spanned<String>, field: &str, what: &str, expected: &str) -> YamlError {
        let problem = format!("`{}` is no {what}", text.value.escape_debug());
        self.refuse(text.referenced, field, &problem, expected)
    }

    fn refuse(&self, place: Location, field: &str, problem: &str, expected: &str) -> YamlError {
        YamlError::at(self.file, place, format_args!("`{field}`: {problem}; expected {expected}"))
    }
}
