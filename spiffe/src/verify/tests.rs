//! Each refusal, against certificates made for it.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DistinguishedName,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use time::macros::datetime;

use super::*;

const NOW: OffsetDateTime = datetime!(2026-06-01 12:00 UTC);
const WEB: &str = "spiffe://cluster.local/ns/default/sa/web";

fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(NOW.unix_timestamp().unsigned_abs()))
}

fn root(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    CertifiedIssuer::self_signed(ca_params(name, 2), KeyPair::generate().unwrap()).unwrap()
}

fn ca_params(name: &str, path_length: u8) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = NOW - time::Duration::days(100);
    params.not_after = NOW + time::Duration::days(100);
    params
}

fn leaf_params(uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names =
        uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = NOW - time::Duration::minutes(5);
    params.not_after = NOW + time::Duration::hours(1);
    params
}

/// What a peer with this leaf, issued by the bundle's own root, is told.
fn judge(params: &CertificateParams) -> Result<VerifiedPeer, VerifyError> {
    judge_as(params, PeerRole::Client)
}

fn judge_as(params: &CertificateParams, role: PeerRole) -> Result<VerifiedPeer, VerifyError> {
    let root = root("root");
    let leaf = params.signed_by(&KeyPair::generate().unwrap(), &root).unwrap();
    bundle(&root).verify(&[leaf.der().clone()], role, now())
}

fn bundle(root: &CertifiedIssuer<'_, KeyPair>) -> TrustBundle {
    TrustBundle::from_pem("cluster.local".parse().unwrap(), root.pem().as_bytes()).unwrap()
}

#[test]
fn right_chain_proves_the_identity_in_both_roles() {
    for role in [PeerRole::Client, PeerRole::Server] {
        let peer = judge_as(&leaf_params(&[WEB]), role).unwrap();
        assert_eq!(peer.id().as_str(), WEB);
        assert_eq!(peer.not_after().as_secs(), now().as_secs() + 3600);
    }
}

#[test]
fn chain_through_an_issuing_certificate_holds() {
    let root = root("root");
    let issuing =
        CertifiedIssuer::signed_by(ca_params("issuing", 0), KeyPair::generate().unwrap(), &root)
            .unwrap();
    let leaf = leaf_params(&[WEB]).signed_by(&KeyPair::generate().unwrap(), &issuing).unwrap();
    let chain = [leaf.der().clone(), issuing.der().clone()];
    bundle(&root).verify(&chain, PeerRole::Server, now()).unwrap();

    let without = bundle(&root).verify(&chain[..1], PeerRole::Server, now()).unwrap_err();
    assert!(matches!(without, VerifyError::UnknownIssuer { .. }), "{without}");
}

#[test]
fn issuing_certificate_that_may_not_sign_certificates_is_refused() {
    let root = root("root");
    let mut params = ca_params("issuing", 0);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let issuing = CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &root).unwrap();
    let leaf = leaf_params(&[WEB]).signed_by(&KeyPair::generate().unwrap(), &issuing).unwrap();
    let error = bundle(&root)
        .verify(&[leaf.der().clone(), issuing.der().clone()], PeerRole::Server, now())
        .unwrap_err();
    let may_not =
        matches!(error, VerifyError::Path { source: webpki::Error::EndEntityUsedAsCa, .. });
    assert!(may_not, "{error:?}");
}

#[test]
fn expired_issuing_certificate_is_told_from_an_expired_leaf() {
    let root = root("root");
    let mut params = ca_params("issuing", 0);
    params.not_after = NOW - time::Duration::days(1);
    let issuing = CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &root).unwrap();
    let leaf = leaf_params(&[WEB]).signed_by(&KeyPair::generate().unwrap(), &issuing).unwrap();
    let error = bundle(&root)
        .verify(&[leaf.der().clone(), issuing.der().clone()], PeerRole::Server, now())
        .unwrap_err();
    assert!(matches!(error, VerifyError::IssuerOutsideDates { .. }), "{error}");
}

#[test]
fn second_anchor_is_believed_too() {
    let (old, new) = (root("old"), root("new"));
    let pem = format!("{}{}{}", old.pem(), new.pem(), old.pem());
    let bundle = TrustBundle::from_pem("cluster.local".parse().unwrap(), pem.as_bytes()).unwrap();
    assert_eq!(bundle.certificates().len(), 2);
    let leaf = leaf_params(&[WEB]).signed_by(&KeyPair::generate().unwrap(), &new).unwrap();
    bundle.verify(&[leaf.der().clone()], PeerRole::Client, now()).unwrap();
}

#[test]
fn other_root_is_refused_even_under_the_same_name() {
    for name in ["other", "root"] {
        let theirs = root(name);
        let leaf = leaf_params(&[WEB]).signed_by(&KeyPair::generate().unwrap(), &theirs).unwrap();
        let error = bundle(&root("root"))
            .verify(&[leaf.der().clone()], PeerRole::Client, now())
            .unwrap_err();
        assert!(matches!(error, VerifyError::UnknownIssuer { .. }), "{error}");
    }
}

#[test]
fn self_signed_leaf_is_refused() {
    let leaf = leaf_params(&[WEB]).self_signed(&KeyPair::generate().unwrap()).unwrap();
    let error =
        bundle(&root("root")).verify(&[leaf.der().clone()], PeerRole::Client, now()).unwrap_err();
    assert!(matches!(error, VerifyError::UnknownIssuer { .. }), "{error}");
}

#[test]
fn foreign_trust_domain_under_our_own_root_is_refused() {
    let error = judge(&leaf_params(&["spiffe://other/ns/default/sa/web"])).unwrap_err();
    assert!(matches!(error, VerifyError::ForeignTrustDomain { .. }), "{error}");
    assert_eq!(
        error.to_string(),
        "no matching SAN: expected trust domain cluster.local, peer has \
         spiffe://other/ns/default/sa/web; give both ends the same trust domain"
    );
}

#[test]
fn no_two_or_odd_uri_sans_are_refused() {
    let none = judge(&leaf_params(&[])).unwrap_err();
    assert!(matches!(none, VerifyError::NoSpiffeId { .. }), "{none}");

    let mut dns_only = leaf_params(&[]);
    dns_only.subject_alt_names = vec![SanType::DnsName("web.default".try_into().unwrap())];
    let dns_only = judge(&dns_only).unwrap_err();
    assert!(dns_only.to_string().contains("web.default"), "{dns_only}");

    let two = judge(&leaf_params(&[WEB, "spiffe://cluster.local/ns/a/sa/b"])).unwrap_err();
    assert!(matches!(two, VerifyError::ManySpiffeIds { count: 2 }), "{two}");

    let odd = judge(&leaf_params(&["spiffe://cluster.local/ns/a/sa/b/"])).unwrap_err();
    assert!(matches!(odd, VerifyError::InvalidSpiffeId { .. }), "{odd}");
}

#[test]
fn dates_of_the_leaf_are_kept() {
    let mut params = leaf_params(&[WEB]);
    params.not_after = NOW - time::Duration::minutes(3);
    let error = judge(&params).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "certificate of {WEB} expired 3 min ago, at 2026-06-01T11:57:00Z; this node's clock \
             says 2026-06-01T12:00:00Z: compare both nodes' clocks, then look why the peer could \
             not renew"
        )
    );

    let mut params = leaf_params(&[WEB]);
    params.not_before = NOW + time::Duration::hours(5);
    params.not_after = NOW + time::Duration::hours(6);
    let error = judge(&params).unwrap_err();
    assert!(error.to_string().contains("valid only in 5 h"), "{error}");
}

#[test]
fn extended_key_usage_must_be_there_and_fit_the_role() {
    let mut params = leaf_params(&[WEB]);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    judge_as(&params, PeerRole::Server).unwrap();
    let error = judge_as(&params, PeerRole::Client).unwrap_err();
    assert!(matches!(error, VerifyError::ExtendedKeyUsage { needed: "clientAuth", .. }), "{error}");

    params.extended_key_usages = vec![];
    let error = judge(&params).unwrap_err();
    assert!(matches!(error, VerifyError::ExtendedKeyUsage { .. }), "{error}");
}

#[test]
fn key_usage_must_be_there_and_must_not_sign() {
    for usages in [
        vec![],
        vec![KeyUsagePurpose::KeyEncipherment],
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign],
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign],
    ] {
        let mut params = leaf_params(&[WEB]);
        params.key_usages = usages;
        let error = judge(&params).unwrap_err();
        assert!(matches!(error, VerifyError::KeyUsage { .. }), "{error}");
    }
}

#[test]
fn ca_certificate_as_leaf_is_refused() {
    let mut params = leaf_params(&[WEB]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let error = judge(&params).unwrap_err();
    assert!(matches!(error, VerifyError::LeafIsCa { .. }), "{error}");
}

#[test]
fn unknown_critical_extension_is_refused() {
    let mut params = leaf_params(&[WEB]);
    let mut odd = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
    odd.set_criticality(true);
    params.custom_extensions = vec![odd];
    let error = judge(&params).unwrap_err();
    assert!(matches!(error, VerifyError::Path { .. }), "{error}");
}

#[test]
fn size_of_the_chain_is_bounded_before_it_is_read() {
    let none = bundle(&root("root")).verify(&[], PeerRole::Client, now()).unwrap_err();
    assert!(matches!(none, VerifyError::NoCertificate), "{none}");

    let junk = CertificateDer::from(vec![0u8; 8]);
    let many = vec![junk.clone(); MAX_CHAIN_CERTIFICATES + 1];
    let error = bundle(&root("root")).verify(&many, PeerRole::Client, now()).unwrap_err();
    assert!(matches!(error, VerifyError::ChainTooLarge { .. }), "{error}");

    let large = [CertificateDer::from(vec![0u8; MAX_CHAIN_BYTES + 1])];
    let error = bundle(&root("root")).verify(&large, PeerRole::Client, now()).unwrap_err();
    assert!(matches!(error, VerifyError::ChainTooLarge { .. }), "{error}");

    let error = bundle(&root("root")).verify(&[junk], PeerRole::Client, now()).unwrap_err();
    assert!(matches!(error, VerifyError::Malformed { .. }), "{error}");
}

#[test]
fn bytes_after_the_leaf_are_refused() {
    let root = root("root");
    let leaf = leaf_params(&[WEB]).signed_by(&KeyPair::generate().unwrap(), &root).unwrap();
    let mut der = leaf.der().to_vec();
    der.push(0);
    let error = bundle(&root).verify(&[der.into()], PeerRole::Client, now()).unwrap_err();
    assert!(matches!(error, VerifyError::Malformed { .. }), "{error}");
}

#[test]
fn expected_identity_is_compared_whole() {
    let peer = judge(&leaf_params(&[WEB])).unwrap();
    assert!(peer.clone().expect(&WEB.parse().unwrap()).is_ok());
    let other: SpiffeId = "spiffe://cluster.local/ns/default/sa/web2".parse().unwrap();
    let error = peer.expect(&other).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with(&format!("no matching SAN: expected {other}, peer has {WEB}"))
    );
}

#[test]
fn bundle_refuses_what_is_no_root() {
    let domain: TrustDomain = "cluster.local".parse().unwrap();
    assert!(TrustBundle::from_pem(domain.clone(), b"").is_err());
    let leaf = leaf_params(&[WEB]).self_signed(&KeyPair::generate().unwrap()).unwrap();
    assert!(TrustBundle::from_pem(domain, leaf.pem().as_bytes()).is_err());
}

#[test]
fn proof_names_the_root_that_the_path_rests_on() {
    let (old, new) = (root("old"), root("new"));
    // The successor's certificate by its predecessor: what late peers need.
    let cross = ca_params("new", 1).signed_by(new.key(), &old).unwrap();
    let issuing =
        CertifiedIssuer::signed_by(ca_params("issuing", 0), KeyPair::generate().unwrap(), &new)
            .unwrap();
    let leaf = leaf_params(&[WEB]).signed_by(&KeyPair::generate().unwrap(), &issuing).unwrap();
    let chain = [leaf.der().clone(), issuing.der().clone(), cross.der().clone()];
    let domain: TrustDomain = "cluster.local".parse().unwrap();
    let both = vec![old.der().clone(), new.der().clone()];
    let both = TrustBundle::from_certificates(domain, both).unwrap();
    let of = |root: &CertifiedIssuer<'_, KeyPair>| RootId::of_certificate(root.der()).unwrap();
    for (bundle, expected) in [(bundle(&old), &old), (bundle(&new), &new), (both.clone(), &new)] {
        let peer = bundle.verify(&chain, PeerRole::Server, now()).unwrap();
        assert_eq!(peer.root(), of(expected));
    }
    assert_eq!(both.root_ids(), [of(&old), of(&new)]);
    assert_ne!(of(&old), of(&new));
}
