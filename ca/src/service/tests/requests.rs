//! Signing requests that get no certificate, and lives that are not granted as wished.

use rcgen::{BasicConstraints, CustomExtension, IsCa, KeyPair, SanType};
use time::OffsetDateTime;
use tonic::Code;

use super::lab::{DB, Lab, WEB, csr};
use crate::authority::unix;
use crate::testing::pem;

#[tokio::test]
async fn unacceptable_requests_are_invalid_arguments() {
    let lab = Lab::new().await;
    let key = KeyPair::generate().unwrap();
    let edwards = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let p521 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
    let db = || SanType::URI(DB.try_into().unwrap());
    let good = csr(&key, |_| {});
    let certificate = good.replace("CERTIFICATE REQUEST", "CERTIFICATE");
    let mut broken =
        rcgen::CertificateParams::default().serialize_request(&key).unwrap().der().to_vec();
    // The last byte belongs to the number `s` of the signature.
    *broken.last_mut().unwrap() ^= 1;
    let dns = SanType::DnsName("web.default.svc".try_into().unwrap());
    for (csr, rule) in [
        (String::new(), "request_malformed"),
        ("garbage".to_owned(), "request_malformed"),
        ("\0".repeat(100), "request_malformed"),
        (format!("{good}{good}"), "request_malformed"),
        (format!("{good}x"), "request_malformed"),
        (format!("x{good}"), "request_malformed"),
        (good[..good.len() / 2].to_owned(), "request_malformed"),
        (certificate, "request_malformed"),
        (pem("CERTIFICATE REQUEST", &[]), "request_malformed"),
        (pem("CERTIFICATE REQUEST", &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]), "request_malformed"),
        (include_str!("data/der-trailing.pem").to_owned(), "request_malformed"),
        ("x".repeat(17 * 1024), "request_too_large"),
        (pem("CERTIFICATE REQUEST", &broken), "request_signature"),
        (csr(&edwards, |_| {}), "request_key"),
        (csr(&p521, |_| {}), "request_key"),
        (include_str!("data/rsa-512.pem").to_owned(), "request_key"),
        (include_str!("data/rsa-1024.pem").to_owned(), "request_key"),
        (include_str!("data/rsa-2048-e3.pem").to_owned(), "request_key"),
        (include_str!("data/rsa-8192.pem").to_owned(), "request_key"),
        (include_str!("data/secp256k1.pem").to_owned(), "request_key"),
        (include_str!("data/p256-explicit.pem").to_owned(), "request_key"),
        (include_str!("data/p256-off-curve.pem").to_owned(), "request_signature"),
        (csr(&key, |r| r.subject_alt_names.push(db())), "request_names"),
        (csr(&key, |r| r.subject_alt_names = vec![db()]), "request_names"),
        (csr(&key, |r| r.subject_alt_names.push(dns.clone())), "request_names"),
        (csr(&key, |r| r.subject_alt_names = vec![dns.clone()]), "request_names"),
        (csr(&key, |r| r.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), "request_ca"),
    ] {
        let mut request = lab.good();
        request.get_mut().csr = csr;
        lab.refused(request, Code::InvalidArgument, rule).await;
    }
}

#[tokio::test]
async fn nothing_of_a_request_but_its_key_reaches_the_certificate() {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    use x509_parser::prelude::{FromDer as _, X509Certificate};

    let lab = Lab::new().await;
    let key = KeyPair::generate().unwrap();
    let mut request = lab.good();
    request.get_mut().csr = csr(&key, |r| {
        r.distinguished_name.push(rcgen::DnType::CommonName, "admin");
        r.custom_extensions = vec![CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0])];
        r.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::CodeSigning];
        r.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    });
    let answer = lab.send(request).await.unwrap();
    let der = CertificateDer::from_pem_slice(answer[0].as_bytes()).unwrap();
    let (_, leaf) = X509Certificate::from_der(&der).unwrap();
    assert_eq!(leaf.subject().iter().count(), 0);
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && usage.server_auth && !usage.code_signing);
    assert!(!leaf.key_usage().unwrap().unwrap().value.key_cert_sign());
    assert!(leaf.extensions().iter().all(|e| e.oid.to_id_string() != "1.2.3.4"));
}

#[tokio::test]
async fn message_that_does_not_come_whole_is_in_the_audit_too() {
    let lab = Lab::new().await;
    for bytes in [65 * 1024, 1024 * 1024, 16 * 1024 * 1024] {
        let mut request = lab.good();
        request.get_mut().csr = "x".repeat(bytes);
        lab.refused(request, Code::OutOfRange, "unread").await;
    }
}

#[tokio::test]
async fn nothing_is_signed_for_a_key_of_the_authority() {
    let lab = Lab::new().await;
    let mut found = 0;
    for file in std::fs::read_dir(lab.directory.path().join("ca")).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        // As it stands in a PEM file, or in a document of another form.
        let text = String::from_utf8_lossy(&bytes).replace("\\n", "\n");
        for block in text.split("-----BEGIN PRIVATE KEY-----").skip(1) {
            let block = block.split("-----END").next().unwrap();
            let pem = format!("-----BEGIN PRIVATE KEY-----{block}-----END PRIVATE KEY-----\n");
            let key = KeyPair::from_pem(&pem).unwrap();
            let mut request = lab.good();
            request.get_mut().csr = csr(&key, |_| {});
            let answer = lab.send(request).await;
            let rule = lab.audit.last()["rule"].clone();
            if rule == "own_key" {
                assert_eq!(answer.unwrap_err().code(), Code::InvalidArgument);
                found += 1;
            }
        }
    }
    assert!(found >= 2, "root and issuing key at least, not {found}");
    lab.serves().await;
}

#[tokio::test]
async fn lifetime_is_clamped_to_the_limits() {
    let lab = Lab::new().await;
    let century = 100 * 365 * 86400;
    for (wish, seconds) in [
        (0, 3600),
        (-5, 3600),
        (i64::MIN, 3600),
        (1, 3600),
        (60, 3600),
        (5400, 5400),
        (7201, 7200),
        (century, 7200),
        (i64::MAX, 7200),
    ] {
        let mut request = lab.good();
        request.get_mut().validity_duration = wish;
        let before = unix(OffsetDateTime::now_utc()).as_secs();
        lab.send(request).await.unwrap();
        let line = lab.audit.last();
        let granted = line["not_after"].as_u64().unwrap() - before;
        assert!((seconds..seconds + 5).contains(&granted), "{wish}: {granted}");
        assert_eq!(line["identity"], WEB);
        assert!(line["ttl"].as_u64().unwrap().abs_diff(seconds) < 2, "{line}");
    }
}
