//! Who may talk to whom, and how: pure functions from (snapshot, flow) to a verdict that names
//! the rule behind it.
//!
//! ```text
//!  outbound: destination ──▶ Tunnel | Passthrough | Refuse        what is known of the destination
//!  inbound:  peer, port  ──▶ Allow | Refuse                       PeerAuthentication,
//!                                                               AuthorizationPolicy
//! ```
//!
//! No I/O, no clock, no lock: the data path, `tls-check` and `explain` all ask the same
//! functions. What a client *sends* is decided by what is known of the destination, never by a
//! PeerAuthentication; that one says what a server *takes*.

mod authorization;
mod inbound;
mod outbound;
mod peer_authentication;
#[cfg(test)]
mod tests;
mod verdict;

pub use authorization::{Authorization, authorization, would_refuse};
pub use inbound::{Allowed, Inbound, InboundFlow, accepts_plaintext_everywhere, inbound};
pub use outbound::{Outbound, OutboundFlow, PassthroughReason, awaits_news, outbound};
pub use peer_authentication::{Acceptance, Effective, effective, ports_with_own_mode};
pub use verdict::{Refusal, Rule};

/// Ports that the mesh itself listens on in every enrolled workload: outbound capture, inbound
/// plaintext, HBONE. A flow whose final destination is one of them would loop.
///
/// Source: istio/ztunnel `src/config.rs`, `illegal_ports`.
pub const ILLEGAL_PORTS: [u16; 3] = [15001, 15006, 15008];
