//! How full the kernel's tables are.

use std::{hash::Hash, path::Path};

use aya::{
    Pod,
    maps::{HashMap, Map, MapData, MapError, lpm_trie::LpmTrie},
};
use culvert_common::{Addr, Enrolment, FlowKey, LocalPod, SocketState, maps};

use super::programs::Pins;

/// How full one table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableUse {
    /// Its name.
    pub table: &'static str,
    /// Entries in it now.
    pub entries: u32,
    /// Entries that it takes.
    pub most: u32,
}

/// Counts what is in each table that is pinned below `root`; leaves out what cannot be read.
///
/// One system call an entry, so some ten milliseconds where a table is full: for a thread of its
/// own. A table that changes meanwhile is counted about right, and never more than full.
pub fn table_use(root: &Path) -> Vec<TableUse> {
    let pins = Pins::at(root);
    let tables = [
        hash::<u64, Enrolment>(&pins, maps::PODS),
        hash::<Addr, LocalPod>(&pins, maps::LOCAL_PODS),
        hash::<FlowKey, SocketState>(&pins, maps::FLOWS),
        hash::<FlowKey, u32>(&pins, maps::DELIVERIES),
        hash::<FlowKey, u32>(&pins, maps::HOST_FLOWS),
        trie::<Addr, u32>(&pins, maps::DESTINATIONS),
    ];
    tables.into_iter().filter_map(Result::ok).collect()
}

fn hash<K: Pod + Eq + Hash, V: Pod>(
    pins: &Pins,
    table: &'static str,
) -> Result<TableUse, MapError> {
    let (map, most) = open(pins, table)?;
    let map = HashMap::<MapData, K, V>::try_from(map)?;
    Ok(TableUse { table, entries: count(map.keys(), most), most })
}

fn trie<K: Pod, V: Pod>(pins: &Pins, table: &'static str) -> Result<TableUse, MapError> {
    let (map, most) = open(pins, table)?;
    let map = LpmTrie::<MapData, K, V>::try_from(map)?;
    Ok(TableUse { table, entries: count(map.keys(), most), most })
}

fn open(pins: &Pins, table: &str) -> Result<(Map, u32), MapError> {
    let data = MapData::from_pin(pins.map(table))?;
    let most = data.info()?.max_entries();
    Ok((Map::from_map_data(data)?, most))
}

/// At most `most`: a walk through a table that changes may begin again.
fn count<K>(keys: impl Iterator<Item = Result<K, MapError>>, most: u32) -> u32 {
    let all = usize::try_from(most).unwrap_or(usize::MAX);
    u32::try_from(keys.take(all).filter(Result::is_ok).count()).unwrap_or(most)
}
