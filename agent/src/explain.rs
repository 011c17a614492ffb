//! Why a connection may be, or may not: the data path's own decisions, step by step, in words.
//!
//! ```text
//!  question ─▶ place: who, where to ─▶ departure ─▶ arrival ─▶ Explanation
//!                                      (policy::     (policy::
//!                                       outbound)     inbound)
//! ```
//!
//! Pure (but for the probe), and the same for an agent's own snapshot and for one from files. Both halves can be asked
//! apart: in a cluster an agent knows all labels only of its own node's pods, so that the arrival
//! is decided by the agent of the destination's node, as the connection itself would be. [`Desk`]
//! adds what an agent knows beside policy, and [`Prober`] proves it by a handshake.

mod answer;
mod arrival;
mod departure;
mod desk;
mod error;
mod place;
mod probe;
#[cfg(test)]
mod tests;
mod tls_check;
mod words;

use std::fmt::Write as _;
use std::net::SocketAddr;

use culvert_spiffe::SpiffeId;

pub use self::answer::{Explanation, Other, Outcome, Party, Path, Protection, Step, Verdict};
pub use self::arrival::{Arrival, Judged, arrival};
pub use self::departure::{Departure, Refused, Way};
pub use self::desk::{Arriving, Checks, Departing, Desk};
pub use self::error::ExplainError;
pub use self::place::{Destination, Source};
pub use self::probe::{Pods, Probe, ProbeError, Prober};
pub use self::tls_check::{Checked, Pair, Speaks, probed, tls_check};
use crate::workload::Snapshot;
use crate::workload::offline::{Names, is_made_up};

/// The mesh that is asked about.
#[derive(Clone, Copy)]
pub struct Mesh<'a> {
    /// Its workloads, Services and policies.
    pub snapshot: &'a Snapshot,
    /// What is known of names beside it.
    pub names: &'a Names,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Who connects: a name, `NAMESPACE/NAME`, a SPIFFE ID or an address.
    pub source: String,
    /// Where to: the same, or a Service, with a port.
    pub destination: String,
    /// The namespace of names that are given without.
    pub namespace: Option<String>,
    /// Whether the connection arrives in plaintext even if the source is enrolled.
    pub plaintext: bool,
}

/// Explains a connection from a mesh that is known as a whole.
///
/// Of a Service each endpoint that could get it is looked at; one that would refuse it is what is
/// explained, for that is what must be mended.
///
/// # Errors
///
/// [`ExplainError`] when source or destination is not known, or not clear.
pub fn explain(mesh: Mesh<'_>, question: &Question) -> Result<Explanation, ExplainError> {
    let departure = depart(mesh, question)?;
    let judged: Vec<_> = departure.ways.iter().map(|way| judge(mesh, &departure, way)).collect();
    Ok(departure.explanation(judged))
}

/// The first half of an answer: where the connection goes, and how.
///
/// # Errors
///
/// As [`explain`].
pub fn depart(mesh: Mesh<'_>, question: &Question) -> Result<Departure, ExplainError> {
    let source = Source::find(mesh, question)?;
    let destination = Destination::find(mesh, question, &source)?;
    Ok(departure::departure(mesh, question, &source, &destination))
}

/// The second half for one of the ways; none where the connection is refused before it leaves.
fn judge(mesh: Mesh<'_>, departure: &Departure, way: &Way) -> Option<Judged> {
    if way.refused.is_some() {
        return None;
    }
    let asked = Arrival {
        to: way.to,
        source: SocketAddr::new(departure.client, 0),
        peer: way.peer.clone(),
        inside: way.inside,
    };
    Some(arrival(mesh, &asked))
}

/// A value as it may stand in the query of a request (RFC 3986, section 2.3).
pub fn percent(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            // Writing to a String does not fail.
            _ => drop(write!(encoded, "%{byte:02X}")),
        }
    }
    encoded
}

/// What a SPIFFE ID is called in the text of a policy.
fn principal(id: &SpiffeId) -> &str {
    id.as_str().strip_prefix("spiffe://").unwrap_or(id.as_str())
}

/// An address for people: nothing of one that was made up.
fn shown(address: SocketAddr) -> String {
    if is_made_up(address.ip()) { format!("port {}", address.port()) } else { address.to_string() }
}
