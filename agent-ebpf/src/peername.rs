//! Hook: `cgroup/getpeername4` and `cgroup/getpeername6` (kernel 5.8).
//!
//! Reads [`SOCKETS`]. An application whose connection was steered sees the peer that it asked
//! for. Never fails: without state the kernel's own answer stands.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use culvert_common::SocketState;

use crate::tables::SOCKETS;

#[cgroup_sock_addr(getpeername4)]
pub(crate) fn culvert_peername4(ctx: SockAddrContext) -> i32 {
    if let Some(state) = steered(&ctx) {
        // SAFETY: the kernel hands in a valid context for the run of the program.
        let addr = unsafe { &mut *ctx.sock_addr };
        addr.user_ip4 = state.addr.v4_be();
        addr.user_port = u32::from(state.port_be);
    }
    1
}

#[cgroup_sock_addr(getpeername6)]
pub(crate) fn culvert_peername6(ctx: SockAddrContext) -> i32 {
    if let Some(state) = steered(&ctx) {
        // SAFETY: as above.
        let addr = unsafe { &mut *ctx.sock_addr };
        for (slot, word) in addr.user_ip6.iter_mut().zip(state.addr.0) {
            // SAFETY: a field of the valid context; volatile so that stores are not merged.
            unsafe { core::ptr::from_mut(slot).write_volatile(word) };
        }
        addr.user_port = u32::from(state.port_be);
    }
    1
}

#[inline(always)]
fn steered(ctx: &SockAddrContext) -> Option<SocketState> {
    // SAFETY: the context's socket; a look-up only.
    let state = unsafe { SOCKETS.get_ptr_mut(ctx) };
    if state.is_null() {
        return None;
    }
    // SAFETY: not null, so a live value of this socket.
    let state = unsafe { *state };
    (state.kind == SocketState::APPLICATION).then_some(state)
}
