//! Why a question cannot be answered.

use std::fmt::Write as _;

/// Names that an error lists at most.
const LISTED: usize = 12;

/// Why a question cannot be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExplainError {
    /// Nobody has that name.
    #[error("there is no {what} `{name}`{}", listed("there are", .known))]
    Unknown {
        /// What was looked for.
        what: &'static str,
        /// As it was given.
        name: String,
        /// Who there is.
        known: Vec<String>,
    },
    /// Several have that name.
    #[error("`{name}` could be several; name one of them{}", listed("they are", .found))]
    Ambiguous {
        /// As it was given.
        name: String,
        /// Who has it.
        found: Vec<String>,
    },
    /// The pod is there, and none that a connection could be told of.
    #[error("pod {name} cannot be asked about: {why}")]
    NoWorkload {
        /// Namespace and name.
        name: String,
        /// Why not.
        why: &'static str,
    },
    /// A destination without a port, or with one that is none.
    #[error(
        "`{text}` has no port; write NAME:PORT, NAMESPACE/NAME:PORT, ADDRESS:PORT or [IPV6]:PORT"
    )]
    NoPort {
        /// As it was given.
        text: String,
    },
    /// The Service has no such port.
    #[error("Service {service} has no TCP port {port}{}", listed("it has", .ports))]
    NoSuchPort {
        /// Namespace and name.
        service: String,
        /// Which was asked for.
        port: u16,
        /// Which it has.
        ports: Vec<String>,
    },
    /// The two cannot reach each other.
    #[error("{name} has no address of the family that {other} has")]
    Family {
        /// Who is without.
        name: String,
        /// The other end.
        other: String,
    },
}

fn listed(word: &str, names: &[String]) -> String {
    if names.is_empty() {
        return String::new();
    }
    let shown = names.len().min(LISTED);
    let mut text = format!("; {word} {}", names[..shown].join(", "));
    if names.len() > shown {
        // Writing to a String does not fail.
        let _ = write!(text, " and {} more", names.len() - shown);
    }
    text
}
