//! The API server's objects, cut down to the fields that are used while they are decoded.
//!
//! A pod of the API server has some ten kilobytes, most of them its containers and who manages
//! which field; what is left here is a few hundred bytes. Annotations that nobody here reads are
//! dropped too, so that a pod with a huge one costs no more than another.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use kube::Resource;
use kube::api::ObjectMeta;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

/// On a pod that a sidecar was injected into: it is not ours.
pub(super) const SIDECAR_STATUS: &str = "sidecar.istio.io/status";
/// On a pod: what its agent says of it.
pub(super) const REDIRECTION: &str = "ambient.istio.io/redirection";
/// On the API server's copy of a static pod: the UID that the kubelet runs it under.
pub(super) const MIRROR: &str = "kubernetes.io/config.mirror";
/// On a node: the zone that it stands in.
pub(super) const ZONE: &str = "topology.kubernetes.io/zone";

/// On an `EndpointSlice`: the label that names its Service.
pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";

const ANNOTATIONS: [&str; 3] = [SIDECAR_STATUS, REDIRECTION, MIRROR];

/// What a kind of object must have so that it can be watched.
pub(super) trait Object:
    Resource<DynamicType = ()> + Clone + DeserializeOwned + fmt::Debug + Send + 'static
{
}

macro_rules! object {
    ($name:ident, $plural:literal, $group:literal, $scope:ty) => {
        impl Resource for $name {
            type DynamicType = ();
            type Scope = $scope;

            fn kind((): &()) -> Cow<'_, str> {
                stringify!($name).into()
            }

            fn group((): &()) -> Cow<'_, str> {
                $group.into()
            }

            fn version((): &()) -> Cow<'_, str> {
                "v1".into()
            }

            fn plural((): &()) -> Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }

        impl Object for $name {}
    };
}

object!(Pod, "pods", "", NamespaceResourceScope);
object!(Namespace, "namespaces", "", ClusterResourceScope);
object!(Node, "nodes", "", ClusterResourceScope);
object!(Service, "services", "", NamespaceResourceScope);
object!(EndpointSlice, "endpointslices", "discovery.k8s.io", NamespaceResourceScope);

/// A pod.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Pod {
    #[serde(default, deserialize_with = "trimmed")]
    pub(super) metadata: ObjectMeta,
    #[serde(default)]
    pub(super) spec: PodSpec,
    #[serde(default)]
    pub(super) status: PodStatus,
}

/// A pod's wish.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodSpec {
    pub(super) node_name: Option<String>,
    pub(super) service_account_name: Option<String>,
    #[serde(default)]
    pub(super) host_network: bool,
}

/// What has become of it.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct PodStatus {
    pub(super) phase: Option<String>,
    #[serde(rename = "podIP")]
    pub(super) pod_ip: Option<String>,
    #[serde(default, rename = "podIPs")]
    pub(super) pod_ips: Vec<PodIp>,
}

/// One address of a pod.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct PodIp {
    #[serde(default)]
    pub(super) ip: String,
}

/// A namespace; only its labels matter.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Namespace {
    #[serde(default, deserialize_with = "trimmed")]
    pub(super) metadata: ObjectMeta,
}

/// A node.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Node {
    #[serde(default, deserialize_with = "trimmed")]
    pub(super) metadata: ObjectMeta,
    #[serde(default)]
    pub(super) spec: NodeSpec,
}

/// What a node was given.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct NodeSpec {
    #[serde(rename = "podCIDR")]
    pub(super) pod_cidr: Option<String>,
    #[serde(default, rename = "podCIDRs")]
    pub(super) pod_cidrs: Vec<String>,
}

/// A Service.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Service {
    #[serde(default, deserialize_with = "trimmed")]
    pub(super) metadata: ObjectMeta,
    #[serde(default)]
    pub(super) spec: ServiceSpec,
}

/// What a Service is to be.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServiceSpec {
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    #[serde(rename = "clusterIP")]
    pub(super) cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    pub(super) cluster_ips: Option<Vec<String>>,
    pub(super) ports: Option<Vec<Port>>,
    pub(super) session_affinity: Option<String>,
    pub(super) internal_traffic_policy: Option<String>,
}

/// A port of a Service or of an `EndpointSlice`.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Port {
    pub(super) name: Option<String>,
    pub(super) protocol: Option<String>,
    #[serde(rename = "port")]
    pub(super) number: Option<i32>,
}

/// Some of the places that a Service leads to. The lists may be null.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct EndpointSlice {
    #[serde(default, deserialize_with = "trimmed")]
    pub(super) metadata: ObjectMeta,
    pub(super) endpoints: Option<Vec<Endpoint>>,
    pub(super) ports: Option<Vec<Port>>,
}

/// One place.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Endpoint {
    #[serde(default)]
    pub(super) addresses: Vec<String>,
    #[serde(default)]
    pub(super) conditions: Conditions,
    pub(super) node_name: Option<String>,
    pub(super) zone: Option<String>,
}

/// How it does.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Conditions {
    pub(super) ready: Option<bool>,
    pub(super) serving: Option<bool>,
    pub(super) terminating: Option<bool>,
}

/// Metadata as far as it is used.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Slim {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
}

/// Reads metadata without what nobody uses.
pub(super) fn trimmed<'de, D: Deserializer<'de>>(from: D) -> Result<ObjectMeta, D::Error> {
    let slim = Slim::deserialize(from)?;
    let annotations = slim.annotations.map(|mut annotations| {
        annotations.retain(|key, _| ANNOTATIONS.contains(&key.as_str()));
        annotations
    });
    Ok(ObjectMeta {
        name: slim.name,
        namespace: slim.namespace,
        uid: slim.uid,
        resource_version: slim.resource_version,
        creation_timestamp: slim.creation_timestamp,
        deletion_timestamp: slim.deletion_timestamp,
        labels: slim.labels,
        annotations,
        ..ObjectMeta::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_reads_is_dropped_while_decoding() {
        let huge = "x".repeat(250_000);
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {
                "name": "a", "namespace": "n", "resourceVersion": "7", "uid": "u",
                "creationTimestamp": "2026-01-02T03:04:05Z",
                "annotations": {"example.org/blob": huge, REDIRECTION: "enabled"},
                "managedFields": [{"manager": "kubelet", "operation": "Update"}],
            },
            "spec": {"nodeName": "node1", "containers": [{"name": "c", "image": "i"}]},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]},
        }))
        .unwrap();
        let annotations = pod.metadata.annotations.unwrap();
        assert_eq!(annotations.len(), 1);
        assert_eq!(annotations[REDIRECTION], "enabled");
        assert_eq!(pod.metadata.managed_fields, None);
        assert_eq!(pod.spec.node_name.as_deref(), Some("node1"));
        assert_eq!(pod.status.pod_ips[0].ip, "10.0.0.1");
    }

    #[test]
    fn an_object_without_anything_is_read() {
        let pod: Pod = serde_json::from_str("{}").unwrap();
        assert_eq!(pod.status.phase, None);
        let _: Node = serde_json::from_str(r#"{"metadata":{"name":"n"}}"#).unwrap();
    }
}
