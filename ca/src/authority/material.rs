//! Makes what a step needs: keys and certificates. Nothing here looks at a store.

use culvert_spiffe::TrustDomain;
use rcgen::{Issuer, KeyPair, PublicKeyData as _, SubjectPublicKeyInfo};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::AuthorityError;
use crate::profile;
use crate::rotation::{Change, Made, Step};
use crate::state::{Generation, Issuing, KeyPem, Origin, Phase, State, StateError};

/// What makes `step` of `state`, with fresh keys where it needs any.
pub(crate) fn enact(
    state: &State,
    trust_domain: &TrustDomain,
    step: Step,
    now: OffsetDateTime,
) -> Result<Change, AuthorityError> {
    Ok(match step {
        Step::Prepare => Change::Prepared(root(trust_domain, state.next_number(), now)?),
        Step::Activate { generation } => activation(state, trust_domain, generation, now)?,
        Step::Remove { generation } => Change::Removed(generation),
        Step::DestroyKey { generation } => Change::KeyDestroyed(generation),
    })
}

/// A root of our own. The first of all signs at once, so it comes with an issuing certificate.
pub(crate) fn root(
    trust_domain: &TrustDomain,
    number: u64,
    now: OffsetDateTime,
) -> Result<Made, AuthorityError> {
    let key = KeyPair::generate()?;
    let certificate = profile::root(trust_domain, number, now)?.self_signed(&key)?;
    Ok(Made {
        origin: Origin::Made,
        anchors: vec![certificate.pem()],
        key: Some(pem_of(&key)),
        issuing: None,
    })
}

/// The next issuing certificate under a root of our own.
pub(crate) fn issuing(
    trust_domain: &TrustDomain,
    root: &Generation,
    number: u64,
    now: OffsetDateTime,
) -> Result<Issuing, AuthorityError> {
    let signer = root_issuer(root)?;
    let mut params = profile::issuing(trust_domain, number, now)?;
    params.not_after = params.not_after.min(end_of(&signer.certificate, root.number)?);
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &signer.issuer)?;
    Ok(Issuing {
        number,
        certificate: certificate.pem(),
        chain: vec![certificate.pem()],
        key: pem_of(&key),
    })
}

fn activation(
    state: &State,
    trust_domain: &TrustDomain,
    generation: u64,
    now: OffsetDateTime,
) -> Result<Change, AuthorityError> {
    let broken = StateError::Generation { generation, part: "it vanished" };
    let next = state.generation(generation).ok_or(broken)?;
    if next.origin == Origin::Plugged {
        return Ok(Change::Activated { generation, cross: None, issuing: None });
    }
    let cross = match state.in_phase(Phase::Active) {
        Some(before) if before.key.is_some() => {
            Some(cross(trust_domain, next, &root_issuer(before)?, now)?)
        }
        // A plugged-in root's key may not be here to sign with.
        _ => None,
    };
    let issuing = issuing(trust_domain, next, state.last_issuing + 1, now)?;
    Ok(Change::Activated { generation, cross, issuing: Some(issuing) })
}

fn cross(
    trust_domain: &TrustDomain,
    next: &Generation,
    before: &RootIssuer,
    now: OffsetDateTime,
) -> Result<String, AuthorityError> {
    let own = root_issuer(next)?;
    let mut params = profile::cross(trust_domain, next.number, now)?;
    params.not_after = end_of(&own.certificate, next.number)?.min(before.not_after);
    let key = SubjectPublicKeyInfo::from_der(&own.issuer.key().subject_public_key_info())?;
    Ok(params.signed_by(&key, &before.issuer)?.pem())
}

struct RootIssuer {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    not_after: OffsetDateTime,
}

fn root_issuer(root: &Generation) -> Result<RootIssuer, AuthorityError> {
    let broken = |part| StateError::Generation { generation: root.number, part };
    let pem = root.anchors.first().ok_or_else(|| broken("no certificate"))?;
    let key = root.key.as_ref().ok_or_else(|| broken("its key is destroyed"))?;
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| broken("certificate unreadable"))?;
    let not_after = end_of(&certificate, root.number)?;
    let key = KeyPair::from_pem(key.expose()).map_err(|_| broken("key unreadable"))?;
    let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
    Ok(RootIssuer { certificate, issuer, not_after })
}

fn end_of(certificate: &CertificateDer<'_>, generation: u64) -> Result<OffsetDateTime, StateError> {
    super::parse(certificate)
        .map(|parsed| parsed.validity().not_after.to_datetime())
        .ok_or(StateError::Generation { generation, part: "certificate unreadable" })
}

fn pem_of(key: &KeyPair) -> KeyPem {
    KeyPem::new(Zeroizing::new(key.serialize_pem()))
}
