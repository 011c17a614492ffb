//! Two agents' flows, to a collector that speaks OTLP.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use super::*;
use crate::observe::{FlowLabels, Reason, Reporter};

/// Keeps what it is sent.
struct Collector(Mutex<mpsc::UnboundedSender<Span>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for resource in request.into_inner().resource_spans {
            let names = resource.resource.as_ref().map(|all| all.attributes.len());
            assert_eq!(names, Some(3), "{:?}", resource.resource);
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                self.0.lock().unwrap().send(span).unwrap();
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

async fn collector(tasks: &mut JoinSet<()>) -> (SocketAddr, mpsc::UnboundedReceiver<Span>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (send, spans) = mpsc::unbounded_channel();
    let service = TraceServiceServer::new(Collector(Mutex::new(send)));
    let server = tonic::transport::Server::builder().add_service(service);
    tasks.spawn(async move {
        server.serve_with_incoming(TcpIncoming::from(listener)).await.unwrap();
    });
    (address, spans)
}

fn labels(reporter: Reporter) -> FlowLabels {
    FlowLabels::unknown(
        reporter,
        "10.1.1.2:40000".parse().unwrap(),
        "[fd00::2]:80".parse().unwrap(),
    )
}

fn attribute(span: &Span, name: &str) -> Option<Value> {
    let found = span.attributes.iter().find(|attribute| attribute.key == name)?;
    found.value.clone()?.value
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ends_of_a_flow_are_one_trace() {
    let mut tasks = JoinSet::new();
    let (address, mut spans) = collector(&mut tasks).await;
    let [source, destination] = ["node1", "node2"].map(|node| {
        let metrics = Metrics::new().unwrap();
        let exporter = trace(&metrics, node, &address.to_string(), 1_000_000).unwrap();
        tasks.spawn(exporter.run(CancellationToken::new()));
        metrics
    });
    let parent = TraceParent { trace_id: 7, parent_id: 9, sampled: source.draws(0) };
    let asked = TraceParent::parse(&parent.to_string()).unwrap();
    assert_eq!(asked, parent);
    let client = source.open(labels(Reporter::Source)).traced(parent.client());
    let server = destination.open(labels(Reporter::Destination)).traced(asked.server(20));
    client.sent(b"GET / HTTP/1.0\r\n\r\n");
    client.received(b"HTTP/1.0 204 No\r\n\r\n");
    client.close(Reason::Ok, None);
    server.close(Reason::PeerReset, None);

    let mut next = async || timeout(Duration::from_secs(20), spans.recv()).await.unwrap().unwrap();
    let mut both = [next().await, next().await];
    both.sort_by_key(|span| span.kind);
    // SERVER is 2, CLIENT is 3.
    let [server, client] = both;
    assert_eq!((client.kind(), server.kind()), (SpanKind::Client, SpanKind::Server));
    assert_eq!(client.trace_id, 7_u128.to_be_bytes());
    assert_eq!(server.trace_id, client.trace_id);
    assert_eq!(client.span_id, 9_u64.to_be_bytes());
    assert_eq!(server.parent_span_id, client.span_id);
    assert_eq!(server.span_id, 21_u64.to_be_bytes());
    assert!(client.parent_span_id.iter().all(|byte| *byte == 0));
    assert_eq!(server.status.as_ref().unwrap().message, "peer_reset");
    assert_eq!(client.status.as_ref().map(|status| status.code), Some(0));
    let text = |text: &str| Some(Value::StringValue(text.into()));
    assert_eq!(attribute(&client, "server.address"), text("fd00::2"));
    assert_eq!(attribute(&client, "culvert.http_requests"), Some(Value::IntValue(1)));
    assert_eq!(attribute(&client, "culvert.sent_bytes"), Some(Value::IntValue(18)));
    assert!(client.start_time_unix_nano <= client.end_time_unix_nano);
    // One batch each, counted when the collector has answered.
    let sent =
        || source.encode().unwrap().contains("culvert_observe_spans_total{result=\"sent\"} 1");
    let counted = async {
        while !sent() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(20), counted).await.unwrap();
}

#[tokio::test]
async fn a_full_queue_loses_spans_and_says_so() {
    let metrics = Metrics::new().unwrap();
    // Nobody runs it.
    let _exporter = trace(&metrics, "node1", "127.0.0.1:1", 0).unwrap();
    let traced = TraceParent { trace_id: 1, parent_id: 1, sampled: true };
    for _ in 0..QUEUE + 3 {
        metrics.open(labels(Reporter::Source)).traced(traced.client()).close(Reason::Ok, None);
    }
    let text = metrics.encode().unwrap();
    assert!(text.contains("culvert_observe_spans_total{result=\"dropped\"} 3\n"), "{text}");
}

#[tokio::test]
async fn what_is_drawn_is_the_share_that_was_asked_for() {
    let metrics = Metrics::new().unwrap();
    assert!(!metrics.draws(0), "off");
    let _exporter = trace(&metrics, "node1", "127.0.0.1:1", 250_000).unwrap();
    let drawn = (0..4_000_000).step_by(1000).filter(|random| metrics.draws(*random)).count();
    assert_eq!(drawn, 1000);
    assert_eq!(TraceParent { trace_id: 1, parent_id: 1, sampled: false }.client(), None);
}

#[test]
fn only_what_the_standard_allows_is_a_parent() {
    let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    assert_eq!(TraceParent::parse(good).unwrap().to_string(), good);
    for bad in [
        "",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
    ] {
        assert_eq!(TraceParent::parse(bad), None, "{bad}");
    }
}
