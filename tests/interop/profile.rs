//! The profile of our certificates, as `openssl x509 -text` shows it and `openssl verify` strictly
//! takes it.

use crate::authority::{Authority, WEB};
use crate::openssl::{openssl, shown};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::path::Path;
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

/// How far a date may lie from what was expected: the machine is busy.
const SLACK: Duration = Duration::minutes(2);

#[test]
fn openssl_verifies_what_is_issued_strictly_for_both_ends() {
    let authority = Authority::start().unwrap();
    let files = authority.certified().unwrap();
    let [leaf, issuing] = [&files.leaf, &files.issuing].map(|path| path.display().to_string());
    let verify = |root: &Path, purpose: &str| {
        let root = root.display().to_string();
        let strict = ["verify", "-x509_strict", "-check_ss_sig", "-purpose", purpose];
        openssl(strict.iter().chain(&["-CAfile", &root, "-untrusted", &issuing, &leaf]))
    };
    for purpose in ["sslclient", "sslserver"] {
        let said = verify(&authority.root(), purpose).unwrap();
        assert!(said.trim().ends_with(": OK"), "{said}");
    }
    assert!(verify(&authority.root(), "smimesign").is_err(), "a usage that it has not");
    // The answer's own roots are those of the file.
    verify(&files.root, "sslserver").unwrap();
    let other = Authority::start().unwrap();
    let refused = verify(&other.root(), "sslserver").unwrap_err().to_string();
    assert!(refused.contains("unable to get local issuer certificate"), "{refused}");
}

#[test]
fn leaf_has_exactly_the_profile() {
    let authority = Authority::start().unwrap();
    let files = authority.certified().unwrap();
    let leaf = Certificate::read(&files.leaf).unwrap();
    let issuing = Certificate::read(&files.issuing).unwrap();
    assert_eq!(leaf.subject, "");
    assert_eq!(leaf.issuer, issuing.subject);
    leaf.is_common().unwrap();
    leaf.lives(Duration::hours(24)).unwrap();
    let expected = [
        ("Subject Alternative Name", true, &*format!("URI:{WEB}")),
        ("Basic Constraints", true, "CA:FALSE"),
        ("Key Usage", true, "Digital Signature"),
        (
            "Extended Key Usage",
            false,
            "TLS Web Server Authentication, TLS Web Client Authentication",
        ),
        ("Subject Key Identifier", false, leaf.own_key()),
        ("Authority Key Identifier", false, issuing.own_key()),
    ];
    assert_eq!(leaf.extensions, extensions(&expected));
    assert_ne!(leaf.own_key(), issuing.own_key());
}

#[test]
fn issuing_and_root_certificates_have_exactly_the_profile() {
    let authority = Authority::start().unwrap();
    let files = authority.certified().unwrap();
    let issuing = Certificate::read(&files.issuing).unwrap();
    let root = Certificate::read(&authority.root()).unwrap();
    for (certificate, tier) in [(&issuing, "issuing"), (&root, "root")] {
        certificate.is_common().unwrap();
        let name = format!("O=cluster.local,CN=cluster.local {tier} ");
        assert!(certificate.subject.starts_with(&name), "{}", certificate.subject);
    }
    assert_eq!([&root.issuer, &issuing.issuer], [&root.subject; 2]);
    issuing.lives(Duration::days(30)).unwrap();
    root.lives(Duration::days(3650)).unwrap();
    let of_authority = |path_length| {
        [
            ("Subject Alternative Name", false, "URI:spiffe://cluster.local"),
            ("Basic Constraints", true, path_length),
            ("Key Usage", true, "Certificate Sign, CRL Sign"),
        ]
    };
    let mut expected = extensions(&of_authority("CA:TRUE, pathlen:0"));
    expected.extend(extensions(&[
        ("Subject Key Identifier", false, issuing.own_key()),
        ("Authority Key Identifier", false, root.own_key()),
    ]));
    assert_eq!(issuing.extensions, expected);
    let mut expected = extensions(&of_authority("CA:TRUE, pathlen:2"));
    expected.extend(extensions(&[("Subject Key Identifier", false, root.own_key())]));
    assert_eq!(root.extensions, expected);
}

#[test]
fn serial_numbers_are_long_positive_and_never_the_same() {
    let authority = Authority::start().unwrap();
    let mut seen = std::collections::HashSet::new();
    for _ in 0..16 {
        let files = authority.certified().unwrap();
        let serial = Certificate::read(&files.leaf).unwrap().serial;
        // 127 bits: sixteen bytes in DER, the first without its highest bit.
        assert!(serial.len() == 32 && matches!(serial.as_bytes()[0], b'1'..=b'7'), "{serial}");
        assert!(seen.insert(serial), "a serial number twice");
    }
}

/// Extensions by name: whether critical, and the value as openssl words it.
type Extensions = BTreeMap<String, (bool, String)>;

fn extensions(expected: &[(&str, bool, &str)]) -> Extensions {
    let entry = |(name, critical, value): &(&str, bool, &str)| {
        ((*name).to_owned(), (*critical, (*value).to_owned()))
    };
    expected.iter().map(entry).collect()
}

/// What openssl says of a certificate.
struct Certificate {
    text: String,
    subject: String,
    issuer: String,
    serial: String,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
    extensions: Extensions,
}

impl Certificate {
    fn read(path: &Path) -> Result<Self> {
        let options = ["-subject", "-issuer", "-serial", "-startdate", "-enddate"];
        let fields = shown(path, &[&options[..], &["-nameopt", "RFC2253,-dn_rev"]].concat())?;
        let field = |name: &str| {
            let mut lines = fields.lines().filter_map(|line| line.strip_prefix(name));
            lines.next().map(str::to_owned).with_context(|| format!("no {name} in {fields}"))
        };
        let dates = shown(path, &["-startdate", "-enddate", "-dateopt", "iso_8601"])?;
        let date = |name: &str| -> Result<OffsetDateTime> {
            let mut lines = dates.lines().filter_map(|line| line.strip_prefix(name));
            let text = lines.next().with_context(|| format!("no {name} in {dates}"))?;
            Ok(OffsetDateTime::parse(&text.replacen(' ', "T", 1), &Rfc3339)?)
        };
        let text = shown(path, &["-text"])?;
        Ok(Self {
            subject: field("subject=")?,
            issuer: field("issuer=")?,
            serial: field("serial=")?,
            not_before: date("notBefore=")?,
            not_after: date("notAfter=")?,
            extensions: extensions_of(&text)?,
            text,
        })
    }

    /// Version, key and signature: the same for all of ours.
    fn is_common(&self) -> Result<()> {
        for wanted in ["Version: 3 (0x2)", "ASN1 OID: prime256v1"] {
            ensure!(self.text.contains(wanted), "no {wanted} in {}", self.text);
        }
        let algorithms = self.text.matches("Signature Algorithm: ").count();
        let ours = self.text.matches("Signature Algorithm: ecdsa-with-SHA256").count();
        ensure!(algorithms == 2 && ours == 2, "another signature: {}", self.text);
        Ok(())
    }

    /// That it begins five minutes ago and ends after `life`.
    fn lives(&self, life: Duration) -> Result<()> {
        let now = OffsetDateTime::now_utc();
        let off = (self.not_before - (now - Duration::minutes(5))).abs();
        ensure!(off < SLACK, "begins {}, now it is {now}", self.not_before);
        let off = (self.not_after - (now + life)).abs();
        ensure!(off < SLACK, "ends {}, now it is {now}", self.not_after);
        Ok(())
    }

    fn own_key(&self) -> &str {
        self.extensions.get("Subject Key Identifier").map_or("none", |(_, value)| value)
    }
}

/// The part of the text with the extensions: a name at twelve spaces, its value at sixteen.
fn extensions_of(text: &str) -> Result<Extensions> {
    let (_, part) = text.split_once("X509v3 extensions:\n").context("no extensions")?;
    let mut found = Extensions::new();
    let mut name = String::new();
    for line in part.lines().take_while(|line| line.starts_with("            ")) {
        if let Some(value) = line.strip_prefix("                ") {
            let (_, so_far) = found.get_mut(&name).context("a value without name")?;
            so_far.push_str(value.trim());
        } else {
            let (title, critical) = line.split_once(':').context("a name")?;
            title.trim().trim_start_matches("X509v3 ").clone_into(&mut name);
            let fresh = found.insert(name.clone(), (critical.trim() == "critical", String::new()));
            ensure!(fresh.is_none(), "{name} stands there twice");
        }
    }
    Ok(found)
}
