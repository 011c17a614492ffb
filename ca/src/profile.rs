//! What each kind of certificate says. Nothing else in the authority decides a field.
//!
//! | field | leaf | issuing | root |
//! |---|---|---|---|
//! | subject | empty | O, CN | O, CN |
//! | SAN | exactly one URI, critical | `spiffe://<td>` | `spiffe://<td>` |
//! | basicConstraints | CA false | CA, pathLen 0 | CA, pathLen 2 |
//! | keyUsage | digitalSignature | keyCertSign, cRLSign | same |
//! | extKeyUsage | serverAuth, clientAuth | none | none |
//!
//! Source: SPIFFE `X509-SVID` sections 3 and 4, RFC 5280 section 4.2.

use std::net::IpAddr;

use culvert_spiffe::{SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, SanType, SerialNumber,
};
use time::{Duration, OffsetDateTime};

/// How far back a certificate begins, for nodes whose clock is behind.
pub const BACKDATE: Duration = Duration::minutes(5);
/// Life of a root.
pub const ROOT_LIFE: Duration = Duration::days(3650);
/// Life of an issuing certificate.
pub const ISSUING_LIFE: Duration = Duration::days(30);
/// How long before its issuer a leaf ends at the latest.
pub const ISSUER_MARGIN: Duration = Duration::minutes(5);

/// The public key a leaf is for: decides whether it may also encipher keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// ECDSA: signs only.
    Ec,
    /// RSA: TLS 1.2 peers may want keyEncipherment.
    Rsa,
}

/// A root of `trust_domain`, the `generation`th, made at `now`.
pub fn root(
    trust_domain: &TrustDomain,
    generation: u64,
    now: OffsetDateTime,
) -> Result<CertificateParams, rcgen::Error> {
    // Two below it: the cross-signed successor, and that one's issuing certificate.
    authority(trust_domain, &format!("root {generation}"), 2, now, ROOT_LIFE)
}

/// The cross certificate of the `generation`th root, for its key to be signed by the root before
/// it: the root's own names, so that the same chain leads to either.
pub fn cross(
    trust_domain: &TrustDomain,
    generation: u64,
    now: OffsetDateTime,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = authority(trust_domain, &format!("root {generation}"), 1, now, ROOT_LIFE)?;
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// An issuing certificate of `trust_domain`, the `generation`th, made at `now`.
pub fn issuing(
    trust_domain: &TrustDomain,
    generation: u64,
    now: OffsetDateTime,
) -> Result<CertificateParams, rcgen::Error> {
    let name = format!("issuing {generation}");
    let mut params = authority(trust_domain, &name, 0, now, ISSUING_LIFE)?;
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// A workload's certificate.
pub fn leaf(
    id: &SpiffeId,
    key: KeyKind,
    now: OffsetDateTime,
    not_after: OffsetDateTime,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(serial());
    params.not_before = now - BACKDATE;
    params.not_after = not_after;
    params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = match key {
        KeyKind::Ec => vec![KeyUsagePurpose::DigitalSignature],
        KeyKind::Rsa => vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment],
    };
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// The certificate the authority itself serves with: a leaf, and the names by which clients that
/// know no SPIFFE ID look for it.
pub fn server(
    id: &SpiffeId,
    names: &[ServerName],
    now: OffsetDateTime,
    not_after: OffsetDateTime,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = leaf(id, KeyKind::Ec, now, not_after)?;
    for name in names {
        params.subject_alt_names.push(match name {
            ServerName::Dns(name) => SanType::DnsName(name.as_str().try_into()?),
            ServerName::Ip(address) => SanType::IpAddress(*address),
        });
    }
    Ok(params)
}

/// A DNS name or address, for `--san`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerName {
    /// A host name.
    Dns(String),
    /// An address.
    Ip(IpAddr),
}

/// Why a text cannot be a `--san`.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is neither a host name nor an address; write such as ca.example.org or 10.0.0.1")]
pub struct ServerNameError(String);

impl std::str::FromStr for ServerName {
    type Err = ServerNameError;

    fn from_str(text: &str) -> Result<Self, ServerNameError> {
        use rustls::pki_types::DnsName;

        if let Ok(address) = text.parse() {
            return Ok(Self::Ip(address));
        }
        match DnsName::try_from(text) {
            Ok(_) => Ok(Self::Dns(text.to_owned())),
            Err(_) => Err(ServerNameError(text.to_owned())),
        }
    }
}

fn authority(
    trust_domain: &TrustDomain,
    name: &str,
    path_length: u8,
    now: OffsetDateTime,
    life: Duration,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, trust_domain.as_str());
    params.distinguished_name.push(DnType::CommonName, format!("{trust_domain} {name}"));
    params.serial_number = Some(serial());
    params.not_before = now - BACKDATE;
    params.not_after = now + life;
    params.subject_alt_names = vec![SanType::URI(trust_domain.uri().try_into()?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// 127 random bits, never zero: positive in DER, and of one length.
fn serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}
