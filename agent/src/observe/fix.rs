//! What a person can do about a flow that failed.

use super::reason::Reason;

impl Reason {
    /// What to do about it, in one sentence; nothing where there is nothing to mend.
    ///
    /// The log, the Event on the pod and `culvert explain` say the same. No wildcard arm, so that
    /// a new reason must be thought about. `docs/troubleshooting.md` has the long form.
    pub const fn fix(self) -> Option<&'static str> {
        Some(match self {
            Self::Ok
            | Self::PeerReset
            | Self::ApplicationReset
            | Self::Draining
            | Self::PolicyChanged
            | Self::RootRevoked
            | Self::Abandoned => return None,
            Self::PolicyDenied => {
                "add the caller to a rule with action ALLOW, or take away the DENY rule that is \
                 named; at the source, the destination's log names the policy"
            }
            Self::PlaintextRefused => {
                "enrol the source: label its namespace or pod istio.io/dataplane-mode=ambient; or \
                 let the PeerAuthentication that is named allow PERMISSIVE"
            }
            Self::IllegalPort => {
                "connect to a port of the application, not to 15001, 15006 or 15008"
            }
            Self::NoEndpoint => {
                "see why no pod behind the Service is ready: kubectl get endpointslices, kubectl \
                 describe pod"
            }
            Self::ConnectRefused => {
                "start a server on that port, or mend the targetPort of the Service"
            }
            Self::ConnectTimedOut => {
                "let TCP 15008 through between pods: NetworkPolicies, firewalls, security groups; \
                 and see that the destination's node is up"
            }
            Self::ConnectUnreachable => "mend the route from this node to the destination",
            Self::ConnectFailed => "read the error, and the log of the destination's agent",
            Self::NoCertificate => {
                "enrol the source, so that its agent shows a certificate for it; whoever calls \
                 port 15008 by itself is no member of the mesh"
            }
            Self::CertificateExpired => {
                "see why the peer's agent could not renew (culvert certs on its node, \
                 culvert_identity_authority_reachable), and compare the clocks of both nodes"
            }
            Self::CertificateNotYetValid => {
                "set the clocks: this node's is behind, or the authority's is ahead (chronyc \
                 tracking, timedatectl)"
            }
            Self::UnknownIssuer => {
                "give both nodes the same authority and trust bundle: compare \
                 culvert_identity_bundle_sequence and culvert certs show --root"
            }
            Self::BadCertificate => {
                "see who issued it (culvert certs show on the peer's node): only certificates of \
                 the mesh's authority pass"
            }
            Self::WrongTrustDomain => "set the same trustDomain for all agents and the authority",
            Self::BadSan => {
                "see who issued it: a workload's certificate has exactly one SPIFFE ID, \
                 spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT"
            }
            Self::UnexpectedIdentity => {
                "see who has the destination's address now (culvert workloads): a pod that is \
                 gone, an address given to two, or another serviceAccount than is known"
            }
            Self::TlsProtocol => {
                "see what listens on port 15008 there: it must be an agent of the mesh that \
                 speaks TLS 1.3"
            }
            Self::HandshakeTimeout => {
                "look for packet loss or an overloaded node between the two (MTU, CPU of the \
                 destination's agent)"
            }
            Self::H2Handshake => {
                "read the log of the other node's agent: it refused this side's certificate"
            }
            Self::H2Protocol | Self::BadRequest => {
                "see what runs on the other side: it must be an agent of the mesh of a version \
                 that speaks HBONE"
            }
            Self::WrongDestination => {
                "see why the source takes this address for that workload: its list of workloads \
                 is old, or the address changed hands"
            }
            Self::NoIdentity => {
                "see whether this node reaches the authority and what it answers: culvert \
                 status, culvert_identity_authority_reachable, and the audit of the authority"
            }
            Self::NoOriginalDestination => {
                "see culvert_capture_events_total; connections straight to port 15001 have no \
                 destination"
            }
            Self::LimitReached => {
                "see culvert_tunnel_limit_reached_total for the limit, and raise it or spread \
                 the load"
            }
            Self::PeerGone => "see whether the destination's node and its agent are up",
        })
    }

    /// The `reason` of the Kubernetes Event on the local pod; none for what is no concern of its
    /// owner, or is daily bread.
    pub const fn event(self) -> Option<&'static str> {
        Some(match self {
            Self::Ok
            | Self::IllegalPort
            | Self::ConnectRefused
            | Self::ConnectUnreachable
            | Self::ConnectFailed
            | Self::H2Protocol
            | Self::BadRequest
            | Self::NoOriginalDestination
            | Self::PeerReset
            | Self::ApplicationReset
            | Self::PeerGone
            | Self::Draining
            | Self::PolicyChanged
            | Self::RootRevoked
            | Self::Abandoned => return None,
            Self::PolicyDenied => "PolicyDenied",
            Self::PlaintextRefused => "PlaintextRefused",
            Self::NoEndpoint => "NoEndpoint",
            Self::ConnectTimedOut => "ConnectTimedOut",
            Self::NoCertificate => "NoPeerCertificate",
            Self::CertificateExpired => "PeerCertificateExpired",
            Self::CertificateNotYetValid => "PeerCertificateNotYetValid",
            Self::UnknownIssuer | Self::WrongTrustDomain => "PeerNotTrusted",
            Self::BadCertificate | Self::BadSan => "BadPeerCertificate",
            Self::UnexpectedIdentity => "NoMatchingSan",
            Self::TlsProtocol | Self::HandshakeTimeout | Self::H2Handshake => "HandshakeFailed",
            Self::WrongDestination => "WrongDestination",
            Self::NoIdentity => "NoIdentity",
            Self::LimitReached => "LimitReached",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_that_somebody_can_mend_says_how() {
        for reason in Reason::ALL {
            let Some(fix) = reason.fix() else { continue };
            assert!(reason.is_failure(), "{reason:?}");
            assert!(fix.starts_with(|first: char| first.is_ascii_lowercase()), "{fix}");
            assert!(!fix.ends_with('.') && fix.len() < 200 && !fix.contains("  "), "{fix}");
        }
        for reason in Reason::ALL {
            if let Some(event) = reason.event() {
                assert!(reason.fix().is_some(), "{event} says how to mend it");
                assert!(event.bytes().all(|b| b.is_ascii_alphabetic()), "{event}");
            }
        }
        for classic in [
            Reason::PolicyDenied,
            Reason::PlaintextRefused,
            Reason::NoCertificate,
            Reason::CertificateExpired,
            Reason::CertificateNotYetValid,
            Reason::UnexpectedIdentity,
            Reason::NoIdentity,
        ] {
            assert!(classic.event().is_some(), "{classic:?}");
        }
    }
}
