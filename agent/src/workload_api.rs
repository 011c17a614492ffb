//! The SPIFFE Workload API: workloads of this node fetch their own identity over a unix socket.
//!
//! ```text
//!  process in a pod ──unix socket──▶ server ──▶ caller   pid and pidfd, from the kernel
//!                                      │          │
//!                                      ▼          ▼
//!                                   service ◀── attest   network namespace ▶ workload ▶ SPIFFE ID
//!                                    │    │               (cgroup ▶ pod UID as second witness)
//!                           follower ◀    ▶ tokens, validate
//!              X509-SVIDs, bundles, pushed    JWT-SVIDs, asked of the authority, and checked
//! ```
//!
//! Nobody says who they are: the kernel says which process called, and where it lives says whose
//! pod it is. Each answer of a stream is attested anew. Standard: SPIFFE Workload API and Workload
//! Endpoint (spiffe/spiffe, standards/).

mod attest;
pub mod authority;
mod caller;
mod follower;
mod metrics;
mod quota;
mod server;
mod service;
mod socket_file;
mod tokens;
mod validate;

pub use server::{Parts, Server, StartError};
pub use socket_file::SocketError;
