//! Why a flow ended, or never began.

use std::fmt;

/// Why a flow ended or was refused.
///
/// A closed set: one value is at once the `reason` label of `culvert_flow_failures_total`, the
/// field of the access log, Istio's `response_flags` and the status of a refused HBONE request.
/// Every mapping below is total and has no wildcard arm, so that a new variant must be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// Both ends finished cleanly.
    Ok,
    /// An authorization rule refused the peer.
    PolicyDenied,
    /// Plaintext arrived where a PeerAuthentication demands mutual TLS.
    PlaintextRefused,
    /// The destination port is one that proxies listen on, which would loop.
    IllegalPort,
    /// The destination is a Service and nothing stands behind it.
    NoEndpoint,
    /// The destination answered the connect with a reset.
    ConnectRefused,
    /// The destination did not answer in time.
    ConnectTimedOut,
    /// No route to the destination, or an ICMP error said so.
    ConnectUnreachable,
    /// Connecting failed in another way; the error says how.
    ConnectFailed,
    /// The peer showed no certificate.
    NoCertificate,
    /// The peer's certificate, or one above it, is past its end.
    CertificateExpired,
    /// The peer's certificate is not valid yet: mostly a clock that is wrong.
    CertificateNotYetValid,
    /// No chain leads from the peer's certificate to the trust bundle.
    UnknownIssuer,
    /// The peer's certificate is not one of a workload: its usages, its size or its form.
    BadCertificate,
    /// The peer's SPIFFE ID belongs to another trust domain.
    WrongTrustDomain,
    /// The peer's certificate has no SPIFFE ID, several, or a malformed one.
    BadSan,
    /// The peer is somebody else than the destination that was asked for.
    UnexpectedIdentity,
    /// The TLS exchange itself failed: version, alert, garbage.
    TlsProtocol,
    /// The TLS handshake did not end in time.
    HandshakeTimeout,
    /// The HTTP/2 preface or settings exchange failed.
    H2Handshake,
    /// The peer broke the rules of HTTP/2 on an established connection.
    H2Protocol,
    /// The HBONE request is not a CONNECT with a usable authority.
    BadRequest,
    /// The HBONE authority is not an address of the workload that the connection reached.
    WrongDestination,
    /// No SVID for the local workload could be had in time.
    NoIdentity,
    /// The kernel held no original destination for the accepted connection.
    NoOriginalDestination,
    /// A configured limit was reached.
    LimitReached,
    /// The far end of the tunnel reset the stream or the connection.
    PeerReset,
    /// The local application reset its connection.
    ApplicationReset,
    /// The far end of the tunnel vanished without a word: keepalive went unanswered.
    PeerGone,
    /// The agent is stopping and the time to drain ran out.
    Draining,
    /// A change of policy or of workloads forbids what was allowed before.
    PolicyChanged,
    /// A root that one end's certificate rests on was revoked.
    RootRevoked,
    /// The agent let go of the flow before it could say how it ended.
    Abandoned,
}

/// Istio's `response_flags` label, as ztunnel writes it.
///
/// Source: istio/ztunnel `src/proxy/metrics.rs`, `ResponseFlags`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResponseFlags {
    /// Nothing to report.
    None,
    /// A policy refused the connection.
    Deny,
    /// The destination could not be connected to.
    Connect,
    /// The TLS handshake failed.
    TlsFailure,
    /// The HTTP/2 handshake failed.
    H2HandshakeFailure,
    /// No identity for the local workload.
    IdentityError,
}

impl ResponseFlags {
    /// Every value, in the order of their declaration.
    pub const ALL: [Self; 6] = [
        Self::None,
        Self::Deny,
        Self::Connect,
        Self::TlsFailure,
        Self::H2HandshakeFailure,
        Self::IdentityError,
    ];

    /// The label's text.
    pub const fn label(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::Deny => "DENY",
            Self::Connect => "CONNECT",
            Self::TlsFailure => "TLS_FAILURE",
            Self::H2HandshakeFailure => "H2_HANDSHAKE_FAILURE",
            Self::IdentityError => "IDENTITY_ERROR",
        }
    }
}

impl Reason {
    /// Every reason, in the order of their declaration.
    pub const ALL: [Self; 33] = [
        Self::Ok,
        Self::PolicyDenied,
        Self::PlaintextRefused,
        Self::IllegalPort,
        Self::NoEndpoint,
        Self::ConnectRefused,
        Self::ConnectTimedOut,
        Self::ConnectUnreachable,
        Self::ConnectFailed,
        Self::NoCertificate,
        Self::CertificateExpired,
        Self::CertificateNotYetValid,
        Self::UnknownIssuer,
        Self::BadCertificate,
        Self::WrongTrustDomain,
        Self::BadSan,
        Self::UnexpectedIdentity,
        Self::TlsProtocol,
        Self::HandshakeTimeout,
        Self::H2Handshake,
        Self::H2Protocol,
        Self::BadRequest,
        Self::WrongDestination,
        Self::NoIdentity,
        Self::NoOriginalDestination,
        Self::LimitReached,
        Self::PeerReset,
        Self::ApplicationReset,
        Self::PeerGone,
        Self::Draining,
        Self::PolicyChanged,
        Self::RootRevoked,
        Self::Abandoned,
    ];

    /// The text of the `reason` label and of the access log's field.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::PolicyDenied => "policy_denied",
            Self::PlaintextRefused => "plaintext_refused",
            Self::IllegalPort => "illegal_port",
            Self::NoEndpoint => "no_endpoint",
            Self::ConnectRefused => "connect_refused",
            Self::ConnectTimedOut => "connect_timed_out",
            Self::ConnectUnreachable => "connect_unreachable",
            Self::ConnectFailed => "connect_failed",
            Self::NoCertificate => "no_certificate",
            Self::CertificateExpired => "certificate_expired",
            Self::CertificateNotYetValid => "certificate_not_yet_valid",
            Self::UnknownIssuer => "unknown_issuer",
            Self::BadCertificate => "bad_certificate",
            Self::WrongTrustDomain => "wrong_trust_domain",
            Self::BadSan => "bad_san",
            Self::UnexpectedIdentity => "unexpected_identity",
            Self::TlsProtocol => "tls_protocol",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::H2Handshake => "h2_handshake",
            Self::H2Protocol => "h2_protocol",
            Self::BadRequest => "bad_request",
            Self::WrongDestination => "wrong_destination",
            Self::NoIdentity => "no_identity",
            Self::NoOriginalDestination => "no_original_destination",
            Self::LimitReached => "limit_reached",
            Self::PeerReset => "peer_reset",
            Self::ApplicationReset => "application_reset",
            Self::PeerGone => "peer_gone",
            Self::Draining => "draining",
            Self::PolicyChanged => "policy_changed",
            Self::RootRevoked => "root_revoked",
            Self::Abandoned => "abandoned",
        }
    }

    /// One sentence for a person, in the words that users of Istio ambient search for.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Ok => "connection complete",
            Self::PolicyDenied => "connection closed due to policy rejection",
            Self::PlaintextRefused => {
                "connection closed due to policy rejection: plaintext where mutual TLS is required"
            }
            Self::IllegalPort => "the destination port is one that the mesh itself listens on",
            Self::NoEndpoint => "the Service has no endpoint that is ready",
            Self::ConnectRefused => "the destination refused the connection",
            Self::ConnectTimedOut => {
                "connection timed out, maybe a NetworkPolicy is blocking HBONE port 15008"
            }
            Self::ConnectUnreachable => "the destination is unreachable",
            Self::ConnectFailed => "connecting to the destination failed",
            Self::NoCertificate => "the peer showed no certificate",
            Self::CertificateExpired => "the peer's certificate has expired",
            Self::CertificateNotYetValid => "the peer's certificate is not valid yet",
            Self::UnknownIssuer => "the peer's certificate was not issued by a known authority",
            Self::BadCertificate => "the peer's certificate is not fit for a workload",
            Self::WrongTrustDomain => "the peer belongs to another trust domain",
            Self::BadSan => "the peer's certificate does not carry exactly one SPIFFE ID",
            Self::UnexpectedIdentity => "no matching SAN: the peer is not the workload expected",
            Self::TlsProtocol => "the TLS exchange failed",
            Self::HandshakeTimeout => "the TLS handshake did not end in time",
            Self::H2Handshake => "the HTTP/2 handshake failed",
            Self::H2Protocol => "the peer broke the rules of HTTP/2",
            Self::BadRequest => "the HBONE request is malformed",
            Self::WrongDestination => {
                "the HBONE request names an address that is not this workload"
            }
            Self::NoIdentity => "no certificate for the local workload",
            Self::NoOriginalDestination => "the original destination is not known",
            Self::LimitReached => "a configured limit was reached",
            Self::PeerReset => "the peer reset the connection",
            Self::ApplicationReset => "the application reset the connection",
            Self::PeerGone => "the peer is gone",
            Self::Draining => "connection closed due to connection drain",
            Self::PolicyChanged => "connection closed due to policy change",
            Self::RootRevoked => {
                "connection closed because a root certificate that it rests on was revoked"
            }
            Self::Abandoned => "the agent dropped the connection",
        }
    }

    /// Istio's `response_flags` label.
    pub const fn response_flags(self) -> ResponseFlags {
        match self {
            Self::Ok
            | Self::PeerReset
            | Self::ApplicationReset
            | Self::PeerGone
            | Self::Draining
            | Self::NoOriginalDestination
            | Self::LimitReached
            | Self::H2Protocol
            | Self::BadRequest
            | Self::Abandoned => ResponseFlags::None,
            Self::PolicyDenied
            | Self::PlaintextRefused
            | Self::IllegalPort
            | Self::WrongDestination
            | Self::PolicyChanged => ResponseFlags::Deny,
            Self::NoEndpoint
            | Self::ConnectRefused
            | Self::ConnectTimedOut
            | Self::ConnectUnreachable
            | Self::ConnectFailed => ResponseFlags::Connect,
            Self::NoCertificate
            | Self::CertificateExpired
            | Self::CertificateNotYetValid
            | Self::UnknownIssuer
            | Self::BadCertificate
            | Self::WrongTrustDomain
            | Self::BadSan
            | Self::UnexpectedIdentity
            | Self::TlsProtocol
            | Self::HandshakeTimeout
            | Self::RootRevoked => ResponseFlags::TlsFailure,
            Self::H2Handshake => ResponseFlags::H2HandshakeFailure,
            Self::NoIdentity => ResponseFlags::IdentityError,
        }
    }

    /// The HTTP status that answers a CONNECT refused for this reason; 200 for [`Reason::Ok`].
    ///
    /// Source: istio/ztunnel `src/proxy/inbound.rs`: 400 for a bad request or a foreign address,
    /// 401 for a refusal by policy, 503 for what could not be reached.
    pub const fn hbone_status(self) -> u16 {
        match self {
            Self::Ok => 200,
            Self::BadRequest | Self::WrongDestination | Self::IllegalPort => 400,
            Self::PolicyDenied | Self::PlaintextRefused | Self::PolicyChanged => 401,
            Self::NoEndpoint
            | Self::ConnectRefused
            | Self::ConnectTimedOut
            | Self::ConnectUnreachable
            | Self::ConnectFailed
            | Self::NoCertificate
            | Self::CertificateExpired
            | Self::CertificateNotYetValid
            | Self::UnknownIssuer
            | Self::BadCertificate
            | Self::WrongTrustDomain
            | Self::BadSan
            | Self::UnexpectedIdentity
            | Self::TlsProtocol
            | Self::HandshakeTimeout
            | Self::H2Handshake
            | Self::H2Protocol
            | Self::NoIdentity
            | Self::NoOriginalDestination
            | Self::LimitReached
            | Self::PeerReset
            | Self::ApplicationReset
            | Self::PeerGone
            | Self::Draining
            | Self::RootRevoked
            | Self::Abandoned => 503,
        }
    }

    /// Whether the flow counts as failed. Only a clean end does not.
    pub const fn is_failure(self) -> bool {
        !matches!(self, Self::Ok)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn labels_are_distinct_snake_case() {
        let labels: HashSet<_> = Reason::ALL.iter().map(|reason| reason.label()).collect();
        assert_eq!(labels.len(), Reason::ALL.len());
        for label in labels {
            assert!(
                label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
                "{label}"
            );
        }
    }

    #[test]
    fn every_variant_is_listed_once_and_in_order() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index, "{reason:?}");
        }
        assert_eq!(Reason::Abandoned as usize + 1, Reason::ALL.len(), "the last variant is listed");
    }

    #[test]
    fn only_a_clean_end_answers_200_and_is_no_failure() {
        for reason in Reason::ALL {
            assert_eq!(reason.hbone_status() == 200, reason == Reason::Ok);
            assert_eq!(reason.is_failure(), reason != Reason::Ok);
        }
    }
}
