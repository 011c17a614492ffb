//! Hook: `cgroup/connect4` and `cgroup/connect6` (kernel 4.17; netns cookie 5.7).
//!
//! Reads [`PODS`], [`DESTINATIONS`](crate::tables::DESTINATIONS), [`SOCKETS`]; writes [`SOCKETS`].
//! Steers an enrolled pod's TCP to the pod's *own* address: with 127.0.0.1 instead, a socket bound
//! to a device could not reach the agent and `getsockname` would change.
//!
//! Failures: no memory for the socket's state — refused with EPERM (closed: an unsteered
//! connection would leave in plaintext); a pod that should be enrolled and could not be — likewise.
//! No agent — the connection is refused by the kernel,
//! unless the pod's enrolment says that it may pass.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_F_CURRENT_NETNS, bpf_sock_addr, bpf_sock_tuple,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2,
    },
    helpers::{bpf_get_netns_cookie, bpf_sk_lookup_tcp, bpf_sk_release},
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use aya_log_ebpf::warn;
use culvert_common::{
    Addr, Counter, Enrolment, SocketState,
    maps::OUTBOUND_PORT,
    verdict::{self, Outbound},
};

use crate::tables::{
    PODS, SOCKETS, count, in_mesh, keep_socket_state, socket_state, worth_logging,
};

const IPPROTO_TCP: u32 = 6;
const IPPROTO_MPTCP: u32 = 262;

const ALLOW: i32 = 1;
const REFUSE: i32 = 0;

/// What the hook does with the address that the application gave.
enum Step {
    Allow,
    Refuse,
    Rewrite(Addr),
}

#[cgroup_sock_addr(connect4)]
pub(crate) fn culvert_connect4(ctx: SockAddrContext) -> i32 {
    // SAFETY: the kernel hands in a valid context for the run of the program.
    let addr = unsafe { &mut *ctx.sock_addr };
    if addr.protocol != IPPROTO_TCP && addr.protocol != IPPROTO_MPTCP {
        return ALLOW;
    }
    match decide(&ctx, Addr::from_v4_be(addr.user_ip4), addr.user_port as u16) {
        Step::Allow => ALLOW,
        Step::Refuse => REFUSE,
        Step::Rewrite(own) => {
            addr.user_ip4 = own.v4_be();
            addr.user_port = u32::from(OUTBOUND_PORT.to_be());
            ALLOW
        }
    }
}

#[cgroup_sock_addr(connect6)]
pub(crate) fn culvert_connect6(ctx: SockAddrContext) -> i32 {
    // SAFETY: as above.
    let addr = unsafe { &mut *ctx.sock_addr };
    if addr.protocol != IPPROTO_TCP && addr.protocol != IPPROTO_MPTCP {
        return ALLOW;
    }
    let words = [addr.user_ip6[0], addr.user_ip6[1], addr.user_ip6[2], addr.user_ip6[3]];
    match decide(&ctx, Addr(words), addr.user_port as u16) {
        Step::Allow => ALLOW,
        Step::Refuse => REFUSE,
        Step::Rewrite(own) => {
            write_v6(addr, own);
            addr.user_port = u32::from(OUTBOUND_PORT.to_be());
            ALLOW
        }
    }
}

#[inline(always)]
fn decide(ctx: &SockAddrContext, destination: Addr, port_be: u16) -> Step {
    // SAFETY: the context is valid; the helper is open to this program type.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    // SAFETY: the value is copied at once; an update of an enrolment is a whole-value update.
    let Some(pod) = (unsafe { PODS.get(&netns) }).copied() else { return Step::Allow };
    // SAFETY: reads the socket pointer of a valid context.
    let sk = unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk };
    if sk.is_null() {
        return Step::Refuse;
    }
    // SAFETY: `sk` is the context's socket and not null.
    let state = unsafe { socket_state(sk) };
    // SAFETY: not null, so a live value of this socket.
    if !state.is_null() && unsafe { *state }.is_agents() {
        return Step::Allow;
    }
    if pod.flags & Enrolment::FENCED != 0 && !destination.stays_near() && in_mesh(destination) {
        count(Counter::OutboundFenced);
        return Step::Refuse;
    }
    let Outbound::Steer(own) = verdict::outbound(destination, &pod) else {
        return forget(ctx);
    };
    if !in_mesh(destination) {
        count(Counter::OutboundPassed);
        return forget(ctx);
    }
    if pod.flags & Enrolment::PASS_WHEN_DOWN != 0 && !agent_listens(ctx, own) {
        count(Counter::OutboundAgentDown);
        return forget(ctx);
    }
    let mut state = SocketState::application(destination, port_be);
    // SAFETY: `sk` as above.
    if !unsafe { keep_socket_state(sk, &mut state) } {
        if worth_logging(count(Counter::OutboundStateFull)) {
            warn!(ctx, "no memory for a socket's state: connection refused");
        }
        return Step::Refuse;
    }
    count(Counter::OutboundSteered);
    Step::Rewrite(own)
}

/// Lets the connection go where it wants to, and drops what an earlier connect of the same socket
/// left: it may be connected again after a failure, or after `AF_UNSPEC`.
#[inline(always)]
fn forget(ctx: &SockAddrContext) -> Step {
    // SAFETY: the socket pointer of a valid context; deleting what is not there is an error that
    // means just that.
    let _ = unsafe { SOCKETS.delete((*ctx.sock_addr).__bindgen_anon_1.sk) };
    Step::Allow
}

/// Writes a v4-mapped or v6 address, word by word and volatile: two adjacent stores merged into
/// one of eight bytes are refused by the verifier ("invalid bpf_context access").
#[inline(always)]
fn write_v6(addr: &mut bpf_sock_addr, to: Addr) {
    for (slot, word) in addr.user_ip6.iter_mut().zip(to.0) {
        // SAFETY: a field of the valid context.
        unsafe { core::ptr::from_mut(slot).write_volatile(word) };
    }
}

/// Whether the agent takes connections at the pod's own address: a listener there, or a
/// redirection by the pod's `sk_lookup` program, which the helper runs as well.
#[inline(always)]
fn agent_listens(ctx: &SockAddrContext, own: Addr) -> bool {
    // SAFETY: plain integers; all zero is valid.
    let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    let size = if own.is_v4() {
        tuple.__bindgen_anon_1.ipv4 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 {
            saddr: own.v4_be(),
            daddr: own.v4_be(),
            sport: 0,
            dport: OUTBOUND_PORT.to_be(),
        };
        size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1>()
    } else {
        tuple.__bindgen_anon_1.ipv6 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 {
            saddr: own.0,
            daddr: own.0,
            sport: 0,
            dport: OUTBOUND_PORT.to_be(),
        };
        size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2>()
    };
    // SAFETY: context and tuple are valid, the size is that of the member filled in.
    let found = unsafe {
        bpf_sk_lookup_tcp(ctx.as_ptr(), &raw mut tuple, size as u32, BPF_F_CURRENT_NETNS as u64, 0)
    };
    if found.is_null() {
        return false;
    }
    // SAFETY: the reference taken by the look-up is given back exactly once.
    unsafe { bpf_sk_release(found.cast()) };
    true
}
