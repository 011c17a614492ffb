//! A store in memory that fails when told, and an authority in a hurry on it.

use std::collections::HashMap;
use std::sync::Mutex;

use super::*;
use crate::state::Timing;
use crate::store::{Document, StoreError, StoreFuture, Version};

/// The content that a writer has seen.
struct Seen<'a>(Option<&'a Version>);

/// A store in memory that fails when told.
#[derive(Default)]
pub(super) struct Fragile {
    /// Guards the documents.
    documents: Mutex<HashMap<String, (u64, Vec<u8>)>>,
    /// Guards which write fails next, and how.
    fault: Mutex<Option<Fault>>,
}

#[derive(Clone, Copy)]
pub(super) enum Fault {
    /// Nothing is written.
    Before(usize),
    /// It is written, and nobody hears of it.
    After(usize),
}

impl Fragile {
    /// Lets a write fail.
    pub(super) fn break_at(&self, fault: Fault) {
        *self.fault.lock().unwrap() = Some(fault);
    }

    /// Whether it came to that.
    pub(super) fn has_broken(&self) -> bool {
        self.fault.lock().unwrap().is_none()
    }

    /// Whether the write now fails before, or after.
    fn fails(&self) -> (bool, bool) {
        let mut fault = self.fault.lock().unwrap();
        let (result, next) = match *fault {
            None => ((false, false), None),
            Some(Fault::Before(0)) => ((true, false), None),
            Some(Fault::After(0)) => ((false, true), None),
            Some(Fault::Before(left)) => ((false, false), Some(Fault::Before(left - 1))),
            Some(Fault::After(left)) => ((false, false), Some(Fault::After(left - 1))),
        };
        *fault = next;
        result
    }

    fn write(
        &self,
        name: &str,
        bytes: &[u8],
        compare: Option<Seen<'_>>,
    ) -> Result<Swap, StoreError> {
        let (before, after) = self.fails();
        if before {
            return Err(StoreError::Stopping);
        }
        let mut documents = self.documents.lock().unwrap();
        let found = documents.get(name).map(|(version, _)| Version::new(version.to_string()));
        if compare.is_some_and(|compare| compare.0 != found.as_ref()) {
            return Ok(Swap::Conflict);
        }
        let version = documents.get(name).map_or(0, |(version, _)| *version) + 1;
        documents.insert(name.to_owned(), (version, bytes.to_vec()));
        if after {
            Err(StoreError::Stopping)
        } else {
            Ok(Swap::Done(Version::new(version.to_string())))
        }
    }

    pub(super) fn state(&self) -> State {
        State::parse(&self.documents.lock().unwrap()["state"].1).unwrap()
    }
}

impl Store for Fragile {
    fn read<'a>(&'a self, name: &'static str) -> StoreFuture<'a, Option<Document>> {
        let found = self.documents.lock().unwrap().get(name).map(|(version, bytes)| Document {
            bytes: Zeroizing::new(bytes.clone()),
            version: Version::new(version.to_string()),
        });
        Box::pin(async { Ok(found) })
    }

    fn swap<'a>(
        &'a self,
        name: &'static str,
        seen: Option<&'a Version>,
        bytes: &'a [u8],
    ) -> StoreFuture<'a, Swap> {
        let result = self.write(name, bytes, Some(Seen(seen)));
        Box::pin(async { result })
    }

    fn published(&self) -> StoreFuture<'_, Option<Vec<u8>>> {
        let found = self.documents.lock().unwrap().get("roots").map(|(_, bytes)| bytes.clone());
        Box::pin(async { Ok(found) })
    }

    fn publish<'a>(&'a self, roots: &'a [u8]) -> StoreFuture<'a, ()> {
        let result = self.write("roots", roots, None).map(drop);
        Box::pin(async { result })
    }
}

pub(super) fn settings() -> Settings {
    let timing = Timing { wait: 10, drain_margin: 5, rollback: 20, ..Timing::default() };
    Settings { largest_ttl: Duration::from_mins(1), timing, ..Settings::new(domain()) }
}

/// An authority whose certificates live a minute, and whose rotation takes little more.
pub(super) async fn with(
    store: &Arc<Fragile>,
    now: OffsetDateTime,
) -> Result<Authority, AuthorityError> {
    Authority::with(store.clone(), settings(), now).await
}
