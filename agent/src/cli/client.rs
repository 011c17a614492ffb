//! One request to the agent's admin socket, with a deadline.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::error::CliError;
use crate::admin::model::{Export, Identities, Refusal};

/// Longest a command waits for the agent.
const DEADLINE: Duration = Duration::from_secs(10);
/// Largest answer read: a thousand identities with their users take under one MiB.
const ANSWER_BYTES: usize = 16 << 20;

/// Asks one agent.
pub(super) struct Client {
    socket: PathBuf,
    runtime: tokio::runtime::Runtime,
}

impl Client {
    pub(super) fn new(socket: PathBuf) -> Result<Self, CliError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(CliError::Runtime)?;
        Ok(Self { socket, runtime })
    }

    /// Every identity, as the agent wrote it.
    pub(super) fn identities_json(&self) -> Result<String, CliError> {
        let mut text = self.text(Method::GET, "/certs")?;
        text.push('\n');
        Ok(std::mem::take(&mut *text))
    }

    /// Every identity.
    pub(super) fn identities(&self) -> Result<Identities, CliError> {
        let text = self.text(Method::GET, "/certs")?;
        serde_json::from_str(&text).map_err(|source| self.not_understood(Some(source)))
    }

    /// The certificate of `id` and what issued it, PEM.
    pub(super) fn chain(&self, id: &str) -> Result<String, CliError> {
        let mut text = self.text(Method::GET, &format!("/certs/{id}"))?;
        Ok(std::mem::take(&mut *text))
    }

    /// The root certificates, PEM.
    pub(super) fn roots(&self) -> Result<String, CliError> {
        let mut text = self.text(Method::GET, "/roots")?;
        Ok(std::mem::take(&mut *text))
    }

    /// Everything of `id`, with its private key.
    pub(super) fn export(&self, id: &str) -> Result<Export, CliError> {
        let text = self.text(Method::POST, &format!("/certs/{id}/export"))?;
        serde_json::from_str(&text).map_err(|source| self.not_understood(Some(source)))
    }

    /// The body of a good answer. Overwritten when dropped: it may hold a key.
    fn text(&self, method: Method, path: &str) -> Result<Zeroizing<String>, CliError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, "localhost")
            .body(Empty::<Bytes>::new())
            .map_err(|_| CliError::Identity { id: path.to_owned() })?;
        let (status, body) = self.runtime.block_on(async {
            timeout(DEADLINE, self.send(request)).await.unwrap_or_else(|_| {
                Err(CliError::TimedOut { socket: self.socket.clone(), seconds: DEADLINE.as_secs() })
            })
        })?;
        if status == StatusCode::OK {
            return Ok(body);
        }
        match serde_json::from_str::<Refusal>(&body) {
            Ok(Refusal { error, known }) => Err(CliError::Refused { error, known }),
            Err(source) => Err(self.not_understood(Some(source))),
        }
    }

    async fn send(
        &self,
        request: Request<Empty<Bytes>>,
    ) -> Result<(StatusCode, Zeroizing<String>), CliError> {
        let broken = |source| CliError::Broken { socket: self.socket.clone(), source };
        let stream =
            UnixStream::connect(&self.socket).await.map_err(|error| self.not_reached(error))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(broken)?;
            let status = answer.status();
            // Over the bound counts as not understood; nothing of ours is that large.
            let body = Limited::new(answer.into_body(), ANSWER_BYTES)
                .collect()
                .await
                .map_err(|_| self.not_understood(None))?;
            let text = String::from_utf8(body.to_bytes().to_vec())
                .map_err(|_| self.not_understood(None))?;
            Ok((status, Zeroizing::new(text)))
        };
        tokio::pin!(exchange);
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

    fn not_reached(&self, source: io::Error) -> CliError {
        let socket = self.socket.clone();
        if source.kind() == io::ErrorKind::PermissionDenied {
            CliError::NotPermitted { socket, source }
        } else {
            CliError::NotRunning { socket, source }
        }
    }

    fn not_understood(&self, source: Option<serde_json::Error>) -> CliError {
        CliError::Answer { socket: self.socket.clone(), source }
    }
}
