//! The maps, and the few ways in which the programs touch them.

use aya_ebpf::{
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    btf_maps::{HashMap, LpmTrie, LruHashMap, PerCpuArray, SkStorage, SockHash, lpm_trie::Key},
    helpers::generated::bpf_sk_storage_get,
    macros::btf_map,
};
use culvert_common::{
    Addr, Counter, Enrolment, FlowKey, ListenerKey, LocalPod, SocketState,
    maps::{MAX_DESTINATIONS, MAX_FLOWS, MAX_LISTENERS, MAX_PODS, dest},
};

#[btf_map]
pub(crate) static PODS: HashMap<u64, Enrolment, MAX_PODS> = HashMap::new();
#[btf_map]
pub(crate) static LOCAL_PODS: HashMap<Addr, LocalPod, { 2 * MAX_PODS }> = HashMap::new();
#[btf_map]
pub(crate) static DESTINATIONS: LpmTrie<Addr, u32, MAX_DESTINATIONS> = LpmTrie::new();
#[btf_map]
pub(crate) static SOCKETS: SkStorage<SocketState> = SkStorage::new();
#[btf_map]
pub(crate) static FLOWS: LruHashMap<FlowKey, SocketState, MAX_FLOWS> = LruHashMap::new();
#[btf_map]
pub(crate) static DELIVERIES: LruHashMap<FlowKey, u32, MAX_FLOWS> = LruHashMap::new();
#[btf_map]
pub(crate) static HOST_FLOWS: LruHashMap<FlowKey, u32, MAX_FLOWS> = LruHashMap::new();
#[btf_map]
pub(crate) static LISTENERS: SockHash<ListenerKey, MAX_LISTENERS> = SockHash::new();
#[btf_map]
pub(crate) static COUNTERS: PerCpuArray<u64, { Counter::COUNT as usize }> = PerCpuArray::new();

/// Netns cookie of the node's own namespace; set by the loader.
#[unsafe(no_mangle)]
static HOST_NETNS: u64 = 0;
/// How many workers share the listeners; set by the loader.
#[unsafe(no_mangle)]
static WORKERS: u32 = 1;

/// A global that the loader sets: read volatile, or the compiler folds the initial value in.
#[inline(always)]
pub(crate) fn host_netns() -> u64 {
    // SAFETY: reads an initialised, aligned static that nothing writes after loading.
    unsafe { core::ptr::addr_of!(HOST_NETNS).read_volatile() }
}

/// See [`host_netns`].
#[inline(always)]
pub(crate) fn workers() -> u32 {
    // SAFETY: as in `host_netns`.
    unsafe { core::ptr::addr_of!(WORKERS).read_volatile() }
}

/// Adds one; returns the new value on this CPU (0 if there is no such counter).
#[inline(always)]
pub(crate) fn count(counter: Counter) -> u64 {
    let Some(value) = COUNTERS.get_ptr_mut(counter as u32) else { return 0 };
    // SAFETY: a live element of this CPU's slot; programs of one CPU do not preempt each other
    // within a slot in a way that could do more than lose one count.
    unsafe {
        *value += 1;
        *value
    }
}

/// Whether the n-th event of its kind is worth a line in the log: the 1st, 2nd, 4th, 8th …
#[inline(always)]
pub(crate) fn worth_logging(n: u64) -> bool {
    n & n.wrapping_sub(1) == 0
}

/// Whether this destination may be in the mesh, by longest prefix; outside of all: no.
#[inline(always)]
pub(crate) fn in_mesh(destination: Addr) -> bool {
    matches!(DESTINATIONS.get(&Key::new(128, destination)), Some(&dest::STEER))
}

/// The map argument of a raw helper call: a BTF map is named by the address of its static.
#[inline(always)]
fn map_of<T, R>(map: &'static T) -> *mut R {
    core::ptr::from_ref(map).cast_mut().cast()
}

/// The state kept with `sk`, or null.
///
/// # Safety
/// `sk` is a socket pointer of the running program's context, checked not to be null.
#[inline(always)]
pub(crate) unsafe fn socket_state(sk: *mut bpf_sock) -> *mut SocketState {
    // SAFETY: the map is a static of this object, `sk` is the caller's promise; no value is given
    // because nothing is created.
    unsafe { bpf_sk_storage_get(map_of(&SOCKETS), sk.cast(), core::ptr::null_mut(), 0) }.cast()
}

/// Keeps `state` with `sk`, in place of what was there. `false`: there was no memory.
///
/// # Safety
/// As for [`socket_state`].
#[inline(always)]
pub(crate) unsafe fn keep_socket_state(sk: *mut bpf_sock, state: &mut SocketState) -> bool {
    let initial = core::ptr::from_mut(state);
    // SAFETY: as in `socket_state`; `initial` points to a whole, initialised value on the stack.
    let kept: *mut SocketState = unsafe {
        bpf_sk_storage_get(
            map_of(&SOCKETS),
            sk.cast(),
            initial.cast(),
            u64::from(BPF_SK_STORAGE_GET_F_CREATE),
        )
    }
    .cast();
    if kept.is_null() {
        return false;
    }
    // SAFETY: not null, so a live value of this socket. A socket connected again finds its old
    // state here: overwrite it.
    unsafe { *kept = *state };
    true
}
