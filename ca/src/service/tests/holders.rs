//! Callers that prove themselves by their own certificate.

use culvert_proto::istio::ca::IstioCertificateRequest;
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::pki_types::PrivatePkcs8KeyDer;
use time::OffsetDateTime;
use tonic::{Code, Request};

use super::lab::{DB, HOUR, Lab, Presented, WEB, WORKLOADS, asking_for, authorize, svid};
use crate::authority::Authority;
use crate::directory::Directory;

/// A good request without token.
fn bare(lab: &Lab, identity: Option<&str>) -> Request<IstioCertificateRequest> {
    let mut request = lab.good();
    request.metadata_mut().remove("authorization");
    request.get_mut().metadata = identity.map(asking_for);
    request
}

fn self_signed(id: &str) -> Presented {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    let certificate = params.self_signed(&key).unwrap();
    (vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
}

/// Of the same trust domain by name, under another root.
async fn of_another_authority(id: &str) -> Presented {
    let temp = tempfile::tempdir().unwrap();
    let (files, now) = (Directory::open(temp.path()).unwrap(), OffsetDateTime::now_utc());
    let authority = Authority::open(files, "td".parse().unwrap(), now).await.unwrap();
    svid(&authority, id, now)
}

#[tokio::test]
async fn holder_of_a_valid_certificate_renews_it_and_nothing_else() {
    let lab = Lab::new().await;
    let mut client = lab.client(Some(lab.svid(WEB, OffsetDateTime::now_utc())));
    for identity in [None, Some(WEB)] {
        let answer = client.create_certificate(bare(&lab, identity)).await.unwrap();
        assert_eq!(answer.into_inner().cert_chain.len(), 3);
        let line = lab.audit.last();
        assert_eq!((&line["caller"], &line["identity"]), (&"certificate".into(), &WEB.into()));
        assert_eq!(line["caller_identity"], WEB);
    }
    for (identity, rule) in [
        (DB, "not_own_identity"),
        ("spiffe://td/ns/culvert-system/sa/culvert-ca", "reserved_identity"),
        ("spiffe://other/ns/default/sa/web", "foreign_trust_domain"),
        ("spiffe://td/ns/default/sa/web/", "malformed_identity"),
    ] {
        let request = bare(&lab, Some(identity));
        lab.refused_to(client.clone(), request, Code::Unauthenticated, rule).await;
    }
}

#[tokio::test]
async fn identity_without_a_workload_is_not_renewed() {
    let lab = Lab::new().await;
    let now = OffsetDateTime::now_utc();
    let client = lab.client(Some(lab.svid("spiffe://td/ns/default/sa/gone", now)));
    let mut request = bare(&lab, None);
    request.get_mut().csr = super::lab::csr(&KeyPair::generate().unwrap(), |r| {
        r.subject_alt_names.clear();
    });
    lab.refused_to(client, request, Code::Unauthenticated, "not_placed").await;

    let mut client = lab.client(Some(lab.svid(DB, now)));
    let mut request = bare(&lab, None);
    request.get_mut().csr.clone_from(&lab.good().get_ref().csr);
    let other_name = client.create_certificate(request).await.unwrap_err();
    assert_eq!(other_name.code(), Code::InvalidArgument, "its CSR names another");
    // Its last workload goes while the connection stays.
    let path = lab.directory.path().join("workloads.yaml");
    std::fs::write(&path, WORKLOADS.replace("serviceAccount: db", "serviceAccount: dc")).unwrap();
    tokio::time::timeout(HOUR, async {
        loop {
            let _ = client.create_certificate(bare(&lab, None)).await;
            if lab.audit.last()["rule"] == "not_placed" {
                break;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn certificate_that_does_not_hold_is_no_proof() {
    // Keys of two days ago, so that certificates of two days ago can be made.
    let old = OffsetDateTime::now_utc() - HOUR * 48;
    let lab = Lab::opened_at(old).await;
    for (presented, rule) in [
        (lab.svid(WEB, old), "certificate_expired"),
        (self_signed(WEB), "certificate_invalid"),
        (self_signed("spiffe://td/ns/culvert-system/sa/culvert-ca"), "certificate_invalid"),
        (of_another_authority(WEB).await, "certificate_invalid"),
    ] {
        let client = lab.client(Some(presented));
        let request = bare(&lab, None);
        lab.refused_to(client, request, Code::Unauthenticated, rule).await;
    }
}

#[tokio::test]
async fn of_token_and_certificate_the_token_decides() {
    let lab = Lab::new().await;
    let now = OffsetDateTime::now_utc();
    // A good certificate makes no bad token good.
    let client = lab.client(Some(lab.svid(WEB, now)));
    let mut request = bare(&lab, Some(WEB));
    authorize(&mut request, "a.b.c");
    lab.refused_to(client.clone(), request, Code::Unauthenticated, "malformed_token").await;
    let mut request = bare(&lab, Some(WEB));
    authorize(&mut request, &lab.node_token("node2"));
    lab.refused_to(client, request, Code::Unauthenticated, "not_on_node").await;
    // Nor does a bad certificate spoil a good token.
    let mut client = lab.client(Some(self_signed(WEB)));
    client.create_certificate(lab.good()).await.unwrap();
    assert_eq!(lab.audit.last()["caller"], "node_token");
}

#[tokio::test]
async fn certificates_over_the_bound_are_not_kept() {
    let lab = Lab::new().await;
    let (mut chain, key) = lab.svid(WEB, OffsetDateTime::now_utc());
    let filler = chain[1].clone();
    chain.extend(std::iter::repeat_n(filler, 100));
    let error = lab.client(Some((chain, key))).create_certificate(bare(&lab, None)).await;
    assert!(error.is_err(), "closed in the handshake");
    lab.serves().await;
}
