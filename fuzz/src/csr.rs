//! Certificate signing requests, as the authority reads them.

use crate::Verdict;
use culvert_ca::request::{self, MAX_REQUEST_BYTES};
use culvert_spiffe::SpiffeId;
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;

/// For whom every request is.
pub(crate) const GRANTED: &str = "spiffe://td/ns/default/sa/web";

/// Takes PEM; anything that is no text is taken as DER and put into PEM, so that the fuzzer need
/// not learn Base64.
pub(crate) fn run(input: &[u8]) -> Verdict {
    let granted: SpiffeId = GRANTED.parse().expect("a legal identity");
    let pem = match std::str::from_utf8(input) {
        Ok(text) if text.contains("-----BEGIN") => text.to_owned(),
        _ => crate::pem("CERTIFICATE REQUEST", input),
    };
    let read = request::read(&pem, &granted);
    if let Ok(proven) = &read {
        assert!(pem.len() <= MAX_REQUEST_BYTES);
        // What was taken is a piece of what was sent, and another reader of PEM sees the same; it
        // knows one name for the block only.
        let pem = pem.replace(" NEW ", " ");
        let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).expect("one block");
        let found = der.windows(proven.der.len()).any(|piece| piece == proven.der);
        assert!(found, "the key is not in the request");
        assert!(proven.der.len() < 600, "a key of {} bytes", proven.der.len());
    }
    Verdict::of(&read)
}
