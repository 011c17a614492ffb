//! The maps that agent and kernel programs share, looked up once.

use std::{os::fd::AsRawFd, path::Path, sync::Mutex};

use aya::{
    Ebpf, Pod,
    maps::{HashMap, Map, MapData, MapError, PerCpuArray, SkStorage, SockHash, lpm_trie::LpmTrie},
};
use culvert_common::{Addr, Counter, Enrolment, FlowKey, ListenerKey, LocalPod, SocketState, maps};

use super::{AttachError, EnrolError, programs::Pins};

/// Tables that change when workloads come and go; owned by [`super::Capture`] alone.
pub(super) struct PodTables {
    pub(super) pods: HashMap<MapData, u64, Enrolment>,
    pub(super) local_pods: HashMap<MapData, Addr, LocalPod>,
    pub(super) destinations: LpmTrie<MapData, Addr, u32>,
    pub(super) listeners: SockHash<MapData, ListenerKey>,
}

/// Tables that the data path reads for each connection.
pub struct SharedTables {
    sockets: SkStorage<MapData, SocketState>,
    // Guards the descriptor of the same map against nothing but aya's `&mut`: an update is one
    // system call, and the kernel does its own locking.
    marks: Mutex<SkStorage<MapData, SocketState>>,
    host_flows: HashMap<MapData, FlowKey, u32>,
    counters: PerCpuArray<MapData, u64>,
}

impl SharedTables {
    /// What the kernel programs left with a socket; `None` if nothing.
    pub(super) fn socket_state(&self, socket: &impl AsRawFd) -> Option<SocketState> {
        self.sockets.get(socket, 0).ok()
    }

    /// Marks a socket as one that the agent opened. Must come before it connects.
    pub(super) fn mark(&self, socket: &impl AsRawFd, state: SocketState) -> Result<(), MapError> {
        // A panic between lock and unlock is not possible: one system call stands there.
        let mut marks = self.marks.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        marks.insert(socket, state, 0)
    }

    /// Whether the node's own namespace opened this connection.
    pub(super) fn opened_by_node(&self, flow: &FlowKey) -> bool {
        self.host_flows.get(flow, 0).is_ok()
    }

    /// What the kernel programs have counted, summed over all CPUs, by the counter's label.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        Counter::ALL
            .iter()
            .map(|&(counter, label)| {
                let values = self.counters.get(&(counter as u32), 0);
                (label, values.map_or(0, |values| values.iter().sum()))
            })
            .collect()
    }
}

/// Opens all maps of the loaded object.
pub(super) fn open(
    object: &mut Ebpf,
    pins: &Pins,
) -> Result<(PodTables, SharedTables), AttachError> {
    let pods = PodTables {
        pods: take(object, maps::PODS)?,
        local_pods: take(object, maps::LOCAL_PODS)?,
        destinations: take(object, maps::DESTINATIONS)?,
        listeners: take(object, maps::LISTENERS)?,
    };
    let marks = reopen(&pins.map(maps::SOCKETS), maps::SOCKETS)?;
    let shared = SharedTables {
        sockets: take(object, maps::SOCKETS)?,
        marks: Mutex::new(marks),
        host_flows: take(object, maps::HOST_FLOWS)?,
        counters: take(object, maps::COUNTERS)?,
    };
    Ok((pods, shared))
}

fn take<T>(object: &mut Ebpf, name: &'static str) -> Result<T, AttachError>
where
    T: TryFrom<Map, Error = MapError>,
{
    let map = object.take_map(name).ok_or(AttachError::Missing { name })?;
    T::try_from(map).map_err(|source| AttachError::Map { name, source: Box::new(source) })
}

/// A second handle to a storage map, by its pin.
fn reopen<V: Pod>(pin: &Path, name: &'static str) -> Result<SkStorage<MapData, V>, AttachError> {
    MapData::from_pin(pin)
        .and_then(|data| SkStorage::try_from(Map::SkStorage(data)))
        .map_err(|source| AttachError::Map { name, source: Box::new(source) })
}

/// Names the table in an error of the kernel.
pub(super) fn refused(table: &'static str) -> impl Fn(MapError) -> EnrolError {
    move |source| EnrolError::Table { table, source: Box::new(source) }
}
