//! `workloads.yaml`: what is where in the mesh.
//!
//! ```yaml
//! workloads:
//!   - name: a1
//!     namespace: default
//!     serviceAccount: frontend
//!     node: node1
//!     addresses: [10.1.1.2, "fd00:1::2"]   # at most one of each family
//!     labels: {app: a1}                    # default: none
//!     enrolled: true                       # default
//!     netns: /run/netns/a1                 # for enrolled workloads of the agent's own node
//!     uid: 0f7c2a5e-1b3d-4c6f-8a9b-0123456789ab  # optional: the pod's, as its cgroup names it
//! ```

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use culvert_spiffe::{SpiffeId, TrustDomain};
use serde::Deserialize;
use serde_saphyr::{Location, Spanned};

use crate::config::{YamlError, is_dns_name, yaml};
use crate::workload::PodUid;
use crate::workload::model::{Workload, WorkloadKey};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    workloads: Vec<Spanned<RawWorkload>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawWorkload {
    name: Spanned<String>,
    namespace: Spanned<String>,
    service_account: Spanned<String>,
    node: Spanned<String>,
    addresses: Spanned<Vec<Spanned<String>>>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default = "enrolled_by_default")]
    enrolled: bool,
    netns: Option<Spanned<String>>,
    uid: Option<Spanned<String>>,
}

fn enrolled_by_default() -> bool {
    true
}

/// Reads the text of a workloads file for the agent of `node`.
///
/// # Errors
///
/// [`YamlError`] at the first entry that is wrong in itself or together with an earlier one.
pub fn parse(
    file: &Path,
    text: &str,
    trust_domain: &TrustDomain,
    node: &str,
) -> Result<Vec<Workload>, YamlError> {
    let raw: RawFile = yaml::document(file, text)?;
    let mut parser = Parser { file, trust_domain, node, seen: Seen::default() };
    raw.workloads.into_iter().map(|raw| parser.workload(raw)).collect()
}

/// Who had a thing first, and on which line.
#[derive(Default)]
struct Seen {
    keys: HashMap<WorkloadKey, u64>,
    addresses: HashMap<IpAddr, (WorkloadKey, u64)>,
    netns: HashMap<PathBuf, (WorkloadKey, u64)>,
}

struct Parser<'a> {
    file: &'a Path,
    trust_domain: &'a TrustDomain,
    node: &'a str,
    seen: Seen,
}

impl Parser<'_> {
    fn workload(&mut self, raw: Spanned<RawWorkload>) -> Result<Workload, YamlError> {
        let (place, raw) = (raw.referenced, raw.value);
        let names = "a lower-case name of letters, digits, `-` and `.`";
        self.name(&raw.name, "name", names)?;
        self.name(&raw.node, "node", names)?;
        let identity = self.identity(&raw)?;
        let key = WorkloadKey::new(&raw.namespace.value, &raw.name.value);
        let line = raw.name.referenced.line();
        if let Some(first) = self.seen.keys.insert(key.clone(), line) {
            let problem = format!("`{key}` already stands on line {first}");
            let expected = "one entry for each name of a namespace";
            return Err(self.refuse(raw.name.referenced, "name", &problem, expected));
        }
        let addresses = self.addresses(&key, &raw.addresses)?;
        let netns = raw.netns.map(|netns| self.netns(&key, &netns)).transpose()?;
        if raw.enrolled && raw.node.value == self.node && netns.is_none() {
            let problem = format!("`{key}` is enrolled on this node ({}) and has none", self.node);
            let expected = "the path of its network namespace, such as /run/netns/a1, or \
                            `enrolled: false`";
            return Err(self.refuse(place, "netns", &problem, expected));
        }
        let uid = raw.uid.map(|uid| self.uid(&uid)).transpose()?;
        Ok(Workload {
            name: raw.name.value,
            namespace: raw.namespace.value,
            node: raw.node.value,
            addresses,
            labels: raw.labels,
            enrolled: raw.enrolled,
            netns,
            uid,
            identity,
        })
    }

    fn identity(&self, raw: &RawWorkload) -> Result<SpiffeId, YamlError> {
        use culvert_spiffe::SpiffeIdError as E;
        let (namespace, account) = (&raw.namespace, &raw.service_account);
        SpiffeId::new(self.trust_domain, &namespace.value, &account.value).map_err(|error| {
            let (place, field) = match error {
                E::Namespace { .. } => (namespace.referenced, "namespace"),
                _ => (account.referenced, "serviceAccount"),
            };
            YamlError::at(self.file, place, format_args!("`{field}`: {error}"))
        })
    }

    fn addresses(
        &mut self,
        key: &WorkloadKey,
        raw: &Spanned<Vec<Spanned<String>>>,
    ) -> Result<Vec<IpAddr>, YamlError> {
        const EXPECTED: &str = "at most one IPv4 and one IPv6 address that a pod can have";
        let mut addresses: Vec<IpAddr> = Vec::new();
        for text in &raw.value {
            let place = text.referenced;
            let refuse = |problem: &str| {
                let problem = format!("`{}` {problem}", text.value);
                self.refuse(place, "addresses", &problem, EXPECTED)
            };
            let address: IpAddr = text.value.parse().map_err(|_| refuse("is no IP address"))?;
            if let Some(problem) = unusable(address) {
                return Err(refuse(problem));
            }
            if addresses.iter().any(|other| other.is_ipv4() == address.is_ipv4()) {
                return Err(refuse("is a second one of its family"));
            }
            if let Some((first, line)) = self.seen.addresses.get(&address) {
                return Err(refuse(&format!("already belongs to `{first}` on line {line}")));
            }
            self.seen.addresses.insert(address, (key.clone(), place.line()));
            addresses.push(address);
        }
        if addresses.is_empty() {
            return Err(self.refuse(raw.referenced, "addresses", "there is none", EXPECTED));
        }
        Ok(addresses)
    }

    fn netns(&mut self, key: &WorkloadKey, text: &Spanned<String>) -> Result<PathBuf, YamlError> {
        const EXPECTED: &str = "the absolute path of a namespace that no other workload has";
        let path = PathBuf::from(&text.value);
        if !path.is_absolute() || text.value.contains('\0') {
            let problem = format!("`{}` is no absolute path", text.value);
            return Err(self.refuse(text.referenced, "netns", &problem, EXPECTED));
        }
        let entry = (key.clone(), text.referenced.line());
        if let Some((first, line)) = self.seen.netns.insert(path.clone(), entry) {
            let problem = format!("`{}` already belongs to `{first}` on line {line}", text.value);
            return Err(self.refuse(text.referenced, "netns", &problem, EXPECTED));
        }
        Ok(path)
    }

    fn uid(&self, text: &Spanned<String>) -> Result<PodUid, YamlError> {
        text.value.parse().map_err(|_| {
            let problem = format!("`{}` is none", text.value.escape_debug());
            let expected = "a lower-case UUID, or 32 hexadecimal digits for a static pod";
            self.refuse(text.referenced, "uid", &problem, expected)
        })
    }

    fn name(&self, text: &Spanned<String>, field: &str, expected: &str) -> Result<(), YamlError> {
        if is_dns_name(&text.value) {
            return Ok(());
        }
        let problem = format!("`{}` is no name", text.value.escape_debug());
        Err(self.refuse(text.referenced, field, &problem, expected))
    }

    fn refuse(&self, place: Location, field: &str, problem: &str, expected: &str) -> YamlError {
        YamlError::at(self.file, place, format_args!("`{field}`: {problem}; expected {expected}"))
    }
}

/// Why no pod can have the address.
fn unusable(address: IpAddr) -> Option<&'static str> {
    let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    if mapped {
        Some("is an IPv4 address in IPv6 form")
    } else if address.is_loopback() {
        Some("is a loopback address")
    } else if address.is_multicast() {
        Some("is a multicast address")
    } else if broadcast {
        Some("is the broadcast address")
    } else if address.is_unspecified() {
        Some("is the unspecified address")
    } else {
        None
    }
}
