//! Preflight by maps as agents tell them.

use serde_json::{Value, json};

use super::*;

const NOW: OffsetDateTime = time::macros::datetime!(2026-11-24 10:00 UTC);

fn workload(name: &str, enrolled: bool) -> Value {
    json!({"namespace": "shop", "name": name, "workload": name, "identity": "spiffe://td/ns/shop/sa/x",
        "enrolled": enrolled, "node": "node1", "addresses": ["10.0.0.1"], "mtls": "PERMISSIVE",
        "policies": [], "certificate": null})
}

fn edge(source: Value, to: &str, security: &str, more: &Value) -> Value {
    let mut edge = json!({"reporter": "destination", "source": source,
        "destination": {"namespace": to, "workload": "db", "identity": null},
        "service": null, "port": 5432, "security": security, "open": 1, "opened": 4, "failed": 0,
        "refused": {}, "bytesSent": 1, "bytesReceived": 1, "requests": 0, "handshakeMs": null,
        "firstByteMs": null, "lastOpened": "2026-11-24T09:57:00Z", "strangers": []});
    for (key, value) in more.as_object().unwrap() {
        edge[key] = value.clone();
    }
    edge
}

fn pod(name: &str) -> Value {
    json!({"namespace": "shop", "workload": name, "identity": null})
}

fn nobody() -> Value {
    json!({"namespace": null, "workload": null, "identity": null})
}

fn found(edges: &[Value]) -> Preflight {
    let map: Map = serde_json::from_value(json!({
        "node": "node1", "now": "2026-11-24T10:00:00Z", "edges": edges,
        "workloads": [workload("db", true), workload("old", false), workload("new", true)],
    }))
    .unwrap();
    examine("shop", &[&map], Some("2026-11-24T07:00:00Z".to_owned()), true)
}

#[test]
fn each_source_of_plaintext_is_named_with_what_to_do() {
    let found = found(&[
        edge(pod("old"), "shop", "plaintext", &json!({})),
        edge(pod("new"), "shop", "plaintext", &json!({"open": 0})),
        edge(nobody(), "shop", "plaintext", &json!({"strangers": ["192.0.2.7"], "opened": 2})),
        edge(nobody(), "shop", "plaintext", &json!({"opened": 90})),
    ]);
    let text = found.render(NOW, false);
    assert_eq!(
        text,
        "\
SOURCE     WHO                     DESTINATION   CONNECTIONS  OPEN  LAST SEEN
shop/old   not enrolled            shop/db:5432  4            1     3 min ago
shop/new   enrolled, in plaintext  shop/db:5432  4            0     3 min ago
192.0.2.7  outside the mesh        shop/db:5432  2            1     3 min ago

192.0.2.7: let it come through a gateway that is enrolled, or keep this port PERMISSIVE with portLevelMtls
shop/new: it was enrolled after it connected, or dials what no Service or pod has: restart it, and ask `culvert explain`
shop/old: enrol it: kubectl label namespace shop istio.io/dataplane-mode=ambient

90 plaintext connections of the nodes themselves (probes) stay allowed

not enrolled, so STRICT does nothing for them: shop/old

by what was seen since 2026-11-24T07:00:00Z (3 h ago)
"
    );
}

#[test]
fn a_deployment_is_enrolled_if_all_its_pods_are() {
    for (second, who) in [(true, Who::Enrolled), (false, Who::NotEnrolled)] {
        let mut pods = [workload("web-1a-aaaaa", true), workload("web-1a-bbbbb", second)];
        pods.iter_mut().for_each(|pod| pod["workload"] = "web".into());
        let map: Map = serde_json::from_value(json!({
            "node": "node1", "now": "2026-11-24T10:00:00Z", "workloads": pods,
            "edges": [edge(pod("web"), "shop", "plaintext", &json!({}))],
        }))
        .unwrap();
        let found = examine("shop", &[&map], None, true);
        assert_eq!(found.cut[0].who, who);
        let outside: &[&str] = if second { &[] } else { &["shop/web"] };
        assert_eq!(found.not_enrolled, outside);
    }
}

#[test]
fn what_strict_would_not_cut_is_not_counted() {
    let found = found(&[
        edge(pod("new"), "shop", "mutual_tls", &json!({})),
        edge(pod("new"), "shop", "local", &json!({})),
        edge(pod("old"), "other", "plaintext", &json!({})),
        edge(pod("old"), "shop", "plaintext", &json!({"reporter": "source"})),
        // Refused already.
        edge(pod("old"), "shop", "plaintext", &json!({"refused": {"plaintext_refused": 4}})),
    ]);
    assert_eq!(found.cut, []);
    assert_eq!(found.kept, []);
    assert!(found.render(NOW, false).starts_with("no plaintext was seen"));
}

#[test]
fn json_says_who_and_whether_all_was_seen() {
    let found = found(&[edge(pod("old"), "shop", "plaintext", &json!({}))]);
    let value = serde_json::to_value(&found).unwrap();
    assert_eq!(value["cut"][0]["who"], "not_enrolled");
    assert_eq!(value["cut"][0]["source"], "shop/old");
    assert_eq!(value["complete"], true);
    assert_eq!(value["observedSince"], "2026-11-24T07:00:00Z");
}
