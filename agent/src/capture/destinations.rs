//! Which destinations the kernel steers: the mesh's ranges, enrolled workloads and the Services
//! before them, but not workloads and Services that are known to be none of the mesh's business.

use std::{collections::HashMap, net::IpAddr};

use aya::maps::lpm_trie::Key;
use culvert_common::{
    Addr,
    maps::{self, dest},
};
use ipnet::IpNet;

use super::{
    EnrolError,
    tables::{PodTables, refused},
};
use crate::workload::Snapshot;

/// A prefix as the trie has it: length in bits of the mapped address, and the address.
type Prefix = (u32, Addr);

/// Makes the kernel's trie equal to what ranges and snapshot say. Additions come before removals,
/// so that at no moment a destination of the mesh is left unsteered that was steered before.
pub(super) fn update(
    tables: &mut PodTables,
    ranges: &[IpNet],
    snapshot: &Snapshot,
) -> Result<(), EnrolError> {
    let wanted = wanted(ranges, snapshot);
    let error = refused(maps::DESTINATIONS);
    let mut present = HashMap::new();
    for entry in &tables.destinations {
        let (key, verdict) = entry.map_err(&error)?;
        present.insert((key.prefix_len(), key.data()), verdict);
    }
    // Short prefixes first: should the table not hold all, the ranges are in, and what they cover
    // is at least not let past.
    let mut additions: Vec<_> = wanted.iter().collect();
    additions.sort_by_key(|((length, _), _)| *length);
    for (&(length, address), &verdict) in additions {
        if present.get(&(length, address)) != Some(&verdict) {
            tables.destinations.insert(&Key::new(length, address), verdict, 0).map_err(&error)?;
        }
    }
    for &(length, address) in present.keys().filter(|prefix| !wanted.contains_key(prefix)) {
        tables.destinations.remove(&Key::new(length, address)).map_err(&error)?;
    }
    Ok(())
}

fn wanted(ranges: &[IpNet], snapshot: &Snapshot) -> HashMap<Prefix, u32> {
    // A workload that is treated as its range is needs no entry of its own.
    let exceptions = snapshot.workloads().iter().flat_map(|workload| {
        let verdict = if workload.enrolled { dest::STEER } else { dest::PASS };
        let as_its_range =
            move |ip: &IpAddr| ranges.iter().any(|r| r.contains(ip)) == workload.enrolled;
        let own = workload.addresses.iter().filter(move |ip| !as_its_range(ip));
        own.map(move |&ip| ((128, Addr::from(ip)), verdict))
    });
    let services = snapshot.services().iter().filter_map(|(ip, service)| {
        let steered = snapshot.concerns_mesh(service);
        let as_its_range = ranges.iter().any(|r| r.contains(&ip)) == steered;
        let verdict = if steered { dest::STEER } else { dest::PASS };
        (!as_its_range).then(|| ((128, Addr::from(ip)), verdict))
    });
    let ranges =
        ranges.iter().map(|range| (prefix(range.network(), range.prefix_len()), dest::STEER));
    ranges.chain(exceptions).chain(services).collect()
}

fn prefix(ip: IpAddr, length: u8) -> Prefix {
    // An IPv4 prefix covers the last 32 bits of the mapped address.
    let mapped = if ip.is_ipv4() { 96 } else { 0 };
    (mapped + u32::from(length), Addr::from(ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_range_is_a_prefix_of_mapped_addresses() {
        let range: IpNet = "10.0.0.0/8".parse().unwrap();
        let (length, address) = prefix(range.network(), range.prefix_len());
        assert_eq!(length, 104);
        assert_eq!(IpAddr::from(address), range.network());
    }
}
