//! Examples from Istio's documentation, and the decision against a second, naive implementation.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use culvert_spiffe::{SpiffeId, TrustDomain};
use proptest::prelude::*;

use super::*;
use crate::observe::Reason;
use crate::workload::{MtlsMode, PeerAuthentication, Policies, Snapshot, Workload};

const ROOT: &str = "istio-system";

fn trust_domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

fn workload(namespace: &str, name: &str, address: &str, labels: &[(&str, &str)]) -> Workload {
    Workload {
        name: name.into(),
        namespace: namespace.into(),
        node: "node1".into(),
        addresses: vec![address.parse().unwrap()],
        labels: labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
        enrolled: true,
        netns: None,
        uid: None,
        identity: SpiffeId::new(&trust_domain(), namespace, "sa").unwrap(),
    }
}

fn policy(namespace: &str, name: &str, mode: MtlsMode) -> PeerAuthentication {
    PeerAuthentication {
        name: name.into(),
        namespace: namespace.into(),
        created: None,
        selector: BTreeMap::new(),
        mode,
        ports: BTreeMap::new(),
    }
}

fn selecting(mut policy: PeerAuthentication, key: &str, value: &str) -> PeerAuthentication {
    policy.selector.insert(key.into(), value.into());
    policy
}

fn with_port(mut policy: PeerAuthentication, port: u16, mode: MtlsMode) -> PeerAuthentication {
    policy.ports.insert(port, mode);
    policy
}

fn snapshot(workloads: Vec<Workload>, policies: Vec<PeerAuthentication>) -> Snapshot {
    Snapshot::new(1, trust_domain(), ROOT, workloads, Policies::new(policies, vec![])).unwrap()
}

fn plaintext(destination: &Workload, port: u16) -> InboundFlow<'_> {
    let source = SocketAddr::from(([10, 9, 9, 9], 40000));
    let to = SocketAddr::new(destination.addresses[0], port);
    InboundFlow { destination, to, source, peer: None, from_node: false }
}

fn leaving(source: &Workload, destination: SocketAddr) -> OutboundFlow<'_> {
    OutboundFlow { source, client: source.addresses[0], destination, draw: 0 }
}

fn refused_by(snapshot: &Snapshot, flow: &InboundFlow<'_>) -> Option<String> {
    match inbound(snapshot, flow) {
        Inbound::Allow(_) => None,
        Inbound::Refuse(refusal) => Some(refusal.rule.to_string()),
    }
}

#[test]
fn without_policy_plaintext_is_taken() {
    let web = workload("default", "web", "10.0.0.1", &[]);
    let snapshot = snapshot(vec![], vec![]);
    assert_eq!(refused_by(&snapshot, &plaintext(&web, 80)), None);
    assert!(accepts_plaintext_everywhere(&snapshot, &web));
}

#[test]
fn strict_refuses_plaintext_and_names_the_policy() {
    let web = workload("default", "web", "10.0.0.1", &[]);
    let snapshot = snapshot(vec![], vec![policy("default", "default", MtlsMode::Strict)]);
    let Inbound::Refuse(refusal) = inbound(&snapshot, &plaintext(&web, 80)) else {
        panic!("plaintext was let in under STRICT");
    };
    assert_eq!(refusal.reason, Reason::PlaintextRefused);
    assert_eq!(
        refusal.to_string(),
        "connection closed due to policy rejection: plaintext where mutual TLS is required \
         (PeerAuthentication default/default)"
    );
    assert!(!accepts_plaintext_everywhere(&snapshot, &web));
}

#[test]
fn strict_takes_a_proven_peer_and_the_nodes_own_host() {
    let web = workload("default", "web", "10.0.0.1", &[]);
    let peer = SpiffeId::new(&trust_domain(), "default", "client").unwrap();
    let snapshot = snapshot(vec![], vec![policy(ROOT, "default", MtlsMode::Strict)]);
    let proven = InboundFlow { peer: Some(&peer), ..plaintext(&web, 80) };
    let probe = InboundFlow { from_node: true, ..plaintext(&web, 80) };
    let rule = |flow| match inbound(&snapshot, flow) {
        Inbound::Allow(allowed) => allowed.rule().to_string(),
        Inbound::Refuse(refusal) => panic!("{refusal}"),
    };
    assert_eq!(rule(&proven), "mutual TLS");
    assert_eq!(rule(&probe), "node's own host");
}

#[test]
fn ports_of_the_mesh_are_refused_whoever_asks() {
    let web = workload("default", "web", "10.0.0.1", &[]);
    let peer = SpiffeId::new(&trust_domain(), "default", "client").unwrap();
    let snapshot = snapshot(vec![web.clone()], vec![]);
    for port in ILLEGAL_PORTS {
        let flow = InboundFlow { peer: Some(&peer), from_node: true, ..plaintext(&web, port) };
        assert!(matches!(
            inbound(&snapshot, &flow),
            Inbound::Refuse(Refusal { reason: Reason::IllegalPort, .. })
        ));
        let destination = SocketAddr::from(([10, 0, 0, 1], port));
        assert!(matches!(
            outbound(&snapshot, &leaving(&web, destination)),
            Outbound::Refuse(Refusal { reason: Reason::IllegalPort, .. })
        ));
    }
}

#[test]
fn a_narrower_policy_beats_a_wider_one() {
    let web = workload("default", "web", "10.0.0.1", &[("app", "web")]);
    let other = workload("default", "other", "10.0.0.2", &[("app", "other")]);
    let snapshot = snapshot(
        vec![],
        vec![
            policy(ROOT, "mesh", MtlsMode::Strict),
            policy("default", "ns", MtlsMode::Permissive),
            selecting(policy("default", "own", MtlsMode::Strict), "app", "web"),
        ],
    );
    assert_eq!(
        refused_by(&snapshot, &plaintext(&web, 80)).as_deref(),
        Some("PeerAuthentication default/own")
    );
    assert_eq!(refused_by(&snapshot, &plaintext(&other, 80)), None);
}

#[test]
fn unset_inherits_and_disable_is_taken_as_permissive() {
    let web = workload("default", "web", "10.0.0.1", &[("app", "web")]);
    let own = selecting(policy("default", "own", MtlsMode::Unset), "app", "web");
    let mesh = policy(ROOT, "mesh", MtlsMode::Strict);
    let inherits = snapshot(vec![], vec![own.clone(), mesh.clone()]);
    assert_eq!(
        refused_by(&inherits, &plaintext(&web, 80)).as_deref(),
        Some("PeerAuthentication istio-system/mesh")
    );
    let disabled = snapshot(vec![], vec![own, mesh, policy("default", "ns", MtlsMode::Disable)]);
    assert_eq!(refused_by(&disabled, &plaintext(&web, 80)), None);
}

#[test]
fn one_open_port_under_a_strict_mesh_opens_that_port_only() {
    let web = workload("default", "web", "10.0.0.1", &[("app", "web")]);
    let own = selecting(policy("default", "own", MtlsMode::Unset), "app", "web");
    let own = with_port(own, 80, MtlsMode::Permissive);
    let snapshot = snapshot(vec![], vec![own, policy(ROOT, "mesh", MtlsMode::Strict)]);
    assert_eq!(refused_by(&snapshot, &plaintext(&web, 80)), None);
    assert!(refused_by(&snapshot, &plaintext(&web, 81)).is_some());
    assert!(!accepts_plaintext_everywhere(&snapshot, &web));
}

#[test]
fn one_strict_port_of_an_open_workload_under_a_strict_mesh_is_closed() {
    let web = workload("default", "web", "10.0.0.1", &[("app", "web")]);
    let own = selecting(policy("default", "own", MtlsMode::Permissive), "app", "web");
    let own = with_port(own, 80, MtlsMode::Strict);
    let snapshot = snapshot(vec![], vec![own, policy(ROOT, "mesh", MtlsMode::Strict)]);
    assert_eq!(
        refused_by(&snapshot, &plaintext(&web, 80)).as_deref(),
        Some("PeerAuthentication default/own (port 80)")
    );
    assert_eq!(refused_by(&snapshot, &plaintext(&web, 81)), None);
}

#[test]
fn of_two_on_one_level_the_oldest_counts_alone() {
    let web = workload("default", "web", "10.0.0.1", &[]);
    let aged = |name, mode, created| PeerAuthentication {
        created: Some(created),
        ..policy("default", name, mode)
    };
    let snapshot = snapshot(
        vec![],
        vec![aged("young", MtlsMode::Permissive, 2), aged("old", MtlsMode::Strict, 1)],
    );
    assert!(refused_by(&snapshot, &plaintext(&web, 80)).is_some());
}

#[test]
fn the_age_decides_even_when_the_oldest_says_unset() {
    let web = workload("default", "web", "10.0.0.1", &[]);
    let mut young = policy("default", "young", MtlsMode::Strict);
    young.created = Some(2);
    let mut old = policy("default", "old", MtlsMode::Unset);
    old.created = Some(1);
    let snapshot = snapshot(vec![], vec![young, old]);
    assert_eq!(refused_by(&snapshot, &plaintext(&web, 80)), None);
}

#[test]
fn a_selector_in_the_root_namespace_is_not_seen() {
    let web = workload(ROOT, "web", "10.0.0.1", &[("app", "web")]);
    let own = selecting(policy(ROOT, "own", MtlsMode::Strict), "app", "web");
    let snapshot = snapshot(vec![], vec![own]);
    assert_eq!(refused_by(&snapshot, &plaintext(&web, 80)), None);
}

fn passes(to: &str, reason: PassthroughReason) -> Outbound {
    Outbound::Passthrough { to: to.parse().unwrap(), reason }
}

#[test]
fn outbound_tunnels_to_enrolled_workloads_only() {
    let a = workload("default", "a", "10.0.0.1", &[]);
    let b = workload("default", "b", "10.0.0.2", &[]);
    let mut plain = workload("default", "plain", "10.0.0.3", &[]);
    plain.enrolled = false;
    let snapshot = snapshot(vec![a.clone(), b.clone(), plain], vec![]);
    let to = |address: &str| outbound(&snapshot, &leaving(&a, address.parse().unwrap()));
    let Outbound::Tunnel { destination, to: address } = to("10.0.0.2:80") else {
        panic!("not tunnelled")
    };
    assert_eq!(address, "10.0.0.2:80".parse().unwrap());
    assert_eq!(*destination, b);
    assert!(matches!(to("[::ffff:10.0.0.2]:80"), Outbound::Tunnel { .. }));
    assert_eq!(to("10.0.0.3:80"), passes("10.0.0.3:80", PassthroughReason::NotEnrolled));
    assert_eq!(to("192.0.2.1:80"), passes("192.0.2.1:80", PassthroughReason::UnknownDestination));
    assert_eq!(
        to("192.0.2.1:15008"),
        passes("192.0.2.1:15008", PassthroughReason::UnknownDestination)
    );
}

/// The documentation of PeerAuthentication once more, written top down: from what the mesh says
/// to what the port says, each level overwriting what it has an opinion on.
mod naive {
    use super::*;

    fn oldest(
        policies: &[PeerAuthentication],
        belongs: impl Fn(&PeerAuthentication) -> bool,
    ) -> Option<&PeerAuthentication> {
        let age = |p: &PeerAuthentication| (p.created.unwrap_or(i128::MIN), p.name.clone());
        policies.iter().filter(|p| belongs(p)).min_by_key(|p| age(p))
    }

    pub(super) fn takes_plaintext(
        policies: &[PeerAuthentication],
        workload: &Workload,
        port: u16,
    ) -> bool {
        let mut strict = false;
        let mut say = |mode| match mode {
            MtlsMode::Unset => {}
            MtlsMode::Disable | MtlsMode::Permissive => strict = false,
            MtlsMode::Strict => strict = true,
        };
        if let Some(mesh) = oldest(policies, |p| p.namespace == ROOT && p.selector.is_empty()) {
            say(mesh.mode);
        }
        let of_namespace = |p: &PeerAuthentication| {
            p.namespace == workload.namespace && p.namespace != ROOT && p.selector.is_empty()
        };
        if let Some(namespace) = oldest(policies, of_namespace) {
            say(namespace.mode);
        }
        let of_workload = |p: &PeerAuthentication| {
            let matching = |(k, v)| workload.labels.iter().any(|(k2, v2)| k == k2 && v == v2);
            p.namespace == workload.namespace
                && p.namespace != ROOT
                && !p.selector.is_empty()
                && p.selector.iter().all(matching)
        };
        if let Some(own) = oldest(policies, of_workload) {
            say(own.mode);
            if let Some((_, mode)) = own.ports.iter().find(|(p, _)| **p == port) {
                say(*mode);
            }
        }
        !strict
    }
}

fn any_mode() -> impl Strategy<Value = MtlsMode> {
    prop_oneof![
        Just(MtlsMode::Unset),
        Just(MtlsMode::Disable),
        Just(MtlsMode::Permissive),
        Just(MtlsMode::Strict),
    ]
}

fn any_labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    proptest::collection::btree_map("[ab]", "[xy]", 0..3)
}

fn any_namespace() -> impl Strategy<Value = String> {
    prop_oneof![Just(ROOT.to_owned()), Just("one".to_owned()), Just("two".to_owned())]
}

prop_compose! {
    fn any_policy()(
        name in "[a-e]",
        namespace in any_namespace(),
        created in proptest::option::of(0i128..4),
        selector in any_labels(),
        mode in any_mode(),
        ports in proptest::collection::btree_map(80u16..83, any_mode(), 0..3),
    ) -> PeerAuthentication {
        PeerAuthentication { name, namespace, created, selector, mode, ports }
    }
}

prop_compose! {
    /// Names are unique in a namespace, as the API server keeps them.
    fn any_policies()(policies in proptest::collection::vec(any_policy(), 0..9))
        -> Vec<PeerAuthentication>
    {
        let mut seen = std::collections::HashSet::new();
        policies.into_iter().filter(|p| seen.insert((p.namespace.clone(), p.name.clone()))).collect()
    }
}

proptest! {
    #[test]
    fn the_decision_is_the_documented_one(
        policies in any_policies(),
        namespace in any_namespace(),
        labels in any_labels(),
        port in 80u16..84,
    ) {
        let mut web = workload(&namespace, "web", "10.0.0.1", &[]);
        web.labels = labels;
        let expected = naive::takes_plaintext(&policies, &web, port);
        // 83 has no mode of its own: it stands for every port without one.
        let every_port = (80..84).all(|port| naive::takes_plaintext(&policies, &web, port));
        let snapshot = snapshot(vec![], policies);
        prop_assert_eq!(refused_by(&snapshot, &plaintext(&web, port)).is_none(), expected);
        prop_assert_eq!(accepts_plaintext_everywhere(&snapshot, &web), every_port);
    }

    #[test]
    fn a_refusal_always_names_a_strict_policy_of_the_snapshot(
        policies in any_policies(),
        namespace in any_namespace(),
        port in 80u16..84,
    ) {
        let web = workload(&namespace, "web", "10.0.0.1", &[]);
        let snapshot = snapshot(vec![], policies.clone());
        let Inbound::Refuse(refusal) = inbound(&snapshot, &plaintext(&web, port)) else {
            return Ok(());
        };
        let Rule::PeerAuthentication { namespace, name, port } = refusal.rule else {
            return Err(TestCaseError::fail(format!("{}", refusal.rule)));
        };
        let policy = policies.iter().find(|p| p.namespace == namespace && p.name == name);
        let policy = policy.expect("the policy named exists");
        let mode = port.map_or(policy.mode, |port| policy.ports[&port]);
        prop_assert_eq!(mode, MtlsMode::Strict);
    }

    #[test]
    fn an_address_is_tunnelled_iff_an_enrolled_workload_has_it(last in 0u8..4, port in 1u16..) {
        let mut workloads: Vec<_> = (0..3u8)
            .map(|n| workload("default", &format!("w{n}"), &format!("10.0.0.{n}"), &[]))
            .collect();
        workloads[2].enrolled = false;
        let source = workloads[0].clone();
        let snapshot = snapshot(workloads, vec![]);
        let destination = SocketAddr::new(IpAddr::from([10, 0, 0, last]), port);
        let tunnelled = matches!(
            outbound(&snapshot, &leaving(&source, destination)), Outbound::Tunnel { .. }
        );
        prop_assert_eq!(tunnelled, last < 2 && !ILLEGAL_PORTS.contains(&port));
    }
}
