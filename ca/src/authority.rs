//! [`Authority`]: the keys, and the one place where anything is signed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use culvert_spiffe::{BundleError, PeerRole, SpiffeId, TrustBundle, TrustDomain, VerifyError};
use rcgen::{Issuer, KeyPair, PublicKeyData as _};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use time::OffsetDateTime;
use tokio::sync::watch;
use tracing::info;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use crate::directory::{Directory, DirectoryError, Visibility};
use crate::profile::{self, ISSUER_MARGIN, ISSUING_TURNOVER, ServerName};
use crate::request::ProvenKey;

mod published;

pub use published::{Generation, Heard, PublishedBundle, PublishedRoot, Standing};

/// The root: certificate and key in one file, so that the two can never be of different age.
const ROOT_FILE: &str = "root.pem";
/// The issuing certificate and its key, likewise.
const ISSUING_FILE: &str = "issuing.pem";
/// The root certificates alone, for agents to hold.
pub const ROOT_CERTIFICATES_FILE: &str = "root-cert.pem";

/// How long certificates may live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// When nothing is wished.
    pub default: Duration,
    /// Less is raised to it.
    pub least: Duration,
    /// More is cut to it.
    pub most: Duration,
}

impl Lifetimes {
    /// What is granted for a wish in seconds, as the API has it: 0 or less is no wish.
    pub fn grant(&self, wish_seconds: i64) -> Duration {
        let wish = match u64::try_from(wish_seconds) {
            Ok(0) | Err(_) => self.default,
            Ok(seconds) => Duration::from_secs(seconds),
        };
        wish.max(self.least).min(self.most)
    }
}

/// The authority of one trust domain. Shared by all calls.
pub struct Authority {
    trust_domain: TrustDomain,
    directory: Directory,
    root: Tier,
    bundle: Arc<TrustBundle>,
    published: watch::Sender<Arc<PublishedBundle>>,
    issuing: ArcSwap<Tier>,
    /// Held while the next issuing certificate is made, so that two calls do not make two.
    turnover: Mutex<()>,
}

/// A certificate that signs others, with its key.
struct Tier {
    certificate: CertificateDer<'static>,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
    public_key: Vec<u8>,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
}

/// A certificate that was issued and verified.
#[derive(Debug)]
pub struct Issued {
    /// Leaf, issuing certificate, and while a root is being replaced its cross certificate: what
    /// TLS presents.
    pub chain: Vec<CertificateDer<'static>>,
    /// The same as PEM, one an element, and last all roots in one: the answer of the API.
    pub cert_chain: Vec<String>,
    /// Its serial number, hexadecimal.
    pub serial: String,
    /// Its last valid second.
    pub not_after: UnixTime,
    /// Which keys stand behind it.
    pub generation: Generation,
}

/// Why the authority cannot work, or cannot sign.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The directory cannot be used.
    #[error("cannot use the authority's directory")]
    Directory(#[from] DirectoryError),
    /// A key file is not what this authority wrote.
    #[error("{file} is not a certificate and its key ({part}); restore it from a backup")]
    KeyFile {
        /// Which file.
        file: std::path::PathBuf,
        /// What is wrong.
        part: &'static str,
    },
    /// The root belongs to another trust domain.
    #[error("{file} is the root of another trust domain than {trust_domain}; use another --dir")]
    ForeignRoot {
        /// Which file.
        file: std::path::PathBuf,
        /// The one asked for.
        trust_domain: TrustDomain,
    },
    /// The root is over.
    #[error("root certificate ended {not_after}; make a new one in another --dir")]
    RootExpired {
        /// Its end.
        not_after: OffsetDateTime,
    },
    /// The issuing certificate is over and no new one could be made.
    #[error("issuing certificate is about to end and could not be replaced; see the error before")]
    IssuerExpired,
    /// The root is no trust bundle.
    #[error("root certificate is no trust bundle; restore root.pem from a backup")]
    Bundle(#[from] BundleError),
    /// The request is for a key of the authority itself.
    #[error("request is for a key of the authority itself")]
    OwnKey,
    /// Signing failed.
    #[error("cannot make a certificate")]
    Sign(#[from] rcgen::Error),
    /// What was signed does not verify, so it was not handed out.
    #[error("certificate just signed does not verify; compare the clock with the root's dates")]
    Unverified(#[from] VerifyError),
    /// What was signed is for somebody else, so it was not handed out.
    #[error("certificate just signed cannot be read back")]
    Unreadable,
}

impl Authority {
    /// Opens the authority in `directory`, making root and issuing certificate when absent, and
    /// writes root-cert.pem.
    ///
    /// Not cancel safe: dropped halfway, it may have made files, which the next opening takes.
    #[expect(clippy::unused_async, reason = "the store behind it becomes asynchronous")]
    pub async fn open(
        directory: Directory,
        trust_domain: TrustDomain,
        now: OffsetDateTime,
    ) -> Result<Self, AuthorityError> {
        let root = load_or_create_root(&directory, &trust_domain, now)?;
        if root.not_after <= now {
            return Err(AuthorityError::RootExpired { not_after: root.not_after });
        }
        directory.replace(ROOT_CERTIFICATES_FILE, root.pem.as_bytes(), Visibility::Public)?;
        let bundle =
            TrustBundle::from_certificates(trust_domain.clone(), vec![root.certificate.clone()])?;
        let published = watch::Sender::new(published::first(root.certificate.clone()));
        let kept = match directory.read(ISSUING_FILE)? {
            Some(bytes) => Some(Tier::from_pem(&directory, ISSUING_FILE, &bytes)?),
            None => None,
        };
        let issuing = match kept {
            Some(kept) if kept.is_signed_by(&root) && !kept.is_due(now) => kept,
            _ => create_issuing(&directory, &trust_domain, &root, now)?,
        };
        Ok(Self {
            trust_domain,
            directory,
            root,
            bundle: Arc::new(bundle),
            published,
            issuing: ArcSwap::from_pointee(issuing),
            turnover: Mutex::default(),
        })
    }

    /// The trust domain it serves.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The roots that verify what it issues.
    pub fn bundle(&self) -> Arc<TrustBundle> {
        self.bundle.clone()
    }

    /// The bundle to push to agents: the one in force, then each that replaces it.
    pub fn published(&self) -> watch::Receiver<Arc<PublishedBundle>> {
        self.published.subscribe()
    }

    /// Takes note of what `node` did. Cheap, and in memory; kept in the store by
    /// [`Authority::tend`].
    #[expect(clippy::unused_self, reason = "read by the rotation of roots")]
    pub fn heard(&self, _node: &str, _heard: Heard, _now: OffsetDateTime) {}

    /// End of the root and of the issuing certificate, in seconds since 1970.
    pub fn ends(&self) -> (i64, i64) {
        (self.root.not_after.unix_timestamp(), self.issuing.load().not_after.unix_timestamp())
    }

    /// Does what is due: to be called every second. Says whether certificates were replaced.
    #[expect(clippy::unused_async, reason = "the store behind it becomes asynchronous")]
    pub async fn tend(&self, now: OffsetDateTime) -> Result<bool, AuthorityError> {
        let _one = self.turnover.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.issuing.load().is_due(now) {
            return Ok(false);
        }
        let next = create_issuing(&self.directory, &self.trust_domain, &self.root, now)?;
        info!(not_after = next.not_after.unix_timestamp(), "issuing certificate replaced");
        self.issuing.store(Arc::new(next));
        Ok(true)
    }

    /// Issues an SVID of `id` for a key whose holder proved it.
    pub fn issue(
        &self,
        id: &SpiffeId,
        key: &ProvenKey,
        life: Duration,
        now: OffsetDateTime,
    ) -> Result<Issued, AuthorityError> {
        let issuing = self.issuing.load();
        if key.der == issuing.public_key || key.der == self.root.public_key {
            return Err(AuthorityError::OwnKey);
        }
        let params = profile::leaf(id, key.kind, now, issuing.end_of_leaf(life, now)?)?;
        self.sign(&issuing, &params, &key.key, id, now)
    }

    /// Issues the certificate that the authority's own server presents, and its key (PKCS#8).
    pub fn issue_server(
        &self,
        names: &[ServerName],
        life: Duration,
        now: OffsetDateTime,
    ) -> Result<(Issued, Zeroizing<Vec<u8>>), AuthorityError> {
        let id = SpiffeId::of_authority(&self.trust_domain);
        let issuing = self.issuing.load();
        let key = KeyPair::generate()?;
        let params = profile::server(&id, names, now, issuing.end_of_leaf(life, now)?)?;
        let issued = self.sign(&issuing, &params, &key, &id, now)?;
        Ok((issued, Zeroizing::new(key.serialize_der())))
    }

    /// Signs, then verifies as a peer would; nothing leaves that does not hold.
    fn sign(
        &self,
        issuing: &Tier,
        params: &rcgen::CertificateParams,
        key: &impl rcgen::PublicKeyData,
        id: &SpiffeId,
        now: OffsetDateTime,
    ) -> Result<Issued, AuthorityError> {
        let leaf = params.signed_by(key, &issuing.issuer)?;
        let chain = vec![leaf.der().clone(), issuing.certificate.clone()];
        let at = unix(now);
        let peer = self.bundle.verify(&chain, PeerRole::Both, at)?.expect(id)?;
        let parsed = parse(leaf.der()).ok_or(AuthorityError::Unreadable)?;
        Ok(Issued {
            cert_chain: vec![leaf.pem(), issuing.pem.clone(), self.root.pem.clone()],
            serial: format!("{:x}", parsed.tbs_certificate.serial),
            not_after: peer.not_after(),
            generation: Generation { root: 1, issuing: 1, bundle: 1 },
            chain,
        })
    }
}

impl Tier {
    fn create(
        params: &rcgen::CertificateParams,
        signer: Option<&Self>,
    ) -> Result<(Self, Zeroizing<String>), AuthorityError> {
        let key = KeyPair::generate()?;
        let certificate = match signer {
            Some(signer) => params.signed_by(&key, &signer.issuer)?,
            None => params.self_signed(&key)?,
        };
        let file = Zeroizing::new(format!("{}{}", certificate.pem(), key.serialize_pem()));
        let tier = Self {
            certificate: certificate.der().clone(),
            pem: certificate.pem(),
            public_key: key.subject_public_key_info(),
            not_before: params.not_before,
            not_after: params.not_after,
            issuer: Issuer::from_ca_cert_der(certificate.der(), key)?,
        };
        Ok((tier, file))
    }

    fn from_pem(directory: &Directory, name: &str, bytes: &[u8]) -> Result<Self, AuthorityError> {
        let wrong = |part| AuthorityError::KeyFile { file: directory.file(name), part };
        let text = std::str::from_utf8(bytes).map_err(|_| wrong("not text"))?;
        let split = text.find("-----BEGIN PRIVATE KEY").ok_or_else(|| wrong("no key"))?;
        let (pem, key) = text.split_at(split);
        let key = KeyPair::from_pem(key).map_err(|_| wrong("key unreadable"))?;
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| wrong("certificate unreadable"))?;
        let parsed = parse(&certificate).ok_or_else(|| wrong("certificate unreadable"))?;
        let public_key = key.subject_public_key_info();
        if parsed.public_key().raw != public_key {
            return Err(wrong("key of another certificate"));
        }
        let validity = parsed.validity();
        let (not_before, not_after) =
            (validity.not_before.to_datetime(), validity.not_after.to_datetime());
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        let pem = pem.to_owned();
        Ok(Self { certificate, pem, issuer, public_key, not_before, not_after })
    }

    fn is_signed_by(&self, root: &Self) -> bool {
        let (Some(own), Some(root)) = (parse(&self.certificate), parse(&root.certificate)) else {
            return false;
        };
        own.verify_signature(Some(root.public_key())).is_ok()
    }

    /// Whether it is time for the next issuing certificate. A certificate from the future, which a
    /// clock set back leaves behind, is replaced too.
    fn is_due(&self, now: OffsetDateTime) -> bool {
        now >= self.not_before + ISSUING_TURNOVER || now < self.not_before
    }

    fn end_of_leaf(
        &self,
        life: Duration,
        now: OffsetDateTime,
    ) -> Result<OffsetDateTime, AuthorityError> {
        let wished = now + life;
        let most = self.not_after - ISSUER_MARGIN;
        if most <= now {
            return Err(AuthorityError::IssuerExpired);
        }
        Ok(wished.min(most))
    }
}

fn load_or_create_root(
    directory: &Directory,
    trust_domain: &TrustDomain,
    now: OffsetDateTime,
) -> Result<Tier, AuthorityError> {
    if directory.read(ROOT_FILE)?.is_none() {
        let (_, file) = Tier::create(&profile::root(trust_domain, now)?, None)?;
        if directory.create(ROOT_FILE, file.as_bytes(), Visibility::Secret)? {
            info!(%trust_domain, "root certificate made");
        }
    }
    // Read back in every case: another process may have been first.
    let bytes = directory.read(ROOT_FILE)?.ok_or_else(|| AuthorityError::KeyFile {
        file: directory.file(ROOT_FILE),
        part: "it vanished",
    })?;
    let root = Tier::from_pem(directory, ROOT_FILE, &bytes)?;
    if !names_only(&root.certificate, trust_domain) {
        return Err(AuthorityError::ForeignRoot {
            file: directory.file(ROOT_FILE),
            trust_domain: trust_domain.clone(),
        });
    }
    Ok(root)
}

fn create_issuing(
    directory: &Directory,
    trust_domain: &TrustDomain,
    root: &Tier,
    now: OffsetDateTime,
) -> Result<Tier, AuthorityError> {
    let mut params = profile::issuing(trust_domain, now)?;
    params.not_after = params.not_after.min(root.not_after);
    let (tier, file) = Tier::create(&params, Some(root))?;
    directory.replace(ISSUING_FILE, file.as_bytes(), Visibility::Secret)?;
    Ok(tier)
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    X509Certificate::from_der(der).ok().map(|(_, parsed)| parsed)
}

/// Whether the one URI SAN of a root is that of the trust domain.
fn names_only(certificate: &CertificateDer<'_>, trust_domain: &TrustDomain) -> bool {
    use x509_parser::extensions::GeneralName;

    let Some(parsed) = parse(certificate) else { return false };
    let Ok(Some(names)) = parsed.subject_alternative_name() else { return false };
    let uri = trust_domain.uri();
    matches!(names.value.general_names.as_slice(), [GeneralName::URI(found)] if *found == uri)
}

pub(crate) fn unix(at: OffsetDateTime) -> UnixTime {
    // A clock before 1970 verifies nothing, and 0 says just that.
    let seconds = u64::try_from(at.unix_timestamp()).unwrap_or(0);
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests;
