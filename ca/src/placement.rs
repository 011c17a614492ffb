//! Which node may ask for which identity: those of the enrolled workloads that run on it, as the
//! same workloads.yaml says that the agents read.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use culvert_spiffe::{SpiffeId, SpiffeIdError, TrustDomain};
use serde::Deserialize;
use tracing::{info, warn};

/// The identities of each node's workloads.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Placement {
    nodes: HashMap<String, HashSet<SpiffeId>>,
}

/// Why a file says nothing about workloads.
#[derive(Debug, thiserror::Error)]
pub enum PlacementError {
    /// It cannot be read.
    #[error("cannot read workloads {path}; give the agents' workloads.yaml with --workloads")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It is not the YAML expected.
    #[error("{path} is no list of workloads; the form is that of the agents' workloads.yaml")]
    Yaml {
        /// Which file.
        path: PathBuf,
        /// Line, column and what was expected.
        #[source]
        source: Box<serde_saphyr::Error>,
    },
    /// A workload in it can have no identity.
    #[error("workload {namespace}/{name} in {path} can have no identity; correct its names")]
    Identity {
        /// Which file.
        path: PathBuf,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// What is wrong.
        #[source]
        source: SpiffeIdError,
    },
    /// A workload asks for the identity of the authority.
    #[error("workload {namespace}/{name} in {path} has the authority's identity; give it another")]
    Reserved {
        /// Which file.
        path: PathBuf,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

impl Placement {
    /// Whether an enrolled workload with this identity runs on `node`.
    pub fn runs_on(&self, node: &str, id: &SpiffeId) -> bool {
        self.nodes.get(node).is_some_and(|ids| ids.contains(id))
    }

    /// Whether an enrolled workload with this identity runs on any node.
    pub fn runs_anywhere(&self, id: &SpiffeId) -> bool {
        self.nodes.values().any(|ids| ids.contains(id))
    }

    fn parse(path: &Path, text: &str, trust_domain: &TrustDomain) -> Result<Self, PlacementError> {
        let file: File = serde_saphyr::from_str(text).map_err(|error| PlacementError::Yaml {
            path: path.to_owned(),
            source: Box::new(error),
        })?;
        let mut placement = Self::default();
        for workload in file.workloads.into_iter().filter(|workload| workload.enrolled) {
            let Workload { name, namespace, service_account, node, enrolled: _ } = workload;
            let id = match SpiffeId::new(trust_domain, &namespace, &service_account) {
                Ok(id) => id,
                Err(source) => {
                    let path = path.to_owned();
                    return Err(PlacementError::Identity { path, namespace, name, source });
                }
            };
            if id == SpiffeId::of_authority(trust_domain) {
                return Err(PlacementError::Reserved { path: path.to_owned(), namespace, name });
            }
            placement.nodes.entry(node).or_default().insert(id);
        }
        Ok(placement)
    }
}

/// Only what the authority needs of each workload; the agents judge the rest.
#[derive(Deserialize)]
struct File {
    workloads: Vec<Workload>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Workload {
    name: String,
    namespace: String,
    #[serde(default = "default_account")]
    service_account: String,
    node: String,
    #[serde(default = "enrolled")]
    enrolled: bool,
}

/// What Kubernetes gives a pod that names none.
fn default_account() -> String {
    "default".to_owned()
}

fn enrolled() -> bool {
    true
}

/// A placement that follows its file. A bad edit is logged and changes nothing.
pub struct PlacementFile {
    path: PathBuf,
    trust_domain: TrustDomain,
    current: ArcSwap<Placement>,
    /// Guards the text read last, by which a change is told; held while a new one is parsed.
    last: Mutex<Vec<u8>>,
}

impl PlacementFile {
    /// Reads the file, which must be good at the start.
    pub fn open(path: &Path, trust_domain: TrustDomain) -> Result<Self, PlacementError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| PlacementError::Read { path: path.to_owned(), source })?;
        let placement = Placement::parse(path, &text, &trust_domain)?;
        Ok(Self {
            path: path.to_owned(),
            trust_domain,
            current: ArcSwap::from_pointee(placement),
            last: Mutex::new(text.into_bytes()),
        })
    }

    /// What the file said when it was last good.
    pub fn current(&self) -> Arc<Placement> {
        self.current.load_full()
    }

    /// Reads the file again; compares bytes, so that no change is missed for a coarse time stamp.
    /// Blocks for a small read.
    pub fn refresh(&self) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) => {
                // Said once, then again only after a change.
                if !last.is_empty() {
                    warn!(path = %self.path.display(), %error, "workloads unreadable; keeping the last");
                    last.clear();
                }
                return;
            }
        };
        if bytes == *last {
            return;
        }
        let text = String::from_utf8_lossy(&bytes);
        match Placement::parse(&self.path, &text, &self.trust_domain) {
            Ok(placement) => {
                info!(path = %self.path.display(), nodes = placement.nodes.len(), "workloads read");
                self.current.store(Arc::new(placement));
            }
            Err(error) => {
                let why = std::error::Error::source(&error).map(ToString::to_string);
                warn!(%error, why, "workloads refused; keeping the last good ones");
            }
        }
        *last = bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
workloads:
  - name: a1
    namespace: default
    serviceAccount: web
    node: node1
    addresses: [10.1.1.2, \"fd00:1::2\"]
    labels: {app: a1}
    netns: /run/netns/a1
  - {name: a2, namespace: default, serviceAccount: off, node: node1, addresses: [], enrolled: false}
  - {name: b1, namespace: default, serviceAccount: db, node: node2, addresses: [10.1.2.2]}
";

    fn domain() -> TrustDomain {
        "td".parse().unwrap()
    }

    fn id(account: &str) -> SpiffeId {
        SpiffeId::new(&domain(), "default", account).unwrap()
    }

    #[test]
    fn node_has_the_identities_of_its_enrolled_workloads_only() {
        let placement = Placement::parse(Path::new("w"), GOOD, &domain()).unwrap();
        assert!(placement.runs_on("node1", &id("web")));
        assert!(!placement.runs_on("node1", &id("off")), "not enrolled");
        assert!(!placement.runs_on("node1", &id("db")), "on another node");
        assert!(!placement.runs_on("node3", &id("web")), "no such node");
        assert!(placement.runs_anywhere(&id("db")));
        assert!(!placement.runs_anywhere(&id("off")), "not enrolled");
    }

    #[test]
    fn authority_and_bad_names_are_refused() {
        for (namespace, account) in [("culvert-system", "culvert-ca"), ("A", "b"), ("a", "../b")] {
            let text = format!(
                "workloads: [{{name: x, namespace: {namespace}, serviceAccount: {account}, node: n}}]"
            );
            assert!(Placement::parse(Path::new("w"), &text, &domain()).is_err(), "{text}");
        }
    }

    #[test]
    fn change_is_followed_and_a_bad_edit_keeps_the_last_good_one() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("workloads.yaml");
        std::fs::write(&path, GOOD).unwrap();
        let file = PlacementFile::open(&path, domain()).unwrap();

        std::fs::write(&path, "workloads: 7").unwrap();
        file.refresh();
        assert!(file.current().runs_on("node1", &id("web")));

        std::fs::write(&path, GOOD.replace("node1", "node9")).unwrap();
        file.refresh();
        assert!(file.current().runs_on("node9", &id("web")));
        assert!(!file.current().runs_on("node1", &id("web")));

        std::fs::remove_file(&path).unwrap();
        file.refresh();
        assert!(file.current().runs_on("node9", &id("web")));
    }
}
