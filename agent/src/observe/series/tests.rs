//! The bound on series, their going, and that nothing is lost meanwhile.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use prometheus::IntCounter;

use super::super::{Metrics, Reason};
use super::*;

fn party(pod: &str) -> Party {
    Party::workload("default", pod, &BTreeMap::new())
}

fn labels(reporter: Reporter, source: &Party, destination: &Party) -> FlowLabels {
    let address = |last: u8| SocketAddr::from(([10, 0, 0, last], 80));
    let id = |party: &Party| {
        format!("spiffe://cluster.local/ns/default/sa/{}", party.name().unwrap()).parse().ok()
    };
    FlowLabels {
        source: source.clone(),
        destination: destination.clone(),
        source_principal: id(source),
        destination_principal: id(destination),
        security: Security::MutualTls,
        path: Path::Tunnel,
        ..FlowLabels::unknown(reporter, address(1), address(2))
    }
}

fn between(source: &str, destination: &str) -> FlowLabels {
    labels(Reporter::Source, &party(source), &party(destination))
}

fn metrics(most: usize) -> Metrics {
    let metrics = Metrics::new().unwrap();
    metrics.set_series(SeriesSettings { most, cluster: None });
    metrics
}

fn samples<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    text.lines().filter(|line| line.starts_with(&format!("{name}{{"))).collect()
}

fn value(line: &str) -> u64 {
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn what_is_beyond_the_bound_is_counted_together() {
    let metrics = metrics(10);
    for peer in 0..30 {
        let flow = metrics.open(between("a1", &format!("b{peer}")));
        flow.sent(&[0; 7]);
        flow.close(Reason::Ok, None);
    }
    let text = metrics.encode().unwrap();
    let opened = samples(&text, "istio_tcp_connections_opened_total");
    assert_eq!(opened.len(), 11);
    assert_eq!(opened.iter().map(|line| value(line)).sum::<u64>(), 30);
    let rest: Vec<_> =
        opened.iter().filter(|line| line.contains("destination_workload=\"unknown\"")).collect();
    let [rest] = rest.as_slice() else { panic!("{rest:?}") };
    assert!(rest.contains("source_workload=\"unknown\"") && rest.ends_with(" 20"), "{rest}");
    assert!(rest.contains("connection_security_policy=\"mutual_tls\""), "{rest}");
    assert!(text.contains("\nculvert_observe_series 10\n"), "{text}");
    assert!(text.contains("\nculvert_observe_series_overflow_total 20\n"), "{text}");
    let bytes = samples(&text, "istio_tcp_received_bytes_total");
    assert_eq!(bytes.iter().map(|line| value(line)).sum::<u64>(), 30 * 7);
}

/// The bound of `docs/metrics.md`: a node of 100 workloads, each with 100 peers both ways.
#[test]
fn a_full_node_stays_within_the_bound_that_is_documented() {
    let metrics = Metrics::new().unwrap();
    let local: Vec<_> = (0..100).map(|n| party(&format!("frontend-{n}"))).collect();
    let peers: Vec<_> = (0..100).map(|n| party(&format!("backend-{n}"))).collect();
    for near in &local {
        for far in &peers {
            metrics.open(labels(Reporter::Source, near, far)).close(Reason::Ok, None);
            metrics.open(labels(Reporter::Destination, far, near)).close(Reason::Ok, None);
        }
    }
    let text = metrics.encode().unwrap();
    let lines = text.lines().filter(|line| line.starts_with("istio_tcp_")).count();
    assert_eq!(lines, 80_000);
    assert!(text.contains("\nculvert_observe_series_overflow_total 0\n"));
    assert!(text.len() < lines * 1_000, "{} bytes", text.len());
    // Every pair once more adds nothing.
    metrics.open(labels(Reporter::Source, &local[0], &peers[0])).close(Reason::Ok, None);
    assert_eq!(metrics.edges().len(), 20_000);
}

#[test]
fn pods_of_one_deployment_are_one_series_under_its_name() {
    let metrics = Metrics::new().unwrap();
    let hash = BTreeMap::from([("pod-template-hash".to_owned(), "6d4b75cb6d".to_owned())]);
    for pod in ["web-6d4b75cb6d-aaaaa", "web-6d4b75cb6d-bbbbb"] {
        let web = Party::workload("default", pod, &hash);
        let flow = metrics.open(FlowLabels {
            source: web,
            service: Some(ServiceName::new("shop", "cart")),
            ..between("ignored", "cart-1")
        });
        let view = metrics.flows(1).flows.remove(0);
        assert_eq!(view.source.workload.as_deref(), Some(pod), "of an open flow the pod is told");
        flow.close(Reason::Ok, None);
    }
    let edges = metrics.edges();
    let [edge] = edges.as_slice() else { panic!("{edges:?}") };
    assert_eq!((edge.source.workload.as_deref(), edge.opened), (Some("web"), 2));
    let text = metrics.encode().unwrap();
    let [line] = samples(&text, "istio_tcp_connections_opened_total")[..] else { panic!("{text}") };
    for label in [
        "source_workload=\"web\"",
        "source_app=\"web\"",
        "destination_service=\"cart.shop.svc.cluster.local\"",
        "destination_service_name=\"cart\"",
        "destination_service_namespace=\"shop\"",
    ] {
        assert!(line.contains(label), "{label} in {line}");
    }
}

#[test]
fn the_cluster_is_that_of_workloads_that_are_known() {
    let metrics = Metrics::new().unwrap();
    metrics.set_series(SeriesSettings { cluster: Some("east".to_owned()), ..Default::default() });
    let labels = FlowLabels { destination: Party::default(), ..between("a1", "b1") };
    metrics.open(labels).close(Reason::Ok, None);
    let text = metrics.encode().unwrap();
    assert!(text.contains("source_cluster=\"east\""), "{text}");
    assert!(text.contains("destination_cluster=\"unknown\""), "{text}");
}

const MINUTE: u64 = 60_000;
const REST: Rest = Rest { departed: Duration::from_mins(5), crowded: Duration::from_hours(1) };

fn table(most: usize) -> Table {
    let table = Table::new(IntCounter::new("overflow", "Overflow.").unwrap());
    table.set(SeriesSettings { most, cluster: None });
    table
}

fn there(series: &Table, pods: &[&str]) -> Vec<String> {
    series.retire(REST, 100 * MINUTE, &|party| pods.contains(&party.name().unwrap()));
    let mut left: Vec<_> =
        series.all().iter().map(|s| s.source.name().unwrap().to_owned()).collect();
    left.sort_unstable();
    left
}

#[test]
fn series_of_the_departed_go_when_nothing_was_counted_for_minutes() {
    let table = table(100);
    for (source, closed) in
        [("stays", Some(10)), ("left", Some(94)), ("just", Some(96)), ("open", None)]
    {
        let series = table.begin(&between(source, "b1"), 9 * MINUTE);
        if let Some(minute) = closed {
            series.end(Reason::Ok, minute * MINUTE);
        }
    }
    assert_eq!(there(&table, &["stays", "b1"]), ["just", "open", "stays"]);
    assert_eq!(table.len(), 3);
    // Whoever is called and gone counts as well.
    assert_eq!(there(&table, &["stays"]), ["just", "open"]);
    // What is taken away and comes back is a series of its own, from zero.
    let again = table.begin(&between("left", "b1"), 100 * MINUTE);
    assert_eq!(again.opened.load(Ordering::Relaxed), 1);
}

#[test]
fn where_room_is_scarce_what_was_idle_for_an_hour_goes_too() {
    let table = table(8);
    for (at, source) in ["a", "b", "c", "d", "e", "f", "g"].into_iter().enumerate() {
        let closed = if at < 2 { 30 } else { 99 };
        table.begin(&between(source, "z"), MINUTE).end(Reason::Ok, closed * MINUTE);
    }
    let all = ["a", "b", "c", "d", "e", "f", "g", "z"];
    assert_eq!(there(&table, &all), ["c", "d", "e", "f", "g"]);
    table.begin(&between("h", "z"), MINUTE).end(Reason::Ok, 2 * MINUTE);
    let all = [&all[..], &["h"]].concat();
    assert_eq!(there(&table, &all).len(), 6, "there is room");
}

#[test]
fn nothing_is_lost_while_others_scrape_and_take_away() {
    const ROUNDS: usize = 2_000;
    let metrics = metrics(50);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    for round in 0..ROUNDS {
                        let flow = metrics.open(between("a1", &format!("b{}", round % 60)));
                        flow.received(&[0; 3]);
                        flow.close(Reason::Ok, None);
                    }
                })
            })
            .collect();
        while workers.iter().any(|worker| !worker.is_finished()) {
            // Nobody is gone for five minutes, so this may take nothing.
            metrics.retire_series(|_, _| false);
            metrics.encode().unwrap();
        }
    });
    let text = metrics.encode().unwrap();
    let sum = |name| samples(&text, name).iter().map(|line| value(line)).sum::<u64>();
    let flows = 3 * ROUNDS as u64;
    assert_eq!(sum("istio_tcp_connections_opened_total"), flows);
    assert_eq!(sum("istio_tcp_connections_closed_total"), flows);
    assert_eq!(sum("istio_tcp_sent_bytes_total"), 3 * flows);
    assert_eq!(metrics.flows(1).total, 0);
}

#[test]
fn label_values_are_escaped() {
    let metrics = Metrics::new().unwrap();
    let odd = BTreeMap::from([("app".to_owned(), "a\"b\\c\nd".to_owned())]);
    let source = Party::workload("default", "a1", &odd);
    metrics.open(FlowLabels { source, ..between("a1", "b1") }).close(Reason::Ok, None);
    let text = metrics.encode().unwrap();
    assert!(text.contains("source_app=\"a\\\"b\\\\c\\nd\","), "{text}");
}
