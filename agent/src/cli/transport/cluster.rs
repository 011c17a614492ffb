//! Finds the agents of a cluster.

use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Api, Client};
use tokio::time::timeout;

use super::error::TransportError;
use super::place::{Place, PodPlace};

/// How long the API server may take to list the agents' pods.
const LIST: Duration = Duration::from_secs(15);
/// How long a connection to it may take to come up.
const CONNECT: Duration = Duration::from_secs(10);
/// The label of the agents' pods.
const LABEL: &str = "app.kubernetes.io/name=culvert-agent";
/// Pods asked for in one list.
const PAGE: u32 = 500;

/// Which cluster, and where in it agents are.
#[derive(Clone, Debug)]
pub(super) struct Cluster {
    pub(super) kubeconfig: Option<PathBuf>,
    pub(super) context: Option<String>,
    pub(super) namespace: String,
    pub(super) node: Option<String>,
}

impl Cluster {
    /// The agents' pods by node. Those of nodes that are just starting are among them.
    pub(super) async fn agents(&self) -> Result<Vec<Place>, TransportError> {
        let client = self.client().await?;
        let silent = |_| TransportError::Silent { seconds: LIST.as_secs() };
        let mut found = timeout(LIST, self.list(&client)).await.map_err(silent)??;
        found.sort_by(|a, b| (&a.node, &a.name).cmp(&(&b.node, &b.name)));
        if found.is_empty() {
            let (namespace, node) = (self.namespace.clone(), self.node.clone());
            return Err(TransportError::NoAgents { namespace, node });
        }
        Ok(found.into_iter().map(Place::Pod).collect())
    }

    async fn client(&self) -> Result<Client, TransportError> {
        let refuse = |source: KubeconfigError| TransportError::Kubeconfig {
            path: self.kubeconfig.clone(),
            context: self.context.clone(),
            source: Box::new(source),
        };
        let options =
            KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let mut config = match &self.kubeconfig {
            Some(path) => {
                let kubeconfig = Kubeconfig::read_from(path).map_err(refuse)?;
                kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(refuse)?
            }
            None if self.context.is_some() => {
                kube::Config::from_kubeconfig(&options).await.map_err(refuse)?
            }
            // Also from within a pod.
            None => kube::Config::infer()
                .await
                .map_err(|source| TransportError::NoCluster(Box::new(source)))?,
        };
        config.connect_timeout = Some(CONNECT);
        Client::try_from(config).map_err(|error| TransportError::Client(Box::new(error)))
    }

    async fn list(&self, client: &Client) -> Result<Vec<PodPlace>, TransportError> {
        let pods: Api<Pod> = Api::namespaced(client.clone(), &self.namespace);
        let mut parameters = ListParams::default().labels(LABEL).limit(PAGE);
        if let Some(node) = &self.node {
            parameters = parameters.fields(&format!("spec.nodeName={node}"));
        }
        let mut found = Vec::new();
        loop {
            let page = pods.list(&parameters).await.map_err(|source| TransportError::List {
                namespace: self.namespace.clone(),
                source: Box::new(source),
            })?;
            found.extend(page.items.iter().filter_map(|pod| place(client, &self.namespace, pod)));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => parameters = parameters.continue_token(&token),
                None => return Ok(found),
            }
        }
    }
}

/// Where the agent in a pod is asked; nothing for one that has ended.
fn place(client: &Client, namespace: &str, pod: &Pod) -> Option<PodPlace> {
    let status = pod.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
    if matches!(phase, "Succeeded" | "Failed") {
        return None;
    }
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let not_ready = match (&node, phase) {
        (None, _) => Some("not on a node yet".to_owned()),
        (Some(_), "Running") => None,
        (Some(_), phase) => Some(phase.to_owned()),
    };
    Some(PodPlace {
        client: client.clone(),
        namespace: namespace.to_owned(),
        name: pod.metadata.name.clone()?,
        node: node.unwrap_or_else(|| "?".to_owned()),
        not_ready,
    })
}
