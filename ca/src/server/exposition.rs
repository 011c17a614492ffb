//! `GET /metrics` for Prometheus, in its text form; `/healthz/ready` and `/healthz/live` for probes.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{Encoder as _, Registry, TextEncoder};
use time::OffsetDateTime;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::health::Health;

/// Scrapes at a time.
const MAX_SCRAPES: usize = 16;
/// Longest a scrape may take.
const SCRAPE_DEADLINE: Duration = Duration::from_secs(10);

/// Answers scrapes until `cancel`; more than [`MAX_SCRAPES`] at a time wait.
pub(super) async fn run(
    listener: TcpListener,
    registry: Registry,
    health: Arc<Health>,
    cancel: CancellationToken,
) {
    let registry = Arc::new(registry);
    let mut scrapes = JoinSet::new();
    while let Some(next) = cancel.run_until_cancelled(listener.accept()).await {
        match next {
            Ok((tcp, _)) => {
                scrapes.spawn(scrape(tcp, registry.clone(), health.clone()));
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

async fn scrape(tcp: TcpStream, registry: Arc<Registry>, health: Arc<Health>) {
    let service = service_fn(|request| {
        let answer = answer(&registry, &health, &request);
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

fn answer(
    registry: &Registry,
    health: &Health,
    request: &Request<Incoming>,
) -> Response<Full<Bytes>> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => metrics(registry),
        (&Method::GET, "/healthz/ready") => verdict(health.ready(OffsetDateTime::now_utc())),
        (&Method::GET, "/healthz/live") => verdict(health.live(Instant::now())),
        (_, "/metrics" | "/healthz/ready" | "/healthz/live") => {
            status(StatusCode::METHOD_NOT_ALLOWED)
        }
        _ => status(StatusCode::NOT_FOUND),
    }
}

fn status(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

fn verdict(verdict: Result<(), String>) -> Response<Full<Bytes>> {
    let (code, text) = match verdict {
        Ok(()) => (StatusCode::OK, "ok".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why),
    };
    let mut response = status(code);
    *response.body_mut() = Full::from(format!("{text}\n"));
    response
}

fn metrics(registry: &Registry) -> Response<Full<Bytes>> {
    let mut text = Vec::new();
    if let Err(error) = TextEncoder::new().encode(&registry.gather(), &mut text) {
        warn!(%error, "metrics could not be written");
        return status(StatusCode::INTERNAL_SERVER_ERROR);
    }
    let mut response = Response::new(Full::from(text));
    let form = hyper::header::HeaderValue::from_static("text/plain; version=0.0.4");
    response.headers_mut().insert(CONTENT_TYPE, form);
    response
}
