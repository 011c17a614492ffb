//! What an operator on the node may ask of a running agent: HTTP over a unix socket.
//!
//! ```text
//!  culvert certs ──▶ admin.sock (0600) ──▶ Server ── SO_PEERCRED: root or ourselves ──▶ Routes
//!                                                                                    │
//!  GET  /certs              every identity, no keys                                  │
//!  GET  /certs/ID           one certificate chain, PEM       ◀───────────────────────┘
//!  GET  /roots              the trust bundle, PEM
//!  POST /certs/ID/export    chain, private key and roots; warned of and counted
//! ```
//!
//! ID is a whole SPIFFE ID or `NAMESPACE/SERVICE-ACCOUNT`. Keys leave by this socket alone: what
//! may one day listen on TCP is given [`Routes`] that hold no [`crate::identity::Svid`].

mod caller;
mod error;
mod metrics;
pub mod model;
mod routes;
mod server;
mod socket;
#[cfg(test)]
mod tests;

pub use caller::Caller;
pub use error::AdminError;
pub use routes::Routes;
pub use server::Server;
pub(crate) use socket::Socket;
