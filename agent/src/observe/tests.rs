//! The metrics' text, the access log's lines, and the two servers over real sockets.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::fmt::MakeWriter;

use super::*;
use crate::config::AccessLog;

#[derive(Debug, thiserror::Error)]
#[error("the destination refused (PeerAuthentication default/strict)")]
struct Refused(#[source] std::io::Error);

fn refused() -> Refused {
    Refused(std::io::Error::other("because"))
}

pub(super) fn labels(reporter: Reporter) -> FlowLabels {
    let app = |app: &str| BTreeMap::from([("app".to_owned(), app.to_owned())]);
    FlowLabels {
        reporter,
        source: Party::workload("default", "a1", &app("frontend")),
        destination: Party::workload("default", "b1", &BTreeMap::new()),
        source_principal: "spiffe://cluster.local/ns/default/sa/frontend".parse().ok(),
        destination_principal: "spiffe://cluster.local/ns/default/sa/backend".parse().ok(),
        service: None,
        security: Security::MutualTls,
        path: Path::Tunnel,
        source_address: "10.1.1.2:40000".parse().unwrap(),
        destination_address: "10.1.2.2:15008".parse().unwrap(),
        hbone_address: "10.1.2.2:80".parse().ok(),
        from_node: false,
    }
}

/// The value of the only sample of a family whose labels contain all of `with`.
pub(super) fn value(metrics: &Metrics, name: &str, with: &[&str]) -> Option<String> {
    let text = metrics.encode().unwrap();
    let mut samples = text.lines().filter(|line| {
        line.starts_with(&format!("{name}{{")) && with.iter().all(|part| line.contains(part))
    });
    let value = samples.next()?.rsplit(' ').next().map(str::to_owned);
    assert_eq!(samples.next(), None, "{name} {with:?} is ambiguous");
    value
}

#[test]
fn a_flow_counts_with_istios_labels() {
    let metrics = Metrics::new().unwrap();
    let flow = metrics.open(labels(Reporter::Destination));
    assert_eq!(value(&metrics, "culvert_flow_open", &["inbound"]).as_deref(), Some("1"));
    flow.received(&[0; 10]);
    flow.sent(&[0; 300]);
    flow.close(Reason::Ok, None);
    let text = metrics.encode().unwrap();
    let line = text.lines().find(|l| l.starts_with("istio_tcp_connections_opened_total")).unwrap();
    assert_eq!(
        line,
        "istio_tcp_connections_opened_total{reporter=\"destination\",source_workload=\"a1\",\
         source_canonical_service=\"frontend\",source_canonical_revision=\"latest\",\
         source_workload_namespace=\"default\",\
         source_principal=\"spiffe://cluster.local/ns/default/sa/frontend\",\
         source_app=\"frontend\",source_version=\"latest\",source_cluster=\"unknown\",\
         destination_service=\"unknown\",destination_service_namespace=\"unknown\",\
         destination_service_name=\"unknown\",destination_workload=\"b1\",\
         destination_canonical_service=\"b1\",destination_canonical_revision=\"latest\",\
         destination_workload_namespace=\"default\",\
         destination_principal=\"spiffe://cluster.local/ns/default/sa/backend\",\
         destination_app=\"b1\",destination_version=\"latest\",\
         destination_cluster=\"unknown\",request_protocol=\"tcp\",response_flags=\"-\",\
         connection_security_policy=\"mutual_tls\"} 1"
    );
    assert_eq!(value(&metrics, "istio_tcp_sent_bytes_total", &[]).as_deref(), Some("300"));
    assert_eq!(value(&metrics, "istio_tcp_received_bytes_total", &[]).as_deref(), Some("10"));
    assert_eq!(value(&metrics, "istio_tcp_connections_closed_total", &[]).as_deref(), Some("1"));
    assert_eq!(value(&metrics, "istio_tcp_connections_failed_total", &[]), None);
    assert_eq!(value(&metrics, "culvert_flow_open", &["inbound"]).as_deref(), Some("0"));
}

#[test]
fn at_the_source_the_request_counts_as_received() {
    let metrics = Metrics::new().unwrap();
    let flow = metrics.open(labels(Reporter::Source));
    flow.sent(&[0; 10]);
    flow.received(&[0; 300]);
    assert_eq!(value(&metrics, "istio_tcp_received_bytes_total", &[]).as_deref(), Some("10"));
    assert_eq!(value(&metrics, "istio_tcp_sent_bytes_total", &[]).as_deref(), Some("300"));
    flow.close(Reason::Ok, None);
}

#[test]
fn a_failure_counts_with_its_flags_and_its_reason() {
    let metrics = Metrics::new().unwrap();
    metrics.refuse(labels(Reporter::Destination), Reason::PlaintextRefused, &refused());
    let deny = &["response_flags=\"DENY\""];
    assert_eq!(value(&metrics, "istio_tcp_connections_failed_total", deny).as_deref(), Some("1"));
    assert_eq!(value(&metrics, "istio_tcp_connections_closed_total", deny).as_deref(), Some("1"));
    let reason = &["direction=\"inbound\"", "reason=\"plaintext_refused\""];
    assert_eq!(value(&metrics, "culvert_flow_failures_total", reason).as_deref(), Some("1"));
}

#[test]
fn a_dropped_flow_counts_as_abandoned() {
    let metrics = Metrics::new().unwrap();
    drop(metrics.open(labels(Reporter::Source)));
    let reason = &["direction=\"outbound\"", "reason=\"abandoned\""];
    assert_eq!(value(&metrics, "culvert_flow_failures_total", reason).as_deref(), Some("1"));
    assert_eq!(value(&metrics, "culvert_flow_open", &["outbound"]).as_deref(), Some("0"));
}

#[test]
fn open_flows_and_edges_are_told_as_they_are() {
    let metrics = Metrics::new().unwrap();
    let first = metrics.open(labels(Reporter::Source));
    let second = metrics.open(labels(Reporter::Source));
    second.sent(b"GET / HTTP/1.0\r\n\r\n");
    second.received(b"HTTP/1.0 204 No Content\r\n\r\n");
    second.handshake(std::time::Duration::from_millis(2));
    let flows = metrics.flows(1);
    assert_eq!((flows.total, flows.flows.len()), (2, 1));
    let latest = &flows.flows[0];
    assert_eq!((latest.sent, latest.received, latest.requests), (18, 27, 1));
    assert_eq!(latest.source.workload.as_deref(), Some("a1"));
    assert_eq!(latest.hbone_address, "10.1.2.2:80".parse().ok());
    second.close(Reason::PeerReset, None);
    first.close(Reason::Ok, None);
    assert_eq!(metrics.flows(10).total, 0);
    let edges = metrics.edges();
    let [edge] = edges.as_slice() else { panic!("{edges:?}") };
    assert_eq!((edge.opened, edge.open, edge.closed), (2, 0, 2));
    assert_eq!(edge.failed, [(Reason::PeerReset, 1)]);
    assert_eq!((edge.sent, edge.received, edge.requests, edge.port), (18, 27, 1, Some(80)));
    assert!(edge.handshake.is_some() && edge.first_byte.is_some());
    assert!(edge.last_opened.elapsed().unwrap() < std::time::Duration::from_secs(60));
}

#[test]
fn an_edge_remembers_the_latest_strangers() {
    let metrics = Metrics::new().unwrap();
    for last in (1..=20_u8).chain([15]) {
        let source = SocketAddr::from(([10, 9, 9, last], 4000));
        let destination = "10.1.2.2:80".parse().unwrap();
        let mut labels = FlowLabels::unknown(Reporter::Destination, source, destination);
        labels.destination = Party::workload("default", "b1", &BTreeMap::new());
        metrics.open(labels).close(Reason::Ok, None);
    }
    let edges = metrics.edges();
    let [edge] = edges.as_slice() else { panic!("{edges:?}") };
    let expected =
        [13, 14, 16, 17, 18, 19, 20, 15].map(|last: u8| std::net::IpAddr::from([10, 9, 9, last]));
    assert_eq!(edge.strangers, expected);
}

#[test]
fn the_nodes_own_host_is_no_stranger() {
    let metrics = Metrics::new().unwrap();
    let (source, to) = ("10.9.9.1:4000".parse().unwrap(), "10.1.2.2:80".parse().unwrap());
    let mut labels = FlowLabels::unknown(Reporter::Destination, source, to);
    labels.from_node = true;
    metrics.open(labels).close(Reason::Ok, None);
    let edges = metrics.edges();
    let [edge] = edges.as_slice() else { panic!("{edges:?}") };
    assert_eq!((edge.opened, edge.strangers.len()), (1, 0));
}

#[test]
fn a_name_is_registered_once() {
    let metrics = Metrics::new().unwrap();
    let gauge = || prometheus::IntGauge::new("culvert_test_gauge", "A gauge.").unwrap();
    metrics.register(gauge()).unwrap();
    let error = metrics.register(gauge()).expect_err("the name is taken");
    assert!(error.to_string().starts_with("cannot register culvert_test_gauge;"), "{error}");
    assert!(metrics.names().contains(&"culvert_test_gauge".to_owned()));
}

#[test]
fn every_metric_is_in_the_documentation() {
    let documented = include_str!("../../../docs/metrics.md");
    for name in Metrics::new().unwrap().names() {
        assert!(documented.contains(&format!("`{name}`")), "{name} is not in docs/metrics.md");
    }
}

/// What a log wrote.
#[derive(Clone, Default)]
pub(super) struct Written(Arc<Mutex<Vec<u8>>>);

impl Written {
    pub(super) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Written {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// What `log` writes, with times of a single digit of milliseconds as `0ms`.
fn logged(log: impl FnOnce(&Metrics)) -> String {
    logged_with(AccessLog::default(), log)
}

/// As [`logged`], with settings.
fn logged_with(access_log: AccessLog, log: impl FnOnce(&Metrics)) -> String {
    let written = Written::default();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(written.clone())
        .with_ansi(false)
        .without_time()
        .finish();
    tracing::subscriber::with_default(subscriber, || {
        log(&Metrics::with(Settings { access_log, ..Settings::default() }).unwrap());
    });
    let text = written.text();
    (1..10).fold(text, |text, n| text.replace(&format!("duration={n}ms"), "duration=0ms"))
}

#[test]
fn a_clean_end_writes_ztunnels_line() {
    let text = logged(|metrics| {
        let flow = metrics.open(labels(Reporter::Source));
        flow.sent(&[0; 80]);
        flow.received(&[0; 175]);
        flow.close(Reason::Ok, None);
    });
    assert_eq!(
        text,
        " INFO access: connection complete src.addr=10.1.1.2:40000 src.workload=\"a1\" \
         src.namespace=\"default\" src.identity=\"spiffe://cluster.local/ns/default/sa/frontend\" \
         dst.addr=10.1.2.2:15008 dst.hbone_addr=10.1.2.2:80 dst.workload=\"b1\" \
         dst.namespace=\"default\" dst.identity=\"spiffe://cluster.local/ns/default/sa/backend\" \
         direction=\"outbound\" bytes_sent=80 bytes_recv=175 duration=0ms\n"
    );
}

#[test]
fn a_refusal_names_both_ends_and_the_rule_and_no_unproven_identity() {
    let text = logged(|metrics| {
        let mut labels = labels(Reporter::Destination);
        labels.source = Party::default();
        labels.security = Security::Unknown;
        labels.destination_address = "10.1.2.2:80".parse().unwrap();
        labels.hbone_address = None;
        metrics.refuse(labels, Reason::PlaintextRefused, &refused());
    });
    assert_eq!(
        text,
        "ERROR access: connection complete src.addr=10.1.1.2:40000 dst.addr=10.1.2.2:80 \
         dst.workload=\"b1\" dst.namespace=\"default\" direction=\"inbound\" bytes_sent=0 \
         bytes_recv=0 duration=0ms \
         error=\"the destination refused (PeerAuthentication default/strict): because\" \
         reason=\"plaintext_refused\" fix=\"enrol the source: label its namespace or pod \
         istio.io/dataplane-mode=ambient; or let the PeerAuthentication that is named allow \
         PERMISSIVE\"\n"
    );
}

#[test]
fn a_flood_of_early_failures_writes_a_bounded_number_of_lines() {
    let text = logged(|metrics| {
        let (source, destination) =
            ("1.2.3.4:5".parse().unwrap(), "5.6.7.8:15008".parse().unwrap());
        let early = FlowLabels {
            destination: Party::workload("default", "b1", &BTreeMap::new()),
            ..FlowLabels::unknown(Reporter::Destination, source, destination)
        };
        for _ in 0..5000 {
            metrics.fail_early(&early, Reason::NoCertificate, &refused());
        }
        let reason = &["reason=\"no_certificate\""];
        assert_eq!(value(metrics, "culvert_flow_failures_total", reason).as_deref(), Some("5000"));
    });
    let first = text.lines().next().unwrap();
    assert_eq!(
        first,
        format!(
            " WARN access: connection failed src.addr=1.2.3.4:5 dst.addr=5.6.7.8:15008 \
             dst.workload=\"b1\" dst.namespace=\"default\" direction=\"inbound\" \
             error=\"the destination refused (PeerAuthentication default/strict): because\" \
             reason=\"no_certificate\" fix=\"{}\"",
            Reason::NoCertificate.fix().unwrap()
        )
    );
    assert!((100..1000).contains(&text.lines().count()), "{}", text.lines().count());
}

#[test]
fn a_flood_of_flows_writes_a_bounded_number_of_lines_and_hides_no_failure() {
    let few = AccessLog { max_per_second: 10, ..AccessLog::default() };
    let text = logged_with(few, |metrics| {
        for _ in 0..1000 {
            metrics.open(labels(Reporter::Source)).close(Reason::Ok, None);
        }
        metrics.open(labels(Reporter::Source)).close(Reason::PeerReset, None);
        let cause = &["outbound", "limit"];
        let unlogged: usize =
            value(metrics, "culvert_observe_unlogged_total", cause).unwrap().parse().unwrap();
        // Those that a second begun meanwhile let through were written.
        assert!((900..=990).contains(&unlogged), "{unlogged}");
    });
    assert!(text.lines().last().unwrap().contains("reason=\"peer_reset\""), "{text}");
    assert!((11..=101).contains(&text.lines().count()), "{}", text.lines().count());
}

#[test]
fn clean_ends_are_sampled_and_failures_are_not() {
    let none = AccessLog { sample: 0.0, ..AccessLog::default() };
    let text = logged_with(none, |metrics| {
        for _ in 0..50 {
            metrics.open(labels(Reporter::Source)).close(Reason::Ok, None);
            metrics.open(labels(Reporter::Source)).close(Reason::PeerReset, None);
        }
        let cause = &["outbound", "sample"];
        let unlogged = value(metrics, "culvert_observe_unlogged_total", cause);
        assert_eq!(unlogged.as_deref(), Some("50"));
    });
    assert_eq!(text.lines().count(), 50);
    assert!(!text.contains("INFO"), "{text}");
}

#[test]
fn an_access_log_that_is_off_writes_nothing() {
    let off = AccessLog { enabled: false, ..AccessLog::default() };
    let text = logged_with(off, |metrics| {
        metrics.open(labels(Reporter::Source)).close(Reason::Ok, None);
        metrics.refuse(labels(Reporter::Source), Reason::PolicyDenied, &refused());
    });
    assert_eq!(text, "");
}

#[test]
fn a_service_that_was_asked_for_stands_in_the_line() {
    let text = logged(|metrics| {
        let service = Some(ServiceName {
            namespace: "default".to_owned(),
            name: "b".to_owned(),
            host: "b.default.svc.cluster.local".to_owned(),
        });
        let flow = FlowLabels { service, ..labels(Reporter::Source) };
        metrics.open(flow).close(Reason::Ok, None);
    });
    let place = "dst.hbone_addr=10.1.2.2:80 dst.service=\"b.default.svc.cluster.local\" \
                 dst.workload=\"b1\"";
    assert!(text.contains(place), "{text}");
}

async fn ask(address: SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{head} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn metrics_are_served_until_the_agent_stops() {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let routes = Routes::Metrics(Metrics::new().unwrap());
    let server = Server::bind(any, routes).unwrap();
    let address = server.address();
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(server.run(stop.clone()));
    for path in ["/metrics", "/stats/prometheus"] {
        let answer = ask(address, &format!("GET {path}")).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("content-type: text/plain; version=0.0.4\r\n"), "{answer}");
        assert!(answer.contains("culvert_build_info{version="), "{answer}");
    }
    assert!(ask(address, "GET /").await.starts_with("HTTP/1.1 404 "));
    assert!(ask(address, "POST /metrics").await.starts_with("HTTP/1.1 405 "));
    assert!(ask(address, "garbage").await.starts_with("HTTP/1.1 400 "));
    // One that is open and silent does not keep the server from stopping.
    let _silent = TcpStream::connect(address).await.unwrap();
    stop.cancel();
    tasks.join_next().await.unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn readiness_follows_the_agents_state() {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let (state, readiness) = watch::channel(Readiness::NotReady("no certificate yet".into()));
    let health = Health { readiness, pulses: Pulses::default() };
    let server = Server::bind(any, Routes::Health(health)).unwrap();
    let address = server.address();
    let mut tasks = JoinSet::new();
    tasks.spawn(server.run(CancellationToken::new()));
    let answer = ask(address, "GET /healthz/ready").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.ends_with("not ready: no certificate yet\n"), "{answer}");
    state.send(Readiness::Ready).unwrap();
    assert!(ask(address, "GET /healthz/ready").await.starts_with("HTTP/1.1 200 OK\r\n"));
    // Of another program: agents that hand over share the port.
    let other = std::net::TcpListener::bind(any).unwrap();
    let address = other.local_addr().unwrap();
    let taken = Server::bind(address, Routes::Metrics(Metrics::new().unwrap()));
    let error = taken.err().expect("the address is taken").to_string();
    assert!(error.ends_with("free the port or set `observe.metrics`"), "{error}");
}
