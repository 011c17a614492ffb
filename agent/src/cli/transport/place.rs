//! [`Place`]: where one agent is asked, and how to get there.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use futures_util::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Portforwarder;
use kube::{Api, Client};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::error::AgentError;

/// Port of the agents' admin server in their pods, on loopback.
pub(super) const ADMIN_PORT: u16 = 15000;

/// Where one agent is asked.
#[derive(Clone)]
pub(super) enum Place {
    /// On this node.
    Socket(PathBuf),
    /// Wherever somebody forwards a port.
    Address(SocketAddr),
    /// In its pod, by way of the API server.
    Pod(PodPlace),
}

/// An agent's pod.
#[derive(Clone)]
pub(super) struct PodPlace {
    pub(super) client: Client,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) node: String,
    /// What keeps it from being asked, such as `Pending`.
    pub(super) not_ready: Option<String>,
}

/// Bytes to and from an agent.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection to an agent.
pub(super) struct Dialled {
    pub(super) stream: Box<dyn Stream>,
    /// What the kubelet says when it cannot go on.
    pub(super) complaint: Option<BoxFuture<'static, Option<String>>>,
    /// Its task carries the bytes; stopped with the connection.
    _forwarder: Option<Forwarding>,
}

struct Forwarding(Portforwarder);

impl Drop for Forwarding {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Place {
    /// Connects. Bounded by the caller.
    pub(super) async fn dial(&self) -> Result<Dialled, AgentError> {
        let stream: Box<dyn Stream> = match self {
            Self::Socket(path) => {
                Box::new(UnixStream::connect(path).await.map_err(|error| self.not_reached(error))?)
            }
            Self::Address(address) => {
                let stream = TcpStream::connect(address).await;
                Box::new(stream.map_err(|error| self.not_reached(error))?)
            }
            Self::Pod(pod) => return pod.dial(self).await,
        };
        Ok(Dialled { stream, complaint: None, _forwarder: None })
    }

    /// Name of the node, where it is known before the agent says it.
    pub(super) fn node(&self) -> Option<&str> {
        match self {
            Self::Pod(pod) => Some(&pod.node),
            Self::Socket(_) | Self::Address(_) => None,
        }
    }

    fn not_reached(&self, source: io::Error) -> AgentError {
        let place = self.to_string();
        if source.kind() == io::ErrorKind::PermissionDenied {
            AgentError::NotPermitted { place, source }
        } else {
            AgentError::NotRunning { place, source }
        }
    }
}

impl PodPlace {
    async fn dial(&self, place: &Place) -> Result<Dialled, AgentError> {
        if let Some(phase) = &self.not_ready {
            let phase = phase.clone();
            return Err(AgentError::NotReady { place: place.to_string(), phase });
        }
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut forwarder =
            pods.portforward(&self.name, &[ADMIN_PORT]).await.map_err(|source| {
                AgentError::Forward { place: place.to_string(), source: Box::new(source) }
            })?;
        let complaint = forwarder.take_error(ADMIN_PORT);
        let Some(stream) = forwarder.take_stream(ADMIN_PORT) else {
            // It was asked for, and is taken once; yet a library's promise is no invariant of ours.
            let complaint = "the connection has no stream".to_owned();
            return Err(AgentError::Forwarded { place: place.to_string(), complaint });
        };
        Ok(Dialled {
            stream: Box::new(stream),
            complaint: complaint.map(|complaint| Box::pin(complaint) as BoxFuture<'static, _>),
            _forwarder: Some(Forwarding(forwarder)),
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => path.display().fmt(f),
            Self::Address(address) => address.fmt(f),
            Self::Pod(pod) => write!(f, "pod {}/{} of node {}", pod.namespace, pod.name, pod.node),
        }
    }
}
