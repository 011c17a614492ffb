//! Certificates that must not be believed. TLS 1.3 tells a client of it only after its own side
//! of the handshake is done, so each waits for the victim's word and sends nothing.

use super::mint::{self, Svid};
use super::stage::Stage;
use super::tls::{Credentials, End, Tls};
use anyhow::{Result, ensure};
use culvert_tests::scenario;
use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use rustls::AlertDescription;
use time::{Duration, OffsetDateTime};

/// What the victim must say and log.
#[derive(Clone, Copy)]
struct Verdict {
    alert: AlertDescription,
    reason: &'static str,
    /// In the log line: what is wrong, in words that a person can act on.
    words: &'static str,
}

/// A certificate that the verifier of the mesh itself refuses; the alert follows from the reason.
fn verdict(reason: &'static str, words: &'static str) -> Verdict {
    let alert = match reason {
        "certificate_expired" | "certificate_not_yet_valid" => AlertDescription::CertificateExpired,
        "unknown_issuer" | "wrong_trust_domain" => AlertDescription::UnknownCA,
        _ => AlertDescription::BadCertificate,
    };
    Verdict { alert, reason, words }
}

/// A certificate that is good, but for something else.
fn unfit(words: &'static str) -> Verdict {
    Verdict { alert: AlertDescription::UnsupportedCertificate, reason: "bad_certificate", words }
}

fn refused(make: fn(&Stage) -> Result<Svid>, verdict: Verdict) {
    presented(move |stage| Ok(Credentials::of(make(stage)?)), verdict);
}

fn presented(make: impl FnOnce(&Stage) -> Result<Credentials> + Send + 'static, verdict: Verdict) {
    scenario(move || {
        let stage = Stage::build()?;
        let mut tls = Tls::client(stage.dial()?, &make(&stage)?)?;
        let (said, end) = match tls.handshake() {
            Ok(()) => tls.last_word(),
            Err(end) => (Vec::new(), end),
        };
        let Verdict { alert, reason, words } = verdict;
        ensure!(end == End::Alert(alert), "refused by {end:?}");
        ensure!(said.is_empty(), "the victim spoke to a stranger: {said:?}");
        stage.counted(reason, 1, words)?;
        stage.unharmed()
    });
}

#[test]
fn client_without_certificate_is_refused() {
    presented(
        |_| Ok(Credentials::none()),
        Verdict {
            alert: AlertDescription::CertificateRequired,
            reason: "no_certificate",
            words: "peer sent no certificate",
        },
    );
}

#[test]
fn another_trust_domain_is_refused() {
    refused(
        |stage| {
            let id = mint::uri("spiffe://other.example/ns/default/sa/x1")?;
            stage.mint.altered("x1", |leaf| leaf.subject_alt_names = vec![id])
        },
        verdict("wrong_trust_domain", "expected trust domain cluster.local"),
    );
}

#[test]
fn expired_certificate_is_refused() {
    refused(
        |stage| {
            stage.mint.altered("x1", |leaf| {
                leaf.not_before = OffsetDateTime::now_utc() - Duration::hours(2);
                leaf.not_after = OffsetDateTime::now_utc() - Duration::seconds(5);
            })
        },
        verdict("certificate_expired", "this node's clock says"),
    );
}

#[test]
fn certificate_of_the_future_is_refused() {
    refused(
        |stage| {
            stage.mint.altered("x1", |leaf| {
                leaf.not_before = OffsetDateTime::now_utc() + Duration::hours(1);
                leaf.not_after = OffsetDateTime::now_utc() + Duration::hours(2);
            })
        },
        verdict("certificate_not_yet_valid", "this node's clock says"),
    );
}

#[test]
fn self_signed_certificate_is_refused() {
    refused(|_| mint::self_signed("x1"), verdict("unknown_issuer", "was not issued by a root"));
}

#[test]
fn certificate_of_a_foreign_authority_is_refused() {
    refused(|_| mint::foreign("x1"), verdict("unknown_issuer", "was not issued by a root"));
}

#[test]
fn forged_signature_of_the_own_authority_is_refused() {
    refused(|stage| stage.mint.forged("x1"), verdict("unknown_issuer", "was not issued by a root"));
}

#[test]
fn certificate_without_san_is_refused() {
    refused(
        |stage| stage.mint.altered("x1", |leaf| leaf.subject_alt_names.clear()),
        verdict("bad_san", "has no SPIFFE ID"),
    );
}

#[test]
fn certificate_with_two_identities_is_refused() {
    refused(
        |stage| {
            let second = mint::uri("spiffe://cluster.local/ns/default/sa/frontend")?;
            stage.mint.altered("x1", |leaf| leaf.subject_alt_names.push(second))
        },
        verdict("bad_san", "2 URI SANs"),
    );
}

#[test]
fn certificate_with_a_dns_name_only_is_refused() {
    refused(
        |stage| {
            let name = rcgen::SanType::DnsName("frontend.default.svc".try_into()?);
            stage.mint.altered("x1", |leaf| leaf.subject_alt_names = vec![name])
        },
        verdict("bad_san", "frontend.default.svc"),
    );
}

#[test]
fn certificate_with_an_odd_path_is_refused() {
    refused(
        |stage| {
            let id = mint::uri("spiffe://cluster.local/ns/default/sa/frontend/")?;
            stage.mint.altered("x1", |leaf| leaf.subject_alt_names = vec![id])
        },
        verdict("bad_san", "no workload identity"),
    );
}

#[test]
fn certificate_of_an_authority_as_leaf_is_refused() {
    refused(
        |stage| {
            stage.mint.altered("x1", |leaf| {
                leaf.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            })
        },
        unfit("is a CA certificate"),
    );
}

#[test]
fn certificate_for_servers_only_is_refused() {
    refused(
        |stage| {
            stage.mint.altered("x1", |leaf| {
                leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            })
        },
        unfit("lacks extended key usage clientAuth"),
    );
}

#[test]
fn certificate_that_may_not_sign_is_refused() {
    refused(
        |stage| {
            stage.mint.altered("x1", |leaf| {
                leaf.key_usages = vec![KeyUsagePurpose::KeyEncipherment];
            })
        },
        unfit("lacks digitalSignature"),
    );
}

#[test]
fn chain_that_is_too_long_is_refused() {
    refused(|stage| stage.mint.long_chain("x1", 20), verdict("bad_certificate", "22 certificates"));
}

#[test]
fn certificate_that_is_too_large_is_refused() {
    refused(
        |stage| {
            stage.mint.altered("x1", |leaf| {
                // A private extension of forty kilobytes.
                let bulk = vec![4; 40_000];
                let extension =
                    rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99], bulk);
                leaf.custom_extensions.push(extension);
            })
        },
        verdict("bad_certificate", "at most 6 of 32768 are read"),
    );
}
