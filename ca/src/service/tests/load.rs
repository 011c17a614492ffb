//! Many callers, slow callers, callers that do not listen.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use culvert_proto::istio::ca::IstioCertificateRequest;
use culvert_proto::istio::ca::istio_certificate_service_client::IstioCertificateServiceClient;
use http_body_util::StreamBody;
use hyper::body::{Bytes, Frame};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};
use tower::{Service as _, ServiceExt as _};

use super::lab::{Lab, authorize, channel, config};

const METHOD: &str = "http://authority/istio.v1.auth.IstioCertificateService/CreateCertificate";

/// The same good request again and again, so that the test does not spend its time on keys.
fn again(lab: &Lab, message: &IstioCertificateRequest) -> Request<IstioCertificateRequest> {
    let mut request = Request::new(message.clone());
    authorize(&mut request, &lab.token);
    request
}

/// Sends `calls` on each of `connections` at once; how many were issued and how many told to wait.
async fn flood(lab: &Lab, connections: usize, calls: usize) -> (usize, usize) {
    let message = lab.good().into_inner();
    let mut under_way = JoinSet::new();
    for _ in 0..connections {
        let client = lab.client(None);
        for _ in 0..calls {
            let (mut client, request) = (client.clone(), again(lab, &message));
            under_way.spawn(async move { client.create_certificate(request).await });
        }
    }
    let (mut issued, mut busy) = (0, 0);
    while let Some(answer) = under_way.join_next().await {
        match answer.unwrap() {
            Ok(answer) => {
                assert_eq!(answer.into_inner().cert_chain.len(), 3);
                issued += 1;
            }
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                busy += 1;
            }
        }
    }
    (issued, busy)
}

/// Most memory of this process so far, in KiB.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn calls_in_parallel_are_all_served_and_a_stop_is_clean() {
    let mut lab = Lab::new().await;
    assert_eq!(flood(&lab, 1, 200).await, (200, 0));
    lab.cancel.cancel();
    lab.server.join_next().await.unwrap().unwrap().unwrap();
    assert!(TcpStream::connect(lab.address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_thousand_and_ten_thousand_calls_at_once_are_answered_in_bounded_memory() {
    let lab = Lab::new().await;
    let (issued, busy) = flood(&lab, 10, 100).await;
    assert_eq!(issued + busy, 1000);
    let before = peak_kib();
    let (issued, busy) = flood(&lab, 100, 100).await;
    assert_eq!(issued + busy, 10_000);
    assert!(issued > 0, "some are served at all times");
    let grown = (peak_kib() - before) / 1024;
    println!("10,000 at once: {issued} issued, {busy} told to wait, peak grew by {grown} MiB");
    // Client and server together, and the audit of the test.
    assert!(grown < 300, "{grown} MiB");
    assert_eq!(lab.audit.all().len(), 11_000, "each is in the audit");
    lab.serves().await;
}

/// Sends the head of a message and then nothing.
fn trickle(lab: &Lab, calls: usize) -> JoinSet<Code> {
    let mut trickling = JoinSet::new();
    let mut connection: Option<Channel> = None;
    for number in 0..calls {
        if number % 64 == 0 {
            connection = Some(channel(lab.address, &lab.bundle, None));
        }
        let mut connection = connection.clone().unwrap();
        trickling.spawn(async move {
            let begun = futures_util::stream::iter([Ok::<_, tonic::Status>(Frame::data(
                Bytes::from_static(&[0, 0, 0, 4, 0, 10]),
            ))]);
            let never = futures_util::stream::pending();
            let body = StreamBody::new(futures_util::StreamExt::chain(begun, never));
            let request = hyper::Request::post(METHOD)
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(Body::new(body))
                .unwrap();
            let answer = connection.ready().await.unwrap().call(request).await.unwrap();
            let code = answer.headers().get("grpc-status").unwrap().to_str().unwrap();
            code.parse::<i32>().map(Code::from).unwrap()
        });
    }
    trickling
}

#[tokio::test]
async fn slow_senders_hold_their_places_for_a_short_time_only() {
    let lab = Lab::new().await;
    lab.serves().await;
    // More than one address may have.
    let mut slow = trickle(&lab, 300);
    let refused = async {
        loop {
            match lab.send(lab.good()).await {
                Ok(_) => tokio::task::yield_now().await,
                Err(status) => break status,
            }
        }
    };
    let refused = tokio::time::timeout(Duration::from_secs(4), refused).await.unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    while let Some(code) = slow.join_next().await {
        assert_ne!(code.unwrap(), Code::Ok);
    }
    let lines = lab.audit.all();
    let by = |rule: &str| lines.iter().filter(|line| line["rule"] == rule).count();
    assert!((250..=256).contains(&by("unread")), "{}", by("unread"));
    assert!(by("busy_caller") >= 45, "{}", by("busy_caller"));
    lab.serves().await;
}

#[tokio::test]
async fn caller_that_leaves_is_in_the_audit() {
    let lab = Lab::new().await;
    let mut slow = trickle(&lab, 3);
    while tokio::time::timeout(Duration::from_millis(50), slow.join_next()).await.is_ok() {}
    slow.abort_all();
    let left = async {
        loop {
            lab.serves().await;
            let lines = lab.audit.all();
            // By which of the two is a matter of which end of the call is heard first.
            let gone =
                |line: &&serde_json::Value| line["rule"] == "abandoned" || line["rule"] == "unread";
            if lines.iter().filter(gone).count() == 3 {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), left).await.unwrap();
}

/// A connection of which, from some moment on, nothing is read.
struct Deaf {
    tcp: TcpStream,
    deaf: Arc<AtomicBool>,
}

impl AsyncRead for Deaf {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.deaf.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        Pin::new(&mut self.tcp).poll_read(context, buffer)
    }
}

impl AsyncWrite for Deaf {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }
}

#[tokio::test]
async fn callers_that_do_not_read_harm_no_other() {
    let lab = Lab::new().await;
    let message = lab.good().into_inner();
    let deaf = Arc::new(AtomicBool::new(false));
    let mut under_way = JoinSet::new();
    let mut first = JoinSet::new();
    for _ in 0..20 {
        let config = Arc::new(config(lab.bundle.certificates(), None));
        let (address, deaf) = (lab.address, deaf.clone());
        let connect = tower::service_fn(move |_| {
            let (connector, deaf) = (TlsConnector::from(config.clone()), deaf.clone());
            async move {
                let tcp = TcpStream::connect(address).await?;
                tcp.set_nodelay(true)?;
                let tcp = Deaf { tcp, deaf };
                let name = ServerName::IpAddress(address.ip().into());
                Ok::<_, std::io::Error>(TokioIo::new(connector.connect(name, tcp).await?))
            }
        });
        let channel =
            Endpoint::from_static("http://authority").connect_with_connector_lazy(connect);
        let client = IstioCertificateServiceClient::new(channel);
        let (mut one, request) = (client.clone(), again(&lab, &message));
        first.spawn(async move { one.create_certificate(request).await.map(|_| client) });
    }
    let mut clients = Vec::new();
    while let Some(answer) = first.join_next().await {
        clients.push(answer.unwrap().unwrap());
    }
    deaf.store(true, Ordering::Relaxed);
    for client in clients {
        for _ in 0..10 {
            let (mut client, request) = (client.clone(), again(&lab, &message));
            under_way.spawn(async move { client.create_certificate(request).await });
        }
    }
    // All are decided, though nobody takes the answers.
    let all = async {
        loop {
            lab.serves().await;
            let decided =
                lab.audit.all().iter().filter(|line| line["key_sha256"].is_string()).count();
            if decided >= 220 {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_mins(1), all).await.unwrap();
    lab.serves().await;
    under_way.abort_all();
}
