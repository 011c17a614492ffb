//! Clocks that are wrong, as far as the API is concerned: the time of a call is passed in.

use culvert_proto::istio::ca::IstioCertificateRequest;
use prometheus::Registry;
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use time::macros::datetime;
use tonic::metadata::MetadataMap;

use super::super::*;
use super::lab::{HOUR, WEB, WORKLOADS, asking_for, csr};
use crate::attest::NodeTokens;
use crate::authority::unix;
use crate::directory::Directory;
use crate::placement::PlacementFile;

const NOW: OffsetDateTime = datetime!(2026-06-01 12:00 UTC);
const DAY: Duration = Duration::from_hours(24);

struct Fixture {
    _directory: tempfile::TempDir,
    tokens: NodeTokens,
    service: Service<NodeTokens>,
}

async fn fixture() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("workloads.yaml");
    std::fs::write(&path, WORKLOADS).unwrap();
    let files = Directory::open(&directory.path().join("ca")).unwrap();
    let tokens = NodeTokens::open(&files).unwrap();
    let authenticator = NodeTokens::open(&files).unwrap();
    let authority = Arc::new(Authority::open(files, "td".parse().unwrap(), NOW).await.unwrap());
    let placement = Arc::new(PlacementFile::open(&path, "td".parse().unwrap()).unwrap());
    let admission = Arc::new(Admission::new(authority.clone(), placement, authenticator));
    let metrics = CaMetrics::register(&Registry::new()).unwrap();
    let lifetimes = Lifetimes { default: HOUR, least: HOUR, most: DAY };
    let service = Service::new(authority, admission, lifetimes, metrics);
    Fixture { _directory: directory, tokens, service }
}

async fn ask(fixture: &Fixture, token: &str, now: OffsetDateTime) -> Result<Issued, Rule> {
    let mut headers = MetadataMap::new();
    headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
    let message = IstioCertificateRequest {
        csr: csr(&rcgen::KeyPair::generate().unwrap(), |_| {}),
        validity_duration: 0,
        metadata: Some(asking_for(WEB)),
    };
    let mut record = Record::from_peer(None, now);
    fixture.service.decide(&headers, None, &message, now, &mut record).await
}

#[tokio::test]
async fn clock_forward_ends_tokens_and_never_outlives_the_issuer() {
    let fixture = fixture().await;
    let short = fixture.tokens.create("node1", HOUR, NOW).unwrap();
    let long = fixture.tokens.create("node1", DAY * 60, NOW).unwrap();
    assert!(ask(&fixture, &short, NOW).await.is_ok());
    let ahead = NOW + HOUR * 48;
    assert_eq!(ask(&fixture, &short, ahead).await.unwrap_err(), Rule::TokenExpired);
    let unseen = ask(&fixture, &long, ahead).await.unwrap_err();
    assert_eq!(unseen, Rule::SigningFailed, "the store was not read for two days");
    fixture.service.authority.tend(ahead).await.unwrap();
    let issued = ask(&fixture, &long, ahead).await.unwrap();
    assert_eq!(issued.not_after.as_secs(), unix(ahead + HOUR).as_secs());
    // Forty days on, with nobody who looked after the issuing certificate.
    let late = NOW + DAY * 40;
    assert_eq!(ask(&fixture, &long, late).await.unwrap_err(), Rule::SigningFailed);
    assert!(ask(&fixture, &long, NOW).await.is_ok(), "and right again when the clock is");
}

#[tokio::test]
async fn clock_back_an_hour_signs_nothing_that_does_not_verify() {
    let fixture = fixture().await;
    let token = fixture.tokens.create("node1", DAY, NOW).unwrap();
    // Within the five minutes by which certificates begin earlier, all is well.
    let issued = ask(&fixture, &token, NOW - Duration::from_mins(4)).await.unwrap();
    let leaf: &CertificateDer<'_> = &issued.chain[0];
    assert!(!leaf.is_empty());
    let back = ask(&fixture, &token, NOW - HOUR).await.unwrap_err();
    assert_eq!(back, Rule::SigningFailed, "the issuing certificate has not begun");
    assert_eq!(status(back).code(), tonic::Code::Unavailable);
    assert!(ask(&fixture, &token, NOW).await.is_ok());
}
