//! What an authority is opened with.

use std::path::PathBuf;
use std::time::Duration;

use culvert_spiffe::TrustDomain;

use crate::state::Timing;

/// The longest life of a certificate, unless told otherwise.
const USUAL_TTL: Duration = Duration::from_hours(24);

/// How an authority works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The trust domain it serves.
    pub trust_domain: TrustDomain,
    /// The longest life of a certificate; none is issued for longer.
    pub largest_ttl: Duration,
    /// What the rotation of roots waits for.
    pub timing: Timing,
    /// Where roots come from.
    pub source: Source,
}

/// Where roots come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The authority makes its own.
    Made,
    /// An operator's files, in this directory.
    Cacerts(PathBuf),
}

impl Settings {
    /// The usual ones.
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            largest_ttl: USUAL_TTL,
            timing: Timing::default(),
            source: Source::Made,
        }
    }

    pub(crate) fn largest_ttl_seconds(&self) -> i64 {
        i64::try_from(self.largest_ttl.as_secs()).unwrap_or(i64::MAX)
    }
}

/// How long certificates may live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// When nothing is wished.
    pub default: Duration,
    /// Less is raised to it.
    pub least: Duration,
    /// More is cut to it.
    pub most: Duration,
}

impl Lifetimes {
    /// What is granted for a wish in seconds, as the API has it: 0 or less is no wish.
    pub fn grant(&self, wish_seconds: i64) -> Duration {
        let wish = match u64::try_from(wish_seconds) {
            Ok(0) | Err(_) => self.default,
            Ok(seconds) => Duration::from_secs(seconds),
        };
        wish.max(self.least).min(self.most)
    }
}
