//! Names and proofs: SPIFFE IDs, trust bundles and the verification of X509-SVIDs. No I/O.
//!
//! ```text
//!  text ──parse──▶ SpiffeId ◀──────── exactly one URI SAN ─────────┐
//!                                                                  │
//!  PEM ──▶ TrustBundle ──verify(chain, role, now)──▶ VerifiedPeer ─┴─ the only proof of a peer
//! ```
//!
//! Only [`SpiffeId`] can reach a certificate, a policy decision or a log line; no part of Culvert
//! handles identities as bare strings.
//!
//! ```
//! use culvert_spiffe::{SpiffeId, TrustDomain};
//!
//! let id: SpiffeId = "spiffe://cluster.local/ns/default/sa/frontend".parse()?;
//! assert_eq!(id.namespace(), "default");
//! assert_eq!(id.trust_domain(), &"cluster.local".parse::<TrustDomain>()?);
//! assert!("spiffe://cluster.local/ns/default/sa/frontend/".parse::<SpiffeId>().is_err());
//! # Ok::<(), culvert_spiffe::SpiffeIdError>(())
//! ```
#![forbid(unsafe_code)]

mod bundle;
mod facts;
mod id;
mod root;
mod verify;

pub use bundle::{BundleError, TrustBundle};
pub use facts::{CertificateFacts, Serial};
pub use id::{SpiffeId, SpiffeIdError, TrustDomain};
pub use root::RootId;
pub use verify::{PeerRole, VerifiedPeer, VerifyError};
