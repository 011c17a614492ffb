//! Certificates that a peer may come with: good ones by the lab CA's own issuing key, and bad.

use anyhow::{Context, Result};
use culvert_tests::Lab;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::Value;
use std::fs;
use time::{Duration, OffsetDateTime};

/// A chain, leaf first, and the leaf's key.
pub(super) struct Svid {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

/// The lab CA's issuing certificate and key.
pub(super) struct Mint {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Mint {
    /// Reads them from the CA's folder.
    pub(super) fn of_lab(lab: &Lab) -> Result<Self> {
        let path = lab.ca_directory().join("state.json");
        let bytes =
            fs::read(&path).with_context(|| format!("could not read {}", path.display()))?;
        let state: Value = serde_json::from_slice(&bytes)?;
        let roots = state["generations"].as_array().context("no roots in state.json")?;
        let active = roots.iter().find(|root| root["phase"] == "active");
        let issuing = &active.context("no active root in state.json")?["issuing"];
        let text = |field| issuing[field].as_str().context("no issuing certificate or key");
        let certificate = CertificateDer::from_pem_slice(text("certificate")?.as_bytes())?;
        let key = KeyPair::from_pem(text("key")?)?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Self { certificate, issuer })
    }

    /// What a workload of the lab would present.
    pub(super) fn svid(&self, service_account: &str) -> Result<Svid> {
        self.altered(service_account, |_| {})
    }

    /// The same but for a change.
    pub(super) fn altered(
        &self,
        service_account: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Result<Svid> {
        let mut params = profile(service_account)?;
        change(&mut params);
        let key = KeyPair::generate()?;
        let leaf = params.signed_by(&key, &self.issuer)?.der().clone();
        Ok(svid(vec![leaf, self.certificate.clone()], &key))
    }

    /// A good certificate followed by so many copies of its issuer.
    pub(super) fn long_chain(&self, service_account: &str, copies: usize) -> Result<Svid> {
        let mut svid = self.svid(service_account)?;
        svid.chain.extend(std::iter::repeat_n(self.certificate.clone(), copies));
        Ok(svid)
    }

    /// A leaf that names the lab's own issuer, signed with another key.
    pub(super) fn forged(&self, service_account: &str) -> Result<Svid> {
        let issuer = Issuer::from_ca_cert_der(&self.certificate, KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        let leaf = profile(service_account)?.signed_by(&key, &issuer)?.der().clone();
        Ok(svid(vec![leaf, self.certificate.clone()], &key))
    }
}

/// A leaf that vouches for itself.
pub(super) fn self_signed(service_account: &str) -> Result<Svid> {
    let key = KeyPair::generate()?;
    let leaf = profile(service_account)?.self_signed(&key)?.der().clone();
    Ok(svid(vec![leaf], &key))
}

/// A right leaf under an authority that the mesh does not know.
pub(super) fn foreign(service_account: &str) -> Result<Svid> {
    let key = KeyPair::generate()?;
    let mut authority = CertificateParams::default();
    authority.distinguished_name = DistinguishedName::new();
    authority.distinguished_name.push(DnType::OrganizationName, "cluster.local");
    authority.distinguished_name.push(DnType::CommonName, "cluster.local issuing 1");
    authority.subject_alt_names = vec![uri("spiffe://cluster.local")?];
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = authority.self_signed(&key)?.der().clone();
    let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
    let own = KeyPair::generate()?;
    let leaf = profile(service_account)?.signed_by(&own, &issuer)?.der().clone();
    Ok(svid(vec![leaf, certificate], &own))
}

/// A URI SAN.
pub(super) fn uri(text: &str) -> Result<SanType> {
    Ok(SanType::URI(text.try_into()?))
}

fn svid(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Svid {
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Svid { chain, key }
}

/// What the lab's CA writes into a leaf.
fn profile(service_account: &str) -> Result<CertificateParams> {
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = now - Duration::minutes(5);
    params.not_after = now + Duration::hours(1);
    params.subject_alt_names =
        vec![uri(&format!("spiffe://cluster.local/ns/default/sa/{service_account}"))?];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}
