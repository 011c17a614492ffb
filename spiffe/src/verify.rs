//! [`TrustBundle::verify`]: the one place where a peer's chain becomes a proof.
//!
//! webpki builds and checks the path. It accepts two URI SANs, none at all, a missing extended key
//! usage and any key usage, so each of those is checked here by hand.

use std::time::Duration;

use rustls_pki_types::{CertificateDer, UnixTime};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::id::shown;
use crate::{RootId, SpiffeId, SpiffeIdError, TrustBundle, TrustDomain};

/// Most certificates a peer may send: a leaf, an issuing one, and room for cross-signed roots.
const MAX_CHAIN_CERTIFICATES: usize = 6;
/// Most bytes of certificates a peer may send; ours are under 1 KiB, foreign RSA ones a few.
const MAX_CHAIN_BYTES: usize = 32 * 1024;

/// Which end of the connection the peer is: decides the extended key usages it must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerRole {
    /// The peer opened the connection: it needs clientAuth.
    Client,
    /// The peer accepted the connection: it needs serverAuth.
    Server,
    /// The certificate is to serve at both ends, as every SVID does: it needs both.
    Both,
}

impl PeerRole {
    /// The usages needed, and what a person is told of a lack.
    fn usages(self) -> (bool, bool, &'static str) {
        match self {
            Self::Client => (true, false, "clientAuth"),
            Self::Server => (false, true, "serverAuth"),
            Self::Both => (true, true, "clientAuth and serverAuth"),
        }
    }
}

/// Proof that a peer's chain leads to the trust bundle. Only [`TrustBundle::verify`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedPeer {
    id: SpiffeId,
    not_after: UnixTime,
    root: RootId,
}

impl VerifiedPeer {
    /// Who the peer is.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The last second at which the peer's certificate is valid.
    pub fn not_after(&self) -> UnixTime {
        self.not_after
    }

    /// The root that the path was found to. Of several the one nearest to the leaf.
    pub fn root(&self) -> RootId {
        self.root
    }

    /// Passes the proof on when the peer is `expected`, else says who answered instead.
    pub fn expect(self, expected: &SpiffeId) -> Result<Self, VerifyError> {
        if self.id == *expected {
            return Ok(self);
        }
        Err(VerifyError::UnexpectedIdentity { expected: expected.clone(), presented: self.id })
    }
}

/// Why a peer was not believed. Each text says what to do about it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum VerifyError {
    /// The peer sent no certificate.
    #[error("peer sent no certificate; it must be a mesh member with an SVID of its own")]
    NoCertificate,
    /// The chain is over its bound, before anything in it was read.
    #[error(
        "peer sent {certificates} certificates of {bytes} bytes; at most 6 of 32768 are read; \
         shorten its chain to leaf and intermediates"
    )]
    ChainTooLarge {
        /// How many certificates came.
        certificates: usize,
        /// Their length together.
        bytes: usize,
    },
    /// The leaf is not a DER X.509 certificate, or an extension in it is broken.
    #[error("peer's certificate cannot be read ({part}); have its CA issue a new one")]
    Malformed {
        /// What could not be read.
        part: &'static str,
    },
    /// No URI SAN at all.
    #[error(
        "no matching SAN: certificate has no SPIFFE ID, only [{names}]; have a mesh CA issue it"
    )]
    NoSpiffeId {
        /// The names it does have.
        names: String,
    },
    /// More than one URI SAN.
    #[error("certificate has {count} URI SANs; an X509-SVID has exactly one")]
    ManySpiffeIds {
        /// How many.
        count: usize,
    },
    /// The URI SAN is not the identity of a workload.
    #[error("URI SAN of the certificate is no workload identity; have its CA issue a right one")]
    InvalidSpiffeId {
        /// What is wrong with it.
        #[source]
        source: SpiffeIdError,
    },
    /// The identity belongs to another trust domain.
    #[error(
        "no matching SAN: expected trust domain {expected}, peer has {presented}; \
         give both ends the same trust domain"
    )]
    ForeignTrustDomain {
        /// The trust domain of the bundle.
        expected: TrustDomain,
        /// Who the peer says it is.
        presented: SpiffeId,
    },
    /// The identity is not the one that was asked for.
    #[error(
        "no matching SAN: expected {expected}, peer has {presented}; \
         check which workload has this address and whether the configuration is up to date"
    )]
    UnexpectedIdentity {
        /// Who should have answered.
        expected: SpiffeId,
        /// Who did.
        presented: SpiffeId,
    },
    /// The certificate's time is over.
    #[error(
        "certificate of {id} expired {ago} ago, at {not_after}; this node's clock says {now}: \
         compare both nodes' clocks, then look why the peer could not renew"
    )]
    Expired {
        /// Whose certificate.
        id: SpiffeId,
        /// For how long, rounded.
        ago: String,
        /// Its last valid second.
        not_after: String,
        /// The clock it was compared with.
        now: String,
    },
    /// The certificate's time has not begun.
    #[error(
        "certificate of {id} is valid only in {ahead}, from {not_before}; this node's clock says \
         {now}: set the clock of this node or of the CA right"
    )]
    NotYetValid {
        /// Whose certificate.
        id: SpiffeId,
        /// How far ahead, rounded.
        ahead: String,
        /// Its first valid second.
        not_before: String,
        /// The clock it was compared with.
        now: String,
    },
    /// An issuing certificate between leaf and root is outside its dates.
    #[error(
        "a certificate that issued {id} is outside its dates; this node's clock says {now}: \
         compare clocks, then renew the CA's issuing certificate"
    )]
    IssuerOutsideDates {
        /// Whose chain.
        id: SpiffeId,
        /// The clock it was compared with.
        now: String,
        /// webpki's account.
        #[source]
        source: webpki::Error,
    },
    /// No path from the leaf to an anchor.
    #[error(
        "certificate of {id} was not issued by a root of trust domain {trust_domain}; \
         give this node and the peer the same root-cert.pem"
    )]
    UnknownIssuer {
        /// Who the peer says it is.
        id: SpiffeId,
        /// Whose roots were tried.
        trust_domain: TrustDomain,
    },
    /// The extended key usage is missing or lacks the peer's role.
    #[error("certificate of {id} lacks extended key usage {needed}; have its CA issue both usages")]
    ExtendedKeyUsage {
        /// Whose certificate.
        id: SpiffeId,
        /// What it lacks.
        needed: &'static str,
    },
    /// The key usage is missing, lacks digitalSignature, or lets the leaf sign certificates.
    #[error(
        "certificate of {id} {fault}; a leaf has digitalSignature and may sign no certificates"
    )]
    KeyUsage {
        /// Whose certificate.
        id: SpiffeId,
        /// What is wrong.
        fault: &'static str,
    },
    /// A CA certificate was presented as a leaf.
    #[error("certificate of {id} is a CA certificate; a workload may not present one")]
    LeafIsCa {
        /// Whose certificate.
        id: SpiffeId,
    },
    /// The path exists but something else in it is wrong (signature, algorithm, constraint).
    #[error("chain of {id} does not hold; have its CA issue a new certificate")]
    Path {
        /// Who the peer says it is.
        id: SpiffeId,
        /// webpki's account.
        #[source]
        source: webpki::Error,
    },
}

impl TrustBundle {
    /// Verifies a peer's chain (leaf first) and hands on the proof of who it is.
    ///
    /// In this order: size of the chain, leaf parsed, exactly one URI SAN and its strict form,
    /// anchors of that trust domain, dates, CA bit and key usages of the leaf, path to an anchor.
    /// The identity is not compared with an expected one; that is [`VerifiedPeer::expect`].
    ///
    /// Source: SPIFFE `X509-SVID` section 5, RFC 5280 section 6.
    pub fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        role: PeerRole,
        now: UnixTime,
    ) -> Result<VerifiedPeer, VerifyError> {
        let (leaf_der, intermediates) = chain.split_first().ok_or(VerifyError::NoCertificate)?;
        let bytes = chain.iter().map(|c| c.len()).sum();
        if chain.len() > MAX_CHAIN_CERTIFICATES || bytes > MAX_CHAIN_BYTES {
            return Err(VerifyError::ChainTooLarge { certificates: chain.len(), bytes });
        }
        let leaf = parse(leaf_der)?;
        let id = spiffe_id(&leaf)?;
        if id.trust_domain() != self.trust_domain() {
            return Err(VerifyError::ForeignTrustDomain {
                expected: self.trust_domain().clone(),
                presented: id,
            });
        }
        let not_after = check_dates(&leaf, &id, now)?;
        check_usages(&leaf, &id, role)?;
        let root = self.check_path(leaf_der, intermediates, &id, role, now)?;
        Ok(VerifiedPeer { id, not_after, root })
    }

    fn check_path(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        id: &SpiffeId,
        role: PeerRole,
        now: UnixTime,
    ) -> Result<RootId, VerifyError> {
        let broken = |source| match source {
            webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. } => {
                VerifyError::IssuerOutsideDates { id: id.clone(), now: clock(now), source }
            }
            // The second is the usual sign of another root with the same name: the path is found
            // by name and fails at the signature.
            webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
                VerifyError::UnknownIssuer {
                    id: id.clone(),
                    trust_domain: self.trust_domain().clone(),
                }
            }
            source => VerifyError::Path { id: id.clone(), source },
        };
        let leaf = EndEntityCert::try_from(leaf).map_err(broken)?;
        let usage = match role {
            PeerRole::Client => KeyUsage::client_auth(),
            // That it has the other one too was seen by hand.
            PeerRole::Server | PeerRole::Both => KeyUsage::server_auth(),
        };
        let path = leaf
            .verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &self.anchors,
                intermediates,
                now,
                usage,
                None,
                Some(&issuers_may_sign),
            )
            .map_err(broken)?;
        // The anchor is one of ours, so it has an identity.
        self.id_of(path.anchor()).ok_or_else(|| broken(webpki::Error::UnknownIssuer))
    }
}

/// Refuses a path with an issuing certificate whose key usage does not let it sign certificates:
/// RFC 5280 section 6.1.4 (n), which webpki leaves out. Another path may still hold.
fn issuers_may_sign(path: &VerifiedPath<'_>) -> Result<(), webpki::Error> {
    for issuer in path.intermediate_certificates() {
        let der = issuer.der();
        let parsed = parse(&der).map_err(|_| webpki::Error::BadDer)?;
        let usage = parsed.key_usage().map_err(|_| webpki::Error::BadDer)?;
        if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
            return Err(webpki::Error::EndEntityUsedAsCa);
        }
    }
    Ok(())
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, VerifyError> {
    match X509Certificate::from_der(der) {
        Ok(([], leaf)) => Ok(leaf),
        Ok(_) => Err(VerifyError::Malformed { part: "bytes after its end" }),
        Err(_) => Err(VerifyError::Malformed { part: "not a DER X.509 certificate" }),
    }
}

/// The one URI SAN of `leaf`, in its strict form.
fn spiffe_id(leaf: &X509Certificate<'_>) -> Result<SpiffeId, VerifyError> {
    let names = match leaf.subject_alternative_name() {
        Ok(Some(extension)) => extension.value.general_names.as_slice(),
        Ok(None) => &[],
        Err(_) => return Err(VerifyError::Malformed { part: "subjectAltName" }),
    };
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    match (uris.next(), uris.count()) {
        (None, _) => {
            let names: Vec<_> = names.iter().map(|name| shown(&name.to_string())).collect();
            Err(VerifyError::NoSpiffeId { names: names.join(", ") })
        }
        (Some(uri), 0) => uri.parse().map_err(|source| VerifyError::InvalidSpiffeId { source }),
        (Some(_), others) => Err(VerifyError::ManySpiffeIds { count: others + 1 }),
    }
}

/// Checks the leaf's own dates here, and not only in webpki, to tell them from an issuer's.
fn check_dates(
    leaf: &X509Certificate<'_>,
    id: &SpiffeId,
    now: UnixTime,
) -> Result<UnixTime, VerifyError> {
    let seconds = |at: x509_parser::time::ASN1Time| {
        u64::try_from(at.timestamp())
            .map(|s| UnixTime::since_unix_epoch(Duration::from_secs(s)))
            .map_err(|_| VerifyError::Malformed { part: "dates before 1970" })
    };
    let not_before = seconds(leaf.validity().not_before)?;
    let not_after = seconds(leaf.validity().not_after)?;
    if now.as_secs() > not_after.as_secs() {
        return Err(VerifyError::Expired {
            id: id.clone(),
            ago: rounded(now.as_secs() - not_after.as_secs()),
            not_after: clock(not_after),
            now: clock(now),
        });
    }
    if now.as_secs() < not_before.as_secs() {
        return Err(VerifyError::NotYetValid {
            id: id.clone(),
            ahead: rounded(not_before.as_secs() - now.as_secs()),
            not_before: clock(not_before),
            now: clock(now),
        });
    }
    Ok(not_after)
}

/// Checks CA bit, key usage and extended key usage; webpki looks at none of them, if they are
/// absent, and never at the key usage.
fn check_usages(
    leaf: &X509Certificate<'_>,
    id: &SpiffeId,
    role: PeerRole,
) -> Result<(), VerifyError> {
    let constraints = leaf
        .basic_constraints()
        .map_err(|_| VerifyError::Malformed { part: "basicConstraints" })?;
    if constraints.is_some_and(|c| c.value.ca) {
        return Err(VerifyError::LeafIsCa { id: id.clone() });
    }
    let fault = |fault| Err(VerifyError::KeyUsage { id: id.clone(), fault });
    match leaf.key_usage().map_err(|_| VerifyError::Malformed { part: "keyUsage" })? {
        None => return fault("has no key usage"),
        Some(usage) if usage.value.key_cert_sign() => return fault("may sign certificates"),
        Some(usage) if usage.value.crl_sign() => return fault("may sign revocation lists"),
        Some(usage) if !usage.value.digital_signature() => return fault("lacks digitalSignature"),
        Some(_) => {}
    }
    let extended = leaf
        .extended_key_usage()
        .map_err(|_| VerifyError::Malformed { part: "extendedKeyUsage" })?;
    let (client, server, needed) = role.usages();
    let granted = extended.is_some_and(|usage| {
        (usage.value.client_auth || !client) && (usage.value.server_auth || !server)
    });
    if granted {
        return Ok(());
    }
    Err(VerifyError::ExtendedKeyUsage { id: id.clone(), needed })
}

/// A moment as RFC 3339, to the second, UTC.
fn clock(at: UnixTime) -> String {
    i64::try_from(at.as_secs())
        .ok()
        .and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok())
        .and_then(|at| at.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{} s after 1970", at.as_secs()))
}

/// A length of time in its largest fitting unit: what a person compares clocks with.
fn rounded(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86400),
    }
}

#[cfg(test)]
mod tests;
