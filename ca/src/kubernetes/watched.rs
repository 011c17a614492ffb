//! [`Watched`]: a table that follows objects of the API server: a paged list, then a watch that is
//! taken up again where it broke off.

use std::fmt::Debug;
use std::sync::{PoisonError, RwLock};

use futures_util::StreamExt as _;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::complaint::Complaint;

/// What is kept of the objects that are followed.
pub(super) trait Table: Default + Send + Sync + 'static {
    /// What is followed.
    type Object: Resource + Clone + DeserializeOwned + Debug + Send + 'static;

    /// Takes in an object that is new or changed.
    fn put(&mut self, object: Self::Object);

    /// Takes out one that is gone.
    fn take_out(&mut self, object: &Self::Object);
}

/// A table and what tells of its changes.
pub(super) struct Watched<T> {
    /// For the log.
    what: &'static str,
    /// Guards the table; held to look something up, or to change one object.
    table: RwLock<T>,
    /// Grows by each change; 0 until all objects were listed once.
    generation: watch::Sender<u64>,
}

impl<T: Table> Watched<T> {
    /// A table that nothing follows yet.
    pub(super) fn new(what: &'static str) -> Self {
        Self { what, table: RwLock::default(), generation: watch::Sender::new(0) }
    }

    /// Looks something up.
    pub(super) fn look<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until all objects were listed once. Cancel safe.
    pub(super) async fn listed(&self) {
        // The sender is in `self`, so there is always one.
        let _ = self.generation.subscribe().wait_for(|generation| *generation > 0).await;
    }

    /// Changes with each change of the table.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Takes in an object ahead of the watch, as it was answered to a write.
    pub(super) fn ahead(&self, object: T::Object) {
        self.table.write().unwrap_or_else(PoisonError::into_inner).put(object);
    }

    /// Follows `api` until `cancel`. What was known stays while the API server is away.
    pub(super) async fn follow(
        &self,
        api: Api<T::Object>,
        config: watcher::Config,
        cancel: CancellationToken,
    ) {
        let mut events = std::pin::pin!(watcher(api, config).default_backoff());
        let mut listing = None;
        let mut complaint = Complaint::default();
        // The stream of a watcher never ends.
        while let Some(Some(event)) = cancel.run_until_cancelled(events.next()).await {
            match event {
                Ok(event) => {
                    if complaint.over() {
                        info!(what = self.what, "followed again");
                    }
                    self.apply(&mut listing, event);
                }
                Err(error) => {
                    if let Some(error) = complaint.say(&error) {
                        let what = self.what;
                        warn!(what, error, "cannot follow; keeping what is known, trying again");
                    }
                }
            }
        }
    }

    fn apply(&self, listing: &mut Option<T>, event: Event<T::Object>) {
        let write = || self.table.write().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Init => *listing = Some(T::default()),
            Event::InitApply(object) => {
                listing.get_or_insert_with(T::default).put(object);
                return;
            }
            Event::InitDone => *write() = listing.take().unwrap_or_default(),
            Event::Apply(object) => write().put(object),
            Event::Delete(object) => write().take_out(&object),
        }
        if listing.is_none() {
            self.generation.send_modify(|generation| *generation += 1);
        }
    }
}
