//! Reads and replaces the state in its store. Every state is tried before it is used or written.

use culvert_spiffe::TrustDomain;

use super::AuthorityError;
use super::live::Live;
use crate::state::{self, State};
use crate::store::{Store, Swap, Version};

/// Attempts at a change that others get ahead of.
const ATTEMPTS: usize = 8;

/// A state as it is in the store, ready for use.
pub(crate) struct Stored {
    /// The document.
    pub(crate) state: State,
    /// Which one.
    pub(crate) version: Version,
    /// What it makes.
    pub(super) live: Live,
}

/// Reads the state, and makes it ready for use.
pub(crate) async fn read(
    store: &dyn Store,
    domain: &TrustDomain,
) -> Result<Option<Stored>, AuthorityError> {
    let Some(document) = store.read(state::DOCUMENT).await? else { return Ok(None) };
    let state = State::parse(&document.bytes)?;
    let live = Live::build(&state, domain)?;
    Ok(Some(Stored { state, version: document.version, live }))
}

/// Replaces the state by what `decide` makes of it; when others were first, of theirs. `None` when
/// it wants no change. What is written was tried before: no state gets in that cannot be used.
pub(crate) async fn replace(
    store: &dyn Store,
    domain: &TrustDomain,
    seen: (State, Version),
    mut decide: impl FnMut(State) -> Result<Option<State>, AuthorityError>,
) -> Result<Option<Stored>, AuthorityError> {
    let (mut state, mut version) = seen;
    for _ in 0..ATTEMPTS {
        let Some(next) = decide(state)? else { return Ok(None) };
        let live = Live::build(&next, domain)?;
        match store.swap(state::DOCUMENT, Some(&version), &next.to_bytes()).await? {
            Swap::Done(version) => return Ok(Some(Stored { state: next, version, live })),
            Swap::Conflict => {
                let stored = read(store, domain).await?.ok_or(AuthorityError::Lost)?;
                (state, version) = (stored.state, stored.version);
            }
        }
    }
    Err(AuthorityError::Contended)
}
