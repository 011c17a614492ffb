//! [`NodePods`]: node authorization by the pods that the API server knows.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use culvert_spiffe::{SpiffeId, TrustDomain};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::warn;

use super::{ApiServerError, Freshness, Pod, PodDirectory};
use crate::attest::kept::Kept;
use crate::attest::{Caller, PodCaller, Residents};
use crate::audit::Rule;

/// How long the list of a node's pods is believed. A pod that is deleted has its identity given out
/// so much longer; one that is new is looked for at once.
const LIST_FOR: Duration = Duration::from_secs(5);
/// Least time between two lists of one node, so that a node asking for nonsense makes 20 a second.
const LIST_EVERY: Duration = Duration::from_millis(50);
/// Lists of pods kept; memory so does not grow with the cluster.
const MOST_NODES: usize = 256;
/// Callers whose node is remembered, where tokens do not say it.
const MOST_CALLERS: usize = 4096;
/// Longest wait for the API server.
const LIST_DEADLINE: Duration = Duration::from_secs(5);

/// Who may ask for others, and for whom.
#[derive(Clone, Debug, Default)]
pub struct Permissions {
    /// Accounts of agents: these alone may ask for others, on their own node.
    pub agents: Vec<SpiffeId>,
    /// Identities that no agent is ever given.
    pub never: Vec<SpiffeId>,
    /// Whether pods that are not enrolled have no identity. Off for meshes of others' agents.
    pub enrolled_only: bool,
}

/// Node authorization by the pods of the caller's node.
pub struct NodePods<P> {
    directory: P,
    trust_domain: TrustDomain,
    permissions: Permissions,
    nodes: Mutex<HashMap<String, Arc<Node>>>,
    /// Node of a caller by its UID.
    callers: Mutex<Kept<String, String>>,
}

#[derive(Default)]
struct Node {
    seen: ArcSwapOption<Seen>,
    /// Held while the pods are asked for; who waited takes the answer that came meanwhile.
    asking: tokio::sync::Mutex<()>,
}

/// What matters of a node's pods. Few bytes: a list of 500 pods is not kept whole.
struct Seen {
    /// When it was asked for.
    at: Instant,
    freshness: Freshness,
    /// Pods of agents' accounts, by UID.
    agents: HashMap<String, Agent>,
    /// Identities of pods that are pending or running; `true` if one of them is enrolled.
    identities: HashMap<SpiffeId, bool>,
}

struct Agent {
    identity: SpiffeId,
    name: String,
    alive: bool,
}

impl<P: PodDirectory> NodePods<P> {
    /// Asks `directory` who runs where, and keeps to `permissions`.
    pub fn new(directory: P, trust_domain: TrustDomain, permissions: Permissions) -> Self {
        let callers = Mutex::new(Kept::new(MOST_CALLERS));
        Self { directory, trust_domain, permissions, nodes: Mutex::default(), callers }
    }

    /// The node that the caller runs on: as its token says, or else the pod.
    async fn host_of(&self, caller: &PodCaller) -> Result<String, Rule> {
        if let Some(node) = &caller.node {
            return Ok(node.clone());
        }
        let now = Instant::now();
        let kept =
            self.callers.lock().unwrap_or_else(PoisonError::into_inner).find(&caller.uid, now);
        if let Some(node) = kept {
            return Ok(node);
        }
        let pod = bounded(self.directory.pod(caller.identity.namespace(), &caller.name)).await?;
        let pod = pod.filter(|pod| pod.uid == caller.uid).ok_or(Rule::CallerPodGone)?;
        let node = pod.node.ok_or(Rule::CallerPodGone)?;
        let now = Instant::now();
        let mut kept = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        kept.keep(caller.uid.clone(), node.clone(), now + LIST_FOR, now);
        Ok(node)
    }

    /// The pods of a node, asked for after `since`.
    async fn seen(
        &self,
        node: &str,
        since: Instant,
        freshness: Freshness,
    ) -> Result<Arc<Seen>, Rule> {
        let entry = self.entry(node);
        let good = |seen: &Arc<Seen>| {
            seen.at >= since
                && (freshness == Freshness::Followed || seen.freshness == Freshness::Now)
        };
        if let Some(seen) = entry.seen.load_full().filter(good) {
            return Ok(seen);
        }
        let _turn = entry.asking.lock().await;
        let last = entry.seen.load_full();
        if let Some(seen) = last.clone().filter(good) {
            return Ok(seen);
        }
        if let Some(last) = last {
            sleep_until(last.at + LIST_EVERY).await;
        }
        let at = Instant::now();
        let pods = bounded(self.directory.pods_on(node, freshness)).await?;
        let seen = Arc::new(self.digest(at, freshness, pods));
        entry.seen.store(Some(seen.clone()));
        Ok(seen)
    }

    fn entry(&self, node: &str) -> Arc<Node> {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = nodes.get(node) {
            return entry.clone();
        }
        if nodes.len() >= MOST_NODES {
            let now = Instant::now();
            let fresh = |entry: &Node| {
                entry.seen.load().as_ref().is_some_and(|seen| now < seen.at + LIST_FOR)
            };
            nodes.retain(|_, entry| fresh(entry));
        }
        if nodes.len() >= MOST_NODES
            && let Some(any) = nodes.keys().next().cloned()
        {
            nodes.remove(&any);
        }
        nodes.entry(node.to_owned()).or_default().clone()
    }

    fn digest(&self, at: Instant, freshness: Freshness, pods: Vec<Pod>) -> Seen {
        let mut seen = Seen { at, freshness, agents: HashMap::new(), identities: HashMap::new() };
        for pod in pods {
            let Ok(identity) = SpiffeId::new(&self.trust_domain, &pod.namespace, &pod.account)
            else {
                // Not a name that Kubernetes would have taken.
                continue;
            };
            let alive = pod.phase.is_alive();
            if alive {
                *seen.identities.entry(identity.clone()).or_default() |= pod.enrolled;
            }
            if self.permissions.agents.contains(&identity) {
                seen.agents.insert(pod.uid, Agent { identity, name: pod.name, alive });
            }
        }
        seen
    }

    /// Whether this list bears the request out.
    fn allows(&self, seen: &Seen, caller: &PodCaller, id: &SpiffeId) -> Result<(), Rule> {
        let agent = seen.agents.get(&caller.uid).ok_or(Rule::CallerPodGone)?;
        if agent.identity != caller.identity || agent.name != caller.name {
            return Err(Rule::CallerPodGone);
        }
        if !agent.alive {
            return Err(Rule::CallerPodFinished);
        }
        match seen.identities.get(id) {
            None => Err(Rule::NotOnNode),
            Some(false) if self.permissions.enrolled_only => Err(Rule::NotEnrolled),
            Some(_) => Ok(()),
        }
    }
}

#[tonic::async_trait]
impl<P: PodDirectory> Residents for NodePods<P> {
    async fn beside(&self, caller: &Caller, id: &SpiffeId) -> Result<(), Rule> {
        let Caller::Pod(caller) = caller else { return Err(Rule::NotOwnIdentity) };
        if !self.permissions.agents.contains(&caller.identity) {
            return Err(Rule::NotOwnIdentity);
        }
        if self.permissions.never.contains(id) {
            return Err(Rule::NeverIssued);
        }
        let began = Instant::now();
        let node = self.host_of(caller).await?;
        let recent = began.checked_sub(LIST_FOR).unwrap_or(began);
        let seen = self.seen(&node, recent, Freshness::Followed).await?;
        if self.allows(&seen, caller, id).is_ok() {
            return Ok(());
        }
        // Once more, with a list that is younger than the call: a pod may be milliseconds old. What
        // is followed mostly has it, and asking the API server is the last resort.
        let mut missed = began;
        if self.directory.follows() {
            let seen = self.seen(&node, began, Freshness::Followed).await?;
            if self.allows(&seen, caller, id).is_ok() {
                return Ok(());
            }
            missed = Instant::now();
        }
        let seen = self.seen(&node, missed, Freshness::Now).await?;
        self.allows(&seen, caller, id)
    }

    async fn node_of(&self, caller: &Caller) -> Option<String> {
        match caller {
            Caller::Pod(pod) if self.permissions.agents.contains(&pod.identity) => {
                self.host_of(pod).await.ok()
            }
            Caller::Node { .. } | Caller::Pod(_) | Caller::Holder { .. } => None,
        }
    }

    async fn anywhere(&self, id: &SpiffeId) -> Result<(), Rule> {
        if self.permissions.never.contains(id) {
            return Err(Rule::NeverIssued);
        }
        let pods = bounded(self.directory.pods_of(id.namespace(), id.service_account())).await?;
        let counts =
            |pod: &Pod| pod.phase.is_alive() && (pod.enrolled || !self.permissions.enrolled_only);
        if pods.iter().any(counts) { Ok(()) } else { Err(Rule::NotPlaced) }
    }
}

/// Waits for the API server, not for ever.
async fn bounded<T>(asked: impl Future<Output = Result<T, ApiServerError>>) -> Result<T, Rule> {
    let answer = timeout(LIST_DEADLINE, asked)
        .await
        .unwrap_or_else(|_| Err(ApiServerError::TooSlow { seconds: LIST_DEADLINE.as_secs() }));
    answer.map_err(|error| {
        let source = std::error::Error::source(&error).map(ToString::to_string);
        warn!(%error, source, "pods not known");
        Rule::ApiServer
    })
}

#[cfg(test)]
mod tests;
