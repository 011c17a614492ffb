//! [`Announcer`]: pods that the watch has not shown yet, told of by who makes their network.

use std::time::Duration;

use futures_util::future::BoxFuture;
use kube::runtime::watcher::Event;
use kube::{Api, Client};
use tokio::sync::{mpsc, oneshot};

use super::objects::{Namespace, Pod};
use super::state::Change;
use super::watch::News;
use crate::workload::{Announce, AnnounceError, Announced, Decision, PodUid};

/// How long the API server may take to answer for one pod.
const ASK: Duration = Duration::from_secs(5);

/// What the source is asked.
pub(super) enum Request {
    /// Is the pod wanted? Nothing is answered when its pod or namespace is not known.
    Announce(Announced, oneshot::Sender<Option<Decision>>),
    /// The pod's network is about to go.
    Withdraw(PodUid),
    /// An object that was asked for because no watch had shown it yet.
    Learn(Box<Change>),
}

/// Takes announcements for a [`super::Source`]. Cheap to clone.
#[derive(Clone)]
pub struct Announcer {
    client: Client,
    requests: mpsc::Sender<Request>,
}

impl Announcer {
    pub(super) fn new(client: Client, requests: mpsc::Sender<Request>) -> Self {
        Self { client, requests }
    }

    async fn decide(&self, pod: Announced) -> Result<Decision, AnnounceError> {
        if let Some(decision) = self.ask(&pod).await? {
            return Ok(decision);
        }
        self.learn(&pod).await?;
        // The source took the objects before it takes this.
        match self.ask(&pod).await? {
            Some(decision) => Ok(decision),
            // It has its host's network, or has ended.
            None => Ok(Decision::Leave),
        }
    }

    async fn ask(&self, pod: &Announced) -> Result<Option<Decision>, AnnounceError> {
        let stopping = || AnnounceError::Stopping { pod: pod.key() };
        let (answer, decision) = oneshot::channel();
        let request = Request::Announce(pod.clone(), answer);
        self.requests.send(request).await.map_err(|_| stopping())?;
        decision.await.map_err(|_| stopping())
    }

    /// Asks the API server for the pod and its namespace.
    async fn learn(&self, pod: &Announced) -> Result<(), AnnounceError> {
        let unanswered = |source: Box<dyn std::error::Error + Send + Sync>| {
            AnnounceError::Unanswered { pod: pod.key(), source }
        };
        let pods = Api::<Pod>::namespaced(self.client.clone(), &pod.namespace);
        let namespaces = Api::<Namespace>::all(self.client.clone());
        let both =
            async { tokio::try_join!(pods.get_opt(&pod.name), namespaces.get_opt(&pod.namespace)) };
        let asked = tokio::time::timeout(ASK, both).await.map_err(|error| unanswered(error.into()));
        let (found, namespace) = asked?.map_err(|error| unanswered(error.into()))?;
        let gone = || AnnounceError::NoSuchPod { pod: pod.key(), uid: pod.uid.clone() };
        let (found, namespace) = found.zip(namespace).ok_or_else(gone)?;
        if super::pods::uid_of(&found).as_ref() != Some(&pod.uid) {
            return Err(gone());
        }
        let changes = [
            Change::Namespace(News::Event(Event::Apply(namespace))),
            Change::Pod(News::Event(Event::Apply(found))),
        ];
        for change in changes {
            let stopping = |_| AnnounceError::Stopping { pod: pod.key() };
            self.requests.send(Request::Learn(Box::new(change))).await.map_err(stopping)?;
        }
        Ok(())
    }
}

impl Announce for Announcer {
    fn announce(&self, pod: Announced) -> BoxFuture<'_, Result<Decision, AnnounceError>> {
        Box::pin(self.decide(pod))
    }

    fn withdraw(&self, uid: &PodUid) {
        if self.requests.try_send(Request::Withdraw(uid.clone())).is_err() {
            // The watch will tell of the pod's end as well, a moment later.
            tracing::debug!(%uid, "too busy to take a pod out early");
        }
    }
}
