//! The authority's own interface, `culvert.ca.v1.Authority`: trust bundles pushed to those who
//! follow them.
//!
//! ```text
//!  agent ── BundleInForce ──▶ ┌────────┐ ── heard ──▶ Authority (gates of the rotation)
//!        ◀── TrustBundle ──── │ Follow │ ◀─ watch ─── published bundle, JWT keys
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use culvert_proto::culvert::ca as wire;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tracing::debug;

use super::admit::Admission;
use super::jwt::JwtSigner;
use super::status;
use crate::attest::{Authenticator, Caller};
use crate::audit::{Record, Rule};
use crate::authority::{Authority, Heard, PublishedBundle, Standing};
use crate::metrics::CaMetrics;
use crate::server::Peer;

/// Streams at a time, of all callers together.
const MAX_FOLLOWERS: usize = 8192;
/// Streams of one caller at a time: two agents in an upgrade, and what a broken link left behind.
const FOLLOWERS_OF_A_CALLER: u32 = 8;
/// Age at which a stream is ended in order: its caller proves itself anew, and finds a replica
/// that has less to do.
const FOLLOW_AGE: Duration = Duration::from_hours(1);
/// Messages taken from one stream. An agent sends about one a minute.
const MAX_MESSAGES: u32 = 4096;

/// The bundles behind their API.
pub(crate) struct Bundles<A> {
    authority: Arc<Authority>,
    admission: Arc<Admission<A>>,
    jwks: watch::Receiver<Arc<[u8]>>,
    tokens: Option<JwtSigner<A>>,
    metrics: CaMetrics,
    followers: Arc<Followers>,
    cancel: CancellationToken,
}

impl<A: Authenticator> Bundles<A> {
    /// Streams end when `cancel` is cancelled; `jwks` are the keys of JWT-SVIDs, empty for none.
    pub(crate) fn new(
        authority: Arc<Authority>,
        admission: Arc<Admission<A>>,
        jwks: watch::Receiver<Arc<[u8]>>,
        metrics: CaMetrics,
        cancel: CancellationToken,
    ) -> Self {
        let (tokens, followers) = (None, Arc::default());
        Self { authority, admission, jwks, tokens, metrics, followers, cancel }
    }

    /// Signs JWT-SVIDs too.
    pub(crate) fn signing(self, tokens: JwtSigner<A>) -> Self {
        Self { tokens: Some(tokens), ..self }
    }

    async fn admit(
        &self,
        request: &Request<Streaming<wire::BundleInForce>>,
        now: OffsetDateTime,
    ) -> Result<(Option<String>, Slot), Rule> {
        let peer = request.extensions().get::<Peer>();
        let caller = self.admission.admit(request.metadata(), peer, now).await?;
        let node = self.admission.node_of(&caller).await;
        debug!(node, caller = caller.kind(), "bundle followed");
        let slot =
            Followers::enter(&self.followers, place(node.as_deref(), &caller), &self.metrics)?;
        Ok((node, slot))
    }
}

#[tonic::async_trait]
impl<A: Authenticator> wire::authority_server::Authority for Bundles<A> {
    type FollowBundleStream = BoxStream<'static, Result<wire::TrustBundle, Status>>;

    async fn follow_bundle(
        &self,
        request: Request<Streaming<wire::BundleInForce>>,
    ) -> Result<Response<Self::FollowBundleStream>, Status> {
        let now = OffsetDateTime::now_utc();
        match self.admit(&request, now).await {
            Ok((node, slot)) => {
                let follow = Follow {
                    trust_domain: self.authority.trust_domain().to_string(),
                    published: self.authority.published(),
                    authority: self.authority.clone(),
                    jwks: self.jwks.clone(),
                    acknowledged: request.into_inner(),
                    node,
                    sent: false,
                    messages: 0,
                    ends: Instant::now() + FOLLOW_AGE,
                    cancel: self.cancel.clone(),
                    _slot: slot,
                };
                let bundles = stream::unfold(follow, |mut follow| async {
                    let bundle = follow.next().await?;
                    Some((bundle, follow))
                });
                Ok(Response::new(bundles.boxed()))
            }
            Err(rule) => {
                Record::begin(request.extensions(), now).refused(rule);
                self.metrics.refused(rule);
                Err(status(rule))
            }
        }
    }

    async fn sign_jwt_svid(
        &self,
        request: Request<wire::SignJwtSvidRequest>,
    ) -> Result<Response<wire::SignJwtSvidResponse>, Status> {
        match &self.tokens {
            Some(tokens) => tokens.answer(request).await,
            None => Err(Status::unimplemented("this authority signs no JWT-SVIDs")),
        }
    }
}

/// One stream.
struct Follow {
    trust_domain: String,
    authority: Arc<Authority>,
    published: watch::Receiver<Arc<PublishedBundle>>,
    jwks: watch::Receiver<Arc<[u8]>>,
    acknowledged: Streaming<wire::BundleInForce>,
    /// None for a caller that is no node's agent: it is served, and no step waits for it.
    node: Option<String>,
    sent: bool,
    messages: u32,
    ends: Instant,
    cancel: CancellationToken,
    _slot: Slot,
}

impl Follow {
    /// The next bundle to send; `None` ends the stream.
    async fn next(&mut self) -> Option<Result<wire::TrustBundle, Status>> {
        if !std::mem::replace(&mut self.sent, true) {
            return Some(Ok(self.bundle()));
        }
        loop {
            tokio::select! {
                // A stop is never put off; what an agent has in force is heard before it is sent
                // the next.
                biased;
                () = self.cancel.cancelled() => return None,
                message = self.acknowledged.message() => match message {
                    Ok(Some(message)) => {
                        self.messages += 1;
                        if self.messages > MAX_MESSAGES {
                            return Some(Err(Status::resource_exhausted("too many messages")));
                        }
                        self.heard(message.sequence);
                    }
                    // The agent is gone, or has nothing more to say and so does not follow.
                    Ok(None) | Err(_) => return None,
                },
                () = changed(&mut self.published) => return Some(Ok(self.bundle())),
                () = changed(&mut self.jwks) => return Some(Ok(self.bundle())),
                () = sleep_until(self.ends) => return None,
            }
        }
    }

    fn heard(&self, in_force: u64) {
        if let Some(node) = &self.node {
            let now = OffsetDateTime::now_utc();
            self.authority.heard(node, Heard::Following { in_force }, now);
        }
    }

    fn bundle(&mut self) -> wire::TrustBundle {
        let published = self.published.borrow_and_update();
        let root = |root: &crate::authority::PublishedRoot| wire::Root {
            certificate: root.certificate.to_vec(),
            standing: match root.standing {
                Standing::Trusted => wire::Standing::Trusted,
                Standing::Tainted => wire::Standing::Tainted,
                Standing::Revoked => wire::Standing::Revoked,
            }
            .into(),
        };
        wire::TrustBundle {
            trust_domain: self.trust_domain.clone(),
            sequence: published.sequence,
            roots: published.roots.iter().map(root).collect(),
            jwks: self.jwks.borrow_and_update().to_vec(),
        }
    }
}

/// Waits for a change; for ever when there can be none any more.
async fn changed<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Whose places a caller takes: its node's if it is the agent there, so that no other pod of the
/// node takes them.
fn place(node: Option<&str>, caller: &Caller) -> String {
    match (node, caller) {
        (Some(node), _) => format!("node {node}"),
        (None, Caller::Pod(pod)) => format!("pod {}", pod.uid),
        (None, caller) => caller.identity().map(ToString::to_string).unwrap_or_default(),
    }
}

/// Who follows, to bound it.
#[derive(Default)]
struct Followers {
    /// Guards the counts; held to change one.
    by_caller: Mutex<HashMap<String, u32>>,
}

impl Followers {
    fn enter(all: &Arc<Self>, name: String, metrics: &CaMetrics) -> Result<Slot, Rule> {
        let mut counts = all.by_caller.lock().unwrap_or_else(PoisonError::into_inner);
        let total: u64 = counts.values().copied().map(u64::from).sum();
        let own = counts.get(&name).copied().unwrap_or_default();
        if own >= FOLLOWERS_OF_A_CALLER || total >= MAX_FOLLOWERS as u64 {
            return Err(Rule::Busy);
        }
        counts.insert(name.clone(), own + 1);
        metrics.followers(total + 1);
        Ok(Slot { all: all.clone(), name, metrics: metrics.clone() })
    }
}

/// A place among the followers, given back when dropped.
struct Slot {
    all: Arc<Followers>,
    name: String,
    metrics: CaMetrics,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = self.all.by_caller.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = counts.get_mut(&self.name) {
            *own -= 1;
            if *own == 0 {
                counts.remove(&self.name);
            }
        }
        self.metrics.followers(counts.values().copied().map(u64::from).sum());
    }
}

#[cfg(test)]
mod tests;
