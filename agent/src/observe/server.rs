//! The two HTTP servers that outsiders ask: `:15020/metrics` and `:15021/healthz/`. GET only.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, StatusCode};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::health::Health;
use super::metrics::Metrics;
use crate::serve::{self, Answer, Bounds, Reply, text};

/// A life longer than Prometheus' usual interval, so that its connection is kept.
const BOUNDS: Bounds =
    Bounds { connections: 64, head: Duration::from_secs(15), life: Duration::from_mins(5) };

/// What a server answers.
#[derive(Clone)]
pub enum Routes {
    /// `/metrics` and `/stats/prometheus`.
    Metrics(Metrics),
    /// `/healthz/started`, `/healthz/ready` and `/healthz/live`: 200, or 503 with the reason.
    Health(Health),
}

/// The address could not be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for {what}; free the port or set `observe.{what}`")]
pub struct ServeError {
    address: SocketAddr,
    what: &'static str,
    #[source]
    source: io::Error,
}

/// A server that listens and does not answer before [`Server::run`].
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    routes: Routes,
}

impl Server {
    /// Listens on `address`; port 0 takes any.
    ///
    /// # Errors
    ///
    /// [`ServeError`] when the address cannot be had.
    pub fn bind(address: SocketAddr, routes: Routes) -> Result<Self, ServeError> {
        let what = what(&routes);
        let refuse = |source| ServeError { address, what, source };
        let listener = serve::listen(address).map_err(refuse)?;
        let address = listener.local_addr().map_err(refuse)?;
        Ok(Self { listener, address, routes })
    }

    /// Where the server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop` is cancelled, then cuts what is open and joins it.
    ///
    /// Dropping the future cuts all connections at once.
    pub async fn run(self, stop: CancellationToken) {
        let name = what(&self.routes);
        serve::run(name, self.listener, self.routes, BOUNDS, stop).await;
    }
}

/// What a server is for, as its setting and the log have it.
const fn what(routes: &Routes) -> &'static str {
    match routes {
        Routes::Metrics(_) => "metrics",
        Routes::Health(_) => "readiness",
    }
}

impl Answer<SocketAddr> for Routes {
    async fn answer(&self, _peer: SocketAddr, request: Request<()>) -> Reply {
        let path = request.uri().path();
        let known = match self {
            Self::Metrics(_) => matches!(path, "/metrics" | "/stats/prometheus"),
            Self::Health(_) => {
                matches!(path, "/healthz/started" | "/healthz/ready" | "/healthz/live")
            }
        };
        if !known {
            return text(StatusCode::NOT_FOUND, "not found\n");
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
            refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refusal;
        }
        match self {
            Self::Metrics(metrics) => scrape(metrics.clone()).await,
            Self::Health(health) => probe(health, path),
        }
    }
}

/// All metrics. Made on a thread of its own: it takes long where there are many, and nothing of
/// the agent is to wait for that.
async fn scrape(metrics: Metrics) -> Reply {
    match tokio::task::spawn_blocking(move || metrics.encode()).await {
        Ok(Ok(body)) => {
            let mut answer = text(StatusCode::OK, body);
            let format = HeaderValue::from_static(prometheus::TEXT_FORMAT);
            answer.headers_mut().insert(CONTENT_TYPE, format);
            answer
        }
        Ok(Err(error)) => {
            tracing::error!(%error, "metrics could not be encoded");
            text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n"))
        }
        Err(error) => {
            tracing::error!(%error, "a collector panicked");
            text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n"))
        }
    }
}

fn probe(health: &Health, path: &str) -> Reply {
    let (asked, good) = match path {
        "/healthz/started" => (health.started(), "started\n"),
        "/healthz/live" => (health.alive(), "alive\n"),
        _ => (health.ready(), "ready\n"),
    };
    match asked {
        Ok(()) => text(StatusCode::OK, good),
        Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}
