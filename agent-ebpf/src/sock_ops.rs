//! Hook: `cgroup/sock_ops` (kernel 4.13; the netns cookie in it 5.15).
//!
//! Reads and writes [`SOCKETS`], [`FLOWS`], [`DELIVERIES`], [`HOST_FLOWS`]; reads [`LOCAL_PODS`].
//! A connection's source port is known when `TCP_CONNECT_CB` runs and its SYN is not sent yet, so
//! what is written there cannot come too late. `PASSIVE_ESTABLISHED_CB` runs while the child is
//! made, before it can be accepted, so what is moved to the child cannot be missed.
//!
//! Failures: a full flow table loses an original destination — the agent resets that connection
//! (closed). A full delivery table makes the delivery come back to the agent, which refuses it.

use aya_ebpf::{
    bindings::{
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB,
        BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB,
        BPF_TCP_CLOSE, bpf_sock, bpf_sock_ops,
    },
    helpers::{bpf_get_netns_cookie, bpf_sock_ops_cb_flags_set},
    macros::sock_ops,
    programs::SockOpsContext,
};
use aya_log_ebpf::warn;
use culvert_common::{Addr, Counter, FlowKey, SocketState, maps::OUTBOUND_PORT};

use crate::tables::{
    DELIVERIES, FLOWS, HOST_FLOWS, LOCAL_PODS, count, host_netns, keep_socket_state, socket_state,
    worth_logging,
};

const AF_INET: u32 = 2;

/// A context field. All are read before any branch, and volatile: LLVM merges the loads of two
/// branches into one at a computed offset ("dereference of modified ctx ptr").
macro_rules! field {
    ($place:expr) => {
        // SAFETY: a field of the valid context.
        unsafe { core::ptr::addr_of!($place).read_volatile() }
    };
}

#[sock_ops]
pub(crate) fn culvert_sock_ops(ctx: SockOpsContext) -> u32 {
    let ops = ctx.ops;
    // SAFETY: the kernel hands in a valid context for the run of the program.
    let op = unsafe { (*ops).op };
    // Many operations run for each socket of the node: leave first.
    if op != BPF_SOCK_OPS_TCP_CONNECT_CB
        && op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB
        && op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB
        && op != BPF_SOCK_OPS_STATE_CB
    {
        return 0;
    }
    // SAFETY: as above.
    let sk = unsafe { (*ops).__bindgen_anon_2.sk };
    if sk.is_null() {
        return 0;
    }
    // SAFETY: as above; only meaningful for STATE_CB.
    let new_state = unsafe { (*ops).__bindgen_anon_1.args[1] };
    let flow = flow_of(ops);
    if op == BPF_SOCK_OPS_TCP_CONNECT_CB {
        connecting(&ctx, sk, &flow);
    } else if op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB {
        if flow.source_port_be == OUTBOUND_PORT.to_be() {
            accepted(&ctx, sk, &flow);
        }
    } else if op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB {
        established(ops, sk, &flow);
    } else if new_state == BPF_TCP_CLOSE {
        // Only sockets that asked for it come here: deliveries that failed, the node's own flows.
        let _ = DELIVERIES.remove(&flow);
        let _ = HOST_FLOWS.remove(&flow);
    }
    0
}

/// The SYN is about to leave.
#[inline(always)]
fn connecting(ctx: &SockOpsContext, sk: *mut bpf_sock, flow: &FlowKey) {
    // SAFETY: `sk` is the context's socket and not null.
    let state = unsafe { socket_state(sk) };
    // SAFETY: where not null, a live value of this socket.
    let kind = if state.is_null() { 0 } else { unsafe { (*state).kind } };
    if kind == SocketState::APPLICATION {
        // SAFETY: `kind` says that it is not null.
        let original = unsafe { (*state).captured() };
        if FLOWS.insert(flow, &original, 0).is_err() && worth_logging(count(Counter::FlowTableFull))
        {
            warn!(ctx, "flow table refused an original destination: connection will be reset");
        }
        return;
    }
    // SAFETY: where not null, the kernel's own answer for an address of the table.
    if unsafe { LOCAL_PODS.get(&flow.destination) }.is_none() {
        return;
    }
    if kind == SocketState::DELIVERY {
        watch_state(ctx);
        if DELIVERIES.insert(flow, &1_u32, 0).is_err() {
            count(Counter::DeliveryTableFull);
        }
    // SAFETY: the context is valid; the helper is open to this program type.
    } else if unsafe { bpf_get_netns_cookie(ctx.ops.cast()) } == host_netns() {
        watch_state(ctx);
        let _ = HOST_FLOWS.insert(flow, &1_u32, 0);
    }
}

/// A connection of our own is established. From now on its socket owns the four-tuple; the entry
/// must go, or a remote client that came to use the same port would pass `sk_lookup` unproven.
#[inline(always)]
fn established(ops: *mut bpf_sock_ops, sk: *mut bpf_sock, flow: &FlowKey) {
    // SAFETY: `sk` is the context's socket and not null.
    let state = unsafe { socket_state(sk) };
    // SAFETY: where not null, a live value of this socket.
    if !state.is_null() && unsafe { (*state).kind } == SocketState::DELIVERY {
        let _ = DELIVERIES.remove(flow);
        // SAFETY: the context is valid; clears what `watch_state` had set.
        unsafe { bpf_sock_ops_cb_flags_set(ops, 0) };
    }
}

/// The agent's end of a steered connection is being made: it inherits the original destination.
#[inline(always)]
fn accepted(ctx: &SockOpsContext, sk: *mut bpf_sock, flow: &FlowKey) {
    let opened = flow.reversed();
    // SAFETY: the value is copied at once; entries are written once and removed here.
    let Some(mut original) = (unsafe { FLOWS.get(&opened) }).copied() else {
        // Other meshes listen on this port as well: a miss alone is no surprise to be logged.
        count(Counter::OriginalDstMissing);
        return;
    };
    let _ = FLOWS.remove(&opened);
    // SAFETY: `sk` is the context's socket and not null.
    if unsafe { keep_socket_state(sk, &mut original) } {
        count(Counter::OriginalDstHandedOver);
    } else if worth_logging(count(Counter::OutboundStateFull)) {
        warn!(ctx, "no memory for an accepted socket's state: connection will be reset");
    }
}

/// Asks for `STATE_CB` of this socket, so that its entry goes when it closes.
#[inline(always)]
fn watch_state(ctx: &SockOpsContext) {
    // SAFETY: the context is valid; the flag is one that the kernel knows since 4.16.
    unsafe { bpf_sock_ops_cb_flags_set(ctx.ops, BPF_SOCK_OPS_STATE_CB_FLAG as i32) };
}

/// The connection as this socket sees it: local end first.
#[inline(always)]
fn flow_of(ops: *const bpf_sock_ops) -> FlowKey {
    // SAFETY: the context is valid for the run of the program.
    let ops = unsafe { &*ops };
    let local6 = [
        field!(ops.local_ip6[0]),
        field!(ops.local_ip6[1]),
        field!(ops.local_ip6[2]),
        field!(ops.local_ip6[3]),
    ];
    let remote6 = [
        field!(ops.remote_ip6[0]),
        field!(ops.remote_ip6[1]),
        field!(ops.remote_ip6[2]),
        field!(ops.remote_ip6[3]),
    ];
    let (local4, remote4) = (field!(ops.local_ip4), field!(ops.remote_ip4));
    let (local_port, remote_port) = (field!(ops.local_port), field!(ops.remote_port));
    let family = field!(ops.family);
    let v4 = family == AF_INET || Addr(local6).is_v4();
    FlowKey {
        source: if v4 { Addr::from_v4_be(local4) } else { Addr(local6) },
        destination: if v4 { Addr::from_v4_be(remote4) } else { Addr(remote6) },
        // The local port is a number, the remote one stands in network order in the upper half.
        source_port_be: (local_port as u16).to_be(),
        destination_port_be: (remote_port >> 16) as u16,
    }
}
