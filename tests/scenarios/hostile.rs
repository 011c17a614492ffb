//! Peers that follow no rule, at the HBONE port of an enrolled pod: real TLS and real frames from
//! a socket of the test's own, beside honest flows that must not notice.
//!
//! ```text
//!   pod x1 (node 1) ──attack──▶ 15008 of pod b1 (node 2) ◀──honest flow── pod a1 (node 1)
//! ```
//!
//! Each test says how the attack is refused, that the reason is counted and logged, and, by
//! [`stage::Stage::unharmed`], that no byte reached an application, that the next honest flow gets
//! through, and that the agent is the same process with no descriptor more than before.

mod certificates;
mod floods;
mod handshakes;
mod headers;
mod http2;
mod mint;
mod openssl;
mod requests;
mod resets;
mod stage;
mod stalls;
mod tls;
pub(crate) mod witness;
