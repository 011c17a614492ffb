//! [`RootId`]: which root a chain rests on.

use std::fmt;

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Identity of a root: the SHA-256 hash of its public key (`SubjectPublicKeyInfo`, DER).
///
/// The key and not the certificate, because a root that is made anew over the same key signs the
/// same chains. `openssl x509 -in root.pem -noout -pubkey | openssl pkey -pubin -outform der |
/// sha256sum` prints the same digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RootId([u8; 32]);

impl RootId {
    /// The identity of the root whose certificate this is; `None` if it cannot be read.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        Some(Self::of_key(parsed.public_key().raw))
    }

    /// The identity of the root with this key.
    pub(crate) fn of_key(spki: &[u8]) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, spki);
        let mut hash = [0; 32];
        hash.copy_from_slice(digest.as_ref());
        Self(hash)
    }

    /// The hash.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for RootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RootId({self})")
    }
}
