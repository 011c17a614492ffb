//! The mutual TLS handshake of a tunnel, as server and as client.

use std::io;
use std::time::{Duration, Instant};

use culvert_spiffe::{SpiffeId, VerifiedPeer, VerifyError};
use rustls::AlertDescription;
use rustls::pki_types::{ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::Svid;
use super::tls::ALPN;
use super::verifier::{Verdict, with_verdict};
use crate::observe::Reason;

/// Longest a handshake may take, from the first byte to the last.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// Which end of the handshake we were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// We accepted the connection.
    Server,
    /// We opened it.
    Client,
}

impl Role {
    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
        }
    }
}

/// Why no tunnel connection came to be.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The peer's certificate was refused; the source says why.
    #[error("{local} did not believe its peer")]
    Peer {
        /// Our own identity.
        local: SpiffeId,
        /// What was wrong with the peer.
        #[source]
        source: VerifyError,
    },
    /// The peer refused us.
    #[error(
        "peer refused {local} with TLS alert {alert:?}: {}; its log says more", meaning(*.alert)
    )]
    Refused {
        /// Our own identity.
        local: SpiffeId,
        /// What it said.
        alert: AlertDescription,
    },
    /// The handshake did not end in time.
    #[error(
        "TLS handshake of {local} did not end within {} s; \
         check that the peer is up and that nothing drops packets between", HANDSHAKE_DEADLINE.as_secs()
    )]
    TimedOut {
        /// Our own identity.
        local: SpiffeId,
    },
    /// The peer broke the protocol, or does not speak it.
    #[error("peer of {local} does not speak mutual TLS 1.3; check what listens there")]
    Protocol {
        /// Our own identity.
        local: SpiffeId,
        /// The TLS library's account.
        #[source]
        source: rustls::Error,
    },
    /// The peer agreed on no protocol inside TLS.
    #[error("peer of {local} did not agree on ALPN `h2`; only HBONE over HTTP/2 is spoken here")]
    NotHttp2 {
        /// Our own identity.
        local: SpiffeId,
    },
    /// The connection broke under the handshake.
    #[error("connection broke during the TLS handshake of {local}; check that the peer is up")]
    Io {
        /// Our own identity.
        local: SpiffeId,
        /// The socket's account.
        #[source]
        source: io::Error,
    },
    /// Our own certificate is over; nothing was sent.
    #[error(
        "certificate of {local} has expired and was not renewed; \
         check that this node reaches the authority at `ca.address`"
    )]
    OwnExpired {
        /// Our own identity.
        local: SpiffeId,
    },
}

impl HandshakeError {
    /// The reason under which this end is counted and logged.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Peer { source, .. } => peer_reason(source),
            Self::Refused { .. } | Self::Protocol { .. } | Self::NotHttp2 { .. } => {
                Reason::TlsProtocol
            }
            Self::TimedOut { .. } => Reason::HandshakeTimeout,
            Self::Io { .. } => Reason::PeerReset,
            Self::OwnExpired { .. } => Reason::NoIdentity,
        }
    }
}

/// What a peer that refuses us means, as far as TLS can say.
fn meaning(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::CertificateExpired => {
            "our certificate is over or not valid yet by the peer's clock; compare both clocks"
        }
        AlertDescription::UnknownCA => {
            "it does not know the root of our certificate; give both nodes the same root-cert.pem"
        }
        AlertDescription::AccessDenied => {
            "it expected another identity here; compare both nodes' view of the mesh"
        }
        AlertDescription::CertificateRequired => "it wants a certificate and got none",
        AlertDescription::BadCertificate | AlertDescription::UnsupportedCertificate => {
            "our certificate is not one of a workload; look at it with `culvert certs show`"
        }
        _ => "compare both nodes' clocks and root-cert.pem",
    }
}

fn peer_reason(error: &VerifyError) -> Reason {
    match error {
        VerifyError::NoCertificate => Reason::NoCertificate,
        VerifyError::NoSpiffeId { .. }
        | VerifyError::ManySpiffeIds { .. }
        | VerifyError::InvalidSpiffeId { .. } => Reason::BadSan,
        VerifyError::ForeignTrustDomain { .. } => Reason::WrongTrustDomain,
        VerifyError::UnexpectedIdentity { .. } => Reason::UnexpectedIdentity,
        VerifyError::Expired { .. } | VerifyError::IssuerOutsideDates { .. } => {
            Reason::CertificateExpired
        }
        VerifyError::NotYetValid { .. } => Reason::CertificateNotYetValid,
        VerifyError::UnknownIssuer { .. } => Reason::UnknownIssuer,
        VerifyError::ChainTooLarge { .. }
        | VerifyError::Malformed { .. }
        | VerifyError::ExtendedKeyUsage { .. }
        | VerifyError::KeyUsage { .. }
        | VerifyError::LeafIsCa { .. }
        | VerifyError::Path { .. } => Reason::BadCertificate,
    }
}

/// Accepts a tunnel connection for the workload of `svid`.
///
/// The peer must prove an identity of our own trust domain; whether it may talk to the workload
/// is policy's to say. Bounded by [`HANDSHAKE_DEADLINE`]. When dropped halfway, `io` is dropped.
pub async fn accept<IO>(
    svid: &Svid,
    io: IO,
) -> Result<(server::TlsStream<IO>, VerifiedPeer), HandshakeError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let began = Instant::now();
    let result = accept_uncounted(svid, io).await;
    count(svid, Role::Server, result.as_ref().err(), began.elapsed());
    result
}

/// Opens a tunnel connection as the workload of `svid` to a peer that must be `expected`.
///
/// TLS 1.3 ends here before the server has looked at our certificate: its refusal arrives at the
/// first read. Bounded by [`HANDSHAKE_DEADLINE`]. When dropped halfway, `io` is dropped.
pub async fn connect<IO>(
    svid: &Svid,
    expected: &SpiffeId,
    io: IO,
) -> Result<(client::TlsStream<IO>, VerifiedPeer), HandshakeError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let began = Instant::now();
    let result = connect_uncounted(svid, expected, io).await;
    count(svid, Role::Client, result.as_ref().err(), began.elapsed());
    result
}

async fn accept_uncounted<IO>(
    svid: &Svid,
    io: IO,
) -> Result<(server::TlsStream<IO>, VerifiedPeer), HandshakeError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let local = svid.id();
    refuse_if_expired(svid)?;
    let handshake = TlsAcceptor::from(svid.server.clone()).accept(io);
    let (ended, verdict) = with_verdict(timeout(HANDSHAKE_DEADLINE, handshake)).await;
    let stream = match ended {
        Err(_) => return Err(HandshakeError::TimedOut { local: local.clone() }),
        Ok(Err(error)) => return Err(classify(local, error, verdict)),
        Ok(Ok(stream)) => stream,
    };
    require_http2(local, stream.get_ref().1.alpn_protocol())?;
    Ok((stream, proof(local, verdict)?))
}

async fn connect_uncounted<IO>(
    svid: &Svid,
    expected: &SpiffeId,
    io: IO,
) -> Result<(client::TlsStream<IO>, VerifiedPeer), HandshakeError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let local = svid.id();
    refuse_if_expired(svid)?;
    let (config, verifier) = svid.client_for(expected);
    let stream = timeout(HANDSHAKE_DEADLINE, TlsConnector::from(config).connect(no_name(), io))
        .await
        .map_err(|_| HandshakeError::TimedOut { local: local.clone() })?
        .map_err(|error| classify(local, error, verifier.verdict()))?;
    require_http2(local, stream.get_ref().1.alpn_protocol())?;
    Ok((stream, proof(local, verifier.verdict())?))
}

/// The proof of a handshake that ended well. Without a verdict nobody was verified.
fn proof(local: &SpiffeId, verdict: Option<Verdict>) -> Result<VerifiedPeer, HandshakeError> {
    verdict
        .unwrap_or(Err(VerifyError::NoCertificate))
        .map_err(|source| HandshakeError::Peer { local: local.clone(), source })
}

/// The name rustls wants and nobody reads: SNI is off, and peers are verified by SPIFFE ID.
pub(crate) fn no_name() -> ServerName<'static> {
    ServerName::IpAddress(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED).into())
}

fn refuse_if_expired(svid: &Svid) -> Result<(), HandshakeError> {
    if svid.is_expired(UnixTime::now()) {
        return Err(HandshakeError::OwnExpired { local: svid.id().clone() });
    }
    Ok(())
}

fn require_http2(local: &SpiffeId, agreed: Option<&[u8]>) -> Result<(), HandshakeError> {
    if agreed == Some(ALPN) {
        return Ok(());
    }
    Err(HandshakeError::NotHttp2 { local: local.clone() })
}

/// Says why a handshake failed: our verifier's refusal, if it was that, else what `tokio_rustls`
/// packs into an `io::Error`.
pub(crate) fn classify(
    local: &SpiffeId,
    error: io::Error,
    verdict: Option<Verdict>,
) -> HandshakeError {
    let local = local.clone();
    if let Some(Err(source)) = verdict {
        return HandshakeError::Peer { local, source };
    }
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return HandshakeError::Io { local, source: error };
    };
    match tls {
        rustls::Error::NoCertificatesPresented => {
            HandshakeError::Peer { local, source: VerifyError::NoCertificate }
        }
        rustls::Error::NoApplicationProtocol
        | rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
            HandshakeError::NotHttp2 { local }
        }
        rustls::Error::AlertReceived(alert) => HandshakeError::Refused { local, alert: *alert },
        other => HandshakeError::Protocol { local, source: other.clone() },
    }
}

fn count(svid: &Svid, role: Role, error: Option<&HandshakeError>, took: Duration) {
    let reason = error.map_or(Reason::Ok, HandshakeError::reason);
    svid.profile.metrics.handshake(role, reason, took);
}

#[cfg(test)]
mod tests;
