//! What several agents say, as one.
//!
//! Each agent tells of its own node and of those that its workloads talk to. What two of them tell
//! of one workload, identity or policy becomes one entry: that of the agent who knows more.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::admin::model::{Identities, Identity, Map, MapWorkload, Policies, Policy};

/// One map: each workload once, as its own node's agent tells of it; every edge of every reporter.
pub(super) fn maps(all: Vec<Map>) -> Map {
    let node = name(all.iter().map(|map| map.node.as_str()));
    let now = all.iter().map(|map| map.now.clone()).max().unwrap_or_default();
    let mut workloads: BTreeMap<(String, String), (bool, MapWorkload)> = BTreeMap::new();
    let mut edges = Vec::new();
    for map in all {
        for workload in map.workloads {
            let own = workload.node == map.node;
            let key = (workload.namespace.clone(), workload.name.clone());
            match workloads.entry(key) {
                Entry::Vacant(entry) => drop(entry.insert((own, workload))),
                Entry::Occupied(mut entry) if own && !entry.get().0 => {
                    entry.insert((own, workload));
                }
                Entry::Occupied(_) => {}
            }
        }
        edges.extend(map.edges);
    }
    let workloads = workloads.into_values().map(|(_, workload)| workload).collect();
    Map { node, now, workloads, edges }
}

/// Each identity once, with the certificate of an agent that holds one, and all its users.
pub(super) fn identities(all: Vec<Identities>) -> Identities {
    let node = name(all.iter().map(|one| one.node.as_str()));
    let now = all.iter().map(|one| one.now.clone()).max().unwrap_or_default();
    let trust_domain = all.first().map(|one| one.trust_domain.clone()).unwrap_or_default();
    let mut merged: BTreeMap<String, Identity> = BTreeMap::new();
    for mut identity in all.into_iter().flat_map(|one| one.identities) {
        match merged.entry(identity.id.clone()) {
            Entry::Vacant(entry) => drop(entry.insert(identity)),
            Entry::Occupied(mut entry) => {
                let known = entry.get_mut();
                known.user_count += identity.user_count;
                known.users.append(&mut identity.users);
                if known.certificate.is_none() && identity.certificate.is_some() {
                    let (users, user_count) = (std::mem::take(&mut known.users), known.user_count);
                    *known = Identity { users, user_count, ..identity };
                }
            }
        }
    }
    Identities { node, trust_domain, now, identities: merged.into_values().collect() }
}

/// Each policy once, with all workloads that it holds for.
pub(super) fn policies(all: Vec<Policies>) -> Policies {
    let node = name(all.iter().map(|one| one.node.as_str()));
    let mut merged: BTreeMap<_, Policy> = BTreeMap::new();
    for mut policy in all.into_iter().flat_map(|one| one.policies) {
        match merged.entry((policy.kind, policy.namespace.clone(), policy.name.clone())) {
            Entry::Vacant(entry) => drop(entry.insert(policy)),
            Entry::Occupied(mut entry) => entry.get_mut().workloads.append(&mut policy.workloads),
        }
    }
    Policies { node, policies: merged.into_values().collect() }
}

/// What the page calls the place that it shows.
fn name<'a>(nodes: impl ExactSizeIterator<Item = &'a str>) -> String {
    let count = nodes.len();
    let mut nodes = nodes;
    match (count, nodes.next()) {
        (1, Some(node)) => node.to_owned(),
        _ => format!("{count} nodes"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(node: &str, of: &[(&str, &str, bool)]) -> Map {
        let workload = |(name, on, certificate): &(&str, &str, bool)| {
            let held = json!({"state": "held", "notAfter": null, "serial": "01"});
            json!({
                "namespace": "shop", "name": name, "workload": name, "identity": "spiffe://td/ns/shop/sa/web",
                "enrolled": true, "node": on, "addresses": [], "mtls": "STRICT", "policies": [],
                "certificate": if *certificate { held } else { json!(null) },
            })
        };
        serde_json::from_value(json!({
            "node": node, "now": format!("2026-11-24T10:00:0{}Z", of.len()),
            "workloads": of.iter().map(workload).collect::<Vec<_>>(), "edges": [],
        }))
        .unwrap()
    }

    #[test]
    fn workload_is_told_of_by_its_own_node() {
        let one = map("n1", &[("web", "n1", true), ("db", "n2", false)]);
        let other = map("n2", &[("db", "n2", true)]);
        for all in [vec![one.clone(), other.clone()], vec![other, one]] {
            let merged = maps(all);
            assert_eq!(
                (merged.node.as_str(), merged.now.as_str()),
                ("2 nodes", "2026-11-24T10:00:02Z")
            );
            let names: Vec<_> = merged.workloads.iter().map(|one| one.name.as_str()).collect();
            assert_eq!(names, ["db", "web"]);
            assert!(merged.workloads.iter().all(|one| one.certificate.is_some()));
        }
    }

    #[test]
    fn identity_is_named_once_with_all_its_users() {
        let of = |node: &str, held: bool| -> Identities {
            let certificate =
                json!({"serial": "01", "issuer": "CN=x", "notBefore": "", "notAfter": ""});
            serde_json::from_value(json!({
                "node": node, "trustDomain": "td", "now": "", "identities": [{
                    "id": "spiffe://td/ns/shop/sa/web", "state": "held",
                    "certificate": if held { certificate } else { json!(null) },
                    "nextRenewal": null, "failures": 0, "lastError": null,
                    "users": [format!("shop/web-{node}")], "userCount": 1, "lingersUntil": null,
                }],
            }))
            .unwrap()
        };
        let merged = identities(vec![of("n1", false), of("n2", true)]);
        let [web] = &merged.identities[..] else { panic!("one identity") };
        assert_eq!((web.users.len(), web.user_count), (2, 2));
        assert!(web.certificate.is_some());
    }

    #[test]
    fn policy_is_named_once_with_all_its_workloads() {
        let of = |node: &str| -> Policies {
            serde_json::from_value(json!({"node": node, "policies": [{
                "kind": "PeerAuthentication", "namespace": "shop", "name": "default",
                "scope": "namespace", "selector": [], "action": "STRICT", "summary": "",
                "workloads": [format!("shop/web-{node}")], "findings": [],
            }]}))
            .unwrap()
        };
        let merged = policies(vec![of("n1"), of("n2")]);
        let [strict] = &merged.policies[..] else { panic!("one policy") };
        assert_eq!(strict.workloads, ["shop/web-n1", "shop/web-n2"]);
    }
}
