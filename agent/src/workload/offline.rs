//! The mesh from files that somebody wrote or saved, for questions without an agent.
//!
//! ```text
//!  files ─▶ documents ─┬─ `workloads:` ──────────▶ file::workloads ──┐
//!                      ├─ policies, alone or in a List ─▶ documents ─┼─▶ Offline ─▶ Snapshot of a node
//!                      └─ Pods, Services, … ──▶ kubernetes::written ─┘
//! ```
//!
//! What a file means is what an agent would make of it: the same functions read it. Where any
//! workload stands in the standalone form, a wrong policy is an error, as the agent refuses the
//! edit; with Kubernetes objects the stricter reading holds, as in a cluster, and is told.

mod input;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use culvert_spiffe::TrustDomain;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use super::documents::{Effect, Findings, Metadata, authorization_policy, peer_authentication};
use super::file::{policies as policy_file, workloads as workload_file};
use super::kubernetes::Written;
use super::{
    AuthorizationPolicy, PeerAuthentication, Policies, Services, Snapshot, SnapshotError, Workload,
    WorkloadKey,
};
use crate::config::{YamlError, is_dns_label, is_dns_name};
use input::{Document, Input};

/// The API group of the policies.
const POLICY_GROUP: &str = "security.istio.io";

/// Why files do not say what the mesh is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OfflineError {
    /// A file could not be read.
    #[error("cannot read {path}; name a readable file, a directory of them, or `-`")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file is larger than any mesh.
    #[error("{path} has more than {most} bytes, the most allowed")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// How many are allowed.
        most: u64,
    },
    /// A file is no YAML or JSON, or says something that cannot be.
    #[error(transparent)]
    Invalid(#[from] YamlError),
    /// A document says something that cannot be.
    #[error("{file}, document {number}: {problem}")]
    Document {
        /// The file.
        file: PathBuf,
        /// Which of its documents, from 1; items of a List count one by one.
        number: usize,
        /// What is wrong, and what was expected.
        problem: String,
    },
    /// Two documents have one name and are not equal.
    #[error("{kind} {key} stands in {first} and, otherwise, in {second}; keep one of them")]
    Differs {
        /// The kind of both.
        kind: String,
        /// The name of both.
        key: WorkloadKey,
        /// Where the first stands.
        first: PathBuf,
        /// Where the second stands.
        second: PathBuf,
    },
    /// There is nobody who could connect.
    #[error(
        "there is no workload in {}; give `workloads:` as in standalone mode, or Pods as `kubectl \
         get pods,namespaces,services,endpointslices -A -o yaml` writes them", listed(.files)
    )]
    NoWorkload {
        /// All files.
        files: Vec<PathBuf>,
    },
    /// Entries contradict each other.
    #[error("the files contradict each other")]
    Contradiction(#[from] SnapshotError),
}

fn listed(files: &[PathBuf]) -> String {
    let names: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
    names.join(", ")
}

/// What must be known to read files.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Trust domain of every identity.
    pub trust_domain: TrustDomain,
    /// The namespace whose policies hold for the mesh.
    pub root_namespace: String,
}

/// The mesh as files say that it is.
pub struct Offline {
    reading: Reading,
    workloads: Vec<Arc<Workload>>,
    policies: Arc<Policies>,
    cluster: Option<Written>,
    names: Names,
    findings: Vec<(String, Findings)>,
}

/// What is known of names beside a snapshot.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Whether the workloads come from a cluster, where labels enrol them.
    pub cluster: bool,
    /// Why workloads are enrolled, or not.
    pub because: HashMap<WorkloadKey, String>,
    /// Services without an address of their own, and the pods that their names stand for.
    pub headless: BTreeMap<WorkloadKey, Vec<WorkloadKey>>,
    /// Pods that are no workloads.
    pub outside: BTreeMap<WorkloadKey, Outside>,
    /// What is wrong with objects and harms nobody else.
    pub notes: Vec<String>,
}

/// A pod that is no workload of the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outside {
    /// Its host's address, if it has its host's network and that is known.
    pub address: Option<IpAddr>,
    /// Why it is none.
    pub why: &'static str,
}

/// Whether nobody has this address: it was made up for a pod or Service that is written without.
pub fn is_made_up(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if v4.octets()[0] == 0)
}

impl Offline {
    /// Reads files; `-` is standard input, and of a directory those that end in `.yaml`, `.yml`
    /// or `.json` are read.
    ///
    /// # Errors
    ///
    /// [`OfflineError`] when a file cannot be read or is wrong.
    pub fn read(paths: &[PathBuf], reading: Reading) -> Result<Self, OfflineError> {
        Self::of(&input::read(paths)?, reading)
    }

    fn of(inputs: &[Input], reading: Reading) -> Result<Self, OfflineError> {
        let mut reader = Reader::new(&reading);
        for input in inputs {
            for document in &input.documents {
                reader.document(input, document)?;
            }
        }
        let standalone = !reader.workloads.is_empty();
        if standalone {
            refuse_wrong(inputs, &reader, &reading)?;
        }
        let Reader { mut workloads, cluster, policies, findings, .. } = reader;
        let mut names = Names::default();
        for workload in &workloads {
            let word = if workload.enrolled { "enrolled: true" } else { "enrolled: false" };
            names.because.insert(workload.key(), format!("its entry says `{word}`"));
        }
        let cluster = cluster.map(|mut cluster| {
            names.cluster = true;
            workloads.extend(cluster.finish(&mut names));
            cluster
        });
        if workloads.is_empty() {
            let files = inputs.iter().map(|input| input.file.clone()).collect();
            return Err(OfflineError::NoWorkload { files });
        }
        let (peer_authentications, authorization_policies) = policies;
        let policies = Arc::new(Policies::new(peer_authentications, authorization_policies));
        let this = Self { reading, workloads, policies, cluster, names, findings };
        // Two that have one name or address are told here, and not when a node is chosen.
        this.snapshot("")?;
        Ok(this)
    }

    /// The mesh as the agent of `node` would have it: what is near is near that node.
    ///
    /// # Errors
    ///
    /// [`OfflineError`] when two workloads share a name or an address.
    pub fn snapshot(&self, node: &str) -> Result<Snapshot, OfflineError> {
        let services: Arc<Services> =
            self.cluster.as_ref().map(|cluster| cluster.services(node)).unwrap_or_default();
        let snapshot = Snapshot::new(
            1,
            self.reading.trust_domain.clone(),
            &self.reading.root_namespace,
            self.workloads.clone(),
            Arc::clone(&self.policies),
        )?;
        Ok(snapshot.with_services(services))
    }

    /// What is known of names.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// What of the policies does not hold as it is written, each with kind and name.
    pub fn findings(&self) -> &[(String, Findings)] {
        &self.findings
    }
}

/// Takes documents one by one.
struct Reader<'a> {
    reading: &'a Reading,
    /// By kind, namespace and name: where it stands.
    seen: HashMap<(String, WorkloadKey), (PathBuf, Value)>,
    workloads: Vec<Arc<Workload>>,
    cluster: Option<Written>,
    policies: (Vec<PeerAuthentication>, Vec<AuthorizationPolicy>),
    findings: Vec<(String, Findings)>,
}

impl<'a> Reader<'a> {
    fn new(reading: &'a Reading) -> Self {
        Self {
            reading,
            seen: HashMap::new(),
            workloads: Vec::new(),
            cluster: None,
            policies: Default::default(),
            findings: Vec::new(),
        }
    }

    fn document(&mut self, input: &Input, document: &Document) -> Result<(), OfflineError> {
        let refuse = |problem: String| OfflineError::Document {
            file: input.file.clone(),
            number: document.number,
            problem,
        };
        if document.value.get("kind").is_none() && document.value.get("workloads").is_some() {
            return self.standalone(input, document);
        }
        let Some(kind) = document.kind() else {
            let problem = "it has neither `kind` nor `workloads`; expected a Kubernetes object, \
                           or the workloads of standalone mode";
            return Err(refuse(problem.to_owned()));
        };
        let is_policy = matches!(kind, "PeerAuthentication" | "AuthorizationPolicy");
        if is_policy && document.group() == POLICY_GROUP {
            if !matches!(document.version(), "v1" | "v1beta1") {
                let problem = format!(
                    "apiVersion `{}` is no version known here; expected {POLICY_GROUP}/v1 or \
                     {POLICY_GROUP}/v1beta1",
                    document.api_version()
                );
                return Err(refuse(problem));
            }
            let metadata = metadata(&document.value).map_err(refuse)?;
            let key = WorkloadKey::new(&metadata.namespace, &metadata.name);
            if self.is_new(kind, &key, input, document)? {
                self.policy(kind, &key, &metadata, document);
            }
            return Ok(());
        }
        if !Written::reads(document.group(), kind) {
            return Ok(());
        }
        let metadata = metadata(&document.value).map_err(&refuse)?;
        let key = WorkloadKey::new(&metadata.namespace, &metadata.name);
        if self.is_new(kind, &key, input, document)? {
            let trust_domain = &self.reading.trust_domain;
            let cluster = self.cluster.get_or_insert_with(|| Written::new(trust_domain.clone()));
            cluster.add(kind, &document.value, &key).map_err(refuse)?;
        }
        Ok(())
    }

    /// The entries of a `workloads:`.
    fn standalone(&mut self, input: &Input, document: &Document) -> Result<(), OfflineError> {
        // No node is the agent's own: what stands on one need not name its namespace.
        let parse = |file: &Path, text: &str| {
            workload_file::parse(file, text, &self.reading.trust_domain, "")
        };
        let found = if input.documents.len() == 1 {
            parse(&input.file, &input.text)?
        } else {
            let name = format!("{} (document {})", input.file.display(), document.number);
            parse(Path::new(&name), &document.value.to_string())?
        };
        self.workloads.extend(found.into_iter().map(Arc::new));
        Ok(())
    }

    /// Whether no equal document has been there before.
    fn is_new(
        &mut self,
        kind: &str,
        key: &WorkloadKey,
        input: &Input,
        document: &Document,
    ) -> Result<bool, OfflineError> {
        let place = (kind.to_owned(), key.clone());
        if let Some((first, value)) = self.seen.get(&place) {
            if *value == document.value {
                return Ok(false);
            }
            return Err(OfflineError::Differs {
                kind: kind.to_owned(),
                key: key.clone(),
                first: first.clone(),
                second: input.file.clone(),
            });
        }
        self.seen.insert(place, (input.file.clone(), document.value.clone()));
        Ok(true)
    }

    fn policy(&mut self, kind: &str, key: &WorkloadKey, metadata: &Metadata, document: &Document) {
        let spec = document.value.get("spec").unwrap_or(&Value::Null);
        let findings = if kind == "PeerAuthentication" {
            let read = peer_authentication(metadata, spec, &self.reading.root_namespace);
            self.policies.0.extend(read.policy);
            read.findings
        } else {
            let read = authorization_policy(metadata, spec);
            self.policies.1.extend(read.policy);
            read.findings
        };
        if !findings.is_empty() {
            self.findings.push((format!("{kind} {key}"), findings));
        }
    }
}

/// The metadata of a document, with the namespace that kubectl would put it into.
fn metadata(value: &Value) -> Result<Metadata, String> {
    let meta = value.get("metadata").cloned().unwrap_or_default();
    let meta: Option<ObjectMeta> =
        serde_json::from_value(meta).map_err(|error| format!("`metadata`: {error}"))?;
    let mut metadata = Metadata::from(&meta.unwrap_or_default());
    let (name, namespace) = (&metadata.name, &metadata.namespace);
    if !is_dns_name(name) {
        return Err(format!(
            "`metadata.name`: `{}` is no name; expected a lower-case name of letters, digits, `-` \
             and `.`",
            name.escape_debug()
        ));
    }
    if namespace.is_empty() && !is_of_the_cluster(value) {
        "default".clone_into(&mut metadata.namespace);
    } else if !namespace.is_empty() && !is_dns_label(namespace) {
        return Err(format!(
            "`metadata.namespace`: `{}` is no namespace; expected 1 to 63 lower-case letters, \
             digits and `-`",
            namespace.escape_debug()
        ));
    }
    Ok(metadata)
}

/// Whether the kind has no namespace.
fn is_of_the_cluster(value: &Value) -> bool {
    matches!(value.get("kind").and_then(Value::as_str), Some("Namespace" | "Node"))
}

/// In standalone mode the agent refuses a file with a wrong policy: with its line where the file
/// has the agent's own form, else with the document's name.
fn refuse_wrong(
    inputs: &[Input],
    reader: &Reader<'_>,
    reading: &Reading,
) -> Result<(), OfflineError> {
    let wrong = |(_, findings): &&(String, Findings)| {
        findings.iter().any(|finding| finding.effect == Effect::Refused)
    };
    let Some((policy, findings)) = reader.findings.iter().find(wrong) else { return Ok(()) };
    for input in inputs.iter().filter(|input| input.is_stream()) {
        let policies = |document: &Document| {
            matches!(document.kind(), Some("PeerAuthentication" | "AuthorizationPolicy"))
        };
        if input.documents.iter().all(policies) {
            policy_file::parse(&input.file, &input.text, &reading.root_namespace)?;
        }
    }
    let (kind, key) = policy.split_once(' ').unwrap_or((policy, ""));
    let named = reader.seen.iter().find(|((of, name), _)| of == kind && name.to_string() == key);
    let file = named.map(|(_, (file, _))| file.clone()).unwrap_or_default();
    let finding = findings.iter().find(|finding| finding.effect == Effect::Refused);
    let finding = finding.map(ToString::to_string).unwrap_or_default();
    let problem = format!("{policy}: {finding}");
    let number = inputs.iter().find(|input| input.file == file).map_or(1, |input| {
        let own = input.documents.iter().find(|document| {
            document.kind() == Some(kind)
                && metadata(&document.value)
                    .is_ok_and(|of| WorkloadKey::new(&of.namespace, &of.name).to_string() == key)
        });
        own.map_or(1, |document| document.number)
    });
    Err(OfflineError::Document { file, number, problem })
}
