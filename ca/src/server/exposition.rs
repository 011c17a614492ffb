//! `GET /metrics` for Prometheus, in its text form.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{Encoder as _, Registry, TextEncoder};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// Scrapes at a time.
const MAX_SCRAPES: usize = 16;
/// Longest a scrape may take.
const SCRAPE_DEADLINE: Duration = Duration::from_secs(10);

/// Answers scrapes until `cancel`; more than [`MAX_SCRAPES`] at a time wait.
pub(super) async fn run(listener: TcpListener, registry: Registry, cancel: CancellationToken) {
    let registry = Arc::new(registry);
    let mut scrapes = JoinSet::new();
    while let Some(next) = cancel.run_until_cancelled(listener.accept()).await {
        match next {
            Ok((tcp, _)) => {
                scrapes.spawn(scrape(tcp, registry.clone()));
            }
            Err(error) => {
                warn!(%error, "cannot accept scrapes; trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        while scrapes.try_join_next().is_some() {}
        if scrapes.len() >= MAX_SCRAPES {
            scrapes.join_next().await;
        }
    }
    scrapes.shutdown().await;
}

async fn scrape(tcp: TcpStream, registry: Arc<Registry>) {
    let service = service_fn(|request| {
        let answer = answer(&registry, &request);
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .serve_connection(TokioIo::new(tcp), service);
    match timeout(SCRAPE_DEADLINE, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "scrape failed"),
        Err(_) => debug!("scrape took too long"),
    }
}

fn answer(registry: &Registry, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let status = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => StatusCode::OK,
        (_, "/metrics") => StatusCode::METHOD_NOT_ALLOWED,
        _ => StatusCode::NOT_FOUND,
    };
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    if status == StatusCode::OK {
        let mut text = Vec::new();
        match TextEncoder::new().encode(&registry.gather(), &mut text) {
            Ok(()) => {
                let form = hyper::header::HeaderValue::from_static("text/plain; version=0.0.4");
                response.headers_mut().insert(CONTENT_TYPE, form);
                *response.body_mut() = Full::from(text);
            }
            Err(error) => {
                warn!(%error, "metrics could not be written");
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            }
        }
    }
    response
}
