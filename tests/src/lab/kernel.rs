//! What an agent keeps in the kernel, looked at from outside: never by what it says of itself.

use super::{Lab, NodeId};
use crate::sweep;
use anyhow::{Context, Result, bail};
use aya::maps::{HashMap, Map, MapData, SockHash, lpm_trie::LpmTrie};
use culvert_common::{Addr, Enrolment, FlowKey, ListenerKey, LocalPod, SocketState, maps};
use std::collections::BTreeMap;
use std::fs;

/// How many things of each kind a node's agent has in the kernel: entries of its maps by the
/// map's name, and `links` on pods' namespaces.
pub type KernelState = BTreeMap<&'static str, usize>;

impl Lab {
    /// Counts what a node's agent, or one that is gone, has pinned.
    ///
    /// # Errors
    /// A pin is not there or is no map of the expected kind.
    pub fn kernel_state(&self, id: NodeId) -> Result<KernelState> {
        let pins = sweep::pins(&self.id, id.name());
        let mut state = KernelState::new();
        for name in [
            maps::PODS,
            maps::LOCAL_PODS,
            maps::DESTINATIONS,
            maps::LISTENERS,
            maps::FLOWS,
            maps::DELIVERIES,
            maps::HOST_FLOWS,
        ] {
            let path = pins.join("maps").join(name);
            let count = MapData::from_pin(&path)
                .and_then(Map::from_map_data)
                .map_err(anyhow::Error::new)
                .and_then(|map| count(name, map))
                .with_context(|| format!("could not look into {}", path.display()))?;
            state.insert(name, count);
        }
        let links = pins.join("links");
        let links = fs::read_dir(&links).with_context(|| format!("no {}", links.display()))?;
        let links = links
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("netns-"));
        state.insert("links", links.count());
        Ok(state)
    }
}

fn count(name: &str, map: Map) -> Result<usize> {
    Ok(match name {
        maps::PODS => HashMap::<_, u64, Enrolment>::try_from(map)?.keys().count(),
        maps::LOCAL_PODS => HashMap::<_, Addr, LocalPod>::try_from(map)?.keys().count(),
        maps::DESTINATIONS => LpmTrie::<_, Addr, u32>::try_from(map)?.keys().count(),
        maps::LISTENERS => SockHash::<_, ListenerKey>::try_from(map)?.keys().count(),
        maps::FLOWS => HashMap::<_, FlowKey, SocketState>::try_from(map)?.keys().count(),
        maps::DELIVERIES | maps::HOST_FLOWS => {
            HashMap::<_, FlowKey, u32>::try_from(map)?.keys().count()
        }
        _ => bail!("no map is called {name}"),
    })
}
