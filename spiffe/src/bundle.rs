//! [`TrustBundle`]: the anchors of one trust domain.

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::{RootId, TrustDomain};

/// The root certificates of one trust domain. Several stand side by side while a root is replaced.
///
/// Never empty. Verification is [`TrustBundle::verify`].
#[derive(Clone, Debug)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    // Same order; `anchors[i]` and `ids[i]` were made from `certificates[i]`.
    certificates: Vec<CertificateDer<'static>>,
    pub(crate) anchors: Vec<TrustAnchor<'static>>,
    ids: Vec<RootId>,
}

/// Why a set of certificates is not a trust bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// No certificate at all.
    #[error("trust bundle of {trust_domain} is empty; it needs at least one root certificate")]
    Empty {
        /// The trust domain it was read for.
        trust_domain: TrustDomain,
    },
    /// The text is not PEM.
    #[error("trust bundle is not PEM; it must hold `BEGIN CERTIFICATE` blocks only")]
    Pem(#[source] rustls_pki_types::pem::Error),
    /// A certificate cannot be parsed.
    #[error("certificate {number} of the trust bundle cannot be read; put in a DER X.509 v3 root")]
    Certificate {
        /// Place in the bundle, from 1.
        number: usize,
    },
    /// A certificate is not one that may sign others.
    #[error(
        "certificate {number} of the trust bundle is no CA (basicConstraints); only roots go here"
    )]
    NotCa {
        /// Place in the bundle, from 1.
        number: usize,
    },
}

impl TrustBundle {
    /// Reads the root certificates of `trust_domain` from PEM.
    pub fn from_pem(trust_domain: TrustDomain, pem: &[u8]) -> Result<Self, BundleError> {
        let certificates = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(BundleError::Pem)?;
        Self::from_certificates(trust_domain, certificates)
    }

    /// Makes the bundle of `trust_domain`; a certificate that is given twice counts once.
    pub fn from_certificates(
        trust_domain: TrustDomain,
        given: Vec<CertificateDer<'static>>,
    ) -> Result<Self, BundleError> {
        let mut bundle =
            Self { trust_domain, certificates: Vec::new(), anchors: Vec::new(), ids: Vec::new() };
        for (index, certificate) in given.into_iter().enumerate() {
            if !bundle.certificates.contains(&certificate) {
                let (anchor, id) = anchor(&certificate, index + 1)?;
                bundle.anchors.push(anchor);
                bundle.ids.push(id);
                bundle.certificates.push(certificate);
            }
        }
        if bundle.anchors.is_empty() {
            return Err(BundleError::Empty { trust_domain: bundle.trust_domain });
        }
        Ok(bundle)
    }

    /// The trust domain whose peers this bundle can verify.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The root certificates, in the order given.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// Who the roots are, in the order given.
    pub fn root_ids(&self) -> &[RootId] {
        &self.ids
    }

    /// The identity of the anchor that a path was found to; `None` for one of another bundle.
    pub(crate) fn id_of(&self, found: &TrustAnchor<'_>) -> Option<RootId> {
        let key = &found.subject_public_key_info;
        let at = self.anchors.iter().position(|own| own.subject_public_key_info == *key)?;
        self.ids.get(at).copied()
    }
}

fn anchor(
    certificate: &CertificateDer<'_>,
    number: usize,
) -> Result<(TrustAnchor<'static>, RootId), BundleError> {
    let broken = || BundleError::Certificate { number };
    let (rest, parsed) = X509Certificate::from_der(certificate).map_err(|_| broken())?;
    if !rest.is_empty() {
        return Err(broken());
    }
    if !parsed.is_ca() {
        return Err(BundleError::NotCa { number });
    }
    let anchor = webpki::anchor_from_trusted_cert(certificate).map_err(|_| broken())?;
    Ok((anchor.to_owned(), RootId::of_key(parsed.public_key().raw)))
}
