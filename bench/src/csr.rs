//! Signing requests as agents make them.

use culvert_spiffe::{SpiffeId, TrustDomain};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};

/// The identity of the one workload of node `number`.
pub(crate) fn identity(trust_domain: &TrustDomain, number: u8) -> anyhow::Result<SpiffeId> {
    Ok(SpiffeId::new(trust_domain, "bench", &format!("node{number}"))?)
}

/// A request for `id` with a P-256 key of its own, PEM.
pub(crate) fn request(id: &SpiffeId) -> anyhow::Result<String> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
    Ok(params.serialize_request(&KeyPair::generate()?)?.pem()?)
}
