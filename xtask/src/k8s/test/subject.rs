//! What is tested: a cluster of this machine's own, or one that a user has.

use super::kubectl::Kubectl;
use crate::k8s::cluster::Cluster;
use anyhow::{Result, ensure};
use std::process::Command;

/// Where Culvert is installed.
pub(crate) const SYSTEM: &str = "culvert-system";

/// The cluster under test, and what of it may be touched.
pub(crate) struct Subject {
    kubectl: Kubectl,
    cluster: Cluster,
    nodes: [String; 2],
    applications_image: String,
}

impl Subject {
    /// Finds two nodes that pods may be put on.
    pub(crate) fn new(cluster: Cluster, applications_image: &str) -> Result<Self> {
        let kubectl =
            Kubectl::new(cluster.programs().join("kubectl"), cluster.kubeconfig().to_owned());
        let found = kubectl.get(&["nodes"])?;
        let names: Vec<_> = found["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|node| node["spec"]["unschedulable"] != true)
            .filter_map(|node| node["metadata"]["labels"]["kubernetes.io/hostname"].as_str())
            .map(str::to_owned)
            .collect();
        ensure!(names.len() >= 2, "the test needs two nodes, the cluster has {}", names.len());
        let mut names = names.into_iter();
        let nodes = [names.next(), names.next()].map(Option::unwrap_or_default);
        Ok(Self { kubectl, cluster, nodes, applications_image: applications_image.to_owned() })
    }

    /// The way to the API server.
    pub(crate) fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    /// Two nodes of it.
    pub(crate) fn nodes(&self) -> [&str; 2] {
        [&self.nodes[0], &self.nodes[1]]
    }

    /// The image of the applications.
    pub(crate) fn applications_image(&self) -> &str {
        &self.applications_image
    }

    /// This machine's own cluster, whose nodes may be entered and whose parts may be stopped.
    ///
    /// # Errors
    /// The cluster is a user's.
    pub(crate) fn own(&self) -> Result<&Cluster> {
        let cluster = &self.cluster;
        ensure!(cluster.is_ours(), "needs the inside of a node, which only the lab gives");
        Ok(cluster)
    }

    /// A command on a node, in all of its namespaces.
    ///
    /// # Errors
    /// As [`Self::own`].
    pub(crate) fn node(&self, node: &str, words: &[&str]) -> Result<Command> {
        let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
        self.own()?.node_exec(node, &words)
    }

    /// Whether it is this machine's own.
    pub(crate) fn is_own(&self) -> bool {
        self.cluster.is_ours()
    }

    /// The agent's pod on a node.
    pub(crate) fn agent_on(&self, node: &str) -> Result<String> {
        let selector = format!("--field-selector=spec.nodeName={node},status.phase=Running");
        let label = "app.kubernetes.io/name=culvert-agent";
        let found = self.kubectl.get(&["-n", SYSTEM, "pods", "-l", label, &selector])?;
        let names: Vec<_> = found["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
            .filter_map(|pod| pod["metadata"]["name"].as_str())
            .collect();
        ensure!(names.len() == 1, "{} agents run on {node}: {}", names.len(), names.join(" "));
        Ok(names[0].to_owned())
    }
}
