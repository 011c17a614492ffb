//! The API as callers meet it: real gRPC over real TLS on the loopback, and the audit's account.
//!
//! Each refusal is asserted whole: its code, its rule in the one audit line, no certificate, and
//! that an honest caller is served right after.

mod callers;
mod clock;
mod cluster;
mod foreign;
mod holders;
mod identities;
mod kubernetes;
mod lab;
mod load;
mod requests;
