//! [`Follower`]: what stands behind one open stream. Says what to send next, and when.
//!
//! Each message is the whole set, and goes out only after the caller was attested anew. A caller
//! that reads slowly gets the newest state, not every state: nothing is queued for it.

use std::sync::Arc;

use culvert_spiffe::SpiffeId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::attest::Attestor;
use super::caller::Caller;
use super::metrics::ApiMetrics;
use super::service::refused;
use crate::identity::{BundleInForce, Current, IdentityHold, IdentityStore, Svid};
use crate::workload::Snapshot;

/// Everything that a message is made from.
#[derive(Clone)]
pub(super) struct View {
    /// Of the caller; only where the stream asked for it.
    pub(super) svid: Option<Arc<Svid>>,
    pub(super) bundle: Arc<BundleInForce>,
}

/// What a stream shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shows {
    /// The caller's SVID, and the roots.
    Svid,
    /// The roots.
    Roots,
    /// The keys of JWT-SVIDs.
    Keys,
}

/// What a follower is made of.
pub(super) struct Sources {
    pub(super) caller: Caller,
    pub(super) attestor: Attestor,
    pub(super) identity: IdentityStore,
    pub(super) metrics: ApiMetrics,
    pub(super) stop: CancellationToken,
}

/// One stream's view of the world, and what it has shown of it.
pub(super) struct Follower {
    shows: Shows,
    sources: Sources,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    bundle: watch::Receiver<Arc<BundleInForce>>,
    /// The identity followed, kept while it is.
    own: Option<Own>,
    shown: Option<View>,
}

struct Own {
    hold: IdentityHold,
    current: watch::Receiver<Current>,
}

impl Follower {
    pub(super) fn new(shows: Shows, sources: Sources) -> Self {
        let snapshots = sources.attestor.snapshots();
        let bundle = sources.identity.bundle();
        Self { shows, sources, snapshots, bundle, own: None, shown: None }
    }

    /// What to send next; returns when there is something that was not sent yet.
    ///
    /// # Errors
    /// `PermissionDenied` when the caller is nobody's (any more), `Unavailable` when its
    /// certificate does not come in time or the agent stops. The stream ends with it.
    pub(super) async fn next(&mut self) -> Result<View, Status> {
        loop {
            // Seen before they are looked at: what changes meanwhile wakes us once more.
            self.snapshots.mark_unchanged();
            self.bundle.mark_unchanged();
            if let Some(view) = self.look().await?
                && !self.was_shown(&view)
            {
                self.shown = Some(view.clone());
                return Ok(view);
            }
            self.changed().await?;
        }
    }

    /// What the caller may see now; none when its identity changed while we looked.
    async fn look(&mut self) -> Result<Option<View>, Status> {
        let id = self.attested()?;
        let svid = match self.shows {
            Shows::Svid => Some(self.svid(&id).await?),
            Shows::Roots => None,
            Shows::Keys => {
                self.keys().await?;
                None
            }
        };
        // The certificate may have been waited for; who is told must still be the one it is for.
        if self.attested()? != id {
            return Ok(None);
        }
        let bundle = self.bundle.borrow().clone();
        Ok(Some(View { svid, bundle }))
    }

    fn attested(&self) -> Result<SpiffeId, Status> {
        let Sources { caller, attestor, metrics, .. } = &self.sources;
        match attestor.attest(caller) {
            Ok(workload) => Ok(workload.identity.clone()),
            Err(refusal) => Err(refused(&refusal, caller, metrics)),
        }
    }

    /// The SVID of an identity, which is kept from now on; waited for when it is being made.
    async fn svid(&mut self, id: &SpiffeId) -> Result<Arc<Svid>, Status> {
        if self.own.as_ref().is_none_or(|own| own.hold.id() != id) {
            let hold = self.sources.identity.hold(id, "workload API");
            let current = self.sources.identity.watch(id).ok_or_else(not_yet)?;
            self.own = Some(Own { hold, current });
        }
        let own = self.own.as_mut().ok_or_else(not_yet)?;
        own.current.mark_unchanged();
        own.hold.svid().await.map_err(|error| {
            tracing::debug!(identity = %id, %error, "workload API caller waits for a certificate");
            not_yet()
        })
    }

    /// Waits for the keys of JWT-SVIDs: an agent that has just started may not have them yet.
    async fn keys(&mut self) -> Result<(), Status> {
        let there = self.bundle.wait_for(|bundle| !bundle.jwks().is_empty());
        match tokio::time::timeout(super::service::KEYS_WAIT, there).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(not_yet()),
        }
    }

    fn was_shown(&self, now: &View) -> bool {
        let Some(before) = &self.shown else { return false };
        let same_roots =
            || before.bundle.bundle().certificates() == now.bundle.bundle().certificates();
        match self.shows {
            Shows::Svid => {
                let same_svid = match (&before.svid, &now.svid) {
                    (Some(before), Some(now)) => Arc::ptr_eq(before, now),
                    (None, None) => true,
                    (Some(_), None) | (None, Some(_)) => false,
                };
                same_svid && same_roots()
            }
            Shows::Roots => same_roots(),
            Shows::Keys => before.bundle.jwks() == now.bundle.jwks(),
        }
    }

    async fn changed(&mut self) -> Result<(), Status> {
        let own = async {
            match &mut self.own {
                Some(own) => own.current.changed().await,
                None => std::future::pending().await,
            }
        };
        let changed = tokio::select! {
            // A stop is never put off; which of the others comes first is of no consequence.
            biased;
            () = self.sources.stop.cancelled() => {
                return Err(Status::unavailable("agent stops; connect again"));
            }
            changed = self.snapshots.changed() => changed,
            changed = own => changed,
            changed = self.bundle.changed() => changed,
        };
        // A sender goes only when the agent stops.
        changed.map_err(|_| Status::unavailable("agent stops; connect again"))
    }
}

fn not_yet() -> Status {
    Status::unavailable("not available yet; try again")
}
