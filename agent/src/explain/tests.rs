//! Explanations of small meshes that are written as users write them.

use super::*;
use crate::workload::offline::{Offline, Reading};

const MESH: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {culvert.io/dataplane-mode: enabled}}
---
apiVersion: v1
kind: Pod
metadata: {name: front, namespace: shop, labels: {app: front}}
spec: {nodeName: node1, serviceAccountName: front}
status: {podIP: 10.1.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: shop, labels: {app: web}}
spec: {nodeName: node2, serviceAccountName: web}
status: {podIP: 10.1.0.2}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, labels: {app: web, canary: 'yes'}}
spec: {nodeName: node1, serviceAccountName: web}
status: {podIP: 10.1.0.3}
---
apiVersion: v1
kind: Pod
metadata: {name: old, namespace: legacy}
spec: {nodeName: node2}
status: {podIP: 10.1.0.9}
---
apiVersion: v1
kind: Namespace
metadata: {name: legacy}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: nobody, namespace: shop}
spec: {clusterIP: 10.96.0.2, selector: {app: none}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: old, namespace: legacy}
spec: {clusterIP: 10.96.0.3, ports: [{port: 80}]}
";

const STRICT: &str = "---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: shop}
spec: {mtls: {mode: STRICT}}
";

const ALLOW: &str = "---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  rules:
  - from: [{source: {principals: [cluster.local/ns/other/sa/x]}}]
  - from: [{source: {principals: [cluster.local/ns/shop/sa/front]}}]
    to: [{operation: {ports: ['8080']}}]
";

fn mesh(texts: &[&str]) -> Offline {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("mesh.yaml");
    std::fs::write(&file, texts.concat()).unwrap();
    let reading = Reading {
        trust_domain: "cluster.local".parse().unwrap(),
        root_namespace: "istio-system".to_owned(),
    };
    Offline::read(&[file], reading).unwrap()
}

fn question(source: &str, destination: &str) -> Question {
    Question {
        source: source.to_owned(),
        destination: destination.to_owned(),
        namespace: None,
        plaintext: false,
    }
}

fn asked(offline: &Offline, question: &Question) -> Result<Explanation, ExplainError> {
    let snapshot = offline.snapshot("node1").unwrap();
    explain(Mesh { snapshot: &snapshot, names: offline.names() }, question)
}

fn answer(texts: &[&str], source: &str, destination: &str) -> Explanation {
    asked(&mesh(texts), &question(source, destination)).unwrap()
}

fn short(explanation: &Explanation) -> (Verdict, &str, Option<&str>, Path) {
    let Explanation { verdict, reason, policy, path, .. } = explanation;
    (*verdict, reason, policy.as_deref(), *path)
}

fn step<'a>(explanation: &'a Explanation, name: &str) -> &'a Step {
    explanation.steps.iter().find(|step| step.name == name).unwrap()
}

#[test]
fn two_of_the_mesh_use_the_tunnel_and_strict_is_content() {
    let found = answer(&[MESH, STRICT], "front", "web-0:8080");
    assert_eq!(short(&found), (Verdict::Allow, "ok", None, Path::Tunnel));
    assert_eq!(found.security, Protection::MutualTls);
    let names: Vec<_> = found.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "source",
            "enrolled",
            "path",
            "identity",
            "destination",
            "peer_authentication",
            "authorization_policy"
        ]
    );
    assert!(step(&found, "peer_authentication").text.contains("shop/default says STRICT"));
    assert!(step(&found, "identity").text.contains("spiffe://cluster.local/ns/shop/sa/web"));
}

#[test]
fn plaintext_is_refused_by_strict_and_the_label_to_set_is_named() {
    let found = answer(&[MESH, STRICT], "old", "web:80");
    assert_eq!(
        short(&found),
        (Verdict::Deny, "plaintext_refused", Some("shop/default"), Path::Kernel)
    );
    assert_eq!(found.service.as_deref(), Some("shop/web:80"));
    let enrolled = step(&found, "enrolled");
    assert_eq!(enrolled.outcome, Outcome::Fail);
    assert!(
        enrolled
            .fix
            .as_ref()
            .unwrap()
            .contains("kubectl label namespace legacy culvert.io/dataplane-mode=enabled")
    );
    assert_eq!(step(&found, "authorization_policy").outcome, Outcome::Skipped);
    // Without STRICT it is taken, and so it is from one of the mesh that goes round it.
    assert_eq!(answer(&[MESH], "old", "web:80").verdict, Verdict::Allow);
    let round = Question { plaintext: true, ..question("front", "web:80") };
    let found = asked(&mesh(&[MESH, STRICT]), &round).unwrap();
    assert_eq!(found.reason, "plaintext_refused");
    assert_eq!(step(&found, "enrolled").outcome, Outcome::Ok, "there is nothing to mend");
}

#[test]
fn the_rule_that_allows_and_the_policy_that_does_not_are_named() {
    let found = answer(&[MESH, ALLOW], "front", "web:80");
    assert_eq!(short(&found), (Verdict::Allow, "ok", Some("shop/web"), Path::Tunnel));
    assert_eq!(found.rule, "AuthorizationPolicy shop/web (rules[1])");
    // Another port, and another source.
    let found = answer(&[MESH, ALLOW], "front", "web-0:9090");
    assert_eq!(short(&found), (Verdict::Deny, "policy_denied", Some("shop/web"), Path::Tunnel));
    let fix = step(&found, "authorization_policy").fix.clone().unwrap();
    assert!(fix.contains("cluster.local/ns/shop/sa/front") && fix.contains("9090"), "{fix}");
    assert_eq!(answer(&[MESH, ALLOW], "old", "web-0:8080").reason, "policy_denied");
}

#[test]
fn a_rule_that_denies_is_named_and_a_dry_run_only_noted() {
    let deny = "---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-front, namespace: istio-system}
spec: {action: DENY, rules: [{from: [{source: {namespaces: [shop]}}]}]}
";
    let found = answer(&[MESH, ALLOW, deny], "front", "web:80");
    assert_eq!(short(&found).2, Some("istio-system/no-front"));
    assert!(found.rule.ends_with("(rules[0])"));
    let dry = deny.replace(
        "name: no-front,",
        "name: no-front, annotations: \
                            {istio.io/dry-run: 'true'},",
    );
    let found = answer(&[MESH, ALLOW, &dry], "front", "web:80");
    assert_eq!(found.verdict, Verdict::Allow);
    assert!(found.notes.iter().any(|note| note.contains("dry run would refuse")));
}

#[test]
fn of_a_service_the_endpoint_that_refuses_is_explained() {
    let canary = "---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: canary, namespace: shop}
spec: {selector: {matchLabels: {canary: 'yes'}}}
";
    // From node2 both are as near as it gets only if no other is on the node itself.
    let offline = mesh(&[MESH, canary]);
    let snapshot = offline.snapshot("node3").unwrap();
    let mesh = Mesh { snapshot: &snapshot, names: offline.names() };
    let found = explain(mesh, &question("front", "web:80")).unwrap();
    assert_eq!(found.verdict, Verdict::Deny);
    assert_eq!(found.destination.name.as_deref(), Some("web-1"));
    assert_eq!(found.others.len(), 1);
    assert_eq!(found.others[0].verdict, Verdict::Allow);
    assert!(step(&found, "service").text.contains("2 endpoints, of which 1 would refuse it"));
    // An enrolled client keeps to its own node's.
    let near = asked(&offline, &question("front", "web:80")).unwrap();
    assert_eq!((near.others.len(), near.destination.name.as_deref()), (0, Some("web-1")));
}

#[test]
fn who_is_outside_is_neither_protected_nor_asked() {
    let found = answer(&[MESH, STRICT], "front", "10.1.0.9:8080");
    assert_eq!(short(&found), (Verdict::Allow, "ok", None, Path::Kernel));
    assert_eq!(found.security, Protection::Plaintext);
    assert!(step(&found, "destination").fix.as_ref().unwrap().contains("namespace legacy"));
    let found = answer(&[MESH], "front", "203.0.113.5:443");
    assert_eq!((found.path, found.destination.name), (Path::Direct, None));
    let found = answer(&[MESH, STRICT], "203.0.113.5", "web-0:8080");
    assert_eq!(found.reason, "plaintext_refused");
    let found = answer(&[MESH, STRICT], "front", "front:80");
    assert_eq!((found.verdict, found.security), (Verdict::Allow, Protection::Local));
}

#[test]
fn a_service_that_leads_nowhere_and_a_port_of_the_mesh_are_refused() {
    let found = answer(&[MESH], "front", "nobody:80");
    assert_eq!(short(&found).1, "no_endpoint");
    assert_eq!(step(&found, "service").outcome, Outcome::Fail);
    assert_eq!(answer(&[MESH], "legacy/old", "nobody.shop:80").reason, "no_endpoint");
    let found = answer(&[MESH], "front", "web-0:15008");
    assert_eq!(short(&found).1, "illegal_port");
    let found = answer(&[MESH], "old", "web-0:15008");
    assert_eq!(short(&found).1, "illegal_port");
}

#[test]
fn a_source_may_be_named_in_many_ways() {
    let named = |source: &str| {
        let found = answer(&[MESH], source, "web-0:8080").source;
        format!("{}/{}", found.namespace.unwrap(), found.name.unwrap())
    };
    for source in [
        "front",
        "shop/front",
        "front.shop",
        "front.shop.svc.cluster.local",
        "10.1.0.1",
        "spiffe://cluster.local/ns/shop/sa/front",
    ] {
        assert_eq!(named(source), "shop/front", "{source}");
    }
    // By what pods are part of, and by what a StatefulSet appends.
    assert_eq!(named("web"), "shop/web-0");
    let text = MESH.replace("app: web}", "x: y}");
    let found = answer(&[&text], "web", "front:80");
    assert_eq!(found.source.name.as_deref(), Some("web-0"));
}

#[test]
fn what_is_not_known_is_said_with_what_is() {
    let refused = |source: &str, destination: &str| {
        asked(&mesh(&[MESH]), &question(source, destination)).unwrap_err().to_string()
    };
    assert_eq!(
        refused("frnt", "web:80"),
        "there is no workload `frnt`; there are legacy/old, shop/front, shop/web-0, shop/web-1"
    );
    assert!(refused("front", "wbe:80").starts_with("there is no Service or workload `wbe`;"));
    assert_eq!(refused("front", "web:81"), "Service shop/web has no TCP port 81; it has 80");
    for text in ["web", "web:", "web:x", "web:0", "web:70000"] {
        assert!(refused("front", text).starts_with(&format!("`{text}` has no port")), "{text}");
    }
    assert!(refused("shop/old", "web:80").starts_with("there is no workload `shop/old`"));
}

#[test]
fn a_name_of_two_namespaces_is_to_be_made_clear() {
    let other = MESH
        .replace("name: legacy", "name: shop2")
        .replace("name: old, namespace: legacy}", "name: front, namespace: legacy}");
    let offline = mesh(&[&other]);
    let error = asked(&offline, &question("front", "web-0:1")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`front` could be several; name one of them; they are legacy/front, shop/front"
    );
    let within = Question { namespace: Some("legacy".into()), ..question("front", "web-0:1") };
    assert_eq!(asked(&offline, &within).unwrap().source.namespace.as_deref(), Some("legacy"));
}

#[test]
fn addresses_that_the_files_do_not_say_are_told_where_a_policy_asks_for_them() {
    let text = MESH.replace("status: {podIP: 10.1.0.1}", "status: {}");
    let blocks = "---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: web, namespace: shop}
spec: {rules: [{from: [{source: {ipBlocks: [10.0.0.0/8]}}]}]}
";
    let found = answer(&[&text, blocks], "front", "web-0:8080");
    assert_eq!(found.verdict, Verdict::Deny);
    assert_eq!(found.source.address, None);
    assert!(found.notes[0].contains("the files do not say them"), "{:?}", found.notes);
}

#[test]
fn the_answer_is_the_same_after_a_journey_as_json() {
    let found = answer(&[MESH, STRICT, ALLOW], "old", "web:80");
    let text = serde_json::to_string(&found).unwrap();
    assert!(
        text.starts_with(
            r#"{"verdict":"deny","reason":"plaintext_refused","policy":"shop/default""#
        )
    );
    assert_eq!(serde_json::from_str::<Explanation>(&text).unwrap(), found);
    let offline = mesh(&[MESH, ALLOW]);
    let snapshot = offline.snapshot("").unwrap();
    let mesh = Mesh { snapshot: &snapshot, names: offline.names() };
    let departure = depart(mesh, &question("front", "web:80")).unwrap();
    let text = serde_json::to_string(&departure).unwrap();
    assert_eq!(serde_json::from_str::<Departure>(&text).unwrap(), departure);
}
