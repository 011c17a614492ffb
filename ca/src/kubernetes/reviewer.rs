//! [`ApiServerReviewer`]: tokens by the API server's `TokenReview`.

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewStatus};
use kube::api::PostParams;
use kube::core::Request;
use kube::{Client, Resource as _};
use serde_json::json;
use zeroize::Zeroizing;

use super::{KubernetesError, ask};
use crate::attest::kubernetes::{ApiServerError, Review, TokenReviewer};

/// Asks the API server.
#[derive(Clone)]
pub struct ApiServerReviewer {
    client: Client,
}

impl ApiServerReviewer {
    /// Asks by `client`.
    pub fn new(client: Client) -> Self {
        Self { client }
    }
}

#[tonic::async_trait]
impl TokenReviewer for ApiServerReviewer {
    async fn review(&self, token: &str, audiences: &[String]) -> Result<Review, ApiServerError> {
        let object = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": { "token": token, "audiences": audiences },
        });
        let body = Zeroizing::new(object.to_string().into_bytes());
        let reviews = Request::new(TokenReview::url_path(&(), None));
        let asked = reviews.create(&PostParams::default(), body.to_vec());
        let answer: TokenReview = ask(&self.client, "review tokens", asked).await?;
        Ok(review(answer.status.unwrap_or_default()))
    }
}

fn review(status: TokenReviewStatus) -> Review {
    let user = status.user.unwrap_or_default();
    // With an error, whatever else is said is not to be believed.
    let authenticated =
        status.authenticated == Some(true) && status.error.as_deref().is_none_or(str::is_empty);
    Review {
        authenticated,
        audiences: status.audiences.unwrap_or_default(),
        username: user.username.unwrap_or_default(),
        groups: user.groups.unwrap_or_default(),
        extra: user.extra.unwrap_or_default(),
    }
}

impl From<KubernetesError> for ApiServerError {
    fn from(error: KubernetesError) -> Self {
        match error {
            KubernetesError::Forbidden { action, .. } => Self::Forbidden { action },
            KubernetesError::TooSlow { within, .. } => Self::TooSlow { seconds: within.as_secs() },
            error => Self::Unreachable(Box::new(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attest::kubernetes::ServiceAccountTokens;
    use crate::attest::{AuthenticationError, Authenticator as _, Caller};
    use crate::kubernetes::testing::{Cluster, Fault};

    fn tokens(cluster: &Cluster) -> ServiceAccountTokens<ApiServerReviewer> {
        let reviewer = ApiServerReviewer::new(cluster.client());
        ServiceAccountTokens::new(reviewer, "td".parse().unwrap(), vec!["culvert-ca".into()])
    }

    #[tokio::test]
    async fn token_is_reviewed_for_our_audience_and_tells_pod_and_node() {
        let cluster = Cluster::default();
        let token = cluster.token("culvert-system", "culvert-agent", "agent-1", "uid-1", "node1");
        let now = time::OffsetDateTime::now_utc();
        let caller = tokens(&cluster).authenticate(&token, now).await.unwrap();
        let Caller::Pod(pod) = caller else { panic!("a pod") };
        assert_eq!(pod.identity.as_str(), "spiffe://td/ns/culvert-system/sa/culvert-agent");
        assert_eq!(
            (pod.name.as_str(), pod.uid.as_str(), pod.node.as_deref()),
            ("agent-1", "uid-1", Some("node1"))
        );
        let other = cluster.token_for("other", "shop", "web", "a1", "uid-2", "node1");
        let refused = tokens(&cluster).authenticate(&other, now).await.unwrap_err();
        assert_eq!(refused, AuthenticationError::Unknown, "it is for another, whatever it says");
    }

    #[tokio::test(start_paused = true)]
    async fn api_server_that_does_not_answer_makes_a_token_neither_good_nor_bad() {
        for fault in [Fault::Status(403), Fault::Status(401), Fault::Status(500), Fault::Hang] {
            let cluster = Cluster::default();
            let token = cluster.token("shop", "web", "a1", "uid-1", "node1");
            cluster.fail(Some(fault));
            let now = time::OffsetDateTime::now_utc();
            let tokens = tokens(&cluster);
            let refused = tokens.authenticate(&token, now).await.unwrap_err();
            assert_eq!(refused, AuthenticationError::Unavailable, "{fault:?}");
            // It comes back, and a second later the same token is good.
            cluster.fail(None);
            tokio::time::advance(std::time::Duration::from_secs(2)).await;
            assert!(tokens.authenticate(&token, now).await.is_ok(), "{fault:?}");
        }
    }

    #[test]
    fn review_with_an_error_proves_nothing() {
        let status = TokenReviewStatus {
            authenticated: Some(true),
            error: Some("audience could not be told".into()),
            ..Default::default()
        };
        assert!(!review(status).authenticated);
    }
}
