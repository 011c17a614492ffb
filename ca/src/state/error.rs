//! Why a state document is refused.

use super::SCHEMA;

/// Why a state document cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// It is no state document.
    #[error(
        "state document cannot be read (line {line}, column {column}): it is half-written or not \
         this authority's; restore it from a backup"
    )]
    Garbage {
        /// Where, from 1.
        line: usize,
        /// Where, from 1.
        column: usize,
    },
    /// Of another version of Culvert.
    #[error("state document has form {found}, this version reads {SCHEMA}; use a newer culvert")]
    Schema {
        /// Its form.
        found: u32,
    },
    /// It does not say what signs.
    #[error("state document has {found} active roots, not one; restore it from a backup")]
    Active {
        /// How many.
        found: usize,
    },
    /// Something in it does not fit together.
    #[error("root {generation} of the state document is broken ({part}); restore it from a backup")]
    Generation {
        /// Which root.
        generation: u64,
        /// What is wrong.
        part: &'static str,
    },
}
