//! What nodes were heard to do: who follows the bundle, and which number each has in force.
//!
//! Kept in memory as calls come in, and written to a document of its own in batches: at once when a
//! number changed, else at most every ten seconds, and a minute for each node; more often where
//! certificates live for less than minutes, or nodes would look dead between two notes.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::authority::Heard;
use crate::store::{Document, Store, StoreError, Swap, Version};

/// Name of the document in the store.
pub const DOCUMENT: &str = "heard";
/// Seconds by which replicas' clocks may differ.
const AHEAD: i64 = 120;
/// Attempts at a write that others get ahead of, before it waits for the next second.
const ATTEMPTS: usize = 8;

/// The document: what all replicas heard. Times are seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nodes {
    /// By name. Names were proved by the caller's token, so nobody fills this at will.
    pub nodes: BTreeMap<String, Node>,
}

/// What was heard of one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// When a certificate was last issued to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued: Option<i64>,
    /// When it last said which bundle it has in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub followed: Option<i64>,
    /// Which one that was.
    #[serde(default)]
    pub in_force: u64,
}

impl Node {
    /// Whether it was heard, in any way, in the last `within` seconds.
    pub fn is_live(&self, now: i64, within: i64) -> bool {
        let last = self.issued.max(self.followed).unwrap_or(i64::MIN);
        last.saturating_add(within) >= now
    }

    /// Whether it learns of roots by the bundle, not from answers alone.
    pub fn follows(&self) -> bool {
        self.followed.is_some()
    }

    fn note(&mut self, heard: Heard, now: i64) {
        match heard {
            Heard::Issued => self.issued = Some(now),
            Heard::Following { in_force } => {
                self.followed = Some(now);
                self.in_force = in_force;
            }
        }
    }

    /// Brings back what was noted by a clock that was ahead, or what is heard now would count as
    /// earlier until the clock is there again.
    fn bring_back(&mut self, now: i64) {
        for at in [&mut self.issued, &mut self.followed] {
            *at = at.map(|at| if at > now.saturating_add(AHEAD) { now } else { at });
        }
    }

    /// Takes over what `other` heard later.
    fn merge(&mut self, other: Self) {
        self.issued = self.issued.max(other.issued);
        // A number may go back: a node that lost its disk starts again, and holds steps again.
        if other.followed >= self.followed {
            self.followed = other.followed;
            self.in_force = other.in_force;
        }
    }
}

/// Least seconds between two notes of the same node with nothing new.
fn note_every(within: i64) -> i64 {
    (within / 4).clamp(1, 60)
}

/// Least seconds between two writes when no number changed.
fn write_every(within: i64) -> i64 {
    (within / 10).clamp(1, 10)
}

/// Collects what calls hear, for the store.
#[derive(Debug, Default)]
pub(crate) struct Hearing {
    /// Guards what was heard since the last write, and when each node was last noted.
    fresh: Mutex<Fresh>,
}

#[derive(Debug, Default)]
struct Fresh {
    waiting: HashMap<String, Node>,
    noted: HashMap<String, Node>,
    urgent: bool,
}

impl Hearing {
    /// Takes a note; nodes are live for `within` seconds after one. In memory, and seldom more than
    /// a look into a map.
    pub(crate) fn note(&self, node: &str, heard: Heard, now: OffsetDateTime, within: i64) {
        let now = now.unix_timestamp();
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = &mut *fresh;
        if let Some(noted) = fresh.noted.get(node) {
            let (last, changed) = match heard {
                Heard::Issued => (noted.issued, false),
                Heard::Following { in_force } => (noted.followed, in_force != noted.in_force),
            };
            // A clock that went back counts as a change, or nothing would be noted until it is
            // where it was.
            if !changed && last.is_some_and(|last| (last..last + note_every(within)).contains(&now))
            {
                return;
            }
            fresh.urgent |= changed || last.is_none();
        } else {
            fresh.urgent = true;
        }
        fresh.noted.entry(node.to_owned()).or_default().note(heard, now);
        fresh.waiting.entry(node.to_owned()).or_default().note(heard, now);
    }

    /// What is to be written now, if anything.
    fn take(&self, may_wait: bool) -> HashMap<String, Node> {
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        if may_wait && !fresh.urgent {
            return HashMap::new();
        }
        fresh.urgent = false;
        std::mem::take(&mut fresh.waiting)
    }

    /// Puts back what could not be written.
    fn put_back(&self, waiting: HashMap<String, Node>) {
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        fresh.urgent = true;
        for (name, mut node) in waiting {
            // What came in meanwhile is later.
            if let Some(later) = fresh.waiting.remove(&name) {
                node.merge(later);
            }
            fresh.waiting.insert(name, node);
        }
    }

    /// Forgets when nodes silent for long were noted.
    fn forget(&self, now: i64, within: i64) {
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        fresh.noted.retain(|_, node| node.is_live(now, within));
    }
}

/// The document as it was last read or written.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    nodes: Nodes,
    version: Option<Version>,
    written_at: i64,
    lost: bool,
}

impl Shared {
    /// What all replicas heard, as of the last exchange.
    pub(crate) fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// Whether what was heard before was lost since the last call: nothing may be concluded from
    /// the silence of nodes until they had time to speak again.
    pub(crate) fn was_lost(&mut self) -> bool {
        std::mem::take(&mut self.lost)
    }

    /// Reads what other replicas heard, and writes what this one did. Nodes silent for twice
    /// `within` seconds are dropped.
    ///
    /// Not cancel safe: notes taken for a write that is dropped are lost until nodes are heard next.
    pub(crate) async fn exchange(
        &mut self,
        store: &dyn Store,
        hearing: &Hearing,
        now: i64,
        within: i64,
    ) -> Result<(), StoreError> {
        self.read(store).await?;
        let waited = (self.written_at..self.written_at + write_every(within)).contains(&now);
        let waiting = hearing.take(waited);
        if waiting.is_empty() {
            return Ok(());
        }
        for _ in 0..ATTEMPTS {
            match self.write(store, &waiting, now, within).await {
                Ok(true) => {
                    self.written_at = now;
                    hearing.forget(now, within);
                    return Ok(());
                }
                Ok(false) => self.read(store).await?,
                Err(error) => {
                    hearing.put_back(waiting);
                    return Err(error);
                }
            }
        }
        hearing.put_back(waiting);
        Ok(())
    }

    async fn read(&mut self, store: &dyn Store) -> Result<(), StoreError> {
        match store.read(DOCUMENT).await? {
            Some(Document { version, .. }) if self.version.as_ref() == Some(&version) => {}
            Some(Document { bytes, version }) => {
                // Broken, it is worth nothing, and is replaced by what nodes say within a minute.
                let read = serde_json::from_slice(&bytes);
                self.lost |= read.is_err();
                self.nodes = read.unwrap_or_default();
                self.version = Some(version);
            }
            None => {
                self.lost |= self.version.is_some();
                self.nodes = Nodes::default();
                self.version = None;
            }
        }
        Ok(())
    }

    /// Whether nobody else was first.
    async fn write(
        &mut self,
        store: &dyn Store,
        waiting: &HashMap<String, Node>,
        now: i64,
        within: i64,
    ) -> Result<bool, StoreError> {
        let mut next = self.nodes.clone();
        for node in next.nodes.values_mut() {
            node.bring_back(now);
        }
        for (name, node) in waiting {
            next.nodes.entry(name.clone()).or_default().merge(*node);
        }
        next.nodes.retain(|_, node| node.is_live(now, within.saturating_mul(2)));
        let bytes = Zeroizing::new(
            serde_json::to_vec(&next).expect("only texts and numbers, and keys are texts"),
        );
        match store.swap(DOCUMENT, self.version.as_ref(), &bytes).await? {
            Swap::Done(version) => {
                self.nodes = next;
                self.version = Some(version);
                Ok(true)
            }
            Swap::Conflict => Ok(false),
        }
    }
}

#[cfg(test)]
mod tests;
