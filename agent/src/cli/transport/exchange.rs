//! One request to one agent, with a deadline.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::error::AgentError;
use super::place::{Dialled, Place};
use crate::admin::model::Refusal;

/// Longest a command waits for an agent, when the question does not say otherwise.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long it is waited for what the kubelet has to say of a connection that broke.
const COMPLAINT: Duration = Duration::from_millis(500);
/// Largest answer read: the dump of ten thousand workloads takes a quarter of it.
const ANSWER_BYTES: usize = 64 << 20;

/// A question to an agent.
#[derive(Clone, Debug)]
pub struct Ask {
    method: Method,
    path: String,
    body: Bytes,
    deadline: Duration,
}

impl Ask {
    /// `GET path`; the path begins with `/` and has its query.
    pub fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), body: Bytes::new(), deadline: DEADLINE }
    }

    /// `POST path` without a body.
    pub fn post(path: impl Into<String>) -> Self {
        Self { method: Method::POST, ..Self::get(path) }
    }

    /// The same with a body of JSON.
    #[must_use]
    pub fn json(mut self, body: &impl serde::Serialize) -> Self {
        // What is sent are plain structs and maps with texts as keys, whose writing cannot fail.
        self.body = serde_json::to_vec(body).unwrap_or_default().into();
        self
    }

    /// The same, waited for longer or less long than usual.
    #[must_use]
    pub fn within(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The body of a good answer. Overwritten when dropped: it may hold a key.
    pub(super) async fn of(&self, place: &Place) -> Result<Zeroizing<String>, AgentError> {
        let at = || place.to_string();
        let timed = timeout(self.deadline, async {
            let mut dialled = place.dial().await?;
            let Some(complaint) = dialled.complaint.take() else {
                return self.send(&mut dialled, place).await;
            };
            let mut complaint = std::pin::pin!(complaint);
            let complained = {
                let mut answer = std::pin::pin!(self.send(&mut dialled, place));
                tokio::select! {
                    // An answer that is there counts, whatever became of its connection.
                    biased;
                    answer = &mut answer => match answer {
                        // Why it broke is said on another channel, perhaps a moment later.
                        Err(broken @ AgentError::Broken { .. }) => {
                            let why = timeout(COMPLAINT, complaint).await;
                            why.ok().flatten().ok_or(broken)?
                        }
                        answer => return answer,
                    },
                    complained = &mut complaint => match complained {
                        Some(complained) => complained,
                        None => return answer.await,
                    },
                }
            };
            Err(AgentError::Forwarded { place: at(), complaint: complained.trim().to_owned() })
        });
        let (status, body) = timed.await.unwrap_or_else(|_| {
            Err(AgentError::TimedOut { place: at(), seconds: self.deadline.as_secs() })
        })?;
        if status == StatusCode::OK {
            return Ok(body);
        }
        match serde_json::from_str::<Refusal>(&body) {
            Ok(Refusal { error, known }) => Err(AgentError::Refused { error, known }),
            Err(source) => Err(AgentError::Answer { place: at(), source: Some(source) }),
        }
    }

    async fn send(
        &self,
        dialled: &mut Dialled,
        place: &Place,
    ) -> Result<(StatusCode, Zeroizing<String>), AgentError> {
        let request = Request::builder()
            .method(self.method.clone())
            .uri(&self.path)
            .header(http::header::HOST, "localhost")
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Full::new(self.body.clone()))
            .map_err(|_| AgentError::Path { path: self.path.clone() })?;
        let broken = |source| AgentError::Broken { place: place.to_string(), source };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(&mut dialled.stream))
                .await
                .map_err(broken)?;
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(broken)?;
            let status = answer.status();
            // Over the bound counts as not understood; nothing of ours is that large.
            let not_understood = || AgentError::Answer { place: place.to_string(), source: None };
            let body = Limited::new(answer.into_body(), ANSWER_BYTES)
                .collect()
                .await
                .map_err(|_| not_understood())?;
            let text = String::from_utf8(body.to_bytes().to_vec()).map_err(|_| not_understood())?;
            Ok((status, Zeroizing::new(text)))
        };
        let mut exchange = std::pin::pin!(exchange);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            // The answer may be there in the same moment as the end of the connection.
            biased;
            done = &mut exchange => done,
            ended = &mut connection => match ended {
                Ok(()) => exchange.await,
                Err(source) => Err(broken(source)),
            },
        }
    }
}
