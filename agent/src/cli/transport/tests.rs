//! Reaching agents: over a socket, an address, and through an API server that forwards ports.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    connect: Connect,
}

fn connect(words: &[&str]) -> Connect {
    Line::parse_from([&["x"], words].concat()).connect
}

/// A thread with a runtime that serves until the test ends.
struct Served {
    _stop: tokio::sync::oneshot::Sender<()>,
}

fn serve<F: Future<Output = ()> + Send + 'static>(future: F) -> Served {
    let (stop, stopped) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            tokio::select! { () = future => {}, _ = stopped => {} }
        });
    });
    Served { _stop: stop }
}

/// What an agent of a node answers, and nothing else.
fn agent(node: &str, path: &str) -> Response<Full<Bytes>> {
    let (status, body) = match path {
        "/status" => (StatusCode::OK, json!({"node": node})),
        "/garbage" => return Response::new(Full::new("<html>".into())),
        _ => (StatusCode::NOT_FOUND, json!({"error": "no such page", "known": ["/status"]})),
    };
    let mut answer = Response::new(Full::new(body.to_string().into()));
    *answer.status_mut() = status;
    answer
}

async fn answer<S: AsyncRead + AsyncWrite + Unpin>(stream: S, node: &str) {
    let service = service_fn(|request: Request<Incoming>| {
        let answer = agent(node, request.uri().path());
        async move { Ok::<_, Infallible>(answer) }
    });
    // A client that has its answer goes.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

#[test]
fn agent_of_this_node_is_asked_over_its_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    let _served = serve(async move {
        let listener = UnixListener::from_std(listener).unwrap();
        while let Ok((stream, _)) = listener.accept().await {
            answer(stream, "node1").await;
        }
    });
    let connect = connect(&["--socket", path.to_str().unwrap()]);
    let transport = Transport::open(&connect, true).unwrap();
    let mut answers = transport.get::<Value>("/status");
    assert_eq!(answers.complete().unwrap(), Exit::Done);
    assert_eq!(answers.document(), json!({"node": "node1"}), "as it is, and not in a list");

    let refused = transport.get::<Value>("/nothing").complete().unwrap_err();
    assert_eq!(refused.to_string(), "no such page; there are:\n  /status");
    let garbage = transport.get::<Value>("/garbage").complete().unwrap_err();
    assert!(matches!(garbage, AgentError::Answer { .. }), "{garbage:?}");
    let path = transport.get::<Value>("/a b").complete().unwrap_err();
    assert!(matches!(path, AgentError::Path { .. }), "{path:?}");
}

#[test]
fn absent_agent_is_told_with_the_other_ways() {
    let transport = Transport::open(&connect(&["--socket", "/nonexistent/x"]), false).unwrap();
    let error = transport.get::<Value>("/status").complete().unwrap_err().to_string();
    assert!(error.contains("/nonexistent/x: is it running?"), "{error}");
    assert!(error.contains("--cluster"), "{error}");
}

#[test]
fn agent_that_says_nothing_is_not_waited_for_without_end() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let transport = Transport::open(&connect(&["--address", &address]), false).unwrap();
    let ask = Ask::get("/status").within(Duration::from_millis(50));
    let error = transport.ask::<Value>(&ask).complete().unwrap_err();
    assert!(matches!(error, AgentError::TimedOut { .. }), "{error:?}");
}

#[test]
fn plugin_asks_the_cluster_unless_an_agent_is_named() {
    for (words, plugin, cluster) in [
        (&[][..], false, false),
        (&[][..], true, true),
        (&["--socket", "x"][..], true, false),
        (&["--address", "127.0.0.1:1"][..], true, false),
        (&["--cluster"][..], false, true),
        (&["--context", "x"][..], false, true),
        (&["--node", "x"][..], false, true),
    ] {
        assert_eq!(connect(words).wants_cluster(plugin), cluster, "{words:?} {plugin}");
    }
    assert!(Line::try_parse_from(["x", "--cluster", "--socket", "y"]).is_err());
}

/// An API server that knows four pods and forwards to those of node1 and node2. That of node3 has
/// nothing that listens; that of node4 does not run yet.
async fn api_server(listener: TcpListener) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(async move {
            let service = service_fn(|request| async { Ok::<_, Infallible>(api(request)) });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades()
                .await; // a client that has its answer goes
        });
    }
}

fn api(mut request: Request<Incoming>) -> Response<Full<Bytes>> {
    const PODS: &str = "/api/v1/namespaces/culvert-system/pods";
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let Some(rest) = path.strip_prefix(PODS) else {
        return refusal(StatusCode::FORBIDDEN, "another namespace");
    };
    if rest.is_empty() {
        assert!(
            query.contains("labelSelector=app.kubernetes.io%2Fname%3Dculvert-agent"),
            "{query}"
        );
        let pods: Vec<_> = (1..=4).filter(|node| is_wanted(&query, *node)).map(pod).collect();
        let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods});
        return Response::new(Full::new(list.to_string().into()));
    }
    let node = rest.trim_start_matches("/agent-").trim_end_matches("/portforward").to_owned();
    assert!(query.contains("ports=15000"), "{query}");
    let key = request.headers()["sec-websocket-key"].as_bytes();
    let accept = derive_accept_key(key);
    let upgraded = hyper::upgrade::on(&mut request);
    // Whoever upgraded is served for as long as the test's runtime lives.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let stream = TokioIo::new(upgraded.await.unwrap());
            forward(WebSocketStream::from_raw_socket(stream, Role::Server, None).await, &node)
                .await;
        });
    });
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-accept", accept)
        .header("sec-websocket-protocol", "v4.channel.k8s.io")
        .body(Full::default())
        .unwrap()
}

fn is_wanted(query: &str, node: u32) -> bool {
    !query.contains("fieldSelector") || query.contains(&format!("spec.nodeName%3Dnode{node}"))
}

fn pod(node: u32) -> Value {
    let phase = if node == 4 { "Pending" } else { "Running" };
    json!({"metadata": {"name": format!("agent-{node}"), "namespace": "culvert-system"},
        "spec": {"nodeName": format!("node{node}"), "containers": []}, "status": {"phase": phase}})
}

fn refusal(code: StatusCode, message: &str) -> Response<Full<Bytes>> {
    let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "code": code.as_u16(), "reason": "Forbidden", "message": message});
    let mut answer = Response::new(Full::new(Bytes::from(body.to_string())));
    *answer.status_mut() = code;
    answer
}

/// Plays the kubelet: channel 0 has bytes, channel 1 an error; each begins with the port.
async fn forward<S: AsyncRead + AsyncWrite + Unpin>(mut socket: WebSocketStream<S>, node: &str) {
    let port = 15000_u16.to_le_bytes();
    for channel in [0_u8, 1] {
        let frame = vec![channel, port[0], port[1]];
        socket.send(Message::Binary(frame.into())).await.unwrap();
    }
    if node == "3" {
        let text = [&[1][..], b"connection refused inside the pod"].concat();
        socket.send(Message::Binary(text.into())).await.unwrap();
        while let Some(Ok(_)) = socket.next().await {}
        return;
    }
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let name = format!("node{node}");
    let server = answer(theirs, &name);
    let (mut read, mut write) = tokio::io::split(ours);
    let (mut out, mut from_client) = socket.split();
    let towards = async {
        while let Some(Ok(message)) = from_client.next().await {
            if let Message::Binary(bytes) = message
                && write.write_all(&bytes[1..]).await.is_err()
            {
                break;
            }
        }
    };
    let back = async {
        let mut buffer = vec![0; 4096];
        while let Ok(count @ 1..) = read.read(&mut buffer).await {
            let frame = [&[0][..], &buffer[..count]].concat();
            if out.send(Message::Binary(frame.into())).await.is_err() {
                break;
            }
        }
    };
    tokio::select! { () = server => {}, () = towards => {}, () = back => {} }
}

fn cluster() -> (Served, tempfile::TempDir, String) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let served = serve(async move { api_server(TcpListener::from_std(listener).unwrap()).await });
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("kubeconfig");
    let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": format!("http://{address}")}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]});
    std::fs::write(&file, config.to_string()).unwrap();
    let file = file.to_str().unwrap().to_owned();
    (served, directory, file)
}

#[test]
fn every_agent_of_a_cluster_is_asked_and_none_hides_another() {
    let (_served, _directory, file) = cluster();
    let transport = Transport::open(&connect(&["--kubeconfig", &file]), false).unwrap();
    let mut answers = transport.get::<Value>("/status");
    let nodes: Vec<_> = answers.good.iter().map(|good| good.node.as_deref()).collect();
    assert_eq!(nodes, [Some("node1"), Some("node2")], "{:?}", answers.faults);
    assert_eq!(answers.good[1].answer, json!({"node": "node2"}));
    let faults: Vec<_> = answers.faults.iter().map(Fault::line).collect();
    let [refused, pending] = &faults[..] else { panic!("{faults:?}") };
    assert!(refused.starts_with("node3: "), "{refused}");
    assert!(refused.contains("connection refused inside the pod"), "{refused}");
    assert!(pending.starts_with("node4: ") && pending.contains("Pending"), "{pending}");
    assert_eq!(answers.complete().unwrap(), Exit::Incomplete);
    let document = answers.document();
    assert_eq!(document["items"][0], json!({"node": "node1", "answer": {"node": "node1"}}));
    assert_eq!(document["items"][2]["node"], "node3");
}

#[test]
fn one_node_alone_is_asked_when_it_is_named() {
    let (_served, _directory, file) = cluster();
    let words = ["--kubeconfig", &file, "--node", "node2"];
    let transport = Transport::open(&connect(&words), false).unwrap();
    let answers = transport.get::<Value>("/status");
    assert_eq!((answers.good.len(), answers.faults.len()), (1, 0));
    assert_eq!(answers.document()["items"][0]["node"], "node2");

    let words = ["--kubeconfig", &file, "--node", "node9"];
    let none = Transport::open(&connect(&words), false).err().unwrap().to_string();
    assert!(none.contains("on node node9"), "{none}");
    let words = ["--kubeconfig", &file, "--culvert-namespace", "other"];
    let error = Transport::open(&connect(&words), false).err().unwrap().to_string();
    assert!(error.contains("right to `list` pods"), "{error}");
}

#[test]
fn wrong_kubeconfig_or_context_is_named() {
    let (_served, _directory, file) = cluster();
    let words = ["--kubeconfig", "/nonexistent/kubeconfig"];
    let error = Transport::open(&connect(&words), false).err().unwrap().to_string();
    assert!(error.contains("/nonexistent/kubeconfig"), "{error}");
    let words = ["--kubeconfig", &file, "--context", "elsewhere"];
    let error = Transport::open(&connect(&words), false).err().unwrap().to_string();
    assert!(error.contains("context `elsewhere`"), "{error}");
}
