//! Trust bundles in PEM, as agents and the authority read them from files and answers.

use crate::Verdict;
use culvert_spiffe::TrustBundle;

pub(crate) fn run(input: &[u8]) -> Verdict {
    let domain = || "td".parse().expect("a legal trust domain");
    let read = TrustBundle::from_pem(domain(), input);
    if let Ok(bundle) = &read {
        assert!(!bundle.certificates().is_empty(), "an empty bundle");
        for (at, certificate) in bundle.certificates().iter().enumerate() {
            assert!(!bundle.certificates()[..at].contains(certificate), "twice the same");
        }
        let again = TrustBundle::from_certificates(domain(), bundle.certificates().to_vec());
        let again = again.expect("what was taken is taken again");
        assert_eq!(again.certificates(), bundle.certificates());
    }
    Verdict::of(&read)
}
