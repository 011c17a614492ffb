//! Reads a certificate signing request. Only the public key is taken from it, after its signature
//! was checked; names in it are compared, never copied.

use culvert_spiffe::SpiffeId;
use rcgen::SubjectPublicKeyInfo;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{OID_EC_P256, OID_NIST_EC_P384};
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo as ParsedKey;

use crate::profile::KeyKind;

/// Longest request read, PEM.
pub const MAX_REQUEST_BYTES: usize = 16 * 1024;

/// What the block may be called: as RFC 7468 has it, and as older programs do.
const LABELS: [&str; 2] = ["CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"];

/// The only public exponent taken.
const RSA_EXPONENT: &[u8] = &[1, 0, 1];

/// A public key whose holder signed the request.
#[derive(Debug)]
pub struct ProvenKey {
    /// The key, in the form certificates carry.
    pub key: SubjectPublicKeyInfo,
    /// What kind of key.
    pub kind: KeyKind,
    /// Its DER, for comparison and for the audit's hash.
    pub der: Vec<u8>,
}

/// Why a request is not acceptable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Over the bound.
    #[error("request is over 16 KiB")]
    TooLarge,
    /// Not exactly one PEM block of a PKCS#10 request.
    #[error("request is not one PEM block CERTIFICATE REQUEST and nothing else")]
    Malformed,
    /// Its own signature is wrong: the sender does not hold the key.
    #[error("signature of the request does not hold")]
    Signature,
    /// A key we sign nothing for.
    #[error("key is none of P-256, P-384, RSA of 2048 to 4096 bits with exponent 65537")]
    Key,
    /// It asks for a name other than the one granted, or for more.
    #[error("request names another identity than the one asked for")]
    Names,
    /// It asks to be a CA.
    #[error("request asks for a CA certificate")]
    Ca,
}

/// Checks a PEM request that came for `id`, and takes its key.
pub fn read(pem: &str, id: &SpiffeId) -> Result<ProvenKey, RequestError> {
    if pem.len() > MAX_REQUEST_BYTES {
        return Err(RequestError::TooLarge);
    }
    let text = pem.trim_ascii();
    if !LABELS.iter().any(|label| is_one_block(text, label)) {
        return Err(RequestError::Malformed);
    }
    let (_, block) = parse_x509_pem(text.as_bytes()).map_err(|_| RequestError::Malformed)?;
    let (rest, request) =
        X509CertificationRequest::from_der(&block.contents).map_err(|_| RequestError::Malformed)?;
    if !rest.is_empty() {
        return Err(RequestError::Malformed);
    }
    let parsed = &request.certification_request_info.subject_pki;
    // Before the signature: a key that is refused anyway must not cost a verification.
    let kind = kind_of(parsed)?;
    request.verify_signature().map_err(|_| RequestError::Signature)?;
    check_extensions(&request, id)?;
    let key = SubjectPublicKeyInfo::from_der(parsed.raw).map_err(|_| RequestError::Key)?;
    Ok(ProvenKey { key, kind, der: parsed.raw.to_vec() })
}

/// Whether a text is one block of PEM and nothing else. The parser behind takes any line that begins
/// as an end does, and ignores what stands behind the dashes.
fn is_one_block(text: &str, label: &str) -> bool {
    let inside = text
        .strip_prefix("-----BEGIN ")
        .and_then(|rest| rest.strip_prefix(label))
        .and_then(|rest| rest.strip_prefix("-----"))
        .and_then(|rest| rest.strip_suffix("-----"))
        .and_then(|rest| rest.strip_suffix(label))
        .and_then(|rest| rest.strip_suffix("-----END "));
    inside.is_some_and(|lines| {
        (lines.starts_with('\n') || lines.starts_with("\r\n"))
            && lines.ends_with('\n')
            && !lines.contains('-')
    })
}

/// What kind of key it is, if one that is taken.
pub(crate) fn kind_of(key: &ParsedKey<'_>) -> Result<KeyKind, RequestError> {
    match key.parsed().map_err(|_| RequestError::Key)? {
        PublicKey::EC(_) => {
            let curve = key.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
            match curve {
                Some(oid) if oid == OID_EC_P256 || oid == OID_NIST_EC_P384 => Ok(KeyKind::Ec),
                _ => Err(RequestError::Key),
            }
        }
        PublicKey::RSA(rsa) => {
            let exponent = without_leading_zeros(rsa.exponent);
            let modulus = without_leading_zeros(rsa.modulus);
            let bits = modulus.len() * 8
                - modulus.first().map_or(0, |first| first.leading_zeros() as usize);
            if exponent == RSA_EXPONENT && (2048..=4096).contains(&bits) {
                Ok(KeyKind::Rsa)
            } else {
                Err(RequestError::Key)
            }
        }
        _ => Err(RequestError::Key),
    }
}

fn without_leading_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    &bytes[zeros..]
}

/// Names, where there are any, must be exactly the granted one; and nobody asks to be a CA.
fn check_extensions(
    request: &X509CertificationRequest<'_>,
    id: &SpiffeId,
) -> Result<(), RequestError> {
    for extension in request.requested_extensions().into_iter().flatten() {
        match extension {
            ParsedExtension::SubjectAlternativeName(names) => {
                match names.general_names.as_slice() {
                    [GeneralName::URI(uri)] if *uri == id.as_str() => {}
                    _ => return Err(RequestError::Names),
                }
            }
            ParsedExtension::BasicConstraints(constraints) if constraints.ca => {
                return Err(RequestError::Ca);
            }
            // Not copied, so it does not matter what else is wished for.
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, IsCa, KeyPair, SanType};

    use super::*;

    const WEB: &str = "spiffe://td/ns/default/sa/web";

    fn request(key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(WEB.try_into().unwrap())];
        change(&mut params);
        params.serialize_request(key).unwrap().pem().unwrap()
    }

    fn judge(pem: &str) -> Result<KeyKind, RequestError> {
        read(pem, &WEB.parse().unwrap()).map(|proven| proven.kind)
    }

    #[test]
    fn good_keys_are_taken() {
        for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            assert_eq!(judge(&request(&key, |_| {})), Ok(KeyKind::Ec));
            assert_eq!(judge(&request(&key, |r| r.subject_alt_names.clear())), Ok(KeyKind::Ec));
        }
        let key = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048);
        assert_eq!(judge(&request(&key.unwrap(), |_| {})), Ok(KeyKind::Rsa));
    }

    #[test]
    fn other_keys_are_refused() {
        for algorithm in [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P521_SHA512] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            assert_eq!(judge(&request(&key, |_| {})), Err(RequestError::Key));
        }
    }

    #[test]
    fn other_names_and_ca_wishes_are_refused() {
        let key = KeyPair::generate().unwrap();
        let other = || SanType::URI("spiffe://td/ns/default/sa/db".try_into().unwrap());
        let two = request(&key, |r| r.subject_alt_names.push(other()));
        assert_eq!(judge(&two), Err(RequestError::Names));
        let foreign = request(&key, |r| r.subject_alt_names = vec![other()]);
        assert_eq!(judge(&foreign), Err(RequestError::Names));
        let ca = request(&key, |r| r.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
        assert_eq!(judge(&ca), Err(RequestError::Ca));
    }

    #[test]
    fn anything_but_one_block_is_refused() {
        let key = KeyPair::generate().unwrap();
        let good = request(&key, |_| {});
        for pem in [
            String::new(),
            "no PEM".to_owned(),
            format!("{good}{good}"),
            format!("{good}trailing"),
            format!("leading {good}"),
            good.replace("CERTIFICATE REQUEST", "CERTIFICATE"),
            good.replacen("\nM", "\nA", 1),
            // Found by fuzzing: an end that is none, and words behind the dashes.
            good.replace("REQUEST-----\n", "REQUEST-----words\n"),
            good.replacen("REQUEST-----\n", "REQUEST-----words\n", 1),
            good.replace("END CERTIFICATE REQUEST", "END CERTIFICATE"),
            good.trim_end().strip_suffix("---").unwrap().to_owned() + "=--",
        ] {
            assert_eq!(judge(&pem), Err(RequestError::Malformed), "{pem}");
        }
        assert_eq!(judge(&" ".repeat(MAX_REQUEST_BYTES + 1)), Err(RequestError::TooLarge));
    }

    #[test]
    fn broken_signature_is_refused() {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::default();
        let mut der = params.serialize_request(&key).unwrap().der().to_vec();
        // The last byte belongs to the number `s` of the signature.
        *der.last_mut().unwrap() ^= 1;
        let pem = crate::testing::pem("CERTIFICATE REQUEST", &der);
        assert_eq!(judge(&pem), Err(RequestError::Signature));
    }
}
