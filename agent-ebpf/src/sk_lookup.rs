//! Hook: `sk_lookup` of each enrolled pod's network namespace (kernel 5.9).
//!
//! Reads [`LISTENERS`], [`DELIVERIES`], [`LOCAL_PODS`]. Runs for each SYN that no connection owns,
//! and names the listener that takes it: steered connections of the pod itself, HBONE and
//! plaintext from outside each go to the agent; what the pod says to itself, and what the agent
//! delivers, goes its own way.
//!
//! Failures: no listener — the SYN is refused (closed), unless the pod's policy leaves plaintext
//! open and its enrolment says that it may pass while no agent is there.

use aya_ebpf::{
    bindings::{
        bpf_sk_lookup,
        sk_action::{SK_DROP, SK_PASS},
    },
    macros::sk_lookup,
    programs::SkLookupContext,
};
use culvert_common::{
    Addr, Counter, FlowKey, ListenerKey, LocalPod,
    maps::{HBONE_PORT, OUTBOUND_PORT, PLAINTEXT_PORT},
    verdict::worker_of,
};

use crate::tables::{DELIVERIES, LISTENERS, LOCAL_PODS, count, workers};

const AF_INET: u32 = 2;
const IPPROTO_TCP: u32 = 6;

/// See `sock_ops.rs`: read before any branch, and volatile.
macro_rules! field {
    ($place:expr) => {
        // SAFETY: a field of the valid context.
        unsafe { core::ptr::addr_of!($place).read_volatile() }
    };
}

#[sk_lookup]
pub(crate) fn culvert_sk_lookup(ctx: SkLookupContext) -> u32 {
    // SAFETY: the kernel hands in a valid context for the run of the program.
    let lookup = unsafe { &*ctx.lookup };
    if lookup.protocol != IPPROTO_TCP {
        return SK_PASS;
    }
    let (flow, local_port) = flow_of(lookup);
    let own = flow.source.same(flow.destination);
    // The ingress interface is no help to tell loopback traffic: for the pod's own address over
    // `lo` the kernel names the device of the address.
    let kind = if own && local_port == OUTBOUND_PORT {
        OUTBOUND_PORT
    } else if own || flow.destination.is_loopback() {
        return SK_PASS;
    // SAFETY: only its presence counts.
    } else if unsafe { DELIVERIES.get(&flow) }.is_some() {
        count(Counter::InboundDelivered);
        return SK_PASS;
    } else if local_port == HBONE_PORT {
        HBONE_PORT
    } else {
        PLAINTEXT_PORT
    };
    let listener = ListenerKey {
        pod: flow.destination,
        kind,
        worker: worker_of(u16::from_be(flow.source_port_be), workers()),
    };
    if LISTENERS.redirect_sk_lookup(&ctx, &listener, 0).is_ok() {
        match kind {
            HBONE_PORT => count(Counter::InboundHbone),
            PLAINTEXT_PORT => count(Counter::InboundPlaintext),
            _ => 0,
        };
        return SK_PASS;
    }
    // SAFETY: the value is copied at once.
    let flags = unsafe { LOCAL_PODS.get(&flow.destination) }.map_or(0, |pod| pod.flags);
    if kind == PLAINTEXT_PORT && flags & LocalPod::PASS_WHEN_DOWN != 0 {
        count(Counter::InboundAgentDown);
        return SK_PASS;
    }
    if kind != OUTBOUND_PORT {
        count(Counter::InboundRefused);
    }
    SK_DROP
}

/// The connection as its opener sees it, and the port it wants, as a number.
#[inline(always)]
fn flow_of(lookup: &bpf_sk_lookup) -> (FlowKey, u16) {
    let local6 = [
        field!(lookup.local_ip6[0]),
        field!(lookup.local_ip6[1]),
        field!(lookup.local_ip6[2]),
        field!(lookup.local_ip6[3]),
    ];
    let remote6 = [
        field!(lookup.remote_ip6[0]),
        field!(lookup.remote_ip6[1]),
        field!(lookup.remote_ip6[2]),
        field!(lookup.remote_ip6[3]),
    ];
    let (local4, remote4) = (field!(lookup.local_ip4), field!(lookup.remote_ip4));
    let (local_port, remote_port) = (field!(lookup.local_port), field!(lookup.remote_port));
    let v4 = field!(lookup.family) == AF_INET;
    let flow = FlowKey {
        source: if v4 { Addr::from_v4_be(remote4) } else { Addr(remote6) },
        destination: if v4 { Addr::from_v4_be(local4) } else { Addr(local6) },
        source_port_be: remote_port as u16,
        destination_port_be: (local_port as u16).to_be(),
    };
    (flow, local_port as u16)
}
