//! Certificate chains of a peer.
//!
//! Mutated bytes would never pass a signature, and what comes after it would stay unseen. So the
//! input is the part of the leaf that is signed, and the target signs it, whatever it says, with
//! the key of a root that the verifier believes. What follows the first DER element are further
//! certificates of the chain as they are.

use crate::Verdict;
use culvert_spiffe::{PeerRole, TrustBundle};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    KeyUsagePurpose, SigningKey,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use std::sync::LazyLock;
use std::time::Duration;
use time::OffsetDateTime;
use time::macros::datetime;

/// When every chain is looked at.
pub(crate) const NOW: OffsetDateTime = datetime!(2026-06-01 12:00 UTC);

/// The algorithm `ecdsa-with-SHA256`.
const ECDSA_SHA256: [u8; 12] = [0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];

static ROOT: LazyLock<(CertifiedIssuer<'static, KeyPair>, TrustBundle)> = LazyLock::new(|| {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "root");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(2));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = NOW - Duration::from_hours(24);
    params.not_after = NOW + Duration::from_hours(24);
    let key = KeyPair::generate().expect("a key");
    let root = CertifiedIssuer::self_signed(params, key).expect("a root");
    let bundle =
        TrustBundle::from_certificates("td".parse().expect("legal"), vec![root.der().clone()]);
    (root, bundle.expect("a bundle"))
});

pub(crate) fn run(input: &[u8]) -> Verdict {
    let (root, bundle) = &*ROOT;
    let (signed, rest) = element(input).unwrap_or((input, &[]));
    let mut chain = vec![sign(signed, root.key())];
    let mut rest = rest;
    while let Some((certificate, after)) = element(rest) {
        chain.push(certificate.to_vec().into());
        rest = after;
    }
    let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW.unix_timestamp().unsigned_abs()));
    let [client, server] =
        [PeerRole::Client, PeerRole::Server].map(|role| bundle.verify(&chain, role, now));
    for peer in [&client, &server].into_iter().flatten() {
        crate::names::check(peer.id().as_str(), peer.id());
        assert_eq!(peer.id().trust_domain().as_str(), "td");
        assert!(peer.not_after().as_secs() >= now.as_secs(), "an expired peer");
        let uri = peer.id().as_str().as_bytes();
        assert!(signed.windows(uri.len()).any(|piece| piece == uri), "an identity from nowhere");
        assert!(chain.len() <= 6);
    }
    if let (Err(error), Err(_)) = (&client, &server) {
        assert!(error.to_string().len() < 4096, "an endless error");
    }
    Verdict::of(&client.or(server))
}

/// A certificate of the signed part, the algorithm and the signature.
fn sign(signed: &[u8], key: &KeyPair) -> CertificateDer<'static> {
    let signature = key.sign(signed).expect("a signature");
    let mut bits = vec![0];
    bits.extend(signature);
    let bits = der(3, &bits);
    der(0x30, &[signed, &ECDSA_SHA256, &bits].concat()).into()
}

/// One DER element of this tag.
pub(crate) fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let length = &length[length.iter().position(|byte| *byte != 0).unwrap_or(length.len() - 1)..];
    let mut element = vec![tag];
    if content.len() >= 128 {
        element.push(0x80 | u8::try_from(length.len()).expect("at most eight"));
    }
    element.extend_from_slice(length);
    element.extend_from_slice(content);
    element
}

/// The first DER element of a text, and what follows it.
pub(crate) fn element(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let first = *text.get(1)?;
    let (header, length) = if first < 128 {
        (2, usize::from(first))
    } else {
        let many = usize::from(first & 0x7f);
        let bytes = text.get(2..2 + many).filter(|bytes| bytes.len() <= 4)?;
        (2 + many, bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)))
    };
    let end = header.checked_add(length).filter(|end| *end <= text.len())?;
    Some(text.split_at(end))
}
