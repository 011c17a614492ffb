//! [`Announce`]: a pod is told of before its first process starts, by who makes its network.
//!
//! ```text
//!  runtime ─▶ culvert-cni ─▶ cni::Server ─▶ Announce ─▶ the next snapshot ─▶ enrolment
//! ```
//!
//! The source of the snapshots decides whether the pod is in the mesh, for it alone knows by which
//! rule. What was announced stands in its snapshots, with this namespace and these addresses, until
//! its own news of the pod confirm or contradict it.

use std::{error::Error, net::IpAddr, path::PathBuf, sync::Arc};

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::{PodUid, Snapshot, WorkloadKey};

/// A pod whose network has just been made and in which nothing runs yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announced {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The UID that the runtime knows it by. Of a static pod that is the hash of its manifest, not
    /// the UID of its mirror in the API.
    pub uid: PodUid,
    /// Its network namespace, as this agent reaches it: the path that its workload is to have.
    pub netns: PathBuf,
    /// The addresses that its network has given it.
    pub addresses: Vec<IpAddr>,
}

impl Announced {
    /// What names its workload in the mesh.
    pub fn key(&self) -> WorkloadKey {
        WorkloadKey::new(&self.namespace, &self.name)
    }
}

/// What becomes of an announced pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is in the mesh: a snapshot that has it as enrolled is published, or about to be.
    Enrol,
    /// It is none of the mesh's business.
    Leave,
}

/// Why it cannot be told whether a pod is in the mesh. It must not start as if it were not.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AnnounceError {
    /// The one who knows does not answer.
    #[error("whether pod {pod} is in the mesh cannot be asked now; it will be tried again")]
    Unanswered {
        /// The pod.
        pod: WorkloadKey,
        /// What went wrong.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// There is no such pod, or none of that UID any more.
    #[error("there is no pod {pod} with UID {uid} any more; the runtime should give it up")]
    NoSuchPod {
        /// The pod.
        pod: WorkloadKey,
        /// The UID that was announced.
        uid: PodUid,
    },
    /// The agent is about to end.
    #[error("the agent stops; the one that comes after it will be asked for pod {pod}")]
    Stopping {
        /// The pod.
        pod: WorkloadKey,
    },
}

/// Who takes announcements: the source of the snapshots.
pub trait Announce: Send + Sync {
    /// Tells of a pod, and waits for the decision. The same pod may be announced again.
    ///
    /// The caller bounds the wait; dropped, the announcement may or may not have been taken.
    ///
    /// # Errors
    /// [`AnnounceError`]: the pod must not start now.
    fn announce(&self, pod: Announced) -> BoxFuture<'_, Result<Decision, AnnounceError>>;

    /// The pod's network is about to be taken down. Not to know the pod is no mistake.
    fn withdraw(&self, uid: &PodUid);
}

/// Announcements where a file says what the mesh is: the file decides, and what it does not list is
/// left alone.
#[derive(Clone, Debug)]
pub struct Listed {
    node: String,
    snapshots: watch::Receiver<Arc<Snapshot>>,
}

impl Listed {
    /// For the workloads of one node.
    pub fn new(node: &str, snapshots: watch::Receiver<Arc<Snapshot>>) -> Self {
        Self { node: node.to_owned(), snapshots }
    }

    fn decide(&self, pod: &Announced) -> Decision {
        let snapshot = self.snapshots.borrow();
        match snapshot.by_key(&pod.key()) {
            Some(workload) if workload.enrolled && workload.node == self.node => Decision::Enrol,
            Some(_) | None => Decision::Leave,
        }
    }
}

impl Announce for Listed {
    fn announce(&self, pod: Announced) -> BoxFuture<'_, Result<Decision, AnnounceError>> {
        Box::pin(std::future::ready(Ok(self.decide(&pod))))
    }

    fn withdraw(&self, _: &PodUid) {
        // Who is in the mesh is what the file says, whether the pod runs or not.
    }
}

#[cfg(test)]
mod tests {
    use culvert_spiffe::SpiffeId;

    use super::*;
    use crate::workload::{Policies, Workload};

    fn workload(name: &str, node: &str, enrolled: bool) -> Workload {
        Workload {
            name: name.into(),
            namespace: "default".into(),
            node: node.into(),
            addresses: Vec::new(),
            labels: std::collections::BTreeMap::new(),
            enrolled,
            netns: None,
            uid: None,
            identity: format!("spiffe://cluster.local/ns/default/sa/{name}")
                .parse::<SpiffeId>()
                .unwrap(),
        }
    }

    #[tokio::test]
    async fn file_decides_who_is_in() {
        let workloads = vec![
            workload("in", "n1", true),
            workload("out", "n1", false),
            workload("far", "n2", true),
        ];
        let domain = "cluster.local".parse().unwrap();
        let snapshot =
            Snapshot::new(1, domain, "istio-system", workloads, Policies::default()).unwrap();
        let (_publish, snapshots) = watch::channel(Arc::new(snapshot));
        let listed = Listed::new("n1", snapshots);
        let announce = |name: &str| {
            listed.announce(Announced {
                namespace: "default".into(),
                name: name.into(),
                uid: "0123456789abcdef0123456789abcdef".parse().unwrap(),
                netns: "/run/netns/x".into(),
                addresses: Vec::new(),
            })
        };
        assert_eq!(announce("in").await.unwrap(), Decision::Enrol);
        for name in ["out", "far", "unknown"] {
            assert_eq!(announce(name).await.unwrap(), Decision::Leave, "{name}");
        }
    }
}
