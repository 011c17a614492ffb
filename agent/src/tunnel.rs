//! Stage four: carries flows to other nodes over HBONE, and takes them from there.
//!
//! ```text
//!  outbound  pipeline ─▶ client (pool: one source, one destination) ─▶ TLS ─▶ port 15008
//!  inbound   port 15008 ─▶ TLS ─▶ server (one task a stream) ─▶ pipeline decides ─▶ application
//!  both      relay: bytes between a socket and a stream, or between two sockets
//! ```
//!
//! `hbone` is the pure part: what a request says and how it is answered. Everything here runs on
//! one worker's thread and never leaves it; a flow stays with the worker that accepted it.
//! Knows nothing of Kubernetes.

pub mod client;
pub mod error;
pub mod hbone;
pub mod limits;
pub mod metrics;
mod read_ahead;
pub mod relay;
pub mod server;

pub use client::{Pool, Route};
pub use error::StreamError;
pub use limits::Limits;
pub use metrics::TunnelMetrics;
pub use server::{Incoming, Server};
