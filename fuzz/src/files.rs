//! `workloads.yaml` and the policies, as the agent reads them.

use crate::Verdict;
use culvert_agent::workload::file::{policies, workloads};
use std::collections::HashSet;
use std::path::Path;

pub(crate) fn workloads(input: &[u8]) -> Verdict {
    let Ok(text) = std::str::from_utf8(input) else { return Verdict::Refused };
    let domain = "td".parse().expect("a legal trust domain");
    let read = workloads::parse(Path::new("workloads.yaml"), text, &domain, "node1");
    if let Ok(found) = &read {
        let mut addresses = HashSet::new();
        for workload in found {
            crate::names::check(workload.identity.as_str(), &workload.identity);
            for address in &workload.addresses {
                assert!(addresses.insert(*address), "two workloads have {address}");
            }
        }
    }
    Verdict::of(&read)
}

pub(crate) fn policies(input: &[u8]) -> Verdict {
    let Ok(text) = std::str::from_utf8(input) else { return Verdict::Refused };
    Verdict::of(&policies::parse(Path::new("policies.yaml"), text, "istio-system"))
}
