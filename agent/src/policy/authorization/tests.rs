//! AuthorizationPolicy: examples from Istio's documentation, and every decision against a second
//! implementation that asks the document itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use culvert_spiffe::SpiffeId;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};

use crate::observe::Reason;
use crate::policy::*;
use crate::workload::documents::{self, Metadata};
use crate::workload::{Policies, Snapshot, Workload};

const ROOT: &str = "istio-system";

/// A policy as it stands in the cluster.
#[derive(Clone, Debug)]
struct Document {
    namespace: String,
    name: String,
    dry_run: bool,
    spec: Value,
}

fn document(namespace: &str, name: &str, spec: Value) -> Document {
    Document { namespace: namespace.into(), name: name.into(), dry_run: false, spec }
}

fn read(documents: &[Document]) -> Policies {
    let policies = documents.iter().filter_map(|document| {
        let mut metadata = Metadata {
            name: document.name.clone(),
            namespace: document.namespace.clone(),
            ..Metadata::default()
        };
        if document.dry_run {
            metadata.annotations.insert("istio.io/dry-run".into(), "true".into());
        }
        documents::authorization_policy(&metadata, &document.spec).policy
    });
    Policies::new(Vec::new(), policies.collect())
}

fn snapshot(documents: &[Document]) -> Snapshot {
    let domain = "cluster.local".parse().unwrap();
    Snapshot::new(1, domain, ROOT, Vec::<Workload>::new(), read(documents)).unwrap()
}

fn workload(namespace: &str, labels: &[(&str, &str)]) -> Workload {
    Workload {
        name: "web".into(),
        namespace: namespace.into(),
        node: "node1".into(),
        addresses: vec!["10.0.0.1".parse().unwrap()],
        labels: labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
        enrolled: true,
        netns: None,
        uid: None,
        identity: id(namespace, "web"),
    }
}

fn id(namespace: &str, account: &str) -> SpiffeId {
    SpiffeId::new(&"cluster.local".parse().unwrap(), namespace, account).unwrap()
}

/// A flow to port 80 of the workload.
fn flow<'a>(destination: &'a Workload, peer: Option<&'a SpiffeId>) -> InboundFlow<'a> {
    let source = SocketAddr::from(([10, 9, 9, 9], 40000));
    let to = SocketAddr::from(([10, 0, 0, 1], 80));
    InboundFlow { destination, to, source, peer, from_node: false }
}

/// What decided, and whether it may be.
fn verdict(snapshot: &Snapshot, flow: &InboundFlow<'_>) -> (bool, String) {
    match inbound(snapshot, flow) {
        Inbound::Allow(allowed) => (true, allowed.rule().to_string()),
        Inbound::Refuse(refusal) => {
            assert_eq!(refusal.reason, Reason::PolicyDenied);
            (false, refusal.rule.to_string())
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is made where it is handed over")]
fn allow_from(source: Value) -> Value {
    json!({"rules": [{"from": [{"source": source}]}]})
}

#[test]
fn an_allow_policy_lets_in_whom_it_names_and_nobody_else() {
    let web = workload("default", &[("app", "web")]);
    let (friend, other) = (id("default", "friend"), id("default", "other"));
    let spec = json!({
        "selector": {"matchLabels": {"app": "web"}},
        "rules": [{"from": [{"source": {
            "principals": ["cluster.local/ns/default/sa/friend"]
        }}], "to": [{"operation": {"ports": ["80"]}}]}]
    });
    let snapshot = snapshot(&[document("default", "friends", spec)]);
    let rule = "AuthorizationPolicy default/friends (rules[0])";
    assert_eq!(verdict(&snapshot, &flow(&web, Some(&friend))), (true, rule.to_owned()));
    let nobody = (false, "no rule allows it: AuthorizationPolicy default/friends".to_owned());
    assert_eq!(verdict(&snapshot, &flow(&web, Some(&other))), nobody);
    assert_eq!(verdict(&snapshot, &flow(&web, None)), nobody);
    let to = SocketAddr::from(([10, 0, 0, 1], 81));
    let elsewhere = InboundFlow { to, ..flow(&web, Some(&friend)) };
    assert_eq!(verdict(&snapshot, &elsewhere), nobody);
    let unselected = workload("default", &[("app", "other")]);
    assert!(verdict(&snapshot, &flow(&unselected, Some(&other))).0);
    assert!(verdict(&snapshot, &flow(&workload("other", &[("app", "web")]), None)).0);
}

#[test]
fn deny_goes_before_allow_and_is_named_with_its_rule() {
    let web = workload("default", &[]);
    let bad = id("bad", "a");
    let deny = json!({"action": "DENY", "rules": [
        {"to": [{"operation": {"ports": ["81"]}}]},
        {"from": [{"source": {"namespaces": ["bad"]}}]},
    ]});
    let snapshot = snapshot(&[
        document("default", "a-everybody", json!({"rules": [{}]})),
        document("default", "z-no-bad", deny),
    ]);
    let rule = "AuthorizationPolicy default/z-no-bad (rules[1])";
    assert_eq!(verdict(&snapshot, &flow(&web, Some(&bad))), (false, rule.to_owned()));
    assert!(verdict(&snapshot, &flow(&web, Some(&id("good", "a")))).0);
    assert!(!accepts_plaintext_everywhere(&snapshot, &web));
}

#[test]
fn an_empty_spec_denies_all_and_an_empty_rule_allows_all() {
    let web = workload("default", &[]);
    let peer = id("default", "a");
    let of = |spec| snapshot(&[document("default", "p", spec)]);
    assert!(!verdict(&of(json!({})), &flow(&web, Some(&peer))).0);
    assert!(!verdict(&of(Value::Null), &flow(&web, Some(&peer))).0);
    assert!(verdict(&of(json!({"rules": [{}]})), &flow(&web, None)).0);
    assert!(verdict(&of(json!({"action": "DENY"})), &flow(&web, None)).0);
    assert!(accepts_plaintext_everywhere(&of(json!({"action": "DENY"})), &web));
    assert!(!verdict(&of(json!({"action": "DENY", "rules": [{}]})), &flow(&web, None)).0);
}

#[test]
fn plaintext_has_no_principal_and_no_namespace() {
    let web = workload("default", &[]);
    let peer = id("default", "a");
    let without = |source| snapshot(&[document("default", "p", allow_from(source))]);
    for source in [
        json!({"principals": ["*"]}),
        json!({"namespaces": ["*"]}),
        json!({"namespaces": [""]}),
        json!({"trustDomains": ["*"]}),
        json!({"serviceAccounts": ["web"]}),
    ] {
        assert!(!verdict(&without(source.clone()), &flow(&web, None)).0, "{source}");
    }
    let strict = json!({"action": "DENY", "rules": [{"from": [{"source": {
        "notPrincipals": ["*"]}}]}]});
    let strict = snapshot(&[document("default", "strict", strict)]);
    assert!(!verdict(&strict, &flow(&web, None)).0);
    assert!(verdict(&strict, &flow(&web, Some(&peer))).0);
}

#[test]
fn the_nodes_own_host_is_not_asked_about() {
    let web = workload("default", &[]);
    let snapshot = snapshot(&[document("default", "nobody", json!({}))]);
    let probe = InboundFlow { from_node: true, ..flow(&web, None) };
    assert_eq!(verdict(&snapshot, &probe), (true, "node's own host".to_owned()));
    assert_eq!(would_refuse(&snapshot, &probe), None);
}

#[test]
fn policies_of_the_root_namespace_are_for_the_mesh_also_with_a_selector() {
    let selecting = json!({"selector": {"matchLabels": {"app": "web"}}});
    let all = [document(ROOT, "all", json!({"selector": {}}))];
    let selected = [document(ROOT, "selected", selecting)];
    let peer = id("default", "a");
    let labelled = workload("default", &[("app", "web")]);
    let bare = workload("default", &[]);
    for (documents, destination, allowed) in [
        (&all, &labelled, false),
        (&all, &bare, false),
        (&selected, &labelled, false),
        // A workload without labels is selected by nothing.
        (&selected, &bare, true),
    ] {
        let snapshot = snapshot(documents);
        assert_eq!(verdict(&snapshot, &flow(destination, Some(&peer))).0, allowed);
    }
}

#[test]
fn a_dry_run_changes_nothing_and_tells_what_it_would_refuse() {
    let web = workload("default", &[]);
    let peer = id("default", "a");
    let mut nobody = document("default", "nobody", json!({}));
    nobody.dry_run = true;
    let dry = snapshot(&[nobody.clone()]);
    assert!(verdict(&dry, &flow(&web, Some(&peer))).0);
    let would = would_refuse(&dry, &flow(&web, Some(&peer))).unwrap();
    assert_eq!(would.to_string(), "no rule allows it: AuthorizationPolicy default/nobody");
    assert!(accepts_plaintext_everywhere(&dry, &web));
    let allowed = snapshot(&[nobody, document("default", "all", json!({"rules": [{}]}))]);
    assert_eq!(would_refuse(&allowed, &flow(&web, Some(&peer))), None);
}

/// The documentation once more: each question is put to the document itself, word by word.
mod naive {
    use super::*;

    pub(super) fn allows(documents: &[Document], flow: &InboundFlow<'_>) -> bool {
        let mut any_allow = false;
        let mut allowed = false;
        for document in documents {
            let spec = &document.spec;
            let about =
                document.namespace == ROOT || document.namespace == flow.destination.namespace;
            if !about || document.dry_run || !selects(spec, &flow.destination.labels) {
                continue;
            }
            let deny = spec["action"] == "DENY";
            let rules = list(spec, "rules");
            let matched = rules.iter().any(|rule| rule_matches(rule, document, deny, flow));
            if deny && matched {
                return false;
            }
            any_allow |= !deny;
            allowed |= !deny && matched;
        }
        allowed || !any_allow
    }

    fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
        value[key].as_array().map_or(&[], Vec::as_slice)
    }

    fn selects(spec: &Value, labels: &BTreeMap<String, String>) -> bool {
        let wanted = spec["selector"]["matchLabels"].as_object();
        wanted.into_iter().flatten().all(|(k, v)| labels.get(k).is_some_and(|l| v == l))
    }

    fn rule_matches(rule: &Value, policy: &Document, deny: bool, flow: &InboundFlow<'_>) -> bool {
        if !deny && !is_layer_4(rule) {
            return false;
        }
        let sources = list(rule, "from");
        let operations = list(rule, "to");
        let of = |matching: &Value| field_by_field(matching, policy, flow);
        (sources.is_empty() || sources.iter().any(|from| of(&from["source"])))
            && (operations.is_empty() || operations.iter().any(|to| of(&to["operation"])))
            && list(rule, "when").iter().all(|when| {
                let (plain, not) = match when["key"].as_str().unwrap() {
                    "source.ip" => ("ipBlocks", "notIpBlocks"),
                    "source.namespace" => ("namespaces", "notNamespaces"),
                    "source.principal" => ("principals", "notPrincipals"),
                    "destination.port" => ("ports", "notPorts"),
                    "destination.ip" => ("destinationIps", "notDestinationIps"),
                    _ => return false,
                };
                of(&json!({plain: when["values"], not: when["notValues"]}))
            })
    }

    /// Neither a field of layer 7 nor a value that is none anywhere.
    fn is_layer_4(rule: &Value) -> bool {
        let good = |matching: &Value| {
            let fields = matching.as_object();
            fields.into_iter().flatten().all(|(field, values)| {
                let kind = field.trim_start_matches("not").to_lowercase();
                values.as_array().is_none_or(|values| {
                    values.iter().all(|value| known(&kind) && !is_wrong(&kind, value))
                })
            })
        };
        list(rule, "from").iter().all(|from| good(&from["source"]))
            && list(rule, "to").iter().all(|to| good(&to["operation"]))
            && list(rule, "when").iter().all(|when| {
                let kind = match when["key"].as_str().unwrap() {
                    "source.ip" | "destination.ip" => "ipblocks",
                    "destination.port" => "ports",
                    "source.namespace" | "source.principal" => "namespaces",
                    _ => return false,
                };
                ["values", "notValues"]
                    .iter()
                    .all(|key| list(when, key).iter().all(|value| !is_wrong(kind, value)))
            })
    }

    fn known(kind: &str) -> bool {
        let known =
            "principals namespaces trustdomains serviceaccounts ipblocks destinationips ports";
        known.split(' ').any(|each| each == kind)
    }

    fn is_wrong(kind: &str, value: &Value) -> bool {
        let text = value.as_str().unwrap();
        match kind {
            "ports" => !("1".."9").contains(&text) || text.contains(char::is_alphabetic),
            "ipblocks" | "destinationips" => !text.contains(['.', ':']),
            "serviceaccounts" => text.contains('*'),
            _ => false,
        }
    }

    fn field_by_field(matching: &Value, policy: &Document, flow: &InboundFlow<'_>) -> bool {
        let mut asked = false;
        for (field, values) in matching.as_object().into_iter().flatten() {
            let kind = field.trim_start_matches("not").to_lowercase();
            let values = values.as_array().map_or(&[][..], Vec::as_slice);
            if values.is_empty() || !known(&kind) {
                continue;
            }
            asked = true;
            let fits = |value: &&Value| value_fits(&kind, value.as_str().unwrap(), policy, flow);
            let (wrong, right): (Vec<&Value>, Vec<_>) =
                values.iter().partition(|value| is_wrong(&kind, value));
            let holds = if field.starts_with("not") {
                !right.iter().any(fits)
            } else {
                // Only DENY comes here with a value that is none.
                !wrong.is_empty() || right.iter().any(fits)
            };
            if !holds {
                return false;
            }
        }
        asked
    }

    fn value_fits(kind: &str, text: &str, policy: &Document, flow: &InboundFlow<'_>) -> bool {
        let star = |subject: &str| {
            if let Some(end) = text.strip_prefix('*') {
                subject.ends_with(end)
            } else if let Some(begin) = text.strip_suffix('*') {
                subject.starts_with(begin)
            } else {
                subject == text
            }
        };
        let in_block = |ip: std::net::IpAddr| {
            let ip = ip.to_canonical();
            match text.split_once('/') {
                None => ip == text.parse::<std::net::IpAddr>().unwrap(),
                Some(_) => text.parse::<ipnet::IpNet>().unwrap().contains(&ip),
            }
        };
        match (kind, flow.peer) {
            ("ports", _) => text == flow.to.port().to_string(),
            ("ipblocks", _) => in_block(flow.source.ip()),
            ("destinationips", _) => in_block(flow.to.ip()),
            (_, None) => false,
            ("principals", Some(id)) => star(&id.to_string()["spiffe://".len()..]),
            ("namespaces", Some(id)) => star(id.namespace()),
            ("trustdomains", Some(id)) => star(id.trust_domain().as_str()),
            ("serviceaccounts", Some(id)) => {
                let (namespace, account) =
                    text.split_once('/').unwrap_or((&policy.namespace, text));
                id.namespace() == namespace && id.service_account() == account
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Some of the fields, each with some of its values.
fn fields(all: &'static [(&'static str, &'static [&'static str])]) -> impl Strategy<Value = Value> {
    let field = |(name, values): &(&'static str, &'static [&'static str])| {
        let (name, values) = (*name, values.to_vec());
        let most = values.len().min(2);
        subsequence(values, 0..=most).prop_map(move |values| (name.to_owned(), json!(values)))
    };
    subsequence(all.to_vec(), 0..=2)
        .prop_flat_map(move |chosen| chosen.iter().map(field).collect::<Vec<_>>())
        .prop_map(|fields| Value::Object(fields.into_iter().collect()))
}

const PRINCIPALS: &[&str] = &[
    "*",
    "cluster.local/ns/one/sa/a",
    "cluster.local/ns/one/*",
    "*/sa/b",
    "spiffe://cluster.local/ns/one/sa/a",
];
const NAMESPACES: &[&str] = &["*", "one", "two", "o*", "*o", "*n*", ""];
const BLOCKS: &[&str] =
    &["10.0.0.1", "10.0.0.7/24", "fd00::/16", "::ffff:10.0.0.1", "0.0.0.0/0", "x"];
const PORTS: &[&str] = &["80", "81", "x", "0"];

fn any_source() -> impl Strategy<Value = Value> {
    fields(&[
        ("principals", PRINCIPALS),
        ("notPrincipals", PRINCIPALS),
        ("namespaces", NAMESPACES),
        ("notNamespaces", NAMESPACES),
        ("serviceAccounts", &["a", "one/a", "two/b", "*"]),
        ("notServiceAccounts", &["a", "one/a", "two/b", "*"]),
        ("trustDomains", &["cluster.local", "other", "*"]),
        ("notTrustDomains", &["cluster.local", "other"]),
        ("ipBlocks", BLOCKS),
        ("notIpBlocks", BLOCKS),
        ("requestPrincipals", &["*"]),
        ("remoteIpBlocks", &["10.0.0.0/8"]),
    ])
}

fn any_operation() -> impl Strategy<Value = Value> {
    fields(&[("ports", PORTS), ("notPorts", PORTS), ("methods", &["GET"]), ("notPaths", &["/"])])
}

fn any_condition() -> impl Strategy<Value = Value> {
    let keys: [(&'static str, &'static [&'static str]); 6] = [
        ("source.ip", BLOCKS),
        ("source.namespace", NAMESPACES),
        ("source.principal", PRINCIPALS),
        ("destination.ip", BLOCKS),
        ("destination.port", PORTS),
        ("request.headers[x]", &["*"]),
    ];
    select(keys.to_vec()).prop_flat_map(|(key, pool)| {
        let values = subsequence(pool.to_vec(), 1..=pool.len().min(2));
        (values, any::<bool>()).prop_map(move |(values, not)| {
            let field = if not { "notValues" } else { "values" };
            json!({"key": key, field: values})
        })
    })
}

prop_compose! {
    fn any_rule()(
        from in proptest::collection::vec(any_source(), 0..3),
        to in proptest::collection::vec(any_operation(), 0..3),
        when in proptest::collection::vec(any_condition(), 0..2),
    ) -> Value {
        let from: Vec<_> = from.into_iter().map(|source| json!({"source": source})).collect();
        let to: Vec<_> = to.into_iter().map(|operation| json!({"operation": operation})).collect();
        json!({"from": from, "to": to, "when": when})
    }
}

prop_compose! {
    fn any_document()(
        namespace in select(vec![ROOT, "one", "two"]),
        name in "[a-e]",
        dry_run in proptest::bool::weighted(0.1),
        deny in any::<bool>(),
        selector in proptest::option::of(proptest::collection::btree_map("[ab]", "[xy]", 0..2)),
        rules in proptest::collection::vec(any_rule(), 0..3),
    ) -> Document {
        let mut spec = json!({"rules": rules});
        if deny {
            spec["action"] = "DENY".into();
        }
        if let Some(labels) = selector {
            spec["selector"] = json!({"matchLabels": labels});
        }
        Document { namespace: namespace.to_owned(), name, dry_run, spec }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_decision_is_the_documented_one(
        documents in proptest::collection::vec(any_document(), 0..4),
        namespace in select(vec![ROOT, "one", "two"]),
        labels in proptest::collection::btree_map("[ab]", "[xy]", 0..3),
        peer in proptest::option::of((select(vec![ROOT, "one", "two"]), "[ab]")),
        source in select(vec!["10.0.0.1", "10.0.0.9", "fd00::1", "::ffff:10.0.0.1", "192.0.2.1"]),
        port in 80u16..83,
    ) {
        let mut seen = std::collections::HashSet::new();
        let documents: Vec<_> = documents
            .into_iter()
            .filter(|d| seen.insert((d.namespace.clone(), d.name.clone())))
            .collect();
        let mut web = workload(namespace, &[]);
        web.labels = labels;
        let peer = peer.map(|(namespace, account)| id(namespace, &account));
        let source = SocketAddr::new(source.parse().unwrap(), 40000);
        let to = SocketAddr::new(web.addresses[0], port);
        let flow = InboundFlow { to, source, ..flow(&web, peer.as_ref()) };
        let snapshot = snapshot(&documents);
        let (allowed, rule) = verdict(&snapshot, &flow);
        prop_assert_eq!(allowed, naive::allows(&documents, &flow), "{}", rule);
        if peer.is_none() && !allowed {
            prop_assert!(!accepts_plaintext_everywhere(&snapshot, &web));
        }
        let mut in_force = documents.clone();
        for document in &mut in_force {
            document.dry_run = false;
        }
        let would = allowed && !naive::allows(&in_force, &flow);
        prop_assert_eq!(would_refuse(&snapshot, &flow).is_some(), would);
    }
}
