//! A small HTTP/1.1 server: what scrapers, probes, `culvert` and the page ask is answered here.
//!
//! ```text
//!  Listener (TCP, or a unix socket) ──▶ at most N connections ──▶ Answer ──▶ the whole body at once
//! ```
//!
//! Bodies of requests are not read. A bounded number of connections with a bounded life each: a
//! client that hangs costs one of them, a flood costs none of the data plane's threads.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;
/// What a failing accept waits: mostly the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// An answer, ready to be sent.
pub type Reply = Response<Full<Bytes>>;

/// What a server lets its clients take.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections at once; one more waits in the kernel's queue.
    pub connections: usize,
    /// Time for the head of a request, and so also the idle time between two.
    pub head: Duration,
    /// The longest life of a connection.
    pub life: Duration,
}

/// Where clients come from.
pub trait Listener: Send + Sync + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// Who is at its other end.
    type Peer: Copy + Send + Sync + 'static;

    /// Waits for the next client.
    ///
    /// Cancel safe.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Self::Peer)>> + Send;
}

impl Listener for TcpListener {
    type Stream = TcpStream;
    type Peer = SocketAddr;

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        Self::accept(self).await
    }
}

/// What is asked.
pub trait Answer<Peer>: Clone + Send + Sync + 'static {
    /// Answers one request. Dropped when the client goes away.
    fn answer(&self, peer: Peer, request: Request<()>) -> impl Future<Output = Reply> + Send;
}

/// Answers until `stop` is cancelled, then cuts what is open and joins it. `name` is for the log.
///
/// Dropping the future cuts all connections at once.
pub async fn run<L: Listener>(
    name: &'static str,
    listener: L,
    answer: impl Answer<L::Peer>,
    bounds: Bounds,
    stop: CancellationToken,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < bounds.connections => {
                match accepted {
                    Ok((stream, peer)) => {
                        connections.spawn(connection(stream, peer, answer.clone(), bounds));
                    }
                    Err(error) => {
                        tracing::warn!(name, %error, "accept failed");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
    }
    connections.shutdown().await;
}

async fn connection<S, P: Copy + Send + Sync + 'static>(
    stream: S,
    peer: P,
    answer: impl Answer<P>,
    bounds: Bounds,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        let answer = answer.clone();
        async move { Ok::<_, Infallible>(answer.answer(peer, request.map(drop)).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(bounds.life, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "HTTP connection failed"),
        Err(_) => tracing::debug!("HTTP connection reached the end of its life"),
    }
}

/// Listens on `address`; port 0 takes any.
///
/// Shares the port with an agent that is about to hand over to this one, and with nobody else: the
/// kernel lets only sockets of the same user share it.
///
/// # Errors
/// The address cannot be had.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// An answer of this status, kind and content.
pub fn reply(status: StatusCode, kind: HeaderValue, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, kind);
    reply
}

/// An answer of plain text.
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    reply(status, HeaderValue::from_static("text/plain; charset=utf-8"), body)
}
