//! The TLS of each workload's server side, as it is, and the certificates that it rests on.

use culvert_spiffe::CertificateFacts;
use rustls::ProtocolVersion;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};

use crate::admin::answer::seconds;
use crate::admin::certificates::pem_of;
use crate::admin::mesh::mtls;
use crate::identity::{BundleInForce, IdentityStatus, Svid, with_sources};
use crate::workload::{Snapshot, Workload};

/// Port of HBONE.
const HBONE: u16 = 15008;
/// What stands in the place of a private key.
const REDACTED: &str = "[redacted]";

/// What a workload's tunnel port does; without TLS as long as it has no certificate, when it takes
/// nothing.
pub(super) fn listener(
    snapshot: &Snapshot,
    workload: &Workload,
    identity: Option<&IdentityStatus>,
    roots: &BundleInForce,
) -> Value {
    let held = identity.and_then(|identity| identity.held.as_ref());
    let at = workload.addresses.iter().map(|ip| std::net::SocketAddr::new(*ip, HBONE).to_string());
    json!({
        "name": format!("inbound {}", workload.key()),
        "addresses": at.collect::<Vec<_>>(),
        "identity": workload.identity.as_str(),
        "mtls": mtls(snapshot, workload),
        "tls_context": held.map(|held| tls_context(&held.svid, roots)),
    })
}

/// Read off the configuration that handshakes use.
fn tls_context(svid: &Svid, roots: &BundleInForce) -> Value {
    let server = svid.server_config();
    let provider = server.crypto_provider();
    let suites: Vec<_> = provider.cipher_suites.iter().map(|one| one.suite()).collect();
    let mut versions: Vec<_> =
        provider.cipher_suites.iter().map(|one| version(one.version().version)).collect();
    versions.dedup();
    let groups: Vec<_> = provider.kx_groups.iter().map(|one| format!("{:?}", one.name())).collect();
    let alpn = server.alpn_protocols.iter().map(|name| String::from_utf8_lossy(name));
    json!({
        "require_client_certificate": svid.requires_client_certificate(),
        "common_tls_context": {
            "alpn_protocols": alpn.collect::<Vec<_>>(),
            "tls_params": {
                "tls_protocol_versions": versions,
                "cipher_suites": suites.iter().map(|one| format!("{one:?}")).collect::<Vec<_>>(),
                "ecdh_curves": groups,
            },
            "tls_certificates": [{
                "certificate_chain": svid.chain().iter().map(|one| certificate(one)).collect::<Vec<_>>(),
                "private_key": REDACTED,
            }],
            "validation_context": {
                "match": format!("spiffe://{}/ns/*/sa/*", roots.bundle().trust_domain()),
                "trusted_ca": roots.bundle().certificates().iter().map(|one| certificate(one)).collect::<Vec<_>>(),
            },
        },
    })
}

fn version(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::TLSv1_3 => "TLSv1_3",
        ProtocolVersion::TLSv1_2 => "TLSv1_2",
        _ => "unknown",
    }
}

/// An identity as ztunnel has it: `Available`, `Initializing`, or `Unavailable: …`.
pub(super) fn certificates(identity: &IdentityStatus, roots: &BundleInForce) -> Value {
    let chain = identity.held.as_ref().map(|held| held.svid.chain()).unwrap_or_default();
    let state = match (&identity.held, &identity.last_error) {
        (Some(_), _) => "Available".to_owned(),
        (None, None) => "Initializing".to_owned(),
        (None, Some(error)) => format!("Unavailable: {}", with_sources(error)),
    };
    json!({
        "identity": identity.id.as_str(),
        "state": state,
        "certChain": chain.iter().map(|one| certificate(one)).collect::<Vec<_>>(),
        "rootCerts": roots.bundle().certificates().iter().map(|one| certificate(one)).collect::<Vec<_>>(),
    })
}

fn certificate(der: &CertificateDer<'_>) -> Value {
    let pem = pem_of(std::slice::from_ref(der));
    match CertificateFacts::of(der) {
        Some(facts) => json!({
            "pem": pem,
            "serialNumber": decimal(&facts.serial.to_string()),
            "validFrom": seconds(facts.not_before.as_secs()),
            "expirationTime": seconds(facts.not_after.as_secs()),
        }),
        None => json!({ "pem": pem }),
    }
}

/// A number of any length, from hexadecimal digits: istioctl reads serial numbers in decimal.
fn decimal(hexadecimal: &str) -> String {
    // Least significant first.
    let mut digits: Vec<u32> = vec![0];
    for nibble in hexadecimal.chars().filter_map(|digit| digit.to_digit(16)) {
        let mut carry = nibble;
        for digit in &mut digits {
            let value = *digit * 16 + carry;
            (*digit, carry) = (value % 10, value / 10);
        }
        while carry > 0 {
            digits.push(carry % 10);
            carry /= 10;
        }
    }
    digits.iter().rev().filter_map(|digit| char::from_digit(*digit, 10)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_numbers_of_any_length_become_decimal() {
        for (hexadecimal, wanted) in [
            ("0", "0"),
            ("00ff", "255"),
            ("E5DF b59150B2BA7F108D93DC EC5AA613", "305554775863395697262503895661564044819"),
        ] {
            assert_eq!(decimal(hexadecimal), wanted, "{hexadecimal}");
        }
    }
}
