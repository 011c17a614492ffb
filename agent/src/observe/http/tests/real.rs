//! Conversations of programs that we did not write: hyper for HTTP/1.1, h2 for HTTP/2.

use std::convert::Infallible;

use ::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::task::JoinSet;

use super::*;

/// Room in each direction, so that a small conversation needs no second party to go on.
const ROOM: usize = 4 << 20;

/// Carries bytes between two until both have ended, reading along.
async fn carry(mut client: DuplexStream, mut server: DuplexStream) -> Told {
    let (mut reader, mut told) = (Reader::new(), Told::default());
    let (mut asked, mut answered) = (vec![0; 1500], vec![0; 1500]);
    let (mut asking, mut answering) = (true, true);
    while asking || answering {
        tokio::select! {
            length = client.read(&mut asked), if asking => {
                let bytes = &asked[..length.unwrap()];
                reader.request(bytes, Instant::now(), &mut told);
                asking = !bytes.is_empty();
                // It may be gone already.
                let _ = server.write_all(bytes).await;
                if !asking { let _ = server.shutdown().await; }
            }
            length = server.read(&mut answered), if answering => {
                let bytes = &answered[..length.unwrap()];
                reader.response(bytes, Instant::now(), &mut told);
                answering = !bytes.is_empty();
                let _ = client.write_all(bytes).await;
                if !answering { let _ = client.shutdown().await; }
            }
        }
    }
    reader.end(None, Instant::now(), &mut told);
    told
}

fn pair() -> ((DuplexStream, DuplexStream), (DuplexStream, DuplexStream)) {
    (duplex(ROOM), duplex(ROOM))
}

fn status_of(path: &str) -> StatusCode {
    path.trim_start_matches('/').split('/').next().and_then(|code| code.parse().ok()).unwrap()
}

#[tokio::test]
async fn hyper_speaks_http_1() {
    let ((client, near), (far, server)) = pair();
    let answer = async |request: Request<Incoming>| {
        let status = status_of(request.uri().path());
        let length = request.into_body().collect().await.unwrap().to_bytes().len();
        let mut response = Response::new(Full::new(Bytes::from(vec![b'\n'; length * 2])));
        *response.status_mut() = status;
        Ok::<_, Infallible>(response)
    };
    let mut tasks = JoinSet::new();
    let connection = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(server), service_fn(answer));
    tasks.spawn(async { connection.await.unwrap() });
    let (mut send, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(client)).await.unwrap();
    tasks.spawn(async { connection.await.unwrap() });
    let asked = async move {
        for (method, path, length) in [
            (Method::GET, "/200", 0),
            (Method::POST, "/201/x", 100_000),
            (Method::HEAD, "/404", 0),
            (Method::PUT, "/204", 5),
            (Method::DELETE, "/304", 0),
            (Method::OPTIONS, "/503", 40_000),
        ] {
            let body = Full::new(Bytes::from(vec![b'G'; length]));
            let request = Request::builder().method(method).uri(path).body(body).unwrap();
            let response = send.send_request(request).await.unwrap();
            response.into_body().collect().await.unwrap();
            send.ready().await.unwrap();
        }
    };
    let (told, ()) = tokio::join!(carry(near, far), asked);
    assert_eq!(told.0[0], News::Begun(Version::One));
    let expected = [200, 201, 404, 204, 304, 503].map(|status| (Some(status), None));
    assert_eq!(told.exchanges(), expected);
    assert_eq!(told.gave_up(), None);
}

/// Answers with the path's status and, for gRPC, trailers.
async fn serve_two(io: DuplexStream) {
    let mut connection = ::h2::server::handshake(io).await.unwrap();
    while let Some(request) = connection.accept().await {
        let (request, mut respond) = request.unwrap();
        let mut response = Response::new(());
        *response.status_mut() = status_of(request.uri().path());
        // Fields that come and go, so that the table turns over.
        let tag = HeaderValue::try_from("tag ".repeat(50) + request.uri().path()).unwrap();
        response.headers_mut().insert("etag", tag);
        let mut send = respond.send_response(response, false).unwrap();
        send.send_data(Bytes::from_static(b"answer"), false).unwrap();
        let grpc = HeaderValue::from_static("5");
        send.send_trailers(HeaderMap::from_iter([("grpc-status".parse().unwrap(), grpc)])).unwrap();
    }
}

#[tokio::test]
async fn h2_speaks_http_2() {
    const REQUESTS: u16 = 150;
    let ((client, near), (far, server)) = pair();
    let mut tasks = JoinSet::new();
    tasks.spawn(serve_two(server));
    let (send, connection) = ::h2::client::handshake(client).await.unwrap();
    tasks.spawn(async { connection.await.unwrap() });
    let asked = async move {
        for number in 0..REQUESTS {
            let request = Request::post(format!("http://host/{}/{number}", 200 + number))
                .header("content-type", "application/grpc+proto")
                .header("authorization", "secret ".repeat(usize::from(number)))
                .body(())
                .unwrap();
            let mut send = send.clone().ready().await.unwrap();
            let (response, mut body) = send.send_request(request, false).unwrap();
            body.send_data(Bytes::from(vec![b'\n'; 20_000]), true).unwrap();
            let mut body = response.await.unwrap().into_body();
            while let Some(data) = body.data().await {
                let length = data.unwrap().len();
                body.flow_control().release_capacity(length).unwrap();
            }
            assert!(body.trailers().await.unwrap().is_some());
        }
        drop(send);
    };
    let (told, ()) = tokio::join!(carry(near, far), asked);
    assert_eq!(told.0[0], News::Begun(Version::Two));
    let expected: Vec<_> = (0..REQUESTS).map(|number| (Some(200 + number), None)).collect();
    assert_eq!(told.exchanges(), expected);
    for news in &told.0[1..] {
        let News::Exchange(exchange) = news else { panic!("{news:?}") };
        assert_eq!((exchange.protocol, exchange.grpc_status), (Protocol::Grpc, Some(5)));
    }
}
