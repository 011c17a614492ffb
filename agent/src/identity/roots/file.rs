//! The bundle in force, kept on disk: public data, so that an agent that starts with an old root
//! file believes what it believed before.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use culvert_spiffe::TrustDomain;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};

use super::offer::OfferError;
use super::{BundleInForce, Standing};

/// Largest file read.
const MAX_BYTES: u64 = 2 * 1024 * 1024;

/// The file as it is written.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Kept {
    trust_domain: TrustDomain,
    sequence: u64,
    roots: Vec<KeptRoot>,
    /// A JWK set, as text; none when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    jwks: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptRoot {
    standing: Standing,
    /// PEM, for people and openssl.
    certificate: String,
}

/// Why the file is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// It cannot be read.
    #[error("cannot read {path}; make it readable, or remove it")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// It is not what an agent wrote.
    #[error("{path} is no kept trust bundle ({part}); remove it")]
    Malformed { path: PathBuf, part: &'static str },
    /// It is of another trust domain.
    #[error("{path} is for trust domain {found}; remove it, or name another `ca.bundleFile`")]
    ForeignTrustDomain { path: PathBuf, found: TrustDomain },
    /// What stands in it is no bundle.
    #[error("{path} holds no trust bundle; remove it")]
    Bundle {
        path: PathBuf,
        #[source]
        source: OfferError,
    },
    /// It cannot be written.
    #[error("cannot write {path}; give the agent a directory that it may write to")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Reads what [`write`] kept; `None` when there is nothing yet. Blocks.
pub(crate) fn read(
    path: &Path,
    expected: &TrustDomain,
) -> Result<Option<BundleInForce>, FileError> {
    let at = || path.to_owned();
    let malformed = |part| FileError::Malformed { path: at(), part };
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() > MAX_BYTES => return Err(malformed("it is too large")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Ok(_) | Err(_) => {}
    }
    let bytes = fs::read(path).map_err(|source| FileError::Read { path: at(), source })?;
    let kept: Kept = serde_json::from_slice(&bytes).map_err(|_| malformed("not its JSON"))?;
    if kept.trust_domain != *expected {
        return Err(FileError::ForeignTrustDomain { path: at(), found: kept.trust_domain });
    }
    if kept.sequence == 0 {
        return Err(malformed("it has no number"));
    }
    let mut roots = Vec::with_capacity(kept.roots.len());
    for root in &kept.roots {
        let certificate = CertificateDer::from_pem_slice(root.certificate.as_bytes())
            .map_err(|_| malformed("a root is not PEM"))?;
        roots.push((certificate, root.standing));
    }
    let jwks = Arc::from(kept.jwks.unwrap_or_default().into_bytes());
    BundleInForce::numbered(expected.clone(), kept.sequence, roots, jwks)
        .map(Some)
        .map_err(|source| FileError::Bundle { path: at(), source })
}

/// Keeps `bundle`: the file is there whole, in its old form or its new one, whenever the machine
/// stops. Blocks.
pub(crate) fn write(path: &Path, bundle: &BundleInForce) -> Result<(), FileError> {
    let kept = Kept {
        trust_domain: bundle.bundle().trust_domain().clone(),
        sequence: bundle.sequence(),
        roots: bundle
            .roots()
            .iter()
            .map(|root| KeptRoot { standing: root.standing, certificate: pem(&root.certificate) })
            .collect(),
        jwks: String::from_utf8(bundle.jwks().to_vec()).ok().filter(|jwks| !jwks.is_empty()),
    };
    let failed = |source| FileError::Write { path: path.to_owned(), source };
    let mut text = serde_json::to_vec_pretty(&kept).map_err(|e| failed(io::Error::other(e)))?;
    text.push(b'\n');
    replace(path, &text).map_err(failed)
}

/// Write, sync, rename, sync: under a name of this process's own, as two agents may run at once.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = directory.join(name);
    let written = fs::File::create(&new)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        // It may not be there; nobody reads it under this name.
        let _ = fs::remove_file(&new);
    }
    written.and_then(|()| fs::File::open(directory)?.sync_all())
}

/// RFC 7468.
fn pem(certificate: &CertificateDer<'_>) -> String {
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in certificate.chunks(48) {
        STANDARD.encode_string(line, &mut text);
        text.push('\n');
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}
