//! [`IdentityStore`]: one entry for each identity of this node's workloads, shared by all pods
//! that have it, and the one task an entry that executes its [`super::state::State`].
//!
//! Connections run on many single-threaded runtimes, issuance on the control runtime: between
//! them stand only a map under a reader-writer lock and `watch` channels, which belong to no
//! runtime.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use culvert_spiffe::{BundleError, SpiffeId};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::ca_client::{CaClient, IssueError, Settings};
use super::jwt::JwtSvid;
use super::metrics::IdentityMetrics;
use super::roots::BundleInForce;
use super::roots::metrics::BundleMetrics;
use super::status::IdentityStatus;
use super::svid::Svid;
use crate::observe::Reason;

mod entry;
mod follower;
mod keep;

pub use entry::Current;
use entry::Entry;
use keep::keep;

/// Longest a connection waits for the first certificate of its workload.
pub const SVID_WAIT: Duration = Duration::from_secs(5);

/// Why no identity can be issued at all.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The root certificates cannot be read.
    #[error("cannot read root certificates {path}; copy the authority's root-cert.pem there")]
    ReadRoots {
        /// `ca.rootFile`.
        path: std::path::PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The root certificates are none.
    #[error("{path} is no trust bundle; copy the authority's root-cert.pem there")]
    Roots {
        /// `ca.rootFile`.
        path: std::path::PathBuf,
        /// What is wrong.
        #[source]
        source: BundleError,
    },
    /// A TLS configuration was refused by the library.
    #[error("TLS library refuses the mesh profile; this build is broken, rebuild the agent")]
    Tls(#[source] rustls::Error),
    /// A metric is registered twice.
    #[error("identity metrics are registered already; start one identity store a registry")]
    Metrics(#[source] prometheus::Error),
}

/// Why a connection got no SVID.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SvidError {
    /// Nobody holds this identity: no enrolled workload of this node has it.
    #[error("{id} belongs to no enrolled workload of this node; check `workloads`")]
    NotHeld {
        /// Which identity.
        id: SpiffeId,
    },
    /// No certificate came in time; the source is the last answer, if there was one.
    #[error(
        "no certificate for {id} within {} s; check the authority at `ca.address`",
        SVID_WAIT.as_secs()
    )]
    TimedOut {
        /// Which identity.
        id: SpiffeId,
        /// What the authority said last.
        #[source]
        source: Option<Arc<IssueError>>,
    },
}

impl SvidError {
    /// The reason under which the connection is counted and logged.
    pub fn reason(&self) -> Reason {
        match self {
            Self::NotHeld { .. } | Self::TimedOut { .. } => Reason::NoIdentity,
        }
    }
}

/// SVIDs by identity. Cloning shares the store.
#[derive(Clone)]
pub struct IdentityStore {
    shared: Arc<Shared>,
}

struct Shared {
    /// Guards the set of entries; held for a look-up, an insertion or a removal.
    entries: RwLock<HashMap<SpiffeId, Arc<Entry>>>,
    /// Guards the tasks of the entries; held to start one or to reap those that ended.
    tasks: Mutex<JoinSet<()>>,
    runtime: Handle,
    cancel: CancellationToken,
    ca: CaClient,
    metrics: IdentityMetrics,
    bundle_metrics: BundleMetrics,
}

/// A reference to an identity: as long as one lives, its SVID is kept and renewed.
///
/// Dropping the last one lets the identity linger for [`super::state::LINGER`], then wipes it.
pub struct IdentityHold {
    entry: Arc<Entry>,
    user: Box<str>,
}

/// Owns the tasks of an [`IdentityStore`].
pub struct IdentityTasks {
    shared: Arc<Shared>,
}

impl IdentityStore {
    /// Starts a store whose tasks run on the current runtime, until `cancel`.
    ///
    /// Reads the root certificates once, so that a wrong file is found at the start, and the trust
    /// bundle that was in force last. Follows the authority's trust bundle from now on; no
    /// certificate is asked for before the first [`IdentityStore::hold`].
    ///
    /// # Panics
    /// When called outside a tokio runtime.
    pub async fn start(
        settings: Settings,
        cancel: CancellationToken,
        registry: &prometheus::Registry,
    ) -> Result<(Self, IdentityTasks), StartError> {
        let metrics = IdentityMetrics::register(registry).map_err(StartError::Metrics)?;
        let bundle_metrics = BundleMetrics::register(registry).map_err(StartError::Metrics)?;
        let ca = CaClient::new(settings, metrics.clone()).await?;
        let shared = Arc::new(Shared {
            entries: RwLock::default(),
            tasks: Mutex::default(),
            runtime: Handle::current(),
            cancel,
            ca,
            metrics,
            bundle_metrics,
        });
        shared.tasks().spawn(follower::follow(shared.clone()));
        Ok((Self { shared: shared.clone() }, IdentityTasks { shared }))
    }

    /// Takes a reference to `id` for `user`, a name that people are shown; the first reference has
    /// its certificate asked for at once.
    pub fn hold(&self, id: &SpiffeId, user: impl fmt::Display) -> IdentityHold {
        let user: Box<str> = user.to_string().into();
        let shared = &self.shared;
        let mut entries = shared.entries.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get(id) {
            // Under the map's lock, so that the entry cannot be wiped in between.
            entry.references.send_modify(|users| users.push(user.clone()));
            return IdentityHold { entry: entry.clone(), user };
        }
        let entry = Arc::new(Entry::new(id.clone(), user.clone()));
        entries.insert(id.clone(), entry.clone());
        drop(entries);
        let mut tasks = shared.tasks();
        reap(&mut tasks);
        tasks.spawn_on(keep(shared.clone(), entry.clone()), &shared.runtime);
        IdentityHold { entry, user }
    }

    /// The SVID of a held identity, waiting at most [`SVID_WAIT`] for the first one.
    ///
    /// Callable from any tokio runtime with time. Cancel safe.
    pub async fn svid(&self, id: &SpiffeId) -> Result<Arc<Svid>, SvidError> {
        let entry = self.entry(id).ok_or_else(|| SvidError::NotHeld { id: id.clone() })?;
        entry.svid().await
    }

    /// Follows the SVID of a held identity through its renewals; none where nobody holds it.
    ///
    /// The sender goes when the identity is wiped, so that `changed` then ends with an error.
    pub fn watch(&self, id: &SpiffeId) -> Option<watch::Receiver<Current>> {
        self.entry(id).map(|entry| entry.current.subscribe())
    }

    fn entry(&self, id: &SpiffeId) -> Option<Arc<Entry>> {
        self.shared.entries.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// What there is to be known of every identity that is held or lingers, by name.
    pub fn identities(&self) -> Vec<IdentityStatus> {
        let entries: Vec<_> = {
            let entries = self.shared.entries.read().unwrap_or_else(PoisonError::into_inner);
            entries.values().cloned().collect()
        };
        let mut all: Vec<_> = entries.iter().map(|entry| entry.status()).collect();
        all.sort_by(|a, b| a.id.cmp(&b.id));
        all
    }

    /// The trust bundle in force, and each that replaces it.
    ///
    /// Works on any runtime; a change counts for handshakes at once.
    pub fn bundle(&self) -> watch::Receiver<Arc<BundleInForce>> {
        self.shared.ca.roots().watch()
    }

    /// Seconds by which this node's clock is ahead of the authority's, to about one; none as long
    /// as no answer told.
    pub fn clock_ahead(&self) -> Option<f64> {
        self.shared.ca.clock_ahead()
    }

    /// Whether the authority answered the last request.
    pub fn authority_is_up(&self) -> bool {
        self.shared.ca.is_up()
    }

    /// A JWT-SVID of `id` for `audience`, signed by the authority for this call.
    ///
    /// # Errors
    /// [`IssueError`]: the authority refuses, among others an identity that has no workload on this
    /// node, or cannot be reached within ten seconds.
    pub async fn jwt_svid(
        &self,
        id: &SpiffeId,
        audience: Vec<String>,
    ) -> Result<JwtSvid, IssueError> {
        self.shared.ca.sign_jwt(id, audience).await
    }

    /// Whether the authority's trust bundle is followed at this moment.
    pub fn bundle_is_followed(&self) -> bool {
        self.shared.bundle_metrics.is_connected()
    }

    /// How many identities are held or linger.
    pub fn len(&self) -> usize {
        self.shared.entries.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether no identity is held or lingers.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl IdentityHold {
    /// Whose identity this is.
    pub fn id(&self) -> &SpiffeId {
        &self.entry.id
    }

    /// As [`IdentityStore::svid`], without the look-up.
    pub async fn svid(&self) -> Result<Arc<Svid>, SvidError> {
        self.entry.svid().await
    }
}

impl Drop for IdentityHold {
    fn drop(&mut self) {
        self.entry.references.send_modify(|users| {
            if let Some(at) = users.iter().position(|user| *user == self.user) {
                users.swap_remove(at);
            }
        });
    }
}

impl IdentityTasks {
    /// Waits until every task has ended; cancel the token given to [`IdentityStore::start`] first.
    /// Keys still held are dropped with the tasks and the last SVID in use.
    pub async fn join(self) {
        loop {
            // Taken out, because the lock must not be held while waiting.
            let mut tasks = std::mem::take(&mut *self.shared.tasks());
            if tasks.is_empty() {
                return;
            }
            while let Some(ended) = tasks.join_next().await {
                report(ended);
            }
        }
    }
}

impl Shared {
    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the entry out, unless somebody took a reference meanwhile.
    fn wipe(&self, entry: &Entry) -> bool {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if !entry.references.borrow().is_empty() {
            return false;
        }
        entries.remove(&entry.id);
        drop(entries);
        entry.current.send_replace(Current::Absent(None));
        self.metrics.holds_no_more(&entry.id);
        true
    }
}

/// An error with its sources, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

fn reap(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.try_join_next() {
        report(ended);
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        error!(%error, "identity task panicked; its identity is no longer renewed");
    }
}

#[cfg(test)]
pub(crate) mod lab;
#[cfg(test)]
mod tests;
