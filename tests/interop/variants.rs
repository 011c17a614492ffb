//! Good and bad certificates, all made in one place, into a folder whose manifest every verifier
//! reads.

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use std::fs;
use std::path::Path;
use time::{Duration, OffsetDateTime};

use crate::authority::WEB;

/// One chain with what a verifier is given for it. Paths are inside the folder.
#[derive(serde::Serialize, serde::Deserialize)]
pub(crate) struct Variant {
    /// What is special about it.
    pub(crate) name: String,
    /// Leaf first, PEM.
    pub(crate) chain: String,
    /// The leaf's key, PKCS#8 PEM.
    pub(crate) key: String,
    /// The roots that the verifier holds, PEM.
    pub(crate) roots: String,
}

/// A change of a leaf.
type Change = fn(&mut CertificateParams);

/// Leaves under the right issuer, right but for one thing.
const LEAVES: [(&str, Change); 19] = [
    ("good", |_| {}),
    ("two-uris", |leaf| leaf.subject_alt_names.push(uri("spiffe://cluster.local/ns/a/sa/b"))),
    ("no-san", |leaf| leaf.subject_alt_names.clear()),
    ("dns-only", |leaf| leaf.subject_alt_names = vec![dns("web.default")]),
    ("uri-and-dns", |leaf| leaf.subject_alt_names.push(dns("web.default"))),
    ("foreign-domain", |leaf| named(leaf, "spiffe://other.example/ns/default/sa/web")),
    ("trailing-slash", |leaf| named(leaf, "spiffe://cluster.local/ns/default/sa/web/")),
    ("query", |leaf| named(leaf, "spiffe://cluster.local/ns/default/sa/web?x=1")),
    ("no-spiffe-uri", |leaf| named(leaf, "https://cluster.local/ns/default/sa/web")),
    ("other-path", |leaf| named(leaf, "spiffe://cluster.local/workload/web")),
    ("upper-case-path", |leaf| named(leaf, "spiffe://cluster.local/ns/default/sa/Web")),
    ("ca-as-leaf", |leaf| leaf.is_ca = IsCa::Ca(BasicConstraints::Constrained(0))),
    ("no-digital-signature", |leaf| leaf.key_usages = vec![KeyUsagePurpose::KeyEncipherment]),
    ("no-key-usage", |leaf| leaf.key_usages.clear()),
    ("key-cert-sign", |leaf| leaf.key_usages.push(KeyUsagePurpose::KeyCertSign)),
    ("crl-sign", |leaf| leaf.key_usages.push(KeyUsagePurpose::CrlSign)),
    ("code-signing-only", |leaf| {
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    }),
    ("no-extended-usage", |leaf| leaf.extended_key_usages.clear()),
    ("unknown-critical-extension", |leaf| {
        let mut odd = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
        odd.set_criticality(true);
        leaf.custom_extensions.push(odd);
    }),
];

/// More of them, which differ by the clock and the end of the connection.
const DATES: [(&str, Change); 4] = [
    ("expired", |leaf| leaf.not_after = OffsetDateTime::now_utc() - Duration::minutes(1)),
    ("not-yet-valid", |leaf| leaf.not_before = OffsetDateTime::now_utc() + Duration::minutes(10)),
    ("client-only", |leaf| leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
    ("server-only", |leaf| leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
];

/// Issuing certificates that may not issue, or not this.
const ISSUERS: [(&str, Change); 4] = [
    ("issuer-is-no-ca", |issuer| issuer.is_ca = IsCa::ExplicitNoCa),
    ("issuer-may-not-sign", |issuer| issuer.key_usages = vec![KeyUsagePurpose::DigitalSignature]),
    ("issuer-expired", |issuer| {
        issuer.not_after = OffsetDateTime::now_utc() - Duration::minutes(1);
    }),
    ("issuer-not-yet-valid", |issuer| {
        issuer.not_before = OffsetDateTime::now_utc() + Duration::minutes(10);
    }),
];

/// Makes them all and writes them with `manifest.json`.
pub(crate) fn write(folder: &Path) -> Result<Vec<Variant>> {
    let mut writer = Writer { folder, variants: Vec::new() };
    let root = CertifiedIssuer::self_signed(authority("root", 2), KeyPair::generate()?)?;
    let issuing = CertifiedIssuer::signed_by(authority("issuing", 0), KeyPair::generate()?, &root)?;
    fs::write(folder.join("root.pem"), root.pem())?;
    for (name, change) in LEAVES.into_iter().chain(DATES) {
        let mut leaf = leaf();
        change(&mut leaf);
        writer.leaf(name, &leaf, &issuing, &issuing.pem())?;
    }
    for (name, change) in ISSUERS {
        let mut params = authority("issuing", 0);
        change(&mut params);
        let issuer = CertifiedIssuer::signed_by(params, KeyPair::generate()?, &root)?;
        writer.leaf(name, &leaf(), &issuer, &issuer.pem())?;
    }
    writer.leaf("under-the-root", &leaf(), &root, "")?;
    writer.leaf("broken-chain", &leaf(), &issuing, "")?;
    let forger = Issuer::from_ca_cert_der(issuing.der(), KeyPair::generate()?)?;
    writer.leaf("forged", &leaf(), &forger, &issuing.pem())?;
    // The issuing certificate has no room for another below it.
    let below = CertifiedIssuer::signed_by(authority("below", 0), KeyPair::generate()?, &issuing)?;
    writer.leaf("path-too-long", &leaf(), &below, &(below.pem() + &issuing.pem()))?;
    writer.other_roots(&root)?;
    writer.other_keys(&issuing)?;
    fs::write(folder.join("manifest.json"), serde_json::to_vec_pretty(&writer.variants)?)?;
    Ok(writer.variants)
}

struct Writer<'a> {
    folder: &'a Path,
    variants: Vec<Variant>,
}

impl Writer<'_> {
    fn leaf(
        &mut self,
        name: &str,
        params: &CertificateParams,
        issuer: &Issuer<'_, KeyPair>,
        rest: &str,
    ) -> Result<()> {
        self.keyed(name, params, &KeyPair::generate()?, issuer, rest)
    }

    fn keyed(
        &mut self,
        name: &str,
        params: &CertificateParams,
        key: &KeyPair,
        issuer: &Issuer<'_, KeyPair>,
        rest: &str,
    ) -> Result<()> {
        let leaf = params.signed_by(key, issuer)?;
        self.add(name, &(leaf.pem() + rest), &key.serialize_pem(), "root.pem")
    }

    fn add(&mut self, name: &str, chain: &str, key: &str, roots: &str) -> Result<()> {
        let variant = Variant {
            name: name.to_owned(),
            chain: format!("{name}.pem"),
            key: format!("{name}-key.pem"),
            roots: roots.to_owned(),
        };
        fs::write(self.folder.join(&variant.chain), chain)?;
        fs::write(self.folder.join(&variant.key), key)?;
        self.variants.push(variant);
        Ok(())
    }

    /// The same root name with another key, and a leaf that vouches for itself.
    fn other_roots(&mut self, root: &CertifiedIssuer<'_, KeyPair>) -> Result<()> {
        let other = CertifiedIssuer::self_signed(authority("root", 2), KeyPair::generate()?)?;
        fs::write(self.folder.join("other-root.pem"), other.pem())?;
        let key = KeyPair::generate()?;
        let chain = leaf().signed_by(&key, root)?.pem();
        self.add("wrong-root", &chain, &key.serialize_pem(), "other-root.pem")?;
        let key = KeyPair::generate()?;
        self.add("self-signed", &leaf().self_signed(&key)?.pem(), &key.serialize_pem(), "root.pem")
    }

    /// Keys of the other kinds that a request may come with.
    fn other_keys(&mut self, issuing: &CertifiedIssuer<'_, KeyPair>) -> Result<()> {
        let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384)?;
        self.keyed("p-384", &leaf(), &p384, issuing, &issuing.pem())?;
        let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048)?;
        let mut leaf = leaf();
        leaf.key_usages.push(KeyUsagePurpose::KeyEncipherment);
        self.keyed("rsa-2048", &leaf, &rsa, issuing, &issuing.pem())
    }
}

fn authority(name: &str, path_length: u8) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "cluster.local");
    params.distinguished_name.push(DnType::CommonName, format!("cluster.local {name} 1"));
    params.subject_alt_names = vec![uri("spiffe://cluster.local")];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = name != "root";
    lives(&mut params, Duration::days(30));
    params
}

fn leaf() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri(WEB)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    lives(&mut params, Duration::hours(1));
    params
}

fn lives(params: &mut CertificateParams, life: Duration) {
    params.not_before = OffsetDateTime::now_utc() - Duration::minutes(5);
    params.not_after = OffsetDateTime::now_utc() + life;
}

fn named(params: &mut CertificateParams, text: &str) {
    params.subject_alt_names = vec![uri(text)];
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("ASCII"))
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().expect("ASCII"))
}
