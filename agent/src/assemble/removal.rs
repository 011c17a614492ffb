//! Whether Culvert is being removed from the cluster, and not merely this agent stopped: then the
//! agent leaves nothing behind on the node.
//!
//! The pins that outlive an agent are what protects pods while it is replaced, so it must know the
//! one from the other. It is being removed when the agent's own DaemonSet or namespace, which was
//! there before, is deleted or gone. That the API server cannot be asked, or refuses, says nothing:
//! with the objects go the rights to read them, which is why both are watched from the start.

use std::{pin::pin, time::Duration};

use futures_util::{StreamExt as _, future::join};
use k8s_openapi::api::{apps::v1::DaemonSet, core::v1::Namespace};
use kube::{
    Api, Client, Resource,
    core::PartialObjectMeta,
    runtime::{WatchStreamExt as _, watcher::watch_object},
};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{config, supervise::Tasks};

/// How long a stopping agent waits for the API server's last word.
const LAST_WORD: Duration = Duration::from_secs(2);

/// What is known of an object without which there is no agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Known {
    /// It was never seen: the agent was not started by it.
    #[default]
    Never,
    /// It is there.
    There,
    /// It was there, and is being deleted, or gone.
    Going,
}

impl Known {
    /// What is known after it was looked for: `None` where it is not there, else whether it is being
    /// deleted.
    fn after(self, look: Option<bool>) -> Self {
        match (self, look) {
            (_, Some(false)) => Self::There,
            (Self::Never, None) => Self::Never,
            (_, Some(true) | None) => Self::Going,
        }
    }
}

/// The DaemonSet and the namespace of this agent, followed.
pub(super) struct Removal {
    daemon_set: Followed<DaemonSet>,
    namespace: Followed<Namespace>,
}

impl Removal {
    /// Follows them from now on.
    pub(super) fn follow(client: Client, config: &config::Removal, tasks: &mut Tasks) -> Self {
        let namespaced = Api::namespaced(client.clone(), &config.namespace);
        Self {
            daemon_set: Followed::start("own DaemonSet", namespaced, &config.daemon_set, tasks),
            namespace: Followed::start("own namespace", Api::all(client), &config.namespace, tasks),
        }
    }

    /// Whether Culvert is being removed. Asks once more, for the news may still be on their way.
    pub(super) async fn is_under_way(&self) -> bool {
        let (daemon_set, namespace) =
            join(self.daemon_set.is_going(), self.namespace.is_going()).await;
        daemon_set || namespace
    }
}

/// One object, by name.
struct Followed<K> {
    api: Api<PartialObjectMeta<K>>,
    name: String,
    known: watch::Receiver<Known>,
}

impl<K> Followed<K>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + Send + Sync + 'static,
    PartialObjectMeta<K>: Resource<DynamicType = ()> + DeserializeOwned,
{
    fn start(
        task: &'static str,
        api: Api<PartialObjectMeta<K>>,
        name: &str,
        tasks: &mut Tasks,
    ) -> Self {
        let (tell, known) = watch::channel(Known::Never);
        let token = tasks.token();
        tasks.spawn(task, follow(task, api.clone(), name.to_owned(), tell, token));
        Self { api, name: name.to_owned(), known }
    }

    async fn is_going(&self) -> bool {
        let known = *self.known.borrow();
        if known != Known::There {
            return known == Known::Going;
        }
        match tokio::time::timeout(LAST_WORD, self.api.get_opt(&self.name)).await {
            Ok(Ok(found)) => known.after(found.as_ref().map(is_being_deleted)) == Known::Going,
            Ok(Err(_)) | Err(_) => false,
        }
    }
}

async fn follow<K>(
    what: &'static str,
    api: Api<PartialObjectMeta<K>>,
    name: String,
    tell: watch::Sender<Known>,
    token: CancellationToken,
) -> anyhow::Result<()>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + Send + Sync + 'static,
    PartialObjectMeta<K>: Resource<DynamicType = ()> + DeserializeOwned,
{
    let watched = async {
        let mut looks = pin!(watch_object(api, &name).default_backoff());
        let mut failing = false;
        while let Some(look) = looks.next().await {
            match look {
                Ok(object) => {
                    failing = false;
                    let before = *tell.borrow();
                    let after = before.after(object.as_ref().map(is_being_deleted));
                    if before != Known::There && after == Known::There {
                        tracing::info!(what, name, "is there");
                    }
                    if tell.send_replace(after) != after && after == Known::Going {
                        tracing::warn!(what, name, "deleted: this agent will leave nothing behind");
                    }
                }
                // Once is enough, until it was seen again.
                Err(error) if !failing => {
                    failing = true;
                    tracing::warn!(what, name, %error, "not followed for now; its deletion may go unnoticed");
                }
                Err(error) => tracing::debug!(what, name, %error, "not followed"),
            }
        }
    };
    token.run_until_cancelled(watched).await;
    // The stream goes on for ever; should it end, what is known stays.
    token.cancelled().await;
    Ok(())
}

fn is_being_deleted<K: Resource>(object: &K) -> bool {
    object.meta().deletion_timestamp.is_some()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{Request, Response, StatusCode};
    use kube::client::Body;

    use super::*;

    #[test]
    fn only_what_was_there_can_go() {
        use Known::{Going, Never, There};
        for (before, look, after) in [
            (Never, None, Never),
            (Never, Some(false), There),
            (Never, Some(true), Going),
            (There, Some(false), There),
            (There, Some(true), Going),
            (There, None, Going),
            (Going, None, Going),
            // Made anew under the same name: it adopts the agents that run.
            (Going, Some(false), There),
        ] {
            assert_eq!(before.after(look), after, "{before:?} {look:?}");
        }
    }

    /// An API server that answers every request alike.
    fn followed(known: Known, status: StatusCode, body: &'static str) -> Followed<DaemonSet> {
        let service = tower::service_fn(move |_: Request<Body>| async move {
            let mut answer = Response::new(Body::from(body.as_bytes().to_vec()));
            *answer.status_mut() = status;
            Ok::<_, Infallible>(answer)
        });
        let client = Client::new(service, "culvert-system");
        let (_, known) = watch::channel(known);
        Followed { api: Api::namespaced(client, "culvert-system"), name: "a".into(), known }
    }

    const FORBIDDEN: &str = r#"{"kind": "Status", "apiVersion": "v1", "metadata": {},
        "status": "Failure", "message": "no", "reason": "Forbidden", "code": 403}"#;
    const NOT_FOUND: &str = r#"{"kind": "Status", "apiVersion": "v1", "metadata": {},
        "status": "Failure", "message": "no", "reason": "NotFound", "code": 404}"#;
    const THERE: &str = r#"{"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
        "metadata": {"name": "a", "uid": "u"}}"#;
    const DELETED: &str = r#"{"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
        "metadata": {"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z"}}"#;

    #[tokio::test]
    async fn last_word_counts_and_an_error_is_none() {
        for (known, status, body, going) in [
            (Known::There, StatusCode::NOT_FOUND, NOT_FOUND, true),
            (Known::There, StatusCode::OK, DELETED, true),
            (Known::There, StatusCode::OK, THERE, false),
            (Known::There, StatusCode::FORBIDDEN, FORBIDDEN, false),
            (Known::There, StatusCode::UNAUTHORIZED, FORBIDDEN, false),
            (Known::There, StatusCode::INTERNAL_SERVER_ERROR, "", false),
            (Known::Never, StatusCode::NOT_FOUND, NOT_FOUND, false),
            (Known::Going, StatusCode::FORBIDDEN, FORBIDDEN, true),
        ] {
            let is = followed(known, status, body).is_going().await;
            assert_eq!(is, going, "{known:?} {status} {body}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn api_server_that_does_not_answer_keeps_nobody_waiting() {
        let service = tower::service_fn(|_: Request<Body>| async {
            std::future::pending::<Result<Response<Body>, Infallible>>().await
        });
        let api = Api::namespaced(Client::new(service, "n"), "n");
        let (_, known) = watch::channel(Known::There);
        let followed = Followed::<DaemonSet> { api, name: "a".into(), known };
        assert!(!followed.is_going().await);
    }
}
