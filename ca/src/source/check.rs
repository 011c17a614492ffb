//! Whether a set of files is a CA that every peer will believe.

use std::time::Duration;

use culvert_spiffe::{PeerRole, SpiffeId, TrustBundle, TrustDomain};
use rcgen::{Issuer, KeyPair, PublicKeyData as _};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use super::{Files, Plugged, SourceError};
use crate::authority::{read_key, unix};
use crate::profile::{self, KeyKind};
use crate::request;
use crate::state::KeyPem;

/// Most certificates between a leaf and its root: as many as peers read.
const MAX_CHAIN: usize = 4;

/// A certificate, as text and as bytes.
struct Pem {
    text: String,
    der: CertificateDer<'static>,
}

pub(super) fn check(
    files: &Files,
    domain: &TrustDomain,
    largest_ttl: i64,
    now: OffsetDateTime,
) -> Result<Plugged, SourceError> {
    let mut own = certificates(&files.certificate)
        .ok_or_else(|| SourceError::Certificate { file: files.path(files.layout.certificate) })?;
    let signer = own.remove(0);
    let roots = certificates(&files.roots)
        .ok_or_else(|| SourceError::Certificate { file: files.path(files.layout.roots) })?;
    let mut between = own;
    if !files.chain.trim_ascii().is_empty() {
        between.extend(
            certificates(&files.chain)
                .ok_or_else(|| SourceError::Certificate { file: files.chain_path() })?,
        );
    }
    let key = key_of(files, &signer)?;
    let path = path(files, &signer, &between, &roots)?;
    for (below, pem) in (0u32..).zip(&path) {
        check_ca(&pem.der, below, domain)?;
        check_dates(&pem.der, largest_ttl, now)?;
    }
    for root in &roots {
        check_ca(&root.der, 0, domain)?;
    }
    try_out(&path, &roots, key, domain, now)?;

    // The root itself is not presented: peers have it. A root that signs leaves stands alone.
    let chain = path[..path.len() - 1].iter().map(|pem| pem.text.clone()).collect();
    let key = Zeroizing::new(String::from_utf8_lossy(&files.key).into_owned());
    Ok(Plugged {
        anchors: roots.into_iter().map(|root| root.text).collect(),
        certificate: signer.text,
        chain,
        key: KeyPem::new(key),
    })
}

/// The certificates of a file, at least one; `None` when one of them cannot be read.
fn certificates(bytes: &[u8]) -> Option<Vec<Pem>> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";

    let text = std::str::from_utf8(bytes).ok()?;
    let mut found: Vec<Pem> = Vec::new();
    for block in text.split(BEGIN).skip(1) {
        let (body, _) = block.split_once(END)?;
        let text = format!("{BEGIN}\n{}\n{END}\n", body.trim().replace('\r', ""));
        let der = CertificateDer::from_pem_slice(text.as_bytes()).ok()?;
        parse(&der)?;
        if found.iter().all(|one| one.der != der) {
            found.push(Pem { text, der });
        }
    }
    (!found.is_empty()).then_some(found)
}

fn key_of(files: &Files, signer: &Pem) -> Result<KeyPair, SourceError> {
    let refused = || SourceError::Key { file: files.path(files.layout.key) };
    let text = std::str::from_utf8(&files.key).map_err(|_| refused())?;
    let key = read_key(text).ok_or_else(refused)?;
    let unreadable = || SourceError::Certificate { file: files.path(files.layout.certificate) };
    let parsed = parse(&signer.der).ok_or_else(unreadable)?;
    if parsed.public_key().raw != key.subject_public_key_info() {
        return Err(SourceError::Mismatch {
            key: files.path(files.layout.key),
            certificate: files.path(files.layout.certificate),
        });
    }
    request::kind_of(parsed.public_key()).map_err(|_| refused())?;
    Ok(key)
}

/// From the signing certificate to its root, both included; one alone when it is the root.
fn path<'a>(
    files: &Files,
    signer: &'a Pem,
    between: &'a [Pem],
    roots: &'a [Pem],
) -> Result<Vec<&'a Pem>, SourceError> {
    let mut path = vec![signer];
    loop {
        let last = path[path.len() - 1];
        if roots.iter().any(|root| root.der == last.der) {
            return Ok(path);
        }
        let above = |by: &&Pem| is_signed_by(&last.der, &by.der);
        let next = roots.iter().find(above).or_else(|| {
            between.iter().filter(|one| path.iter().all(|known| known.der != one.der)).find(above)
        });
        match next {
            Some(next) if path.len() <= MAX_CHAIN => path.push(next),
            _ => {
                return Err(SourceError::NoPath {
                    subject: subject(&last.der),
                    chain: files.chain_path(),
                    roots: files.path(files.layout.roots),
                });
            }
        }
    }
}

fn is_signed_by(certificate: &CertificateDer<'_>, issuer: &CertificateDer<'_>) -> bool {
    let (Some(own), Some(issuer)) = (parse(certificate), parse(issuer)) else { return false };
    own.issuer() == issuer.subject() && own.verify_signature(Some(issuer.public_key())).is_ok()
}

fn check_ca(
    certificate: &CertificateDer<'_>,
    below: u32,
    domain: &TrustDomain,
) -> Result<(), SourceError> {
    let subject = subject(certificate);
    let Some(parsed) = parse(certificate) else { return Err(SourceError::NotCa { subject }) };
    let constraints = parsed.basic_constraints().ok().flatten().map(|found| found.value.clone());
    let Some(constraints) = constraints.filter(|found| found.ca) else {
        return Err(SourceError::NotCa { subject });
    };
    if let Some(allowed) = constraints.path_len_constraint
        && allowed < below
    {
        return Err(SourceError::PathLength { subject, allowed, below });
    }
    let usage = parsed.key_usage().ok().flatten();
    if !usage.is_some_and(|usage| usage.value.key_cert_sign()) {
        return Err(SourceError::KeyUsage { subject });
    }
    let names = parsed.subject_alternative_name().ok().flatten();
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        if let GeneralName::URI(uri) = name
            && uri.starts_with("spiffe://")
            && !uri
                .strip_prefix(&domain.uri())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        {
            let found = uri.escape_default().to_string();
            return Err(SourceError::ForeignTrustDomain {
                subject,
                found,
                expected: domain.clone(),
            });
        }
    }
    Ok(())
}

fn check_dates(
    certificate: &CertificateDer<'_>,
    largest_ttl: i64,
    now: OffsetDateTime,
) -> Result<(), SourceError> {
    let subject = subject(certificate);
    let Some(parsed) = parse(certificate) else { return Err(SourceError::NotCa { subject }) };
    let validity = parsed.validity();
    let (from, end) = (validity.not_before.to_datetime(), validity.not_after.to_datetime());
    if now < from {
        return Err(SourceError::Early { subject, from });
    }
    let needed = largest_ttl.saturating_add(profile::ISSUER_MARGIN.whole_seconds());
    if end.unix_timestamp() < now.unix_timestamp().saturating_add(needed) {
        return Err(SourceError::Late { subject, end });
    }
    Ok(())
}

/// Signs a leaf by way of trial and verifies it as peers do: what was not thought of shows here.
fn try_out(
    path: &[&Pem],
    roots: &[Pem],
    key: KeyPair,
    domain: &TrustDomain,
    now: OffsetDateTime,
) -> Result<(), SourceError> {
    let trial = || -> Result<CertificateDer<'static>, rcgen::Error> {
        let id = SpiffeId::of_authority(domain);
        let end = now + time::Duration::try_from(Duration::from_mins(1)).unwrap_or_default();
        let params = profile::leaf(&id, KeyKind::Ec, now, end)?;
        let issuer = Issuer::from_ca_cert_der(&path[0].der, key)?;
        Ok(params.signed_by(&KeyPair::generate()?, &issuer)?.der().clone())
    };
    let leaf = trial().map_err(SourceError::Sign)?;
    let chain: Vec<_> =
        std::iter::once(leaf).chain(path[..path.len() - 1].iter().map(|p| p.der.clone())).collect();
    let roots = roots.iter().map(|root| root.der.clone()).collect();
    let bundle = TrustBundle::from_certificates(domain.clone(), roots)
        .map_err(|_| SourceError::NotCa { subject: subject(&path[path.len() - 1].der) })?;
    bundle.verify(&chain, PeerRole::Server, unix(now)).map_err(SourceError::Trial)?;
    Ok(())
}

fn subject(certificate: &CertificateDer<'_>) -> String {
    let name = parse(certificate).map(|parsed| parsed.subject().to_string());
    match name.as_deref() {
        None | Some("") => "a certificate without a name".to_owned(),
        Some(name) => format!("certificate `{}`", name.escape_default()),
    }
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    match X509Certificate::from_der(der) {
        Ok(([], parsed)) => Some(parsed),
        _ => None,
    }
}
