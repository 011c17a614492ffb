//! What is found in documents, and what is read where they are wrong.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::workload::authorization::{Action, AuthorizationPolicy};
use crate::workload::{MtlsMode, PeerAuthentication};

const ROOT: &str = "istio-system";

fn metadata(namespace: &str) -> Metadata {
    Metadata { name: "p".into(), namespace: namespace.into(), ..Metadata::default() }
}

fn authorization(spec: &Value) -> Read<AuthorizationPolicy> {
    authorization_policy(&metadata("default"), spec)
}

fn authentication(spec: &Value) -> Read<PeerAuthentication> {
    peer_authentication(&metadata("default"), spec, ROOT)
}

/// Effect, code and place of each finding.
fn found(findings: &Findings) -> Vec<(Effect, Code, String)> {
    findings.iter().map(|f| (f.effect, f.code, f.path.to_string())).collect()
}

#[expect(clippy::needless_pass_by_value, reason = "it is made where it is handed over")]
fn rules(action: &str, rules: Value) -> Value {
    json!({"action": action, "rules": rules})
}

#[test]
fn a_good_policy_has_no_findings() {
    let read = authorization(&json!({
        "selector": {"matchLabels": {"app": "web"}},
        "action": "DENY",
        "rules": [{
            "from": [{"source": {"principals": ["cluster.local/ns/x/sa/y"], "ipBlocks": ["10.0.0.0/8"]}}],
            "to": [{"operation": {"ports": ["80", "443"], "notPorts": ["81"]}}],
            "when": [{"key": "source.namespace", "notValues": ["x*"]}],
        }],
    }));
    assert!(read.findings.is_empty(), "{}", read.findings);
    let policy = read.policy.unwrap();
    assert_eq!((policy.action, policy.selector.len(), policy.rules.len()), (Action::Deny, 1, 1));
    assert_eq!(policy.rules[0].clauses.len(), 3);
}

#[test]
fn layer_7_in_an_allow_rule_leaves_the_whole_rule_out() {
    let read = authorization(&rules(
        "ALLOW",
        json!([
            {"to": [{"operation": {"methods": ["GET"], "ports": ["80"]}}]},
            {"from": [{"source": {"namespaces": ["a"]}}]},
        ]),
    ));
    let place = "spec.rules[0].to[0].operation".to_owned();
    assert_eq!(found(&read.findings), [(Effect::Stricter, Code::HttpRuleLeftOut, place)]);
    let policy = read.policy.unwrap();
    assert_eq!(policy.rules.iter().map(|rule| rule.index).collect::<Vec<_>>(), [1]);
    let only = authorization(&rules(
        "ALLOW",
        json!([{"when": [{"key": "request.auth.x", "values": ["y"]}]}]),
    ));
    assert!(only.policy.unwrap().rules.is_empty(), "an ALLOW without rules allows nothing");
    assert!(only.findings.to_string().contains("`request.auth.x`: not known on layer 4"));
}

#[test]
fn layer_7_in_a_deny_rule_is_told_apart_by_what_it_comes_to() {
    let wider = authorization(&rules(
        "DENY",
        json!([{"to": [{"operation": {"methods": ["GET"], "ports": ["80"]}}]}]),
    ));
    let place = "spec.rules[0].to[0].operation".to_owned();
    assert_eq!(
        found(&wider.findings),
        [(Effect::Stricter, Code::HttpFieldsIgnored, place.clone())]
    );
    assert_eq!(wider.policy.unwrap().rules[0].clauses[0].0.len(), 1);
    let never = authorization(&rules(
        "DENY",
        json!([{"from": [{"source": {"principals": ["*"]}}], "to": [{"operation": {"methods": ["GET"]}}]}]),
    ));
    assert_eq!(found(&never.findings), [(Effect::NeverMatches, Code::HttpNeverDenies, place)]);
    assert!(never.policy.unwrap().rules[0].clauses[1].0.is_empty());
}

#[test]
fn what_is_not_for_layer_4_or_this_mesh_is_not_enforced() {
    for (spec, code) in [
        (
            json!({"action": "CUSTOM", "provider": {"name": "x"}, "rules": [{}]}),
            Code::UnsupportedAction,
        ),
        (json!({"action": "AUDIT"}), Code::UnsupportedAction),
        (json!({"targetRefs": [{"kind": "Gateway", "name": "w"}]}), Code::TargetRefs),
        (json!({"targetRef": {"kind": "Gateway", "name": "w"}}), Code::TargetRefs),
    ] {
        let read = authorization(&spec);
        assert_eq!(read.policy, None, "{spec}");
        let worst = read.findings.worst().unwrap();
        assert_eq!((worst.effect, worst.code), (Effect::NotEnforced, code));
    }
    let mut other = metadata("default");
    other.labels.insert("istio.io/rev".into(), "canary".into());
    for findings in [
        authorization_policy(&other, &json!({})).findings,
        peer_authentication(&other, &json!({}), ROOT).findings,
    ] {
        assert_eq!(findings.worst().unwrap().code, Code::OtherRevision);
    }
    other.labels.insert("istio.io/rev".into(), REVISION.into());
    assert!(authorization_policy(&other, &json!({})).policy.is_some());
}

#[test]
fn a_dry_run_is_on_for_what_go_takes_for_true() {
    for (text, on, noted) in
        [("true", true, true), ("T", true, true), ("false", false, false), ("yes", false, true)]
    {
        let mut metadata = metadata("default");
        metadata.annotations.insert("istio.io/dry-run".into(), text.into());
        let read = authorization_policy(&metadata, &json!({}));
        assert_eq!(
            (read.policy.unwrap().dry_run, !read.findings.is_empty()),
            (on, noted),
            "{text}"
        );
    }
}

#[test]
fn values_that_are_none_are_refused_and_read_the_stricter_way() {
    let bad: [(&str, &str, &str, Code); 6] = [
        ("to", "operation", "ports", Code::InvalidPort),
        ("to", "operation", "notPorts", Code::InvalidPort),
        ("from", "source", "ipBlocks", Code::InvalidAddress),
        ("from", "source", "notIpBlocks", Code::InvalidAddress),
        ("from", "source", "serviceAccounts", Code::InvalidServiceAccount),
        ("from", "source", "notServiceAccounts", Code::InvalidServiceAccount),
    ];
    for (clause, what, field, code) in bad {
        let rule = json!([{clause: [{what: {field: ["a/b/c*"]}}]}]);
        let allow = authorization(&rules("ALLOW", rule.clone()));
        let place = format!("spec.rules[0].{clause}[0].{what}.{field}[0]");
        assert_eq!(found(&allow.findings), [(Effect::Refused, code, place)]);
        assert!(allow.policy.unwrap().rules.is_empty());
        let deny = authorization(&rules("DENY", rule)).policy.unwrap();
        let matching = &deny.rules[0].clauses[0].0;
        assert!(matching.len() == 1 && matching[0].is_empty(), "anything is denied");
    }
}

#[test]
fn a_field_of_another_type_is_refused_and_read_the_stricter_way() {
    for rule in [
        json!("everybody"),
        json!({"from": {"source": {}}}),
        json!({"from": ["everybody"]}),
        json!({"from": [{"source": {"principals": "a"}}]}),
        json!({"from": [{"source": {"principals": [1]}}]}),
        json!({"from": [{"source": {"principal": ["a"]}}]}),
        json!({"form": [{"source": {"principals": ["a"]}}]}),
        json!({"when": [{"values": ["a"]}]}),
        json!({"when": [{"key": "source.ip"}]}),
    ] {
        let allow = authorization(&rules("ALLOW", json!([rule.clone()])));
        assert_eq!(allow.findings.effect(), Some(Effect::Refused), "{rule}");
        assert!(allow.policy.unwrap().rules.is_empty(), "{rule}");
        let deny = authorization(&rules("DENY", json!([rule.clone()]))).policy.unwrap();
        let anything = |matching: &Vec<_>| {
            matching.iter().any(crate::workload::authorization::Match::is_empty)
        };
        assert!(deny.rules[0].clauses.iter().all(|clause| anything(&clause.0)), "{rule}");
    }
    for spec in [
        json!("x"),
        json!({"rules": {}, "action": "DENY"}),
        json!({"action": "PERMIT"}),
        json!({"action": 1}),
        json!({"selector": {"matchLabels": {"app": 1}}, "action": "DENY"}),
        json!({"selector": {"matchExpressions": []}}),
        json!({"selektor": {}}),
    ] {
        let read = authorization(&spec);
        assert_eq!(read.findings.effect(), Some(Effect::Refused), "{spec}");
        let policy = read.policy.unwrap();
        assert!(policy.action == Action::Allow && policy.rules.is_empty(), "{spec}");
        assert!(policy.selector.is_empty(), "{spec}");
    }
}

#[test]
fn what_can_never_be_equal_is_told() {
    let read = authorization(&rules(
        "DENY",
        json!([
            {"from": [{"source": {"principals": ["spiffe://cluster.local/ns/a/sa/b"]}}]},
            {"from": [{"source": {"namespaces": [""]}}]},
            {"from": [{"source": {"ipBlocks": ["::ffff:10.0.0.1"]}}]},
            {"from": [{"source": {}}, {}]},
            {"to": [{"operation": null}]},
        ]),
    ));
    let codes: Vec<_> = read.findings.iter().map(|f| f.code).collect();
    let (none, empty) = (Code::NothingIsEqual, Code::EmptyMatch);
    assert_eq!(codes, [none, none, none, empty, empty, empty]);
    assert!(read.findings.iter().all(|f| f.effect == Effect::NeverMatches));
}

#[test]
fn where_a_peer_authentication_cannot_be_read_it_is_strict() {
    for spec in [
        json!([]),
        json!({"selector": "app", "mtls": {"mode": "PERMISSIVE"}}),
        json!({"mtls": "PERMISSIVE"}),
        json!({"mtls": {"mode": "OFF"}}),
        json!({"mtls": {"mode": "PERMISSIVE", "x": 1}}),
        json!({"mTLS": {"mode": "PERMISSIVE"}}),
        json!({"portLevelMtls": []}),
    ] {
        let read = authentication(&spec);
        assert_eq!(read.findings.effect(), Some(Effect::Refused), "{spec}");
        let policy = read.policy.unwrap();
        assert_eq!((policy.mode, policy.has_selector()), (MtlsMode::Strict, false), "{spec}");
    }
    let read = authentication(&json!({
        "selector": {"matchLabels": {"app": "a"}},
        "portLevelMtls": {"80": {"mode": "OFF"}, "x": {}, "081": {"mode": "STRICT"}, "81": {"mode": "DISABLE"}},
    }));
    let ports = read.policy.unwrap().ports;
    assert_eq!(
        ports.into_iter().collect::<Vec<_>>(),
        [(80, MtlsMode::Strict), (81, MtlsMode::Strict)]
    );
}

#[test]
fn peer_authentications_say_what_of_them_is_not_enforced() {
    let root = json!({"selector": {"matchLabels": {"a": "b"}}, "mtls": {"mode": "STRICT"}});
    let read = peer_authentication(&metadata(ROOT), &root, ROOT);
    assert_eq!(read.policy, None);
    assert_eq!(read.findings.worst().unwrap().code, Code::SelectorInRootNamespace);
    let empty = json!({"selector": {}, "mtls": {"mode": "STRICT"}});
    assert!(peer_authentication(&metadata(ROOT), &empty, ROOT).policy.is_some());
    let disabled = authentication(&json!({"mtls": {"mode": "DISABLE"}}));
    assert_eq!(disabled.findings.effect(), Some(Effect::Noted));
    let ports = authentication(&json!({"portLevelMtls": {"80": {"mode": "STRICT"}}}));
    assert_eq!(ports.findings.worst().unwrap().code, Code::PortsWithoutSelector);
}

#[test]
fn a_huge_policy_is_refused_and_allows_nothing() {
    let ports: Vec<_> = (1..=65535).map(|port: u32| port.to_string()).collect();
    let read = authorization(&rules("DENY", json!([{"to": [{"operation": {"ports": ports}}]}])));
    assert_eq!(read.findings.worst().unwrap().code, Code::TooLarge);
    let policy = read.policy.unwrap();
    assert!(policy.action == Action::Allow && policy.rules.is_empty());
    let many: Vec<_> = (0..30_000).map(|_| json!({})).collect();
    assert_eq!(
        authorization(&rules("ALLOW", json!(many))).findings.worst().unwrap().code,
        Code::TooLarge
    );
}

#[test]
fn findings_stay_short_whatever_the_document() {
    let text = "\u{1b}[31m\n".repeat(100_000);
    let sources: Vec<_> =
        (0..1000).map(|_| json!({"source": {"ipBlocks": [text], text.clone(): []}})).collect();
    let findings = authorization(&rules("DENY", json!([{"from": sources}]))).findings;
    let told = findings.to_string();
    assert!(told.len() < 40_000 && told.ends_with("more"), "{} bytes", told.len());
    assert!(!told.contains(['\u{1b}', '\n']));
}

#[test]
fn what_matters_most_is_told_first() {
    let mut findings = Findings::default();
    assert_eq!((findings.effect(), findings.worst()), (None, None));
    let mut add =
        |effect| findings.push(effect, Code::DryRun, Path::new("a"), format!("{effect:?}"));
    (0..40).for_each(|_| add(Effect::Noted));
    add(Effect::Refused);
    assert_eq!(findings.effect(), Some(Effect::Refused), "however many came before");
    assert!(Effect::ALL.is_sorted());
}

fn any_value() -> impl Strategy<Value = Value> {
    let keys = "selector|matchLabels|action|rules|from|source|to|operation|when|key|values|ports|\
                principals|ipBlocks|mtls|mode|portLevelMtls|80|methods";
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "DENY|STRICT|source\\.ip|10\\.0\\.0\\.0/8|80|\\*|.*".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 4, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(keys, inner, 0..4).prop_map(|m| json!(m)),
        ]
    })
}

proptest! {
    #[test]
    fn any_document_is_read(spec in any_value()) {
        let read = authorization(&spec);
        let policy = read.policy.as_ref();
        prop_assert!(policy.is_some() || read.findings.effect() <= Some(Effect::NotEnforced));
        authentication(&spec).policy.expect("outside of the root namespace there is always one");
    }
}
