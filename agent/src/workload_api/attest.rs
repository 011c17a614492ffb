//! [`Attestor`]: from a process to the workload that it belongs to, by what the kernel says alone.
//!
//! First witness: the network namespace. A process of a pod is in the pod's; to get into another
//! one it needs rights over that namespace which no pod has. Second, where the pod's UID is known:
//! the cgroup. The process is asked about between two looks at its descriptor, so that all that was
//! read is of the one that made the connection.

use std::io;
use std::sync::Arc;

use tokio::sync::watch;

use super::caller::Caller;
use super::quota::Share;
use crate::sys::peer::NamespaceId;
use crate::workload::{Snapshot, Workload, WorkloadKey, cgroup};

/// Why a process is nobody's. The caller is told none of it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// The kernel does not say which process called.
    #[error(
        "calling process is unknown; it has ended, or the agent lacks the host's process \
             namespace"
    )]
    Unknown,
    /// It ended while it was asked about.
    #[error("the calling process has ended")]
    Ended,
    /// The kernel did not tell.
    #[error(
        "cannot look at the calling process in /proc; the agent needs root rights and the \
             host's process namespace"
    )]
    Unseen(#[source] io::Error),
    /// It is in the node's own network namespace.
    #[error("caller runs in the node's own network namespace; only workloads have identities")]
    Host,
    /// No workload of this node has its network namespace.
    #[error("caller's network namespace is no workload's; check `netns` in the workloads file")]
    Stranger,
    /// Its workload is not in the mesh.
    #[error("workload {0} is not enrolled; enrol it, or let it do without an identity")]
    NotEnrolled(WorkloadKey),
    /// Two workloads have its network namespace.
    #[error("workloads {0} and {1} share one network namespace; give each its own")]
    Ambiguous(WorkloadKey, WorkloadKey),
    /// Its cgroup says that it is of another pod than its network namespace does.
    #[error(
        "caller has the network namespace of workload {0} and the cgroup of another pod; a \
             program of the node may have entered it, or the pod was made anew"
    )]
    OtherPod(WorkloadKey),
}

impl Refusal {
    /// The metric label.
    pub(super) const fn label(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Ended => "ended",
            Self::Unseen(_) => "unseen",
            Self::Host => "host",
            Self::Stranger => "stranger",
            Self::NotEnrolled(_) => "not_enrolled",
            Self::Ambiguous(..) => "ambiguous",
            Self::OtherPod(_) => "other_pod",
        }
    }

    /// All labels, so that each counter is there from the start.
    pub(super) const LABELS: [&'static str; 8] = [
        "unknown",
        "ended",
        "unseen",
        "host",
        "stranger",
        "not_enrolled",
        "ambiguous",
        "other_pod",
    ];
}

/// Tells whose a process is. Cheap to clone.
#[derive(Clone)]
pub(super) struct Attestor {
    node: Arc<str>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    host: NamespaceId,
}

impl Attestor {
    pub(super) fn new(
        node: &str,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        host: NamespaceId,
    ) -> Self {
        Self { node: node.into(), snapshots, host }
    }

    /// The enrolled workload that the caller belongs to now.
    ///
    /// Looks into `/proc` and at the namespaces of this node's workloads: a few microseconds each,
    /// all of it memory, so it may stand in async code.
    pub(super) fn attest(&self, caller: &Caller) -> Result<Arc<Workload>, Refusal> {
        let process = caller.process().ok_or(Refusal::Unknown)?;
        let unseen = |error: io::Error| match process.has_ended() {
            Ok(true) => Refusal::Ended,
            Ok(false) | Err(_) => Refusal::Unseen(error),
        };
        // Kept open to the end: while it lives, its number is no other namespace's.
        let (namespace, _alive) = process.network_namespace().map_err(unseen)?;
        let snapshot = Arc::clone(&self.snapshots.borrow());
        let found = self.owner(namespace, &snapshot)?;
        if let Some(uid) = &found.uid {
            let pods = cgroup::pods(&process.cgroups().map_err(unseen)?);
            if pods.as_slice() != std::slice::from_ref(uid) {
                return Err(Refusal::OtherPod(found.key()));
            }
        }
        // Only now is it certain that what was read was of this process.
        match process.has_ended() {
            Ok(false) => Ok(found),
            Ok(true) => Err(Refusal::Ended),
            Err(error) => Err(Refusal::Unseen(error)),
        }
    }

    /// Follows what attestation rests on.
    pub(super) fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.clone()
    }

    fn owner(&self, namespace: NamespaceId, snapshot: &Snapshot) -> Result<Arc<Workload>, Refusal> {
        if namespace == self.host {
            return Err(Refusal::Host);
        }
        let mut owner: Option<&Arc<Workload>> = None;
        for workload in snapshot.local(&self.node) {
            // A namespace that is not there (any more) is not the caller's, which lives.
            let at = workload.netns.as_deref().map(NamespaceId::at);
            if !at.is_some_and(|at| at.is_ok_and(|at| at == namespace)) {
                continue;
            }
            if let Some(first) = owner {
                return Err(Refusal::Ambiguous(first.key(), workload.key()));
            }
            owner = Some(workload);
        }
        match owner {
            Some(workload) if workload.enrolled => Ok(Arc::clone(workload)),
            Some(workload) => Err(Refusal::NotEnrolled(workload.key())),
            None => Err(Refusal::Stranger),
        }
    }
}

/// Whose share a caller's connections and calls are taken from.
pub(super) fn share(attested: &Result<Arc<Workload>, Refusal>) -> Share {
    attested.as_ref().map_or(Share::Strangers, |workload| Share::Workload(workload.key()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use culvert_spiffe::SpiffeId;
    use tokio::net::UnixStream;

    use super::*;
    use crate::sys::peer::PeerProcess;
    use crate::workload::Policies;

    fn workload(name: &str, netns: &Path) -> Workload {
        let domain = "cluster.local".parse().unwrap();
        Workload {
            name: name.into(),
            namespace: "default".into(),
            node: "node1".into(),
            addresses: Vec::new(),
            labels: std::collections::BTreeMap::default(),
            enrolled: true,
            netns: Some(netns.to_owned()),
            uid: None,
            identity: SpiffeId::new(&domain, "default", name).unwrap(),
        }
    }

    /// An attestor that takes this very process for one of a pod, and its peer.
    fn attest(host: NamespaceId, workloads: Vec<Workload>) -> Result<Arc<Workload>, Refusal> {
        let domain = "cluster.local".parse().unwrap();
        let snapshot =
            Snapshot::new(1, domain, "istio-system", workloads, Policies::default()).unwrap();
        let (_keep, snapshots) = watch::channel(Arc::new(snapshot));
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let caller = Caller::new(PeerProcess::of(&ours, std::path::Path::new("/proc")).ok());
        Attestor::new("node1", snapshots, host).attest(&caller)
    }

    /// A namespace that this process is not in: of another kind, so its inode is no network's.
    fn elsewhere() -> NamespaceId {
        NamespaceId::at(Path::new("/proc/self/ns/mnt")).unwrap()
    }

    const OWN: &str = "/proc/self/ns/net";

    #[tokio::test]
    async fn caller_is_the_workload_whose_namespace_it_is_in() {
        let other = workload("other", Path::new("/proc/self/ns/mnt"));
        let own = workload("own", Path::new(OWN));
        let found = attest(elsewhere(), vec![other, own]).unwrap();
        assert_eq!(found.name, "own");
    }

    #[tokio::test]
    async fn host_stranger_not_enrolled_and_ambiguous_are_refused() {
        let own = || workload("own", Path::new(OWN));
        let host = attest(NamespaceId::own().unwrap(), vec![own()]);
        assert!(matches!(host, Err(Refusal::Host)), "{host:?}");
        let stranger = attest(elsewhere(), vec![workload("gone", Path::new("/nowhere"))]);
        assert!(matches!(stranger, Err(Refusal::Stranger)), "{stranger:?}");
        let elsewhere_node = Workload { node: "node2".into(), ..own() };
        let stranger = attest(elsewhere(), vec![elsewhere_node]);
        assert!(matches!(stranger, Err(Refusal::Stranger)), "{stranger:?}");
        let not_enrolled = attest(elsewhere(), vec![Workload { enrolled: false, ..own() }]);
        assert!(matches!(not_enrolled, Err(Refusal::NotEnrolled(_))), "{not_enrolled:?}");
        let twin = workload("twin", Path::new("/proc/thread-self/ns/net"));
        let ambiguous = attest(elsewhere(), vec![own(), twin]);
        assert!(matches!(ambiguous, Err(Refusal::Ambiguous(..))), "{ambiguous:?}");
    }

    #[tokio::test]
    async fn cgroup_of_another_pod_is_refused() {
        let uid = "0f7c2a5e-1b3d-4c6f-8a9b-0123456789ab".parse().unwrap();
        let own = Workload { uid: Some(uid), ..workload("own", Path::new(OWN)) };
        let refused = attest(elsewhere(), vec![own]);
        assert!(matches!(refused, Err(Refusal::OtherPod(_))), "{refused:?}");
    }

    #[test]
    fn labels_are_all_listed() {
        let key = WorkloadKey::new("default", "a");
        for refusal in [
            Refusal::Unknown,
            Refusal::Ended,
            Refusal::Unseen(io::ErrorKind::NotFound.into()),
            Refusal::Host,
            Refusal::Stranger,
            Refusal::NotEnrolled(key.clone()),
            Refusal::Ambiguous(key.clone(), key.clone()),
            Refusal::OtherPod(key),
        ] {
            assert!(Refusal::LABELS.contains(&refusal.label()));
        }
    }
}
