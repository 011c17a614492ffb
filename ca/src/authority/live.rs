//! [`Live`]: a state made ready for use, checked whole: the keys and chains that calls sign with.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use culvert_spiffe::{BundleError, PeerRole, TrustBundle, TrustDomain, VerifiedPeer, VerifyError};
use rcgen::{Issuer, KeyPair, PublicKeyData as _};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;
use x509_parser::prelude::X509Certificate;

use super::{AuthorityError, Generation, PublishedBundle, PublishedRoot, parse, unix};
use crate::profile::{BACKDATE, ISSUER_MARGIN};
use crate::state::{self, Issuing, Origin, State, StateError};

/// What calls sign with. Never changed, only replaced.
pub(crate) struct Live {
    pub(super) signer: Signer,
    /// Roots by which peers are verified.
    pub(super) bundle: Arc<TrustBundle>,
    pub(super) published: Arc<PublishedBundle>,
    /// All believed roots, PEM.
    pub(super) roots: String,
    pub(super) generation: Generation,
    /// Public keys of the authority, for which nothing is issued.
    pub(super) own_keys: HashSet<Vec<u8>>,
    /// End of the root that the active generation rests on.
    pub(super) root_end: OffsetDateTime,
    pub(super) largest_ttl: i64,
}

/// The certificate that signs leaves.
pub(super) struct Signer {
    pub(super) issuer: Issuer<'static, KeyPair>,
    /// Verifies what it signed by itself alone.
    alone: TrustBundle,
    /// Set once a leaf under it was verified all the way to a root.
    reaches_root: OnceLock<()>,
    /// What follows the leaf.
    pub(super) chain: Vec<CertificateDer<'static>>,
    /// The same, PEM.
    pub(super) chain_pem: Vec<String>,
    pub(super) not_before: OffsetDateTime,
    pub(super) not_after: OffsetDateTime,
}

impl Live {
    /// Makes `state` ready for use. Nothing of it is used when any of it is wrong.
    pub(crate) fn build(state: &State, domain: &TrustDomain) -> Result<Self, AuthorityError> {
        if state.trust_domain != domain.as_str() {
            return Err(AuthorityError::ForeignTrustDomain {
                found: state.trust_domain.clone(),
                asked: domain.clone(),
            });
        }
        let active = state.active().ok_or(StateError::Active { found: 0 })?;
        let broken = |part| StateError::Generation { generation: active.number, part };
        let published = published(state)?;
        let bundle = bundle(domain, &published)?;
        let issuing = active.issuing.as_ref().ok_or_else(|| broken("no issuing certificate"))?;
        let mut signer = Signer::read(issuing, domain, active.number)?;
        if let Some(cross) = &active.cross
            && state.generations.iter().any(|one| one.number < active.number && one.phase.drains())
        {
            signer.chain.push(certificate(cross, active.number)?);
            signer.chain_pem.push(cross.clone());
        }
        let anchors = der_of(active)?;
        if active.origin == Origin::Made && !names_only(&anchors, domain) {
            return Err(broken("it is a root of another trust domain").into());
        }
        let root_end =
            root_end(issuing, &anchors, active.number)?.ok_or_else(|| broken("no certificate"))?;
        Ok(Self {
            signer,
            bundle: Arc::new(bundle),
            roots: pem_of_believed(state),
            generation: Generation {
                root: active.number,
                issuing: issuing.number,
                bundle: state.sequence,
            },
            own_keys: own_keys(state)?,
            root_end,
            largest_ttl: state.largest_ttl,
            published: Arc::new(published),
        })
    }
}

impl Live {
    /// Which keys sign.
    pub(crate) fn generation(&self) -> Generation {
        self.generation
    }

    /// End of the issuing certificate, in seconds since 1970.
    pub(crate) fn issuing_end(&self) -> i64 {
        self.signer.not_after.unix_timestamp()
    }
}

/// End of the root that the signing certificate leads to; others beside it may be long over.
fn root_end(
    issuing: &Issuing,
    anchors: &[CertificateDer<'_>],
    generation: u64,
) -> Result<Option<OffsetDateTime>, StateError> {
    let last = issuing.chain.last().unwrap_or(&issuing.certificate);
    let last = certificate(last, generation)?;
    let last = parse(&last).ok_or_else(|| unreadable(generation))?;
    let leads_there = |root: &X509Certificate<'_>| root.subject() == last.issuer();
    let ends = anchors.iter().filter_map(parse).filter(leads_there);
    Ok(ends.map(|root| root.validity().not_after.to_datetime()).max())
}

/// First end of these certificates (PEM), in seconds since 1970.
pub(crate) fn first_end(anchors: &[String]) -> Option<i64> {
    let end = |pem: &String| {
        let der = certificate(pem, 0).ok()?;
        parse(&der).map(|parsed| parsed.validity().not_after.timestamp())
    };
    anchors.iter().filter_map(end).min()
}

impl Signer {
    pub(super) fn read(
        issuing: &Issuing,
        domain: &TrustDomain,
        generation: u64,
    ) -> Result<Self, AuthorityError> {
        let broken = |part| StateError::Generation { generation, part };
        let signs = certificate(&issuing.certificate, generation)?;
        let key = read_key(issuing.key.expose()).ok_or_else(|| broken("issuing key unreadable"))?;
        let parsed = parse(&signs).ok_or_else(|| broken("issuing certificate unreadable"))?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(broken("issuing key of another certificate").into());
        }
        let (not_before, not_after) = {
            let validity = parsed.validity();
            (validity.not_before.to_datetime(), validity.not_after.to_datetime())
        };
        let chain: Result<Vec<_>, _> =
            issuing.chain.iter().map(|pem| certificate(pem, generation)).collect();
        Ok(Self {
            issuer: Issuer::from_ca_cert_der(&signs, key)?,
            alone: TrustBundle::from_certificates(domain.clone(), vec![signs])?,
            reaches_root: OnceLock::new(),
            chain: chain?,
            chain_pem: issuing.chain.clone(),
            not_before,
            not_after,
        })
    }

    /// Verifies a chain that it just signed, as a peer with these `roots` would.
    ///
    /// Checking signatures is most of what a call costs, and those between here and the root are
    /// always the same: they are checked for the first leaf, the leaf's own for every one.
    pub(super) fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        roots: &TrustBundle,
        now: OffsetDateTime,
    ) -> Result<VerifiedPeer, VerifyError> {
        if self.reaches_root.get().is_some() && (self.not_before..self.not_after).contains(&now) {
            return self.alone.verify(&chain[..1], PeerRole::Both, unix(now));
        }
        let peer = roots.verify(chain, PeerRole::Both, unix(now))?;
        self.reaches_root.get_or_init(|| ());
        Ok(peer)
    }

    /// Whether it is time for the next issuing certificate. A certificate from the future, which a
    /// clock set back leaves behind, is replaced too.
    pub(super) fn is_due(&self, turnover: i64, now: OffsetDateTime) -> bool {
        now >= self.not_before + BACKDATE + time::Duration::seconds(turnover)
            || now < self.not_before
    }

    pub(super) fn end_of_leaf(
        &self,
        life: Duration,
        now: OffsetDateTime,
    ) -> Result<OffsetDateTime, AuthorityError> {
        let most = self.not_after - ISSUER_MARGIN;
        if most <= now {
            return Err(AuthorityError::IssuerExpired);
        }
        Ok((now + life).min(most))
    }
}

/// Reads a key of any usual form: PKCS#8, PKCS#1, SEC1.
pub(crate) fn read_key(pem: &str) -> Option<KeyPair> {
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).ok()?;
    KeyPair::try_from(&key).ok()
}

/// The bundle as `state` has it. A root of several generations stands as the best of them.
fn published(state: &State) -> Result<PublishedBundle, StateError> {
    let mut roots: Vec<PublishedRoot> = Vec::new();
    for generation in &state.generations {
        let Some(standing) = generation.phase.standing() else { continue };
        for certificate in der_of(generation)? {
            match roots.iter_mut().find(|root| root.certificate == certificate) {
                Some(root) if standing == super::Standing::Trusted => root.standing = standing,
                Some(_) => {}
                None => roots.push(PublishedRoot { certificate, standing }),
            }
        }
    }
    Ok(PublishedBundle { sequence: state.sequence, roots })
}

fn bundle(domain: &TrustDomain, published: &PublishedBundle) -> Result<TrustBundle, BundleError> {
    TrustBundle::from_certificates(domain.clone(), published.believed().cloned().collect())
}

fn pem_of_believed(state: &State) -> String {
    let mut seen = HashSet::new();
    state
        .generations
        .iter()
        .filter(|one| {
            one.phase.standing().is_some_and(|standing| standing != super::Standing::Revoked)
        })
        .flat_map(|one| &one.anchors)
        .filter(|pem| seen.insert(pem.as_str()))
        .map(String::as_str)
        .collect()
}

fn own_keys(state: &State) -> Result<HashSet<Vec<u8>>, StateError> {
    let mut keys = HashSet::new();
    for generation in &state.generations {
        let issuing = generation.issuing.as_ref().map(|issuing| &issuing.certificate);
        for pem in generation.anchors.iter().chain(issuing) {
            let der = certificate(pem, generation.number)?;
            let parsed = parse(&der).ok_or_else(|| unreadable(generation.number))?;
            keys.insert(parsed.public_key().raw.to_vec());
        }
    }
    Ok(keys)
}

fn der_of(generation: &state::Generation) -> Result<Vec<CertificateDer<'static>>, StateError> {
    generation.anchors.iter().map(|pem| certificate(pem, generation.number)).collect()
}

fn certificate(pem: &str, generation: u64) -> Result<CertificateDer<'static>, StateError> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| unreadable(generation))
}

fn unreadable(generation: u64) -> StateError {
    StateError::Generation { generation, part: "certificate unreadable" }
}

/// Whether the one URI SAN of each root is that of the trust domain.
fn names_only(roots: &[CertificateDer<'_>], trust_domain: &TrustDomain) -> bool {
    use x509_parser::extensions::GeneralName;

    let uri = trust_domain.uri();
    roots.iter().all(|root| {
        let Some(parsed) = parse(root) else { return false };
        let Ok(Some(names)) = parsed.subject_alternative_name() else { return false };
        matches!(names.value.general_names.as_slice(), [GeneralName::URI(found)] if *found == uri)
    })
}
