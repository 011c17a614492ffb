//! SPIFFE IDs.

use crate::Verdict;
use culvert_spiffe::SpiffeId;

pub(crate) fn run(input: &[u8]) -> Verdict {
    let Ok(text) = std::str::from_utf8(input) else { return Verdict::Refused };
    let parsed = text.parse::<SpiffeId>();
    if let Ok(id) = &parsed {
        check(text, id);
    }
    Verdict::of(&parsed)
}

/// What holds of every identity: one spelling, and parts that make up the whole.
pub(crate) fn check(text: &str, id: &SpiffeId) {
    assert_eq!(id.as_str(), text, "another spelling");
    assert!(text.len() <= 2048);
    let legal =
        |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'/' | b':');
    assert!(text.as_bytes().iter().all(legal), "{text:?}");
    let (domain, namespace, account) = (id.trust_domain(), id.namespace(), id.service_account());
    assert_eq!(format!("spiffe://{domain}/ns/{namespace}/sa/{account}"), text);
    for part in [namespace, account] {
        assert!(!part.is_empty() && !part.contains(['/', '_', ':']) && !part.contains(".."));
    }
    assert!(!domain.as_str().contains(['/', ':']));
    assert_eq!(&SpiffeId::new(domain, namespace, account).expect("its own parts"), id);
}
