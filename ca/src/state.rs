//! [`State`]: the one document that says which roots there are, and where their rotation stands.
//!
//! Pure data: read, checked for its form, written. What may happen next is [`crate::rotation`]'s
//! to say; keys are tried when the authority takes the state into use.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::authority::Standing;

mod error;
mod key;

pub use error::StateError;
pub use key::KeyPem;

/// Name of the document in the store.
pub const DOCUMENT: &str = "state";
/// The form written by this version.
pub(crate) const SCHEMA: u32 = 1;
/// Room for the largest document, so that no half-filled buffer with keys is left behind by growth.
const DOCUMENT_BYTES: usize = 256 * 1024;
/// Overridden steps that are kept; the oldest go first.
pub(crate) const FORCED_KEPT: usize = 16;
/// Removed generations that are kept for the record; the oldest go first.
pub(crate) const REMOVED_KEPT: usize = 8;

/// Everything that replicas must agree on. Times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct State {
    /// Form of the document.
    pub schema: u32,
    /// The trust domain that the roots are of.
    pub trust_domain: String,
    /// Sequence number of the trust bundle; grows by each change of it.
    pub sequence: u64,
    /// The longest life any certificate was ever issued for, in seconds: raised before a server
    /// with a longer limit signs for the first time.
    pub largest_ttl: i64,
    /// What rotation waits for.
    pub timing: Timing,
    /// When the last step was made. None is made with an earlier clock.
    pub stepped_at: i64,
    /// Number of the latest issuing certificate.
    pub last_issuing: u64,
    /// The roots, oldest first. Their numbers only grow.
    pub generations: Vec<Generation>,
    /// Steps for which a person overrode the nodes that held them.
    pub forced: Vec<Forced>,
}

/// One root, or one set of files that an operator plugged in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Generation {
    /// From 1.
    pub number: u64,
    /// Who made it.
    pub origin: Origin,
    /// Where it stands.
    pub phase: Phase,
    /// Since when.
    pub since: i64,
    /// When it came to be.
    pub made: i64,
    /// The bundle's number by which agents first heard of it.
    pub announced: u64,
    /// Its root certificates, PEM. One, when we made it.
    pub anchors: Vec<String>,
    /// The root's key, PEM; none when plugged in, or destroyed.
    pub key: Option<KeyPem>,
    /// The root's own key signed by the root before it, PEM: by this, peers that know only that
    /// one believe what this one issued.
    pub cross: Option<String>,
    /// What signs leaves.
    pub issuing: Option<Issuing>,
}

/// The certificate that signs leaves, and its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Issuing {
    /// From 1, over all generations.
    pub number: u64,
    /// PEM.
    pub certificate: String,
    /// What is presented after the leaf, PEM: the certificate above and any between it and the
    /// root. Empty when that certificate is the root itself.
    pub chain: Vec<String>,
    /// Its key.
    pub key: KeyPem,
}

/// Who made a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Origin {
    /// This authority.
    Made,
    /// An operator, with `--cacerts`.
    Plugged,
}

/// Where a root stands.
///
/// ```text
///  Prepared ──▶ Active ──▶ Draining ──▶ Removed
///                 └──────────┴─▶ Tainted ──▶ Revoked ──▶ Removed
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// In the bundle; signs nothing yet.
    Prepared,
    /// Signs.
    Active,
    /// Signs no more; what it signed may be alive.
    Draining,
    /// Compromised: what it signed is being replaced.
    Tainted,
    /// Compromised, and believed no more.
    Revoked,
    /// Out of the bundle.
    Removed,
}

/// What rotation waits for, in seconds. As the server that started last has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Timing {
    /// Between a root's announcement and its first use, when all callers follow the bundle.
    pub wait: i64,
    /// Age at which a root is replaced.
    pub root_turnover: i64,
    /// Age at which an issuing certificate is replaced.
    pub issuing_turnover: i64,
    /// Added to the longest life before a drained root is removed.
    pub drain_margin: i64,
    /// How long the key of a removed root is kept.
    pub rollback: i64,
}

/// A step that a person forced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Forced {
    /// When.
    pub at: i64,
    /// Which step, as `ca rotate-root --plan` names it.
    pub step: String,
    /// The nodes that had not acknowledged the bundle.
    pub nodes: Vec<String>,
}

impl Default for Timing {
    fn default() -> Self {
        const DAY: i64 = 86400;
        Self {
            wait: 15 * 60,
            root_turnover: 365 * DAY,
            issuing_turnover: 10 * DAY,
            drain_margin: 5 * 60,
            rollback: DAY,
        }
    }
}

impl Phase {
    /// All of them, in the order of a life.
    pub const ALL: [Self; 6] =
        [Self::Prepared, Self::Active, Self::Draining, Self::Tainted, Self::Revoked, Self::Removed];

    /// As metrics and people have it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Tainted => "tainted",
            Self::Revoked => "revoked",
            Self::Removed => "removed",
        }
    }

    /// What agents are told of it; `None` once it is out of the bundle.
    pub const fn standing(self) -> Option<Standing> {
        match self {
            Self::Prepared | Self::Active | Self::Draining => Some(Standing::Trusted),
            Self::Tainted => Some(Standing::Tainted),
            Self::Revoked => Some(Standing::Revoked),
            Self::Removed => None,
        }
    }

    /// Whether a root that does not sign may go from here to there.
    pub(crate) const fn may_become(self, to: Self) -> bool {
        matches!(
            (self, to),
            (Self::Prepared | Self::Draining, Self::Tainted)
                | (Self::Prepared | Self::Draining | Self::Tainted, Self::Revoked)
                | (Self::Prepared | Self::Draining | Self::Tainted | Self::Revoked, Self::Removed)
        )
    }

    /// Whether what it signed may be alive while it signs nothing more.
    pub const fn drains(self) -> bool {
        matches!(self, Self::Draining | Self::Tainted | Self::Revoked)
    }
}

impl State {
    /// A state with no root yet: to be given one before it is written.
    pub(crate) fn empty(trust_domain: &str, largest_ttl: i64, timing: Timing, now: i64) -> Self {
        Self {
            schema: SCHEMA,
            trust_domain: trust_domain.to_owned(),
            sequence: 0,
            largest_ttl,
            timing,
            stepped_at: now,
            last_issuing: 0,
            generations: Vec::new(),
            forced: Vec::new(),
        }
    }

    /// Reads a document.
    pub fn parse(bytes: &[u8]) -> Result<Self, StateError> {
        #[derive(Deserialize)]
        struct Form {
            schema: u32,
        }

        // serde_json's own text may quote what it stumbled on, which may be a key.
        let garbage = |error: serde_json::Error| StateError::Garbage {
            line: error.line(),
            column: error.column(),
        };
        let form: Form = serde_json::from_slice(bytes).map_err(garbage)?;
        if form.schema != SCHEMA {
            return Err(StateError::Schema { found: form.schema });
        }
        let state: Self = serde_json::from_slice(bytes).map_err(garbage)?;
        let active = state.generations.iter().filter(|one| one.phase == Phase::Active).count();
        if active != 1 {
            return Err(StateError::Active { found: active });
        }
        Ok(state)
    }

    /// Writes the document.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(DOCUMENT_BYTES));
        // Cannot fail: only texts, numbers and lists of them, and a Vec takes every byte. If it did,
        // what was written so far would be refused as garbage, and not be put in place.
        let _ = serde_json::to_writer_pretty(&mut *bytes, self);
        bytes
    }

    /// A generation by its number.
    pub fn generation(&self, number: u64) -> Option<&Generation> {
        self.generations.iter().find(|one| one.number == number)
    }

    /// The one that signs. [`State::parse`] saw to it that there is one.
    pub fn active(&self) -> Option<&Generation> {
        self.in_phase(Phase::Active)
    }

    /// The first in a phase.
    pub fn in_phase(&self, phase: Phase) -> Option<&Generation> {
        self.generations.iter().find(|one| one.phase == phase)
    }

    /// The first that signs no more and is still in the bundle.
    pub fn drained(&self) -> Option<&Generation> {
        self.generations.iter().find(|one| one.phase.drains())
    }

    /// What the next generation is called.
    pub fn next_number(&self) -> u64 {
        self.generations.iter().map(|one| one.number).max().unwrap_or(0) + 1
    }
}
