//! Culvert's kernel programs: they steer the TCP of enrolled pods into the node's agent.
//!
//! ```text
//!  application ─connect()─▶ connect4/6 ──▶ sock_ops (SYN) ──▶ sk_lookup ──▶ agent's listener
//!       ▲ getpeername4/6                                          ▲
//!  from outside ──────────────────── SYN ─────────────────────────┘
//! ```
//!
//! One file a hook; types that cross the border to user space live in `culvert-common`.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(
    target_arch = "bpf",
    expect(
        clippy::inline_always,
        reason = "a helper call in a subprogram costs the verifier its view of the context"
    )
)]

#[cfg(target_arch = "bpf")]
mod connect;
#[cfg(target_arch = "bpf")]
mod peername;
#[cfg(target_arch = "bpf")]
mod sk_lookup;
#[cfg(target_arch = "bpf")]
mod sock_ops;
#[cfg(target_arch = "bpf")]
mod tables;

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // Nothing panics: indexing is checked and arithmetic wraps. The verifier would refuse the loop.
    loop {}
}

// The helpers used here are open to GPL-compatible programs only; see LICENSE in this folder.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(target_arch = "bpf"))]
fn main() {
    // The object is built by `cargo xtask build-ebpf`; for the host there is nothing to run.
}
