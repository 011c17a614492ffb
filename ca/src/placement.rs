//! Which node may ask for which identity: those of the enrolled workloads that run on it, as the
//! same workloads.yaml says that the agents read.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use culvert_spiffe::{SpiffeId, SpiffeIdError, TrustDomain};
use serde::Deserialize;
use serde::de::IgnoredAny;

mod file;

pub use file::PlacementFile;

/// The identities of each node's workloads.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Placement {
    nodes: HashMap<String, HashSet<SpiffeId>>,
    everywhere: HashSet<SpiffeId>,
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
        self.everywhere.contains(id)
    }

    fn parse(path: &Path, text: &str, trust_domain: &TrustDomain) -> Result<Self, PlacementError> {
        let file: File = serde_saphyr::from_str_with_options(text, options()).map_err(|error| {
            PlacementError::Yaml { path: path.to_owned(), source: Box::new(error) }
        })?;
        let mut placement = Self::default();
        for workload in file.workloads.into_iter().filter(|workload| workload.enrolled) {
            let Workload { name, namespace, service_account, node, .. } = workload;
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
            // One text for all that bear the identity.
            let id = placement.everywhere.get(&id).cloned().unwrap_or_else(|| id.clone());
            placement.everywhere.insert(id.clone());
            placement.nodes.entry(node).or_default().insert(id);
        }
        Ok(placement)
    }
}

/// Room for a mesh of some hundred thousand workloads, as the agents' reader of the same file has it;
/// the parser's defaults end at some twenty thousand.
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 20_000_000,
            max_nodes: 10_000_000,
            max_documents: 100_000,
        },
        with_snippet: false,
    }
}

/// The whole form, though the authority needs only a part: a field with a slip in its name must not
/// be passed over, for it could be `enrolled: false`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    workloads: Vec<Workload>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Workload {
    name: String,
    namespace: String,
    #[serde(default = "default_account")]
    service_account: String,
    node: String,
    #[serde(default = "enrolled")]
    enrolled: bool,
    #[serde(default, rename = "addresses")]
    _addresses: IgnoredAny,
    #[serde(default, rename = "labels")]
    _labels: IgnoredAny,
    #[serde(default, rename = "netns")]
    _netns: IgnoredAny,
}

/// What Kubernetes gives a pod that names none.
fn default_account() -> String {
    "default".to_owned()
}

fn enrolled() -> bool {
    true
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
    fn a_slip_in_a_field_is_not_passed_over() {
        let text = GOOD.replace("enrolled: false", "enroled: false");
        assert!(matches!(
            Placement::parse(Path::new("w"), &text, &domain()),
            Err(PlacementError::Yaml { .. })
        ));
    }

    #[test]
    fn a_hundred_thousand_workloads_cost_little_memory_and_time() {
        use std::fmt::Write as _;

        let mut text = String::from("workloads:\n");
        for number in 0..100_000 {
            writeln!(
                text,
                "  - {{name: p{number}, namespace: n{}, serviceAccount: s{}, node: w{}, \
                 addresses: [10.0.0.1]}}",
                number % 50,
                number % 20,
                number % 1000
            )
            .unwrap();
        }
        let began = std::time::Instant::now();
        let placement = Placement::parse(Path::new("w"), &text, &domain()).unwrap();
        let took = began.elapsed();
        println!("100,000 workloads read in {took:?} from {} bytes", text.len());
        assert!(took < std::time::Duration::from_secs(20), "{took:?}");
        assert_eq!(placement.nodes.len(), 1000);
        assert_eq!(placement.everywhere.len(), 100, "each identity is kept once");
        let id = SpiffeId::new(&domain(), "n7", "s7").unwrap();
        assert!(placement.runs_on("w7", &id) && !placement.runs_on("w8", &id));
    }
}
