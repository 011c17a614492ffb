//! The gate before all services: bounds calls under way, gives each message a time to arrive in,
//! and sees to it that no call ends without a line in the audit.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Bytes, Frame, SizeHint};
use hyper::{Request, Response};
use time::OffsetDateTime;
use tokio::time::{Sleep, sleep};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::connection::Peer;
use super::limits::{Full, Place, Places, source};
use crate::audit::{Record, Rule};
use crate::metrics::CaMetrics;
use crate::service::status;

/// Calls under way at a time; each may hold a message, so this bounds memory.
const MAX_CALLS: usize = 512;
/// Of them, calls from one address.
const MAX_CALLS_OF_ADDRESS: usize = 256;
/// Longest that a message may take to arrive.
const MESSAGE_DEADLINE: Duration = Duration::from_secs(5);
/// Methods whose caller sends as long as it lives.
const STREAMS: [&str; 1] = ["/culvert.ca.v1.Authority/FollowBundle"];

/// Whether a call was decided, and so is in the audit. Set by whoever writes the line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Decided(Arc<AtomicBool>);

impl Decided {
    /// Says that the call has its line.
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Makes the gate.
#[derive(Clone)]
pub(super) struct GateLayer {
    calls: Places<Option<IpAddr>>,
    metrics: CaMetrics,
}

impl GateLayer {
    pub(super) fn new(metrics: CaMetrics) -> Self {
        Self { calls: Places::new(MAX_CALLS, MAX_CALLS_OF_ADDRESS), metrics }
    }
}

impl<S> Layer<S> for GateLayer {
    type Service = Gate<S>;

    fn layer(&self, inner: S) -> Gate<S> {
        Gate { inner, calls: self.calls.clone(), metrics: self.metrics.clone() }
    }
}

/// A service behind the gate.
#[derive(Clone)]
pub(super) struct Gate<S> {
    inner: S,
    calls: Places<Option<IpAddr>>,
    metrics: CaMetrics,
}

impl<S> Service<Request<Body>> for Gate<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let peer = request.extensions().get::<Peer>().cloned();
        let address = peer.as_ref().map(|peer| source(peer.address().ip()));
        let ticket = Ticket { peer, decided: Decided::default(), metrics: self.metrics.clone() };
        let place = match self.calls.take(address) {
            Ok(place) => place,
            Err(full) => {
                let rule = if full == Full::All { Rule::Busy } else { Rule::BusyCaller };
                ticket.refuse(rule);
                return Box::pin(std::future::ready(Ok(status(rule).into_http())));
            }
        };
        request.extensions_mut().insert(ticket.decided.clone());
        if !STREAMS.contains(&request.uri().path()) {
            request = request.map(|body| Body::new(Timed::new(body)));
        }
        let answer = self.inner.call(request);
        Box::pin(passed(answer, ticket, place))
    }
}

async fn passed<F>(
    answer: F,
    ticket: Ticket,
    _place: Place<Option<IpAddr>>,
) -> Result<Response<Body>, Infallible>
where
    F: Future<Output = Result<Response<Body>, Infallible>>,
{
    let answer = answer.await?;
    let refused = answer.headers().get("grpc-status").is_some_and(|code| code != "0");
    if refused {
        ticket.refuse(Rule::Unread);
    } else {
        // A stream, or a service that keeps its own account: it was heard and answered.
        ticket.decided.set();
    }
    Ok(answer)
}

/// Writes the line of a call that nobody else decided: at the latest when it is dropped.
struct Ticket {
    peer: Option<Peer>,
    decided: Decided,
    metrics: CaMetrics,
}

impl Ticket {
    fn refuse(&self, rule: Rule) {
        if self.decided.is_set() {
            return;
        }
        self.decided.set();
        Record::from_peer(self.peer.as_ref(), OffsetDateTime::now_utc()).refused(rule);
        self.metrics.refused(rule);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.refuse(Rule::Abandoned);
    }
}

/// A message that must have arrived in time.
struct Timed {
    body: Body,
    deadline: Pin<Box<Sleep>>,
}

impl Timed {
    fn new(body: Body) -> Self {
        Self { body, deadline: Box::pin(sleep(MESSAGE_DEADLINE)) }
    }
}

impl hyper::body::Body for Timed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame);
        }
        match self.deadline.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Some(Err(Status::deadline_exceeded(
                "message did not arrive in time; send it at once",
            )))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
