//! What a caller of the Workload API sends, on its way through the filter of `:authority`.

use crate::Verdict;
use culvert_agent::workload_api::authority::AuthorityFilter;

/// Takes what it changes. The same comes out however it came in, and nothing but hyphens is new.
pub(crate) fn run(input: &[u8]) -> Verdict {
    let whole = passed(input, input.len().max(1));
    assert_eq!(whole.len(), input.len());
    for (sent, got) in input.iter().zip(&whole) {
        assert!(sent == got || (*sent, *got) == (b'%', b'-'), "{sent} became {got}");
    }
    for size in [1, 2, 7] {
        assert!(passed(input, size) == whole, "in pieces of {size} it is another");
    }
    if whole == input { Verdict::Refused } else { Verdict::Taken }
}

fn passed(input: &[u8], size: usize) -> Vec<u8> {
    let mut octets = input.to_vec();
    let mut filter = AuthorityFilter::default();
    octets.chunks_mut(size).for_each(|piece| filter.pass(piece));
    octets
}
