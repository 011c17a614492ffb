//! What an operator may ask of a running agent: HTTP over a unix socket, and over TCP on the
//! loopback.
//!
//! ```text
//!  culvert ──▶ admin.sock (0600) ── SO_PEERCRED: root or ourselves ─┐
//!  curl, page, port-forward ──▶ 127.0.0.1:15000 ── host: loopback ──┴▶ Door ──▶ Routes
//!                                                                                  │
//!  GET  /status, /workloads, /policies       the agent, and the mesh as it knows it   ◀───┘
//!  GET  /connections, /map.json              who talks to whom
//!  GET  /certs, /certs/ID, /roots            identities, no keys; chains and roots, PEM
//!  GET  /config_dump                         all of it, in ztunnel's form
//!  GET  /logging    POST /logging?level=L    the log's filter
//!  GET  /debug/pprof/profile, /memory        where time and memory go
//!  POST /quitquitquit                        ends the agent, where `admin.quit` lets it
//!  POST /certs/ID/export                     chain, private key and roots: by the socket alone
//! ```
//!
//! ID is a whole SPIFFE ID or `NAMESPACE/SERVICE-ACCOUNT`.

mod answer;
mod caller;
mod certificates;
mod door;
mod dump;
mod error;
mod explain;
mod flows;
mod logging;
mod mesh;
mod metrics;
pub mod model;
mod profile;
mod query;
mod routes;
mod server;
mod socket;
mod state;
mod status;
#[cfg(test)]
mod tests;

pub use caller::Caller;
pub use door::of_another_site;
pub use error::AdminError;
pub use server::Server;
pub(crate) use socket::Socket;
pub use state::{Parts, Routes};
