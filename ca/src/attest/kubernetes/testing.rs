//! [`FakeApiServer`]: TokenReview and pods as an API server answers them, in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;
use time::OffsetDateTime;

use super::{ApiServerError, Freshness, Phase, Pod, PodDirectory, Review, TokenReviewer};

/// The audience of good tokens.
pub(crate) const AUDIENCE: &str = "culvert-ca";

/// An API server. Cloning shares it.
#[derive(Clone, Default)]
pub(crate) struct FakeApiServer {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fault of its own, switched by tests")]
pub(crate) struct State {
    pub(crate) pods: Vec<Pod>,
    tokens: BTreeMap<String, Token>,
    next: u64,
    /// Every question fails.
    pub(crate) fails: bool,
    /// No question is answered.
    pub(crate) hangs: bool,
    /// As one of before audiences: it answers none.
    pub(crate) ignores_audiences: bool,
    /// As one of before node names in tokens.
    pub(crate) tells_no_node: bool,
    /// Questions so far: reviews, and lists of pods.
    pub(crate) asked: (usize, usize),
}

#[derive(Clone)]
struct Token {
    username: String,
    groups: Vec<String>,
    audience: String,
    end: i64,
    /// Name and UID.
    pod: Option<(String, String)>,
}

impl FakeApiServer {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Makes a running, enrolled pod.
    pub(crate) fn pod(&self, namespace: &str, name: &str, account: &str, node: &str) {
        let mut state = self.state();
        state.next += 1;
        let uid = format!("uid-{}", state.next);
        state.pods.push(Pod {
            namespace: namespace.into(),
            name: name.into(),
            uid,
            account: account.into(),
            node: Some(node.into()),
            phase: Phase::Running,
            enrolled: true,
        });
    }

    pub(crate) fn change(&self, name: &str, change: impl FnOnce(&mut Pod)) {
        change(self.state().pods.iter_mut().find(|pod| pod.name == name).unwrap());
    }

    pub(crate) fn delete(&self, name: &str) {
        self.state().pods.retain(|pod| pod.name != name);
    }

    /// A projected token of a pod, for an hour from now.
    pub(crate) fn token(&self, pod: &str) -> String {
        self.token_for(pod, AUDIENCE, OffsetDateTime::now_utc().unix_timestamp() + 3600)
    }

    pub(crate) fn token_for(&self, pod: &str, audience: &str, end: i64) -> String {
        let mut state = self.state();
        let pod = state.pods.iter().find(|found| found.name == pod).unwrap().clone();
        let token = Token {
            username: format!("system:serviceaccount:{}:{}", pod.namespace, pod.account),
            groups: vec!["system:serviceaccounts".into(), "system:authenticated".into()],
            audience: audience.into(),
            end,
            pod: Some((pod.name, pod.uid)),
        };
        state.keep(token)
    }

    /// A token of somebody who is no service account.
    pub(crate) fn user_token(&self, username: &str) -> String {
        let token = Token {
            username: username.into(),
            groups: vec!["system:authenticated".into()],
            audience: AUDIENCE.into(),
            end: OffsetDateTime::now_utc().unix_timestamp() + 3600,
            pod: None,
        };
        self.state().keep(token)
    }

    /// A token of a service account that is bound to no pod.
    pub(crate) fn unbound_token(&self, username: &str) -> String {
        let token = self.user_token(username);
        let mut state = self.state();
        state.tokens.get_mut(&token).unwrap().groups = vec!["system:serviceaccounts".into()];
        token
    }

    async fn answer<T>(&self, answer: impl FnOnce(&mut State) -> T) -> Result<T, ApiServerError> {
        tokio::task::yield_now().await;
        if self.state().hangs {
            std::future::pending::<()>().await;
        }
        let mut state = self.state();
        if state.fails {
            return Err(ApiServerError::Forbidden { action: "ask" });
        }
        Ok(answer(&mut state))
    }
}

impl State {
    fn keep(&mut self, token: Token) -> String {
        self.next += 1;
        let claims = json!({
            "aud": [token.audience], "exp": token.end, "sub": token.username, "jti": self.next
        });
        let key = EncodingKey::from_secret(b"of the API server");
        let text = jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap();
        self.tokens.insert(text.clone(), token);
        text
    }

    fn review(&self, token: &str, audiences: &[String]) -> Review {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let Some(token) = self.tokens.get(token).filter(|token| now < token.end) else {
            return Review::default();
        };
        let pod = match &token.pod {
            // A bound token dies with its pod.
            Some((_, uid)) => match self.pods.iter().find(|pod| pod.uid == *uid) {
                Some(pod) => Some(pod),
                None => return Review::default(),
            },
            None => None,
        };
        if !self.ignores_audiences && !audiences.contains(&token.audience) {
            return Review::default();
        }
        let mut extra = BTreeMap::new();
        if let Some(pod) = pod {
            let mut put = |key: &str, value: &str| {
                let key = format!("authentication.kubernetes.io/{key}");
                extra.insert(key, vec![value.to_owned()]);
            };
            put("pod-name", &pod.name);
            put("pod-uid", &pod.uid);
            if let Some(node) = pod.node.as_deref().filter(|_| !self.tells_no_node) {
                put("node-name", node);
            }
        }
        let audiences = if self.ignores_audiences { vec![] } else { vec![token.audience.clone()] };
        let Token { username, groups, .. } = token.clone();
        Review { authenticated: true, audiences, username, groups, extra }
    }
}

#[tonic::async_trait]
impl TokenReviewer for FakeApiServer {
    async fn review(&self, token: &str, audiences: &[String]) -> Result<Review, ApiServerError> {
        assert!(!audiences.is_empty(), "a token is never reviewed without audience");
        self.state().asked.0 += 1;
        self.answer(|state| state.review(token, audiences)).await
    }
}

#[tonic::async_trait]
impl PodDirectory for FakeApiServer {
    async fn pod(&self, namespace: &str, name: &str) -> Result<Option<Pod>, ApiServerError> {
        let is = |pod: &&Pod| pod.namespace == namespace && pod.name == name;
        self.answer(|state| state.pods.iter().find(is).cloned()).await
    }

    async fn pods_on(&self, node: &str, _: Freshness) -> Result<Vec<Pod>, ApiServerError> {
        self.state().asked.1 += 1;
        let on = |pod: &&Pod| pod.node.as_deref() == Some(node);
        self.answer(|state| state.pods.iter().filter(on).cloned().collect()).await
    }

    async fn pods_of(&self, namespace: &str, account: &str) -> Result<Vec<Pod>, ApiServerError> {
        let of = |pod: &&Pod| pod.namespace == namespace && pod.account == account;
        self.answer(|state| state.pods.iter().filter(of).cloned().collect()).await
    }
}
