//! [`Table`]: the rows of one kind of object, kept equal to what the API server lists.

use std::collections::{BTreeMap, HashSet};

use kube::runtime::watcher::Event;

use crate::workload::WorkloadKey;

/// Rows by namespace and name, in that order. Objects without a namespace have an empty one.
///
/// While the API server lists everything again, what stands here stays: an object that was not
/// listed goes only when the list is complete.
pub(super) struct Table<R> {
    rows: BTreeMap<WorkloadKey, R>,
    /// What the list under way has shown so far.
    listing: Option<HashSet<WorkloadKey>>,
    complete: bool,
}

/// What an event did to a table.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Touched {
    /// Rows that came, changed or went.
    pub(super) keys: Vec<WorkloadKey>,
    /// Whether the table has just become complete for the first time.
    pub(super) completed: bool,
    /// Every object there is, when a list has just come to its end.
    pub(super) listed: Option<HashSet<WorkloadKey>>,
}

impl<R> Default for Table<R> {
    fn default() -> Self {
        Self { rows: BTreeMap::new(), listing: None, complete: false }
    }
}

impl<R: PartialEq> Table<R> {
    /// Takes an event whose object was already made a row; without a row the object does not
    /// count.
    pub(super) fn take(&mut self, event: Event<(WorkloadKey, Option<R>)>) -> Touched {
        let mut touched = Touched::default();
        match event {
            Event::Init => self.listing = Some(HashSet::new()),
            Event::InitApply((key, row)) => {
                if let Some(listing) = &mut self.listing {
                    listing.insert(key.clone());
                }
                touched.keys.extend(self.put(key, row));
            }
            Event::InitDone => {
                touched.completed = !std::mem::replace(&mut self.complete, true);
                if let Some(listed) = self.listing.take() {
                    let gone = self.rows.extract_if(.., |key, _| !listed.contains(key));
                    touched.keys.extend(gone.map(|(key, _)| key));
                    touched.listed = Some(listed);
                }
            }
            Event::Apply((key, row)) => touched.keys.extend(self.put(key, row)),
            Event::Delete((key, _)) => touched.keys.extend(self.put(key, None)),
        }
        touched
    }

    /// There is no such kind of object at the API server: an empty table is a complete one.
    pub(super) fn absent(&mut self) -> Touched {
        self.listing = None;
        let completed = !std::mem::replace(&mut self.complete, true);
        let keys = std::mem::take(&mut self.rows).into_keys().collect();
        Touched { keys, completed, listed: Some(HashSet::new()) }
    }

    fn put(&mut self, key: WorkloadKey, row: Option<R>) -> Option<WorkloadKey> {
        match row {
            Some(row) if self.rows.get(&key) == Some(&row) => None,
            Some(row) => {
                self.rows.insert(key.clone(), row);
                Some(key)
            }
            None => self.rows.remove(&key).map(|_| key),
        }
    }
}

impl<R> Table<R> {
    /// Whether everything was listed at least once.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// All rows.
    pub(super) fn rows(&self) -> &BTreeMap<WorkloadKey, R> {
        &self.rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> WorkloadKey {
        WorkloadKey::new("n", name)
    }

    fn row(name: &str, row: u8) -> (WorkloadKey, Option<u8>) {
        (key(name), Some(row))
    }

    #[test]
    fn a_new_list_takes_away_only_when_it_is_complete() {
        let mut table = Table::default();
        table.take(Event::Init);
        table.take(Event::InitApply(row("a", 1)));
        table.take(Event::InitApply(row("b", 1)));
        assert!(!table.is_complete());
        assert!(table.take(Event::InitDone).completed);
        // The second list fails after its first page and is begun anew.
        table.take(Event::Init);
        assert_eq!(table.take(Event::InitApply(row("a", 1))).keys, []);
        table.take(Event::Init);
        assert_eq!(table.take(Event::InitApply(row("a", 2))).keys, [key("a")]);
        assert_eq!(table.rows().len(), 2);
        let touched = table.take(Event::InitDone);
        assert_eq!((touched.keys, touched.completed), (vec![key("b")], false));
        assert_eq!(touched.listed, Some(HashSet::from([key("a")])));
    }

    #[test]
    fn a_row_that_says_the_same_is_no_change() {
        let mut table = Table::default();
        assert_eq!(table.take(Event::Apply(row("a", 1))).keys, [key("a")]);
        assert_eq!(table.take(Event::Apply(row("a", 1))).keys, []);
        assert_eq!(table.take(Event::Delete(row("a", 1))).keys, [key("a")]);
        assert_eq!(table.take(Event::Delete(row("a", 1))).keys, []);
    }

    #[test]
    fn an_object_that_stops_to_count_goes() {
        let mut table = Table::default();
        table.take(Event::Apply(row("a", 1)));
        assert_eq!(table.take(Event::Apply((key("a"), None))).keys, [key("a")]);
        assert!(table.rows().is_empty());
    }

    #[test]
    fn a_kind_that_is_not_there_is_complete_and_empty() {
        let mut table = Table::default();
        table.take(Event::Apply(row("a", 1)));
        let touched = table.absent();
        assert_eq!((touched.keys, touched.completed), (vec![key("a")], true));
        assert!(table.is_complete() && table.rows().is_empty());
    }
}
