//! [`ApiServerPods`]: who runs where, by a watch that keeps some 300 bytes of each pod.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1;
use kube::api::{GetParams, ListParams};
use kube::core::{ApiResource, Object, Request};
use kube::runtime::watcher::Config;
use kube::{Api, Client, Resource as _, ResourceExt as _};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::watched::{Table, Watched};
use super::{Namespaces, ask, found};
use crate::attest::kubernetes::{ApiServerError, Freshness, Phase, Pod, PodDirectory};
use crate::enrolment::{Candidate, Reading, Wish, has_sidecar};

/// The pods of the cluster.
pub struct ApiServerPods {
    client: Client,
    namespaces: Arc<Namespaces>,
    watched: Watched<Pods>,
}

/// What is read of a pod; the rest is passed over.
type Read = Object<Spec, Status>;

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    service_account_name: Option<String>,
    node_name: Option<String>,
    host_network: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct Status {
    phase: Option<String>,
}

#[derive(Deserialize)]
struct List {
    items: Vec<Read>,
}

/// The pods by namespace and name, and where they run.
#[derive(Default)]
struct Pods {
    by_namespace: HashMap<Arc<str>, HashMap<Arc<str>, Kept>>,
    by_node: HashMap<Arc<str>, HashSet<Key>>,
}

/// Namespace and name.
type Key = (Arc<str>, Arc<str>);

/// What is kept of a pod.
#[derive(Clone)]
struct Kept {
    uid: Box<str>,
    account: Box<str>,
    node: Option<Arc<str>>,
    phase: Phase,
    wish: Option<Wish>,
    host_network: bool,
    sidecar: bool,
}

impl ApiServerPods {
    /// Knows nothing until [`ApiServerPods::follow`] runs; questions wait for that.
    pub fn new(client: Client, namespaces: Arc<Namespaces>) -> Self {
        Self { client, namespaces, watched: Watched::new("pods") }
    }

    /// Follows the pods until `cancel`.
    pub async fn follow(&self, cancel: CancellationToken) {
        let api = Api::all_with(self.client.clone(), &ApiResource::erase::<v1::Pod>(&()));
        self.watched.follow(api, Config::default(), cancel).await;
    }

    /// Waits until pods and namespaces are known. Cancel safe.
    async fn listed(&self) {
        self.watched.listed().await;
        self.namespaces.listed().await;
    }

    fn pod_of(&self, namespace: &str, name: &str, kept: &Kept) -> Pod {
        let candidate = Candidate {
            namespace,
            host_network: kept.host_network,
            sidecar: kept.sidecar,
            pod: kept.wish,
            of_namespace: self.namespaces.wish(namespace),
        };
        Pod {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: kept.uid.to_string(),
            account: kept.account.to_string(),
            node: kept.node.as_deref().map(ToOwned::to_owned),
            phase: kept.phase,
            enrolled: candidate.decide().is_enrolled(),
        }
    }

    fn pod_of_read(&self, pod: &Read) -> Pod {
        let namespace = pod.namespace().unwrap_or_default();
        self.pod_of(&namespace, &pod.name_any(), &Kept::of(pod))
    }
}

#[tonic::async_trait]
impl PodDirectory for ApiServerPods {
    fn follows(&self) -> bool {
        true
    }

    async fn pod(&self, namespace: &str, name: &str) -> Result<Option<Pod>, ApiServerError> {
        self.listed().await;
        let kept = self.watched.look(|pods| pods.by_namespace.get(namespace)?.get(name).cloned());
        if let Some(kept) = kept {
            return Ok(Some(self.pod_of(namespace, name, &kept)));
        }
        let asked =
            Request::new(v1::Pod::url_path(&(), Some(namespace))).get(name, &GetParams::default());
        let pod = found(ask::<Read>(&self.client, "read a pod", asked).await)?;
        Ok(pod.map(|pod| self.pod_of_read(&pod)))
    }

    async fn pods_on(&self, node: &str, freshness: Freshness) -> Result<Vec<Pod>, ApiServerError> {
        self.listed().await;
        match freshness {
            Freshness::Followed => Ok(self.watched.look(|pods| {
                pods.on(node)
                    .map(|(namespace, name, kept)| self.pod_of(namespace, name, kept))
                    .collect()
            })),
            Freshness::Now => {
                let fields = format!("spec.nodeName={node}");
                let asked = Request::new(v1::Pod::url_path(&(), None))
                    .list(&ListParams::default().fields(&fields));
                let list: List = ask(&self.client, "list the pods of a node", asked).await?;
                Ok(list.items.iter().map(|pod| self.pod_of_read(pod)).collect())
            }
        }
    }

    async fn pods_of(&self, namespace: &str, account: &str) -> Result<Vec<Pod>, ApiServerError> {
        self.listed().await;
        Ok(self.watched.look(|pods| {
            let all = pods.by_namespace.get(namespace).into_iter().flatten();
            all.filter(|(_, kept)| &*kept.account == account)
                .map(|(name, kept)| self.pod_of(namespace, name, kept))
                .collect()
        }))
    }
}

impl Kept {
    fn of(pod: &Read) -> Self {
        let account = pod.spec.service_account_name.as_deref().filter(|name| !name.is_empty());
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        Self {
            uid: pod.uid().unwrap_or_default().into(),
            account: account.unwrap_or("default").into(),
            node: pod.spec.node_name.as_deref().filter(|name| !name.is_empty()).map(Arc::from),
            phase: phase.map_or(Phase::Pending, phase_of),
            wish: Reading::of(pod.labels()).wish,
            host_network: pod.spec.host_network.unwrap_or(false),
            sidecar: has_sidecar(pod.annotations()),
        }
    }
}

fn phase_of(text: &str) -> Phase {
    match text {
        "Pending" => Phase::Pending,
        "Running" => Phase::Running,
        "Succeeded" => Phase::Succeeded,
        "Failed" => Phase::Failed,
        // A phase that came later than this program: nothing is given to what is not understood.
        _ => Phase::Unknown,
    }
}

impl Pods {
    fn on(&self, node: &str) -> impl Iterator<Item = (&Arc<str>, &Arc<str>, &Kept)> {
        let keys = self.by_node.get(node).into_iter().flatten();
        keys.filter_map(|(namespace, name)| {
            Some((namespace, name, self.by_namespace.get(namespace)?.get(name)?))
        })
    }

    fn remove(&mut self, namespace: &str, name: &str) {
        let Some(names) = self.by_namespace.get_mut(namespace) else { return };
        let Some((name, kept)) = names.remove_entry(name) else { return };
        if names.is_empty() {
            self.by_namespace.remove(namespace);
        }
        if let Some(node) = kept.node
            && let Some(keys) = self.by_node.get_mut(&node)
        {
            keys.remove(&(Arc::from(namespace), name));
            if keys.is_empty() {
                self.by_node.remove(&node);
            }
        }
    }
}

impl Table for Pods {
    type Object = Read;

    fn put(&mut self, object: Read) {
        let mut kept = Kept::of(&object);
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        self.remove(&namespace, &name);
        let namespace = known(&self.by_namespace, &namespace);
        let name: Arc<str> = name.into();
        if let Some(node) = &mut kept.node {
            *node = known(&self.by_node, node);
            let keys = self.by_node.entry(node.clone()).or_default();
            keys.insert((namespace.clone(), name.clone()));
        }
        self.by_namespace.entry(namespace).or_default().insert(name, kept);
    }

    fn take_out(&mut self, object: &Read) {
        self.remove(&object.namespace().unwrap_or_default(), &object.name_any());
    }
}

/// The text as the map has it already, or a new one: names so stand in memory once.
fn known<V>(map: &HashMap<Arc<str>, V>, text: &str) -> Arc<str> {
    map.get_key_value(text).map_or_else(|| Arc::from(text), |(text, _)| text.clone())
}

#[cfg(test)]
mod tests;
