//! Who has an address that two pods claim.
//!
//! It happens: a pod that has ended on its node is listed for a while yet, and its address was
//! given to another. What may not happen is that one of the two is taken for the other.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::fault::Fault;
use super::pods::PodRow;
use crate::workload::{Workload, WorkloadKey};

/// Leaves each address to one pod: to the one that is not about to go, then to the youngest. Tells
/// which were left without.
pub(super) fn settle(
    pods: Vec<(&PodRow, Arc<Workload>)>,
) -> (Vec<Arc<Workload>>, BTreeMap<WorkloadKey, Vec<Fault>>) {
    let mut claims: HashMap<IpAddr, usize> = HashMap::with_capacity(pods.len());
    let mut contested: HashSet<IpAddr> = HashSet::new();
    for (index, (row, workload)) in pods.iter().enumerate() {
        for address in &workload.addresses {
            let Some(&other) = claims.get(address) else {
                claims.insert(*address, index);
                continue;
            };
            contested.insert(*address);
            if rank(row) > rank(pods[other].0) {
                claims.insert(*address, index);
            }
        }
    }
    if contested.is_empty() {
        return (pods.into_iter().map(|(_, workload)| workload).collect(), BTreeMap::new());
    }
    let winners: HashMap<IpAddr, (usize, WorkloadKey)> = contested
        .into_iter()
        .filter_map(|address| claims.get(&address).map(|&index| (address, index)))
        .map(|(address, index)| (address, (index, pods[index].1.key())))
        .collect();
    let (mut settled, mut conflicts) = (Vec::with_capacity(pods.len()), BTreeMap::new());
    for (index, (_, workload)) in pods.into_iter().enumerate() {
        let taken = |address: &IpAddr| winners.get(address).filter(|(winner, _)| *winner != index);
        let lost: Vec<_> = workload
            .addresses
            .iter()
            .filter_map(|&address| {
                let (_, by) = taken(&address)?;
                Some(Fault::AddressTaken { address, by: by.clone() })
            })
            .collect();
        if lost.is_empty() {
            settled.push(workload);
            continue;
        }
        conflicts.insert(workload.key(), lost);
        let mut workload = Arc::unwrap_or_clone(workload);
        workload.addresses.retain(|address| taken(address).is_none());
        if !workload.addresses.is_empty() {
            settled.push(Arc::new(workload));
        }
    }
    (settled, conflicts)
}

fn rank(row: &PodRow) -> (Reverse<bool>, i64, &str) {
    (Reverse(row.terminating), row.created, &row.api_uid)
}
