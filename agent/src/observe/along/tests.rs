use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::observe::{FlowLabels, Metrics, OpenFlow, Party, ReadHttp, Reason, Reporter, Settings};

const ASKED: &[u8] = b"GET / HTTP/1.1\r\nHost: b1\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";

fn labels(reporter: Reporter) -> FlowLabels {
    let address = |port| SocketAddr::from(([10, 1, 1, 2], port));
    let mut labels = FlowLabels::unknown(reporter, address(40_000), address(80));
    labels.source = Party::workload("default", "a1", &BTreeMap::new());
    labels.destination = Party::workload("default", "b1", &BTreeMap::new());
    labels
}

/// The values of all samples of a family, by what of their labels is after the flow's own.
fn samples(metrics: &Metrics, name: &str) -> Vec<(String, String)> {
    let text = metrics.encode().unwrap();
    let lines = text.lines().filter(|line| line.starts_with(&format!("{name}{{")));
    lines
        .map(|line| {
            let (labels, value) = line.rsplit_once(' ').unwrap();
            let at = labels.find("request_protocol").unwrap();
            (labels[at..].to_owned(), value.to_owned())
        })
        .collect()
}

fn requests(metrics: &Metrics) -> usize {
    samples(metrics, "istio_requests_total").len()
}

fn one(flow: &OpenFlow) {
    match flow.labels().reporter {
        Reporter::Source => {
            flow.sent(ASKED);
            flow.received(ANSWER);
        }
        Reporter::Destination => {
            flow.received(ASKED);
            flow.sent(ANSWER);
        }
    }
}

#[test]
fn requests_count_by_their_outcome_at_either_reporter() {
    for reporter in [Reporter::Source, Reporter::Destination] {
        let metrics = Metrics::new().unwrap();
        let flow = metrics.open(labels(reporter));
        one(&flow);
        one(&flow);
        match reporter {
            Reporter::Source => flow.sent(ASKED),
            Reporter::Destination => flow.received(ASKED),
        }
        // The side that asked is gone: the application here, the peer there.
        let gone = match reporter {
            Reporter::Source => Reason::ApplicationReset,
            Reporter::Destination => Reason::PeerReset,
        };
        flow.close(gone, None);
        let of = |code, flags| {
            format!(
                "request_protocol=\"http\",response_code=\"{code}\",grpc_response_status=\"\",\
                 response_flags=\"{flags}\",connection_security_policy=\"unknown\"}}"
            )
        };
        let expected = [(of(404, "-"), "2".to_owned()), (of(0, "DC"), "1".to_owned())];
        assert_eq!(samples(&metrics, "istio_requests_total"), expected);
        let counts = samples(&metrics, "istio_request_duration_milliseconds_count");
        assert_eq!(counts, expected);
        let buckets = samples(&metrics, "istio_request_duration_milliseconds_bucket");
        assert_eq!(buckets.len(), 2 * 20);
        assert!(buckets[19].0.contains("le=\"+Inf\"") && buckets[19].1 == "2", "{buckets:?}");
        assert_eq!(metrics.edges()[0].requests, 3);
    }
}

#[test]
fn what_must_not_be_read_is_not_read() {
    let off = BTreeMap::from([("culvert.io/observe-http".to_owned(), "false".to_owned())]);
    let quiet = |name| Party::workload("default", name, &off);
    let seen = |read: ReadHttp, labels: FlowLabels| {
        let metrics = Metrics::with(Settings { http: read, ..Settings::default() }).unwrap();
        let flow = metrics.open(labels);
        one(&flow);
        flow.close(Reason::Ok, None);
        requests(&metrics)
    };
    let plain = || labels(Reporter::Source);
    assert_eq!(seen(ReadHttp::default(), plain()), 1);
    assert_eq!(seen(ReadHttp { on: false, ..ReadHttp::default() }, plain()), 0);
    let except = |port| ReadHttp { except_ports: vec![443, port], ..ReadHttp::default() };
    assert_eq!(seen(except(80), plain()), 0);
    assert_eq!(seen(except(8080), plain()), 1);
    assert_eq!(seen(ReadHttp::default(), FlowLabels { source: quiet("a1"), ..plain() }), 0);
    assert_eq!(seen(ReadHttp::default(), FlowLabels { destination: quiet("b1"), ..plain() }), 0);
}

#[test]
fn a_label_that_stops_the_reading_makes_no_second_series() {
    let metrics = Metrics::new().unwrap();
    let off = BTreeMap::from([("culvert.io/observe-http".to_owned(), "false".to_owned())]);
    let quiet =
        FlowLabels { source: Party::workload("default", "a1", &off), ..labels(Reporter::Source) };
    for labels in [labels(Reporter::Source), quiet] {
        metrics.open(labels).close(Reason::Ok, None);
    }
    assert_eq!(samples(&metrics, "istio_tcp_connections_opened_total").len(), 1);
}

#[test]
fn flows_that_are_read_no_further_are_counted() {
    let metrics = Metrics::new().unwrap();
    let flow = metrics.open(labels(Reporter::Source));
    flow.sent(b"CONNECT a:1 HTTP/1.1\r\n\r\n");
    one(&flow);
    flow.close(Reason::Ok, None);
    let text = metrics.encode().unwrap();
    for line in [
        "culvert_observe_http_flows_total{version=\"1\"} 1",
        "culvert_observe_http_flows_total{version=\"2\"} 0",
        "culvert_observe_http_gave_up_total{reason=\"upgraded\"} 1",
        "culvert_observe_http_gave_up_total{reason=\"malformed\"} 0",
        "culvert_observe_http_unlisted_total 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    assert_eq!(requests(&metrics), 0);
}
