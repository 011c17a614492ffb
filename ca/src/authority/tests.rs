use culvert_spiffe::PeerRole;
use rcgen::{CertificateParams, PublicKeyData as _};
use time::macros::datetime;

use super::*;
use crate::profile::{ISSUER_MARGIN, KeyKind};
use crate::state::Timing;

mod fragile;
mod model;
mod rotation;
mod stores;

const NOW: OffsetDateTime = datetime!(2026-06-01 12:00 UTC);
const HOUR: Duration = Duration::from_hours(1);

fn domain() -> TrustDomain {
    "td".parse().unwrap()
}

fn web() -> SpiffeId {
    SpiffeId::new(&domain(), "default", "web").unwrap()
}

fn state_of(path: &std::path::Path) -> State {
    State::parse(&std::fs::read(path.join("state.json")).unwrap()).unwrap()
}

async fn open(path: &std::path::Path, now: OffsetDateTime) -> Result<Authority, AuthorityError> {
    Authority::open(Directory::open(path).unwrap(), domain(), now).await
}

fn proven(key: &KeyPair) -> ProvenKey {
    let csr = CertificateParams::default().serialize_request(key).unwrap().pem().unwrap();
    crate::request::read(&csr, &web()).unwrap()
}

fn issue(authority: &Authority, now: OffsetDateTime) -> Issued {
    let key = proven(&KeyPair::generate().unwrap());
    authority.issue(&web(), &key, HOUR, now).unwrap()
}

#[tokio::test]
async fn leaf_is_exactly_as_the_profile_says() {
    let temp = tempfile::tempdir().unwrap();
    let issued = issue(&open(temp.path(), NOW).await.unwrap(), NOW);
    let leaf = parse(&issued.chain[0]).unwrap();
    assert_eq!(leaf.subject().iter().count(), 0);
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical);
    assert_eq!(names.value.general_names.len(), 1);
    let usage = leaf.key_usage().unwrap().unwrap();
    assert!(usage.critical);
    assert_eq!(usage.value.flags, 1, "digitalSignature alone");
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth);
    let constraints = leaf.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && !constraints.value.ca);
    assert_eq!(leaf.raw_serial().len(), 16);
    let validity = leaf.validity();
    assert_eq!(validity.not_before.to_datetime(), NOW - time::Duration::minutes(5));
    assert_eq!(validity.not_after.to_datetime(), NOW + HOUR);
    let oids: Vec<_> = leaf.extensions().iter().map(|e| e.oid.to_id_string()).collect();
    assert!(oids.contains(&"2.5.29.35".to_owned()) && oids.contains(&"2.5.29.14".to_owned()));

    let issuing = parse(&issued.chain[1]).unwrap();
    let constraints = issuing.basic_constraints().unwrap().unwrap().value;
    assert!(constraints.ca && constraints.path_len_constraint == Some(0));
    assert_eq!(issued.cert_chain.len(), 3);
}

#[tokio::test]
async fn root_stays_over_restarts_and_other_domains_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let first = open(temp.path(), NOW).await.unwrap();
    let issued = issue(&first, NOW);
    let again = open(temp.path(), NOW).await.unwrap();
    assert_eq!(first.bundle().certificates(), again.bundle().certificates());
    again.bundle().verify(&issued.chain, PeerRole::Client, unix(NOW)).unwrap();
    let pem = std::fs::read(temp.path().join("root-cert.pem")).unwrap();
    let written = TrustBundle::from_pem(domain(), &pem).unwrap();
    assert_eq!(written.certificates(), first.bundle().certificates());
    assert!(!pem.windows(7).any(|bytes| bytes == b"PRIVATE"), "no key in the public file");

    let other =
        Authority::open(Directory::open(temp.path()).unwrap(), "other".parse().unwrap(), NOW).await;
    assert!(matches!(other.err().unwrap(), AuthorityError::ForeignTrustDomain { .. }));
}

#[tokio::test]
async fn issuing_certificate_turns_over_after_ten_days_without_a_new_root() {
    let temp = tempfile::tempdir().unwrap();
    let authority = open(temp.path(), NOW).await.unwrap();
    let before = issue(&authority, NOW);
    let nine = NOW + time::Duration::days(9);
    assert!(!authority.tend(nine).await.unwrap());
    let eleven = NOW + time::Duration::days(11);
    assert!(authority.tend(eleven).await.unwrap());
    let after = issue(&authority, eleven);
    assert_ne!(before.chain[1], after.chain[1]);
    assert_eq!(before.cert_chain[2], after.cert_chain[2]);
}

#[tokio::test]
async fn leaf_never_outlives_its_issuer() {
    let temp = tempfile::tempdir().unwrap();
    let store = Arc::new(DirectoryStore::new(Directory::open(temp.path()).unwrap()));
    let timing = Timing { issuing_turnover: 40 * 86400, ..Timing::default() };
    let settings = Settings { timing, ..Settings::new(domain()) };
    let authority = Authority::with(store, settings, NOW).await.unwrap();
    let late = NOW + time::Duration::days(30) - time::Duration::minutes(10);
    authority.tend(late).await.unwrap();
    let issued = issue(&authority, late);
    let end = unix(NOW + time::Duration::days(30) - ISSUER_MARGIN);
    assert_eq!(issued.not_after.as_secs(), end.as_secs());

    let over = NOW + time::Duration::days(31);
    authority.tend(over).await.unwrap();
    let key = proven(&KeyPair::generate().unwrap());
    let error = authority.issue(&web(), &key, HOUR, over).unwrap_err();
    assert!(matches!(error, AuthorityError::IssuerExpired), "{error}");
}

#[tokio::test]
async fn nothing_is_signed_for_a_key_of_the_authority() {
    let temp = tempfile::tempdir().unwrap();
    let authority = open(temp.path(), NOW).await.unwrap();
    let state = state_of(temp.path());
    let root = &state.generations[0];
    for key in [root.key.as_ref().unwrap(), &root.issuing.as_ref().unwrap().key] {
        let key = KeyPair::from_pem(key.expose()).unwrap();
        let proven = proven(&key);
        assert_eq!(proven.der, key.subject_public_key_info());
        assert_eq!(proven.kind, KeyKind::Ec);
        let error = authority.issue(&web(), &proven, HOUR, NOW).unwrap_err();
        assert!(matches!(error, AuthorityError::OwnKey), "{error}");
    }
}

#[test]
fn wishes_for_a_life_are_clamped() {
    let day = Duration::from_hours(24);
    let lifetimes = Lifetimes { default: day, least: HOUR, most: day * 2 };
    assert_eq!(lifetimes.grant(0), day);
    assert_eq!(lifetimes.grant(-1), day);
    assert_eq!(lifetimes.grant(i64::MIN), day);
    assert_eq!(lifetimes.grant(1), HOUR);
    assert_eq!(lifetimes.grant(7200), HOUR * 2);
    assert_eq!(lifetimes.grant(i64::MAX), day * 2);
}
