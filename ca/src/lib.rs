//! Culvert's certificate authority: a root kept in a directory, short-lived SVIDs over the Istio
//! CA API. A library; run as `culvert ca serve`.
//!
//! ```text
//!  node ──TLS──▶ server ──▶ service ──┬─ token: which node asks?        (Authenticator)
//!                                     ├─ placement: does it run there?  (workloads.yaml)
//!                                     ├─ request: the public key alone
//!                                     ├─ authority: sign, verify, hand out
//!                                     ├─ jwt: the same for tokens
//!                                     └─ audit: one JSON line a decision
//! ```
//!
//! Two tiers: the root signs an issuing certificate of 30 days, a new one every 10; that signs the
//! SVIDs and is sent with them. Routine turnover so touches no node's trust bundle. A root is
//! replaced by steps:
//!
//! ```text
//!  tend, each second ──▶ store (state, heard) ──▶ rotation: which step, what holds it
//!                              ▲                        │ one compare-and-swap a step
//!  ca rotate-root, taint … ────┘  source: plugged-in CA └─▶ published bundle, keys in use
//! ```
#![forbid(unsafe_code)]

pub mod attest;
pub mod audit;
pub mod authority;
pub mod cli;
mod complaint;
pub mod directory;
pub mod duration;
pub mod enrolment;
pub mod heard;
pub mod jwt;
pub mod kubernetes;
mod metrics;
pub mod placement;
pub mod profile;
pub mod request;
pub mod rotation;
pub mod server;
pub mod service;
pub mod source;
pub mod state;
pub mod store;
#[cfg(test)]
mod testing;
