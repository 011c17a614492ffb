//! From a pod of the API server to what the mesh must know of it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use culvert_ca::enrolment::{Candidate, Enrolment, Reading, Wish};
use culvert_spiffe::{SpiffeId, TrustDomain};
use kube::api::ObjectMeta;

use super::fault::Fault;
use super::objects::{MIRROR, Pod, REDIRECTION, SIDECAR_STATUS};
use crate::config::{is_dns_label, is_dns_name};
use crate::workload::{PodUid, Workload, WorkloadKey};

/// The labels that telemetry takes names from; all that is kept of a pod of another node.
///
/// Policies are enforced where a workload runs, so a selector is only ever held against pods of
/// the agent's own node.
const TELEMETRY_LABELS: [&str; 6] = [
    "app",
    "app.kubernetes.io/name",
    "app.kubernetes.io/version",
    "service.istio.io/canonical-name",
    "service.istio.io/canonical-revision",
    "version",
];

/// What is kept of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodRow {
    /// `metadata.uid`, which a patch must name so as not to meet another pod of that name.
    pub(super) api_uid: String,
    /// `metadata.creationTimestamp`, in seconds since 1970.
    pub(super) created: i64,
    /// Whether it is about to go.
    pub(super) terminating: bool,
    /// Whether it carries the word that it is steered.
    pub(super) redirected: bool,
    /// What only matters on the agent's own node.
    pub(super) local: Option<Local>,
    /// The pod as the API server has it. Of another node: enrolled as its annotation says. Of the
    /// own one: not enrolled and without a namespace, which [`super::state::State`] decides.
    pub(super) workload: Arc<Workload>,
}

/// What is kept of a pod of the agent's own node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Local {
    /// What its own labels ask for.
    wish: Option<Wish>,
    sidecar: bool,
}

impl PodRow {
    /// Whether the pod is of the own node and wanted in the mesh, where its namespace asks for
    /// `of_namespace`.
    pub(super) fn is_wanted(&self, of_namespace: Option<Wish>) -> bool {
        self.enrolment(of_namespace).is_some_and(Enrolment::is_enrolled)
    }

    /// Whether the pod is wanted in the mesh and why, if it is of the own node.
    pub(super) fn enrolment(&self, of_namespace: Option<Wish>) -> Option<Enrolment> {
        let local = self.local.as_ref()?;
        let candidate = Candidate {
            namespace: &self.workload.namespace,
            // Such pods have no row.
            host_network: false,
            sidecar: local.sidecar,
            pod: local.wish,
            of_namespace,
        };
        Some(candidate.decide())
    }
}

/// Namespace and name of an object; empty where it has none.
pub(super) fn key(metadata: &ObjectMeta) -> WorkloadKey {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    WorkloadKey::new(&text(&metadata.namespace), &text(&metadata.name))
}

/// What must be kept of a pod, and what is wrong with it.
///
/// Nothing is kept of pods in the network of their host, of those that have ended, and of those of
/// other nodes as long as they have no address.
pub(super) fn row(
    pod: &Pod,
    own_node: &str,
    trust_domain: &TrustDomain,
) -> (Option<PodRow>, Vec<Fault>) {
    let mut faults = Vec::new();
    let row = try_row(pod, own_node, trust_domain, &mut faults);
    (row, faults)
}

fn try_row(
    pod: &Pod,
    own_node: &str,
    trust_domain: &TrustDomain,
    faults: &mut Vec<Fault>,
) -> Option<PodRow> {
    let ended = matches!(pod.status.phase.as_deref(), Some("Succeeded" | "Failed"));
    if ended || pod.spec.host_network {
        return None;
    }
    let node = pod.spec.node_name.clone().unwrap_or_default();
    let is_local = node == own_node;
    let addresses = addresses(pod, faults);
    if addresses.is_empty() && !is_local {
        return None;
    }
    let key = key(&pod.metadata);
    if !is_dns_label(key.namespace()) || !is_dns_name(key.name()) {
        faults.push(Fault::Name);
        return None;
    }
    let account = pod.spec.service_account_name.as_deref().filter(|name| !name.is_empty());
    let identity = SpiffeId::new(trust_domain, key.namespace(), account.unwrap_or("default"));
    let identity = match identity {
        Ok(identity) => identity,
        Err(source) => {
            faults.push(Fault::Identity { source });
            return None;
        }
    };
    let mut labels = pod.metadata.labels.clone().unwrap_or_default();
    let local = is_local.then(|| local(&labels, annotations(pod), faults));
    if !is_local {
        labels.retain(|key, _| TELEMETRY_LABELS.contains(&key.as_str()));
    }
    let redirected = annotations(pod).and_then(|all| all.get(REDIRECTION));
    let redirected = redirected.is_some_and(|state| state == "enabled");
    let created = pod.metadata.creation_timestamp.as_ref();
    Some(PodRow {
        api_uid: pod.metadata.uid.clone().unwrap_or_default(),
        created: created.map_or(0, |time| time.0.as_second()),
        terminating: pod.metadata.deletion_timestamp.is_some(),
        redirected,
        workload: Arc::new(Workload {
            name: key.name().to_owned(),
            namespace: key.namespace().to_owned(),
            node,
            addresses,
            labels,
            enrolled: redirected && !is_local,
            netns: None,
            uid: if is_local { uid(pod, faults) } else { None },
            identity,
        }),
        local,
    })
}

fn annotations(pod: &Pod) -> Option<&BTreeMap<String, String>> {
    pod.metadata.annotations.as_ref()
}

fn local(
    labels: &BTreeMap<String, String>,
    annotations: Option<&BTreeMap<String, String>>,
    faults: &mut Vec<Fault>,
) -> Local {
    let reading = Reading::of(labels);
    faults.extend(reading.malformed.into_iter().map(Fault::Label));
    let sidecar = annotations.is_some_and(|all| all.contains_key(SIDECAR_STATUS));
    Local { wish: reading.wish, sidecar }
}

/// The UID that the pod's cgroups bear, if it is one.
pub(super) fn uid_of(pod: &Pod) -> Option<PodUid> {
    let mirrored = annotations(pod).and_then(|all| all.get(MIRROR));
    mirrored.or(pod.metadata.uid.as_ref())?.parse().ok()
}

fn uid(pod: &Pod, faults: &mut Vec<Fault>) -> Option<PodUid> {
    let uid = uid_of(pod);
    if uid.is_none() {
        faults.push(Fault::Uid);
    }
    uid
}

/// At most one address of each family, the first.
fn addresses(pod: &Pod, faults: &mut Vec<Fault>) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    let all = pod.status.pod_ips.iter().map(|entry| &entry.ip);
    for text in all.chain(&pod.status.pod_ip) {
        let usable = text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
        let usable =
            usable.filter(|ip| !ip.is_loopback() && !ip.is_multicast() && !ip.is_unspecified());
        match usable {
            Some(ip) if found.iter().any(|other| other.is_ipv4() == ip.is_ipv4()) => {}
            Some(ip) => found.push(ip),
            None if text.is_empty() => {}
            None => faults.push(Fault::Address { address: text.chars().take(64).collect() }),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::kubernetes::testing::{pod, with};
    use serde_json::{Value, json};

    fn read(value: &Value) -> (Option<PodRow>, Vec<Fault>) {
        let pod: Pod = serde_json::from_value(value.clone()).unwrap();
        row(&pod, "node1", &"cluster.local".parse().unwrap())
    }

    #[test]
    fn a_pod_of_the_own_node_keeps_all_its_labels() {
        let labels = json!({"metadata": {"labels": {"x": "y", "app": "shop"}}});
        let (row, faults) = read(&with(pod("n", "a", "node1", "10.0.0.1"), &labels));
        assert_eq!(faults, []);
        let workload = row.unwrap().workload;
        assert_eq!(workload.labels.len(), 2);
        assert_eq!(workload.identity.as_str(), "spiffe://cluster.local/ns/n/sa/default");
        assert!(workload.uid.is_some());
    }

    #[test]
    fn a_pod_of_another_node_is_cut_down_and_enrolled_by_its_annotation() {
        let rest = json!({"metadata": {
            "labels": {"x": "y", "app": "shop"},
            "annotations": {"ambient.istio.io/redirection": "enabled"},
        }, "spec": {"serviceAccountName": "front"}});
        let (row, _) = read(&with(pod("n", "a", "node2", "10.0.0.1"), &rest));
        let workload = row.unwrap().workload;
        assert_eq!(workload.labels.keys().collect::<Vec<_>>(), ["app"]);
        assert!(workload.enrolled);
        assert_eq!(workload.identity.as_str(), "spiffe://cluster.local/ns/n/sa/front");
        let pending = json!({"metadata": {"annotations": {
            "ambient.istio.io/redirection": "pending"}}});
        let (row, _) = read(&with(pod("n", "a", "node2", "10.0.0.1"), &pending));
        assert!(!row.unwrap().workload.enrolled);
    }

    #[test]
    fn pods_of_the_host_network_and_ended_ones_do_not_count() {
        for rest in [
            json!({"spec": {"hostNetwork": true}}),
            json!({"status": {"phase": "Succeeded"}}),
            json!({"status": {"phase": "Failed"}}),
        ] {
            assert_eq!(read(&with(pod("n", "a", "node1", "10.0.0.1"), &rest)), (None, vec![]));
        }
        assert_eq!(read(&pod("n", "a", "node2", "")), (None, vec![]), "has no address yet");
        assert!(read(&pod("n", "a", "node1", "")).0.is_some(), "own ones may be announced");
    }

    #[test]
    fn a_static_pod_has_the_uid_that_the_kubelet_gave_it() {
        let hash = "0123456789abcdef0123456789abcdef";
        let rest = json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": hash}}});
        let (row, _) = read(&with(pod("n", "a", "node1", "10.0.0.1"), &rest));
        assert_eq!(row.unwrap().workload.uid.as_ref().unwrap().to_string(), hash);
    }

    #[test]
    fn bad_fields_are_named_and_the_rest_stays() {
        let rest = json!({
            "metadata": {"labels": {"culvert.io/dataplane-mode": "yes"}, "uid": "no-uid"},
            "status": {"podIPs": [{"ip": "127.0.0.1"}, {"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]},
        });
        let (row, faults) = read(&with(pod("n", "a", "node1", ""), &rest));
        let row = row.unwrap();
        assert_eq!(row.workload.addresses, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(row.workload.uid, None);
        let mut reasons: Vec<_> = faults.iter().map(Fault::reason).collect();
        reasons.sort_unstable();
        assert_eq!(reasons, ["bad_address", "bad_label", "bad_uid"]);
    }

    #[test]
    fn names_that_no_identity_can_have_are_refused() {
        for (namespace, name) in [("n/../x", "a"), ("", "a"), ("n", ""), ("n", "A b")] {
            let (row, faults) = read(&pod(namespace, name, "node1", "10.0.0.1"));
            assert_eq!((row, faults), (None, vec![Fault::Name]), "{namespace} {name}");
        }
        let longest = "a".repeat(253);
        let account = json!({"spec": {"serviceAccountName": "a/b"}});
        assert_eq!(read(&with(pod("n", "a", "node1", "10.0.0.1"), &account)).1.len(), 1);
        // 253 characters are no label, but a valid subdomain only with dots in it.
        assert_eq!(read(&pod("n", &longest, "node1", "10.0.0.1")).1, [Fault::Name]);
        let longest =
            format!("{}.{}.{}.{}", "a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61));
        assert_eq!(longest.len(), 253);
        assert!(read(&pod("n", &longest, "node1", "10.0.0.1")).0.is_some());
    }
}
