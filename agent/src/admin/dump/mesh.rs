//! Workloads, services and policies as ztunnel writes them.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::admin::mesh::scope;
use crate::observe::Party;
use crate::workload::authorization::{Action, Match, Pattern, Term};
use crate::workload::{AuthorizationPolicy, Service, Snapshot, Workload};

/// The name by which istiod tells workloads apart.
pub(super) fn uid(workload: &Workload) -> String {
    format!("Kubernetes//Pod/{}/{}", workload.namespace, workload.name)
}

pub(super) fn workload(workload: &Workload) -> Value {
    // As the metrics have them.
    let party = Party::from(workload);
    let [_, canonical_name, canonical_revision, ..] = party.values();
    json!({
        "uid": uid(workload),
        "workloadIps": workload.addresses,
        "protocol": if workload.enrolled { "HBONE" } else { "TCP" },
        "name": workload.name,
        "namespace": workload.namespace,
        "trustDomain": workload.identity.trust_domain().as_str(),
        "serviceAccount": workload.identity.service_account(),
        "workloadName": workload.name,
        "workloadType": "pod",
        "canonicalName": canonical_name,
        "canonicalRevision": canonical_revision,
        "node": workload.node,
        "status": "Healthy",
        "clusterId": "Kubernetes",
    })
}

/// The services, each once with all its addresses.
pub(super) fn services(snapshot: &Snapshot) -> Vec<Value> {
    let mut by_name: BTreeMap<(&str, &str), Vec<(IpAddr, &Arc<Service>)>> = BTreeMap::new();
    for (address, service) in snapshot.services().iter() {
        let name = (service.namespace.as_str(), service.name.as_str());
        by_name.entry(name).or_default().push((address, service));
    }
    let services = by_name.into_iter().map(|((namespace, name), mut all)| {
        all.sort_unstable_by_key(|(address, _)| *address);
        let hostname = format!("{name}.{namespace}.svc.cluster.local");
        let mut ports = Map::new();
        let mut endpoints = Map::new();
        for (_, service) in &all {
            for (port, targets) in &service.ports {
                let own = targets.first().map_or(0, |target| target.address.port());
                ports.insert(port.to_string(), own.into());
                for target in targets {
                    add_endpoint(&mut endpoints, snapshot, &hostname, namespace, (*port, target));
                }
            }
        }
        let vips: Vec<String> = all.iter().map(|(address, _)| format!("/{address}")).collect();
        json!({
            "name": name,
            "namespace": namespace,
            "hostname": hostname,
            "vips": vips,
            "ports": ports,
            "endpoints": endpoints,
            "subjectAltNames": [],
        })
    });
    services.collect()
}

fn add_endpoint(
    endpoints: &mut Map<String, Value>,
    snapshot: &Snapshot,
    hostname: &str,
    namespace: &str,
    (port, target): (u16, &crate::workload::Endpoint),
) {
    let address = target.address.ip();
    let uid = snapshot.by_address(address).map(|workload| uid(workload)).unwrap_or_default();
    let endpoint = endpoints.entry(format!("{uid}:/{address}")).or_insert_with(|| {
        json!({
            "workloadUid": uid,
            "service": format!("{namespace}/{hostname}"),
            "address": format!("/{address}"),
            "port": {},
        })
    });
    endpoint["port"][port.to_string()] = target.address.port().into();
}

/// The `AuthorizationPolicies`; ztunnel has no others.
pub(super) fn policies(snapshot: &Snapshot) -> Vec<Value> {
    let root = snapshot.root_namespace();
    let all = snapshot.policies().authorization_policies().iter();
    all.map(|policy| authorization(policy, root)).collect()
}

fn authorization(policy: &AuthorizationPolicy, root: &str) -> Value {
    let rules = policy.rules.iter().map(|rule| {
        let clauses = rule.clauses.iter();
        let clauses = clauses.map(|clause| clause.0.iter().map(one).collect::<Vec<Value>>());
        clauses.collect::<Vec<_>>()
    });
    json!({
        "name": policy.name,
        "namespace": policy.namespace,
        "scope": match scope(&policy.namespace, &policy.selector, root) {
            "mesh" => "Global",
            "namespace" => "Namespace",
            _ => "WorkloadSelector",
        },
        "action": match policy.action {
            Action::Allow => "Allow",
            Action::Deny => "Deny",
        },
        "dryRun": policy.dry_run,
        "rules": rules.collect::<Vec<_>>(),
    })
}

fn one(asked: &Match) -> Value {
    let mut all = Map::new();
    put(&mut all, ["namespaces", "notNamespaces"], &asked.namespaces, pattern);
    put(&mut all, ["principals", "notPrincipals"], &asked.principals, pattern);
    put(&mut all, ["trustDomains", "notTrustDomains"], &asked.trust_domains, pattern);
    put(
        &mut all,
        ["serviceAccounts", "notServiceAccounts"],
        &asked.service_accounts,
        |(namespace, account)| json!({ "namespace": namespace, "serviceAccount": account }),
    );
    put(&mut all, ["sourceIps", "notSourceIps"], &asked.source_ips, shown);
    put(&mut all, ["destinationIps", "notDestinationIps"], &asked.destination_ips, shown);
    let ports = &asked.destination_ports;
    put(&mut all, ["destinationPorts", "notDestinationPorts"], ports, |port| json!(port));
    all.into()
}

fn put<T>(
    all: &mut Map<String, Value>,
    [any, none]: [&str; 2],
    term: &Term<T>,
    show: impl Fn(&T) -> Value,
) {
    for (name, values) in [(any, &term.any_of), (none, &term.none_of)] {
        if !values.is_empty() {
            all.insert(name.to_owned(), values.iter().map(&show).collect());
        }
    }
}

fn shown(value: &impl Display) -> Value {
    value.to_string().into()
}

fn pattern(pattern: &Pattern) -> Value {
    match pattern {
        Pattern::Present => json!({ "Presence": {} }),
        Pattern::Exact(text) => json!({ "Exact": text }),
        Pattern::Prefix(text) => json!({ "Prefix": text }),
        Pattern::Suffix(text) => json!({ "Suffix": text }),
    }
}
