//! Types, names and pure decisions shared by the kernel programs and the agent.
//!
//! ```text
//!  agent-ebpf (kernel) ──┐
//!                        ├──▶ culvert-common: border types · map names · verdicts
//!  agent (user space) ───┘
//! ```
//!
//! Everything that crosses the border between kernel and user space is defined here, once, with
//! its size asserted. Addresses are kept as four words in network order, IPv4 mapped into IPv6
//! (RFC 4291 section 2.5.5.2), because the verifier is happiest with whole words.

#![no_std]
#![expect(
    clippy::inline_always,
    reason = "shared with kernel programs, which must not call subprograms"
)]

#[cfg(feature = "user")]
extern crate std;

pub mod addr;
pub mod counter;
pub mod maps;
pub mod state;
pub mod verdict;

pub use addr::Addr;
pub use counter::Counter;
pub use state::{Enrolment, FlowKey, ListenerKey, LocalPod, SocketState};
