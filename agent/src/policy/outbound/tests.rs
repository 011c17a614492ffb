//! Services: who gets a flow, against a second, naive reading of Kubernetes' documentation.

use std::collections::{BTreeMap, BTreeSet};

use culvert_spiffe::SpiffeId;
use proptest::prelude::*;

use super::*;
use crate::workload::{Condition, Policies, Services};

const VIP: &str = "10.96.0.1";

fn workload(last: u8, enrolled: bool) -> Workload {
    let domain = "cluster.local".parse().unwrap();
    Workload {
        name: format!("w{last}"),
        namespace: "default".into(),
        node: "node1".into(),
        addresses: vec![IpAddr::from([10, 0, 0, last])],
        labels: BTreeMap::new(),
        enrolled,
        netns: None,
        uid: None,
        identity: SpiffeId::new(&domain, "default", "sa").unwrap(),
    }
}

fn endpoint(last: u8, condition: Condition, distance: Distance) -> Endpoint {
    Endpoint { address: SocketAddr::from(([10, 0, 0, last], 8080)), distance, condition }
}

fn near(last: u8) -> Endpoint {
    endpoint(last, Condition::Ready, Distance::Node)
}

fn service(endpoints: Vec<Endpoint>) -> Service {
    Service {
        name: "web".into(),
        namespace: "default".into(),
        ports: BTreeMap::from([(80, endpoints)]),
        sticky: false,
        local_only: false,
    }
}

/// The mesh of these workloads with one Service at [`VIP`], and pods in 10.0.0.0/16.
fn mesh(workloads: Vec<Workload>, service: Service) -> Snapshot {
    let services: Services = [(VIP.parse().unwrap(), Arc::new(service))].into_iter().collect();
    Snapshot::new(
        1,
        "cluster.local".parse().unwrap(),
        "istio-system",
        workloads,
        Policies::default(),
    )
    .unwrap()
    .with_services(Arc::new(services))
    .with_pod_ranges(&["10.0.0.0/16".parse().unwrap()])
}

fn decide(snapshot: &Snapshot, client: u8, port: u16, draw: u64) -> Outbound {
    let source = workload(client, true);
    let destination = SocketAddr::new(VIP.parse().unwrap(), port);
    let client = source.addresses[0];
    outbound(snapshot, &OutboundFlow { source: &source, client, destination, draw })
}

/// The last byte of the address that a flow goes to.
fn last(outcome: &Outbound) -> u8 {
    match outcome {
        Outbound::Tunnel { to, .. } | Outbound::Passthrough { to, .. } => match to.ip() {
            IpAddr::V4(v4) => v4.octets()[3],
            IpAddr::V6(_) => unreachable!(),
        },
        Outbound::Refuse(refusal) => panic!("{refusal}"),
    }
}

#[test]
fn a_service_leads_through_a_tunnel_to_an_enrolled_endpoint() {
    let snapshot = mesh(vec![workload(2, true)], service(vec![near(2)]));
    let Outbound::Tunnel { destination, to } = decide(&snapshot, 1, 80, 7) else {
        panic!("not tunnelled")
    };
    assert_eq!((destination.name.as_str(), to), ("w2", "10.0.0.2:8080".parse().unwrap()));
}

#[test]
fn a_service_that_the_mesh_has_no_part_in_is_left_to_the_cluster() {
    let snapshot = mesh(vec![workload(2, false)], service(vec![near(2), near(99)]));
    let original = format!("{VIP}:80").parse().unwrap();
    for draw in 0..4 {
        let Outbound::Passthrough { to, .. } = decide(&snapshot, 1, 80, draw) else {
            panic!("not passed through")
        };
        assert_eq!(to, original);
    }
    let unknown = decide(&snapshot, 1, 81, 0);
    let reason = PassthroughReason::UnknownPort;
    let to = format!("{VIP}:81").parse().unwrap();
    assert_eq!(unknown, Outbound::Passthrough { to, reason });
}

#[test]
fn plaintext_of_a_mixed_service_never_meets_its_enrolled_endpoints() {
    let workloads = vec![workload(2, true), workload(3, false)];
    let snapshot = mesh(workloads, service(vec![near(2), near(3)]));
    let mut seen = BTreeSet::new();
    for draw in 0..4 {
        match decide(&snapshot, 1, 80, draw) {
            Outbound::Tunnel { to, .. } => seen.insert((true, to.to_string())),
            Outbound::Passthrough { to, .. } => seen.insert((false, to.to_string())),
            Outbound::Refuse(refusal) => panic!("{refusal}"),
        };
    }
    let expected = [(false, "10.0.0.3:8080".to_owned()), (true, "10.0.0.2:8080".to_owned())];
    assert_eq!(seen, BTreeSet::from(expected));
}

#[test]
fn an_endpoint_that_is_the_source_itself_is_not_tunnelled() {
    let snapshot = mesh(vec![workload(1, true)], service(vec![near(1)]));
    let to = "10.0.0.1:8080".parse().unwrap();
    let expected = Outbound::Passthrough { to, reason: PassthroughReason::Itself };
    assert_eq!(decide(&snapshot, 1, 80, 0), expected);
}

#[test]
fn without_an_endpoint_a_flow_waits_and_is_refused_then() {
    let snapshot = mesh(vec![], service(vec![]));
    let destination = SocketAddr::new(VIP.parse().unwrap(), 80);
    assert!(awaits_news(&snapshot, destination));
    let Outbound::Refuse(refusal) = decide(&snapshot, 1, 80, 0) else { panic!("went somewhere") };
    assert_eq!(refusal.reason, Reason::NoEndpoint);
    assert_eq!(
        refusal.to_string(),
        "the Service has no endpoint that is ready (Service default/web, port 80)"
    );
    assert!(!awaits_news(&snapshot, SocketAddr::new(VIP.parse().unwrap(), 81)));
}

#[test]
fn only_an_unknown_address_of_pods_is_waited_for() {
    let snapshot = mesh(vec![workload(2, false)], service(vec![near(2)]));
    let awaits = |to: &str| awaits_news(&snapshot, to.parse().unwrap());
    assert!(awaits("10.0.7.7:80"));
    assert!(awaits("[::ffff:10.0.7.7]:80"));
    assert!(!awaits("10.0.0.2:80"), "known");
    assert!(!awaits("192.0.2.1:80"), "outside");
    assert!(!awaits("10.96.0.1:80"), "has an endpoint");
}

#[test]
fn a_client_keeps_its_endpoint_when_another_one_goes() {
    let all: Vec<_> = (2..12).map(near).collect();
    let workloads: Vec<_> = (2..12).map(|last| workload(last, true)).collect();
    let mut sticky = service(all.clone());
    sticky.sticky = true;
    let whole = mesh(workloads.clone(), sticky.clone());
    let chosen: Vec<_> = (100..200).map(|client| last(&decide(&whole, client, 80, 0))).collect();
    for (client, draw) in (100..200).zip(1..) {
        let again = last(&decide(&whole, client, 80, draw));
        assert_eq!(again, chosen[usize::from(client - 100)], "the draw has no say");
    }
    assert!(chosen.iter().collect::<BTreeSet<_>>().len() > 5, "clients are spread");
    sticky.ports.get_mut(&80).unwrap().retain(|endpoint| endpoint.address != near(5).address);
    let smaller = mesh(workloads, sticky);
    for (client, before) in (100..200).zip(chosen) {
        let now = last(&decide(&smaller, client, 80, 0));
        assert!(now == before || before == 5, "{client} went from {before} to {now}");
    }
}

fn any_endpoint(last: u8) -> impl Strategy<Value = Endpoint> {
    let conditions = prop_oneof![Just(Condition::Ready), Just(Condition::Ending)];
    let distances =
        prop_oneof![Just(Distance::Node), Just(Distance::Zone), Just(Distance::Elsewhere)];
    (conditions, distances)
        .prop_map(move |(condition, distance)| endpoint(last, condition, distance))
}

/// Who may get a flow, step by step as one would tell it.
fn may_get(service: &Service) -> BTreeSet<u8> {
    let mut left: Vec<Endpoint> = service.ports[&80].clone();
    if service.local_only {
        left.retain(|endpoint| endpoint.distance == Distance::Node);
    }
    if left.iter().any(|endpoint| endpoint.condition == Condition::Ready) {
        left.retain(|endpoint| endpoint.condition == Condition::Ready);
    }
    for distance in [Distance::Node, Distance::Zone] {
        if left.iter().any(|endpoint| endpoint.distance == distance) {
            left.retain(|endpoint| endpoint.distance == distance);
            break;
        }
    }
    left.iter()
        .map(|endpoint| match endpoint.address.ip() {
            IpAddr::V4(v4) => v4.octets()[3],
            IpAddr::V6(_) => unreachable!(),
        })
        .collect()
}

proptest! {
    #[test]
    fn flows_go_to_all_of_the_best_endpoints_and_to_no_other(
        endpoints in (0..6u8).prop_flat_map(|n| (2..2 + n).map(any_endpoint).collect::<Vec<_>>()),
        local_only: bool,
    ) {
        let mut service = service(endpoints);
        service.local_only = local_only;
        let expected = may_get(&service);
        let workloads = (2..9).map(|last| workload(last, true)).collect();
        let snapshot = mesh(workloads, service);
        let destination = SocketAddr::new(VIP.parse().unwrap(), 80);
        prop_assert_eq!(awaits_news(&snapshot, destination), expected.is_empty());
        if !expected.is_empty() {
            let seen = (0..60).map(|draw| last(&decide(&snapshot, 1, 80, draw))).collect();
            prop_assert_eq!(expected, seen);
        }
    }
}
