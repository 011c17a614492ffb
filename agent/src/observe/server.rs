//! The two HTTP servers that outsiders ask: `:15020/metrics` and `:15021/healthz/`.
//!
//! HTTP/1.1, GET only, a bounded number of connections with a bounded life each: a scraper that
//! hangs costs one of them, a flood costs none of the data plane's threads.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::health::Health;
use super::metrics::Metrics;

/// Connections at once; one more waits in the kernel's queue.
const CONNECTIONS: usize = 64;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;
/// Time for the head of a request, and so also the idle time between two.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// The longest life of a connection. Longer than Prometheus' usual interval, so it is kept.
const LIFE: Duration = Duration::from_mins(5);
/// What a failing accept waits: mostly the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
        let what = match routes {
            Routes::Metrics(_) => "metrics",
            Routes::Health(_) => "readiness",
        };
        let refuse = |source| ServeError { address, what, source };
        let listener = listen(address).map_err(refuse)?;
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
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(_) = connections.join_next() => {}
                accepted = self.listener.accept(), if connections.len() < CONNECTIONS => {
                    match accepted {
                        Ok((stream, _)) => {
                            connections.spawn(serve(stream, self.routes.clone()));
                        }
                        Err(error) => {
                            tracing::warn!(address = %self.address, %error, "accept failed");
                            tokio::time::sleep(ACCEPT_PAUSE).await;
                        }
                    }
                }
            }
        }
        connections.shutdown().await;
    }
}

/// Shares the port with an agent that is about to hand over to this one, and with nobody else: the
/// kernel lets only sockets of the same user share it.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn serve(stream: TcpStream, routes: Routes) {
    let service = service_fn(move |request| {
        let answer = answer(&routes, &request);
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(LIFE, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "HTTP connection failed"),
        Err(_) => tracing::debug!("HTTP connection reached the end of its life"),
    }
}

fn answer(routes: &Routes, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    let known = match routes {
        Routes::Metrics(_) => matches!(path, "/metrics" | "/stats/prometheus"),
        Routes::Health(_) => {
            matches!(path, "/healthz/started" | "/healthz/ready" | "/healthz/live")
        }
    };
    if !known {
        return text(StatusCode::NOT_FOUND, "not found\n".to_owned());
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    match routes {
        Routes::Metrics(metrics) => match metrics.encode() {
            Ok(body) => {
                let mut answer = text(StatusCode::OK, body);
                let format = HeaderValue::from_static(prometheus::TEXT_FORMAT);
                answer.headers_mut().insert(CONTENT_TYPE, format);
                answer
            }
            Err(error) => {
                tracing::error!(%error, "metrics could not be encoded");
                text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n"))
            }
        },
        Routes::Health(health) => {
            let (asked, good) = match path {
                "/healthz/started" => (health.started(), "started\n"),
                "/healthz/live" => (health.alive(), "alive\n"),
                _ => (health.ready(), "ready\n"),
            };
            match asked {
                Ok(()) => text(StatusCode::OK, good.to_owned()),
                Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
            }
        }
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}
