//! [`ServiceAccountTokens`]: who holds a service-account token, by TokenReview.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use culvert_spiffe::{SpiffeId, TrustDomain};
use serde::Deserialize;
use time::OffsetDateTime;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tracing::warn;

use super::{ApiServerError, Review, TokenReviewer};
use crate::attest::kept::Kept;
use crate::attest::{AuthenticationError, Authenticator, Caller, PodCaller};

/// How long a good answer is believed. A deleted pod's token may live so much longer.
const GOOD_FOR: Duration = Duration::from_mins(1);
/// How long a bad answer is believed.
const BAD_FOR: Duration = Duration::from_secs(10);
/// How long an API server that failed is left alone about the same token.
const FAILED_FOR: Duration = Duration::from_secs(1);
/// Good answers kept, and as many others; a flood of bad tokens so pushes out no good answer.
const MOST_KEPT: usize = 8192;
/// Longest wait for the API server.
const REVIEW_DEADLINE: Duration = Duration::from_secs(5);
/// Reviews under way at a time.
const MAX_REVIEWS: usize = 32;
/// Longest token looked at; the API server's have some 1,200 bytes.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
const GROUP: &str = "system:serviceaccounts";
const USERNAME: &str = "system:serviceaccount:";

type Hash = [u8; 32];
type Verdict = Result<PodCaller, AuthenticationError>;

/// Tells who holds a service-account token; asks the API server, and remembers its answers by the
/// token's hash.
pub struct ServiceAccountTokens<R> {
    reviewer: R,
    trust_domain: TrustDomain,
    audiences: Vec<String>,
    good: Mutex<Kept<Hash, PodCaller>>,
    other: Mutex<Kept<Hash, AuthenticationError>>,
    /// Tokens that are being asked about: whoever comes with the same one waits for that answer.
    under_way: Mutex<HashMap<Hash, Arc<tokio::sync::Mutex<()>>>>,
    reviews: Semaphore,
}

/// What a token says of itself. Not believed: it only spares the API server a question.
#[derive(Deserialize)]
struct Claims {
    exp: Option<i64>,
    #[serde(default)]
    aud: Audiences,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Many(Vec<String>),
}

impl Default for Audiences {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl<R: TokenReviewer> ServiceAccountTokens<R> {
    /// Takes tokens that are for one of `audiences`, and makes callers of `trust_domain` of them.
    pub fn new(reviewer: R, trust_domain: TrustDomain, audiences: Vec<String>) -> Self {
        Self {
            reviewer,
            trust_domain,
            audiences,
            good: Mutex::new(Kept::new(MOST_KEPT)),
            other: Mutex::new(Kept::new(MOST_KEPT)),
            under_way: Mutex::default(),
            reviews: Semaphore::new(MAX_REVIEWS),
        }
    }

    /// Cheap checks; says when the token ends.
    fn look(&self, token: &str, now: OffsetDateTime) -> Result<Option<i64>, AuthenticationError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(AuthenticationError::Malformed);
        }
        let claims: Claims = jsonwebtoken::dangerous::insecure_decode_claims(token)
            .map_err(|_| AuthenticationError::Malformed)?;
        if claims.exp.is_some_and(|end| end <= now.unix_timestamp()) {
            return Err(AuthenticationError::Expired);
        }
        let named = match &claims.aud {
            Audiences::One(one) => std::slice::from_ref(one),
            Audiences::Many(many) => many,
        };
        if !named.iter().any(|audience| self.audiences.contains(audience)) {
            return Err(AuthenticationError::Audience);
        }
        Ok(claims.exp)
    }

    fn remembered(&self, hash: &Hash) -> Option<Verdict> {
        let now = Instant::now();
        let good = self.good.lock().unwrap_or_else(PoisonError::into_inner).find(hash, now);
        good.map(Ok).or_else(|| {
            let other = self.other.lock().unwrap_or_else(PoisonError::into_inner);
            other.find(hash, now).map(Err)
        })
    }

    fn remember(&self, hash: Hash, verdict: &Verdict, life: Duration) {
        let now = Instant::now();
        match verdict {
            Ok(caller) => {
                let mut good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
                good.keep(hash, caller.clone(), now + life.min(GOOD_FOR), now);
            }
            Err(error) => {
                let life = match error {
                    AuthenticationError::Unavailable => FAILED_FOR,
                    _ => BAD_FOR,
                };
                let mut other = self.other.lock().unwrap_or_else(PoisonError::into_inner);
                other.keep(hash, *error, now + life, now);
            }
        }
    }

    async fn ask(&self, token: &str) -> Verdict {
        let asked = async {
            // Closed never.
            let _slot = self.reviews.acquire().await;
            self.reviewer.review(token, &self.audiences).await
        };
        let answer = timeout(REVIEW_DEADLINE, asked).await.unwrap_or_else(|_| {
            Err(ApiServerError::TooSlow { seconds: REVIEW_DEADLINE.as_secs() })
        });
        match answer {
            Ok(review) => self.judge(&review),
            Err(error) => {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                warn!(%error, source, "token not reviewed");
                Err(AuthenticationError::Unavailable)
            }
        }
    }

    fn judge(&self, review: &Review) -> Verdict {
        if !review.authenticated {
            return Err(AuthenticationError::Unknown);
        }
        if !review.audiences.iter().any(|audience| self.audiences.contains(audience)) {
            return Err(AuthenticationError::Audience);
        }
        if !review.groups.iter().any(|group| group == GROUP) {
            return Err(AuthenticationError::NotServiceAccount);
        }
        let identity = review
            .username
            .strip_prefix(USERNAME)
            .and_then(|names| names.split_once(':'))
            .and_then(|(namespace, account)| {
                SpiffeId::new(&self.trust_domain, namespace, account).ok()
            })
            .ok_or(AuthenticationError::NotServiceAccount)?;
        let one = |key| one(&review.extra, key);
        let (Some(name), Some(uid)) = (one(POD_NAME), one(POD_UID)) else {
            return Err(AuthenticationError::NotBoundToPod);
        };
        Ok(PodCaller { identity, name, uid, node: one(NODE_NAME) })
    }
}

impl<R: TokenReviewer> Authenticator for ServiceAccountTokens<R> {
    async fn authenticate(
        &self,
        bearer: &str,
        now: OffsetDateTime,
    ) -> Result<Caller, AuthenticationError> {
        let end = self.look(bearer, now)?;
        let hash: Hash = digest(&SHA256, bearer.as_bytes())
            .as_ref()
            .try_into()
            .map_err(|_| AuthenticationError::Malformed)?;
        if let Some(verdict) = self.remembered(&hash) {
            return verdict.map(Caller::Pod);
        }
        let turn = Turn::take(&self.under_way, hash);
        let _mine = turn.lock.lock().await;
        if let Some(verdict) = self.remembered(&hash) {
            return verdict.map(Caller::Pod);
        }
        let verdict = self.ask(bearer).await;
        let left = end.map_or(GOOD_FOR, |end| {
            Duration::from_secs(u64::try_from(end - now.unix_timestamp()).unwrap_or(0))
        });
        self.remember(hash, &verdict, left);
        verdict.map(Caller::Pod)
    }
}

/// A place in the queue of those who come with the same token. Leaves nothing behind when dropped.
struct Turn<'a> {
    under_way: &'a Mutex<HashMap<Hash, Arc<tokio::sync::Mutex<()>>>>,
    hash: Hash,
    lock: Arc<tokio::sync::Mutex<()>>,
}

impl<'a> Turn<'a> {
    fn take(under_way: &'a Mutex<HashMap<Hash, Arc<tokio::sync::Mutex<()>>>>, hash: Hash) -> Self {
        let mut queues = under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let lock = queues.entry(hash).or_default().clone();
        Self { under_way, hash, lock }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut queues = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        // The map's and this one: nobody else waits, and nobody can come while the map is held.
        if Arc::strong_count(&self.lock) == 2 {
            queues.remove(&self.hash);
        }
    }
}

/// The value of an extra; of several none is believed.
fn one(extra: &BTreeMap<String, Vec<String>>, key: &str) -> Option<String> {
    match extra.get(key).map(Vec::as_slice) {
        Some([value]) if !value.is_empty() => Some(value.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
