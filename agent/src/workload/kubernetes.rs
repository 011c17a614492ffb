//! The mesh from a Kubernetes API server, watched: what is labelled is enrolled.
//!
//! ```text
//!  API server ─ list, watch ─▶ watch::follow, one a kind ─▶ State ─▶ Snapshot ─▶ agent
//!  CNI plugin ─ announce ────────────────────────────────────▲ ▲
//!  /proc, /run/netns ─ Finder ────────────────────────────────┘
//! ```
//!
//! The API server is away, or says something impossible: what was last heard stays in force, and
//! metrics and log tell. Objects are cut down while they are decoded (`objects`), so that an
//! agent's memory grows by less than a kilobyte with each pod of the mesh.

mod annotate;
mod announce;
mod client;
mod conflicts;
mod events;
mod fault;
mod kind;
mod netns;
mod objects;
mod pods;
mod policies;
mod services;
mod source;
mod state;
mod table;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod watch;
mod written;

pub use annotate::{Annotated, Annotator};
pub use announce::Announcer;
pub use client::{ClientError, connect};
pub use events::Events;
pub use source::{KubernetesError, Settings, Source};
pub(super) use written::Written;
