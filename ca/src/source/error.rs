//! Why plugged-in files are refused.

use std::io;
use std::path::PathBuf;

use culvert_spiffe::{TrustDomain, VerifyError};
use time::OffsetDateTime;

/// Why a set of files was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// Neither layout is there.
    #[error("{directory} holds neither ca-cert.pem nor tls.crt; put the CA's files there")]
    Empty {
        /// Where.
        directory: PathBuf,
    },
    /// A file is missing or cannot be read.
    #[error("cannot read {file}; put it there, readable by the authority")]
    File {
        /// Which.
        file: PathBuf,
        /// The system's account.
        #[source]
        source: io::Error,
    },
    /// A file is far too large.
    #[error("{file} is over 1 MiB, so it holds something else; put certificates there")]
    TooLarge {
        /// Which.
        file: PathBuf,
    },
    /// No certificates in it, or a broken one.
    #[error("{file} holds no readable PEM certificate; put `BEGIN CERTIFICATE` blocks there")]
    Certificate {
        /// Which.
        file: PathBuf,
    },
    /// No key that is taken.
    #[error(
        "{file} holds no key that is taken; put an unencrypted P-256, P-384 or RSA key of 2048 to \
         4096 bits there (PKCS#8, PKCS#1 or SEC1)"
    )]
    Key {
        /// Which.
        file: PathBuf,
    },
    /// Certificate and key are of two sets.
    #[error("{key} is not the key of {certificate}; replace both from the same set")]
    Mismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// Not a CA.
    #[error("{subject} is no CA (basicConstraints); have it issued as a CA")]
    NotCa {
        /// Which certificate.
        subject: String,
    },
    /// It may not sign certificates.
    #[error("{subject} may not sign certificates (keyUsage lacks keyCertSign); issue it anew")]
    KeyUsage {
        /// Which certificate.
        subject: String,
    },
    /// A path length forbids what is below it.
    #[error("{subject} allows {allowed} CAs below it (pathLen), and there are {below}")]
    PathLength {
        /// Which certificate.
        subject: String,
        /// What it allows.
        allowed: u32,
        /// What there is.
        below: u32,
    },
    /// It is too early for it.
    #[error("{subject} is valid only from {from}; compare the clock, or wait")]
    Early {
        /// Which certificate.
        subject: String,
        /// Its begin.
        from: OffsetDateTime,
    },
    /// It is over, or will be before a certificate made now would be.
    #[error(
        "{subject} ends {end}, which is less than the longest certificate's life away; renew it"
    )]
    Late {
        /// Which certificate.
        subject: String,
        /// Its end.
        end: OffsetDateTime,
    },
    /// No path from the signing certificate to a root.
    #[error("nothing in {chain} leads from {subject} to a root in {roots}; complete the chain")]
    NoPath {
        /// Where the path breaks off.
        subject: String,
        /// Where certificates between are looked for.
        chain: PathBuf,
        /// Where roots are.
        roots: PathBuf,
    },
    /// It is for another trust domain.
    #[error("{subject} names trust domain {found}, not {expected}")]
    ForeignTrustDomain {
        /// Which certificate.
        subject: String,
        /// What it names.
        found: String,
        /// What it should.
        expected: TrustDomain,
    },
    /// A certificate signed by way of trial was not believed.
    #[error("a certificate signed by this CA is not believed; issue the CA anew")]
    Trial(#[source] VerifyError),
    /// Nothing could be signed.
    #[error("this CA signs nothing; issue it anew")]
    Sign(#[source] rcgen::Error),
    /// The process is stopping.
    #[error("look at the CA's files was cut off; the authority is stopping")]
    Stopping,
}
