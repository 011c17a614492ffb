//! Why a flow could not be carried, or not to its end.

use std::{io, sync::Arc};

use super::hbone::Refused;
use crate::{identity::handshake::HandshakeError, observe::Reason};

/// Why a flow did not come about, or was cut.
///
/// Cheap to clone: all flows that waited for one connection attempt share its error.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The application, or the other node, could not be connected to.
    #[error("cannot connect to {to}")]
    Connect {
        /// Address and port.
        to: std::net::SocketAddr,
        /// What the kernel said.
        #[source]
        source: Arc<io::Error>,
    },
    /// The TLS handshake with the other node failed.
    #[error("no mutual TLS with {to}")]
    Handshake {
        /// Address and port.
        to: std::net::SocketAddr,
        /// Which check failed.
        #[source]
        source: Arc<HandshakeError>,
    },
    /// The HTTP/2 connection could not be opened, or ended before the flow had begun.
    #[error("the HBONE connection to {to} failed")]
    Http2 {
        /// Address and port.
        to: std::net::SocketAddr,
        /// What HTTP/2 said.
        #[source]
        source: Arc<h2::Error>,
    },
    /// The other end answered the CONNECT with a refusal.
    #[error("{to} refused the flow with status {status}; its log names the reason")]
    Refused {
        /// Address and port.
        to: std::net::SocketAddr,
        /// What it means.
        refused: Refused,
        /// HTTP status.
        status: u16,
    },
    /// The other end did not answer the CONNECT in time.
    #[error("{to} did not answer in time")]
    NoAnswer {
        /// Address and port.
        to: std::net::SocketAddr,
    },
    /// A limit of ours was reached; see `tunnel` in the configuration.
    #[error("limit `{limit}` reached; see `tunnel` in the configuration")]
    Limit {
        /// Name of the limit.
        limit: &'static str,
    },
    /// The application reset its connection.
    #[error("the application reset its connection")]
    ApplicationReset,
    /// The far end reset the stream, or its connection ended while the flow ran.
    #[error("the far end reset the flow")]
    PeerReset,
    /// The far end answered no PING: it, its node or the network between is gone.
    #[error("the far end is gone: it answered no PING in time")]
    PeerGone,
    /// A root that one end's certificate rests on was revoked.
    #[error(
        "a root certificate that the connection rested on was revoked; new flows use new certificates"
    )]
    RootRevoked,
    /// The agent is stopping and the flow did not end in the time given.
    #[error("the agent is stopping and the flow did not end within `tunnel.drainTimeout`")]
    Draining,
}

impl StreamError {
    /// The reason for metrics, log and answer.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Connect { source, .. } => connect_reason(source),
            Self::Handshake { source, .. } => source.reason(),
            Self::Http2 { .. } => Reason::H2Handshake,
            Self::Refused { refused: Refused::BadRequest, .. } => Reason::WrongDestination,
            Self::Refused { refused: Refused::Denied, .. } => Reason::PolicyDenied,
            Self::Refused { refused: Refused::Unavailable, .. } => Reason::ConnectFailed,
            Self::NoAnswer { .. } => Reason::ConnectTimedOut,
            Self::Limit { .. } => Reason::LimitReached,
            Self::ApplicationReset => Reason::ApplicationReset,
            Self::PeerReset => Reason::PeerReset,
            Self::PeerGone => Reason::PeerGone,
            Self::RootRevoked => Reason::RootRevoked,
            Self::Draining => Reason::Draining,
        }
    }

    /// A failed `connect(2)`.
    pub fn connect(to: std::net::SocketAddr, source: io::Error) -> Self {
        Self::Connect { to, source: Arc::new(source) }
    }
}

fn connect_reason(error: &io::Error) -> Reason {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Reason::ConnectRefused,
        io::ErrorKind::TimedOut => Reason::ConnectTimedOut,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            Reason::ConnectUnreachable
        }
        _ => Reason::ConnectFailed,
    }
}
