//! [`CertificateFacts`]: what a person is shown of a certificate. Never used to decide anything.

use std::fmt;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// What a person looks for in a certificate first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// The serial number.
    pub serial: Serial,
    /// The issuer's name: `O=td, CN=td issuing 1`.
    pub issuer: String,
    /// The first second at which it is valid.
    pub not_before: UnixTime,
    /// The last second at which it is valid.
    pub not_after: UnixTime,
}

/// A serial number; printed as `openssl x509 -serial` does, in upper-case hexadecimal.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Serial(Vec<u8>);

impl CertificateFacts {
    /// Reads them; none where it is not a DER certificate with dates after 1970.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (rest, parsed) = X509Certificate::from_der(certificate).ok()?;
        if !rest.is_empty() {
            return None;
        }
        let moment = |at: x509_parser::time::ASN1Time| {
            let seconds = u64::try_from(at.timestamp()).ok()?;
            Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
        };
        Some(Self {
            serial: Serial(parsed.raw_serial().to_vec()),
            issuer: crate::id::shown(&parsed.issuer().to_string()),
            not_before: moment(parsed.validity().not_before)?,
            not_after: moment(parsed.validity().not_after)?,
        })
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // DER puts a zero before a first bit that is set; openssl leaves it out.
        let significant = match self.0.as_slice() {
            [0, rest @ ..] if !rest.is_empty() => rest,
            all => all,
        };
        significant.iter().try_for_each(|byte| write!(f, "{byte:02X}"))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SerialNumber};
    use time::OffsetDateTime;

    use super::*;

    fn certificate(serial: &[u8]) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from_slice(serial));
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "td");
        params.distinguished_name.push(DnType::CommonName, "td root 1");
        params.not_before = OffsetDateTime::from_unix_timestamp(1_000).unwrap();
        params.not_after = OffsetDateTime::from_unix_timestamp(2_000).unwrap();
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn facts_are_those_of_the_certificate() {
        let facts = CertificateFacts::of(&certificate(&[0x0a, 0xff])).unwrap();
        assert_eq!(facts.serial.to_string(), "0AFF");
        assert_eq!(facts.issuer, "O=td, CN=td root 1");
        assert_eq!((facts.not_before.as_secs(), facts.not_after.as_secs()), (1_000, 2_000));
    }

    #[test]
    fn serial_with_its_first_bit_set_has_no_leading_zero() {
        let facts = CertificateFacts::of(&certificate(&[0xf0, 0x01])).unwrap();
        assert_eq!(facts.serial.to_string(), "F001");
    }

    #[test]
    fn what_is_no_certificate_has_no_facts() {
        let mut longer = certificate(&[1]).to_vec();
        longer.push(0);
        assert_eq!(CertificateFacts::of(&longer.into()), None);
        assert_eq!(CertificateFacts::of(&vec![0x30, 0x00].into()), None);
    }
}
