//! [`Written`]: a cluster's objects as somebody wrote or saved them.
//!
//! Unlike an agent, who judges the pods of its own node and is told about the others, a reader of
//! files judges every pod by its labels. What no cluster has filled in yet is made up: addresses,
//! and the endpoints of a Service that has a selector and no `EndpointSlice`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use culvert_ca::enrolment::{By, CULVERT_LABEL, Enrolment, Reading, Why, Wish};
use culvert_spiffe::TrustDomain;
use kube::runtime::watcher::Event;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::conflicts;
use super::objects::{EndpointSlice, Namespace, Node, Pod, SERVICE_NAME, Service, ZONE};
use super::pods::{self, PodRow};
use super::services::{self, Directory};
use crate::workload::offline::{Names, Outside};
use crate::workload::{Services, Workload, WorkloadKey};

/// Kinds with a template that pods are made from.
const TEMPLATES: [&str; 6] =
    ["DaemonSet", "Deployment", "Job", "ReplicaSet", "ReplicationController", "StatefulSet"];

/// A cluster's objects as somebody wrote or saved them.
pub(in crate::workload) struct Written {
    trust_domain: TrustDomain,
    pods: BTreeMap<WorkloadKey, Placed>,
    /// Pods that a template would make.
    templates: BTreeMap<WorkloadKey, Placed>,
    outside: BTreeMap<WorkloadKey, Outside>,
    namespaces: BTreeMap<String, Option<Wish>>,
    zones: BTreeMap<String, String>,
    services: BTreeMap<WorkloadKey, (Value, Service)>,
    slices: BTreeMap<WorkloadKey, EndpointSlice>,
    /// What is wrong with objects and, as in a cluster, harms nobody else.
    notes: Vec<String>,
    /// How many addresses were made up.
    made_up: u32,
}

/// A pod with its named ports.
#[derive(Clone)]
struct Placed {
    row: PodRow,
    ports: BTreeMap<String, u16>,
}

impl Written {
    pub(in crate::workload) fn new(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            pods: BTreeMap::new(),
            templates: BTreeMap::new(),
            outside: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            zones: BTreeMap::new(),
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            notes: Vec::new(),
            made_up: 0,
        }
    }

    /// Whether objects of this kind say anything about the mesh.
    pub(in crate::workload) fn reads(group: &str, kind: &str) -> bool {
        match group {
            "" => {
                matches!(kind, "Pod" | "Namespace" | "Node" | "Service" | "ReplicationController")
            }
            "discovery.k8s.io" => kind == "EndpointSlice",
            "apps" | "batch" => TEMPLATES.contains(&kind),
            _ => false,
        }
    }

    /// Takes an object of a kind that is read.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(in crate::workload) fn add(
        &mut self,
        kind: &str,
        value: &Value,
        key: &WorkloadKey,
    ) -> Result<(), String> {
        match kind {
            "Pod" => self.pod(value, key)?,
            "Namespace" => {
                let namespace: Namespace = object(kind, key.name(), value)?;
                let reading = Reading::of_optional(namespace.metadata.labels.as_ref());
                let wrong = reading.malformed.iter();
                self.notes.extend(wrong.map(|wrong| format!("Namespace {}: {wrong}", key.name())));
                self.namespaces.insert(key.name().to_owned(), reading.wish);
            }
            "Node" => {
                let node: Node = object(kind, key.name(), value)?;
                let zone = node.metadata.labels.and_then(|mut labels| labels.remove(ZONE));
                self.zones.extend(zone.map(|zone| (key.name().to_owned(), zone)));
            }
            "Service" => {
                let mut service: Service = object(kind, key, value)?;
                service.metadata.namespace = Some(key.namespace().to_owned());
                self.services.insert(key.clone(), (value.clone(), service));
            }
            "EndpointSlice" => {
                let mut slice: EndpointSlice = object(kind, key, value)?;
                slice.metadata.namespace = Some(key.namespace().to_owned());
                self.slices.insert(key.clone(), slice);
            }
            _ => self.template(kind, value, key)?,
        }
        Ok(())
    }

    fn pod(&mut self, value: &Value, key: &WorkloadKey) -> Result<(), String> {
        match self.placed("Pod", value, key)? {
            Ok(placed) => self.pods.insert(key.clone(), placed).map(drop),
            Err(outside) => self.outside.insert(key.clone(), outside).map(drop),
        };
        Ok(())
    }

    /// What owns pods stands for them as long as none of them is there.
    fn template(&mut self, kind: &str, value: &Value, key: &WorkloadKey) -> Result<(), String> {
        let owned = value.pointer("/metadata/ownerReferences").and_then(Value::as_array);
        if owned.is_some_and(|owners| !owners.is_empty()) {
            return Ok(());
        }
        let part = |pointer: &str| value.pointer(pointer).cloned().unwrap_or_default();
        let pod = json!({
            "metadata": {
                "name": key.name(),
                "namespace": key.namespace(),
                "labels": part("/spec/template/metadata/labels"),
                "annotations": part("/spec/template/metadata/annotations"),
            },
            "spec": part("/spec/template/spec"),
        });
        if let Ok(placed) = self.placed(kind, &pod, key)? {
            self.templates.insert(key.clone(), placed);
        }
        Ok(())
    }

    /// A pod as its own node's agent would read it, or why it is no workload.
    fn placed(
        &mut self,
        kind: &str,
        value: &Value,
        key: &WorkloadKey,
    ) -> Result<Result<Placed, Outside>, String> {
        let mut pod: Pod = object(kind, key, value)?;
        pod.metadata.namespace = Some(key.namespace().to_owned());
        if matches!(pod.status.phase.as_deref(), Some("Succeeded" | "Failed")) {
            return Ok(Err(Outside { address: None, why: "it has ended" }));
        }
        if pod.spec.host_network {
            let address = pod.status.pod_ip.as_deref().and_then(|ip| ip.parse().ok());
            let why = "it has its host's network, where nothing can be steered for it alone";
            return Ok(Err(Outside { address, why }));
        }
        let node = pod.spec.node_name.clone().unwrap_or_default();
        // Written by hand, a pod has no UID yet, which is no fault here.
        let (row, faults) = pods::row(&pod, &node, &self.trust_domain);
        let mut told: Vec<_> = faults
            .iter()
            .filter(|fault| fault.reason() != "bad_uid")
            .map(|fault| format!("{kind} {key}: {fault}"))
            .collect();
        let Some(row) = row else {
            return Err(told.pop().unwrap_or_else(|| format!("{kind} {key} is no workload")));
        };
        self.notes.append(&mut told);
        Ok(Ok(Placed { row, ports: named_ports(value) }))
    }

    /// Nothing more is to come: every workload there is. Tells what is known of their names.
    pub(in crate::workload) fn finish(&mut self, names: &mut Names) -> Vec<Arc<Workload>> {
        self.take_templates();
        let mut pods = std::mem::take(&mut self.pods);
        for placed in pods.values_mut() {
            let mut workload = Workload::clone(&placed.row.workload);
            if workload.addresses.is_empty() {
                workload.addresses.push(self.make_up());
            }
            let (enrolled, because) = self.enrolment(&placed.row);
            workload.enrolled = enrolled;
            names.because.insert(workload.key(), because);
            placed.row.workload = Arc::new(workload);
        }
        let all = pods.values().map(|placed| (&placed.row, Arc::clone(&placed.row.workload)));
        let (workloads, taken) = conflicts::settle(all.collect());
        self.pods = pods;
        for key in taken.into_keys().filter(|key| workloads.iter().all(|left| left.key() != *key)) {
            let why = "another pod has its address, and is younger or not about to go";
            self.outside.insert(key, Outside { address: None, why });
        }
        self.make_up_services(names);
        names.notes.append(&mut self.notes);
        names.outside.append(&mut self.outside);
        workloads
    }

    /// Templates none of whose pods is there.
    fn take_templates(&mut self) {
        for (key, template) in std::mem::take(&mut self.templates) {
            let labels = &template.row.workload.labels;
            let made = |(of, pod): (&WorkloadKey, &Placed)| {
                of.namespace() == key.namespace()
                    && !labels.is_empty()
                    && is_selected(labels, &pod.row.workload.labels)
            };
            if !self.pods.iter().any(made) {
                self.pods.entry(key).or_insert(template);
            }
        }
    }

    /// Whether a pod is in the mesh, and why.
    fn enrolment(&self, row: &PodRow) -> (bool, String) {
        let namespace = row.workload.namespace.as_str();
        let of_namespace = self.namespaces.get(namespace);
        let Some(enrolment) = row.enrolment(of_namespace.copied().flatten()) else {
            return (row.workload.enrolled, "its node's agent says so".to_owned());
        };
        let told = match enrolment {
            Enrolment::Left(Why::NotAsked) if of_namespace.is_none() && row.redirected => {
                return (true, "its annotation says that it is steered".to_owned());
            }
            Enrolment::Enrolled(By::Pod(label)) => format!("its label {label} asks for it"),
            Enrolment::Enrolled(By::Namespace(label)) => {
                format!("label {label} of namespace {namespace} asks for it")
            }
            Enrolment::Left(Why::OptedOut(By::Pod(label))) => {
                format!("its label {label} takes it out")
            }
            Enrolment::Left(Why::OptedOut(By::Namespace(label))) => {
                format!("label {label} of namespace {namespace} takes it out")
            }
            Enrolment::Left(Why::NotAsked) if of_namespace.is_none() => format!(
                "it has no label {CULVERT_LABEL}, and namespace {namespace}, whose label would \
                 count, is not in the files"
            ),
            Enrolment::Left(Why::NotAsked) => {
                format!("neither it nor namespace {namespace} has the label {CULVERT_LABEL}")
            }
            Enrolment::Left(Why::SystemNamespace) => {
                format!("pods of namespace {namespace} are never in the mesh")
            }
            Enrolment::Left(Why::Sidecar) => "a sidecar carries its connections".to_owned(),
            Enrolment::Left(Why::HostNetwork) => "it has its host's network".to_owned(),
        };
        (enrolment.is_enrolled(), told)
    }

    /// An address that nobody has. See [`crate::workload::offline::is_made_up`].
    fn make_up(&mut self) -> IpAddr {
        self.made_up += 1;
        IpAddr::V4(Ipv4Addr::from(self.made_up & 0x00ff_ffff))
    }

    /// Addresses and endpoints for Services that no cluster has filled in.
    fn make_up_services(&mut self, names: &mut Names) {
        let with_slices: BTreeSet<WorkloadKey> = self
            .slices
            .values()
            .filter_map(|slice| Some(services::slice_row(slice, "")?.service_key().clone()))
            .collect();
        let mut services = std::mem::take(&mut self.services);
        for (key, (value, service)) in &mut services {
            if !with_slices.contains(key) {
                self.make_up_endpoints(key, value);
            }
            let spec = &mut service.spec;
            if spec.cluster_ip.as_deref() == Some("None") {
                names.headless.insert(key.clone(), self.pods_behind(key));
            } else if spec.cluster_ip.is_none() && spec.kind.as_deref() != Some("ExternalName") {
                spec.cluster_ip = Some(self.make_up().to_string());
            }
        }
        self.services = services;
    }

    fn make_up_endpoints(&mut self, key: &WorkloadKey, service: &Value) {
        let selector = service.pointer("/spec/selector");
        let Some(selector) = selector.and_then(|selector| {
            serde_json::from_value::<BTreeMap<String, String>>(selector.clone()).ok()
        }) else {
            return;
        };
        let ports = service.pointer("/spec/ports").and_then(Value::as_array);
        for (pod, placed) in &self.pods {
            let workload = &placed.row.workload;
            if selector.is_empty()
                || pod.namespace() != key.namespace()
                || !is_selected(&selector, &workload.labels)
            {
                continue;
            }
            let ports: Vec<Value> = ports
                .into_iter()
                .flatten()
                .filter_map(|port| {
                    let number = target_port(port, placed)?;
                    Some(json!({"name": port["name"], "protocol": port["protocol"],
                                "port": number}))
                })
                .collect();
            for (index, address) in workload.addresses.iter().enumerate() {
                let name = WorkloadKey::new(
                    key.namespace(),
                    &format!("{}-{}-{index}", key.name(), pod.name()),
                );
                let slice = json!({
                    "metadata": {"name": name.name(), "namespace": key.namespace(),
                                 "labels": {SERVICE_NAME: key.name()}},
                    "endpoints": [{"addresses": [address.to_string()],
                                   "nodeName": workload.node,
                                   "zone": self.zones.get(&workload.node)}],
                    "ports": ports,
                });
                if let Ok(slice) = serde_json::from_value(slice) {
                    self.slices.insert(name, slice);
                }
            }
        }
    }

    /// The pods that the slices of a Service lead to.
    fn pods_behind(&self, service: &WorkloadKey) -> Vec<WorkloadKey> {
        let of_service = |slice: &&EndpointSlice| {
            services::slice_row(slice, "").is_some_and(|row| row.service_key() == service)
        };
        let slices = self.slices.values().filter(of_service);
        let addresses: BTreeSet<IpAddr> = slices
            .flat_map(|slice| slice.endpoints.iter().flatten())
            .filter_map(|endpoint| endpoint.addresses.first()?.parse().ok())
            .collect();
        let has = |placed: &Placed| {
            placed.row.workload.addresses.iter().any(|own| addresses.contains(own))
        };
        self.pods.iter().filter(|(_, placed)| has(placed)).map(|(key, _)| key.clone()).collect()
    }

    /// Every Service, seen from `node`.
    pub(in crate::workload) fn services(&self, node: &str) -> Arc<Services> {
        let mut directory = Directory::default();
        directory.set_own_zone(self.zones.get(node).map(String::as_str));
        for (key, (_, service)) in &self.services {
            let row = services::service_row(service);
            directory.take_service(Event::Apply((key.clone(), row)));
        }
        for (key, slice) in &self.slices {
            directory.take_slice(Event::Apply((key.clone(), services::slice_row(slice, node))));
        }
        directory.services()
    }
}

fn object<T: DeserializeOwned>(
    kind: &str,
    name: impl std::fmt::Display,
    value: &Value,
) -> Result<T, String> {
    serde_json::from_value(value.clone()).map_err(|error| format!("{kind} {name}: {error}"))
}

fn is_selected(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// The pod's port that a Service's port leads to: a number, or the name of one of its containers'.
fn target_port(port: &Value, pod: &Placed) -> Option<u16> {
    let target = port.get("targetPort").filter(|target| !target.is_null() && **target != json!(0));
    match target.unwrap_or(&port["port"]) {
        Value::String(name) => pod.ports.get(name).copied().or_else(|| name.parse().ok()),
        number => number.as_u64().and_then(|number| u16::try_from(number).ok()),
    }
}

/// The ports that containers give names to.
fn named_ports(pod: &Value) -> BTreeMap<String, u16> {
    let containers = ["/spec/containers", "/spec/initContainers"]
        .into_iter()
        .filter_map(|list| pod.pointer(list)?.as_array())
        .flatten();
    let ports = containers.filter_map(|container| container.get("ports")?.as_array()).flatten();
    let named = ports.filter_map(|port| {
        let number = u16::try_from(port.get("containerPort")?.as_u64()?).ok()?;
        Some((port.get("name")?.as_str()?.to_owned(), number))
    });
    named.collect()
}
