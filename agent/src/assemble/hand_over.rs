//! What a new agent does before it takes over from one that serves: it must not be worse at it.

use std::{collections::HashMap, path::Path, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use crate::{
    capture::{AttachError, Settings, Turn},
    identity::{IdentityHold, IdentityStatus, IdentityStore, IssueError},
    workload::Snapshot,
};

/// How often it is looked whether everything is there.
const LOOK: Duration = Duration::from_millis(100);
/// How often it is said what is missing.
const SAY: Duration = Duration::from_mins(1);

/// Takes the turn from the agent that acts, if one does, once this agent is as good as that one.
///
/// Cancel safe.
pub(super) async fn take(
    node: &str,
    snapshots: &mut watch::Receiver<Arc<Snapshot>>,
    identity: &IdentityStore,
    settings: &Settings,
) -> Result<Turn, AttachError> {
    prepare(node, snapshots, identity, &settings.pin_directory).await;
    Turn::take(&settings.pin_directory).await
}

/// Waits until the certificates of all workloads that are about to be taken over are there, as long
/// as another agent acts on the same pins: it has them, and while the authority is away a
/// new agent would break what works. What the authority has refused is not waited for.
///
/// Cancel safe.
async fn prepare(
    node: &str,
    snapshots: &mut watch::Receiver<Arc<Snapshot>>,
    identity: &IdentityStore,
    pin_directory: &Path,
) {
    let mut holds: HashMap<_, IdentityHold> = HashMap::new();
    let mut say = Instant::now() + SAY;
    while Turn::is_taken(pin_directory) {
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        for workload in snapshot.local(node).filter(|workload| workload.enrolled) {
            let key = workload.key();
            let hold = || identity.hold(&workload.identity, &key);
            holds.entry(key.clone()).or_insert_with(hold);
        }
        let missing: Vec<_> = identity.identities().into_iter().filter(is_missing).collect();
        let Some(first) = missing.first() else { break };
        if Instant::now() >= say {
            say = Instant::now() + SAY;
            tracing::warn!(
                missing = missing.len(),
                first = %first.id,
                error = first.last_error.as_deref().map(tracing::field::display),
                "not taking over from the agent that runs: certificates are missing"
            );
        }
        sleep(LOOK).await;
    }
    // The identities linger for longer than the first enrolment takes.
}

fn is_missing(status: &IdentityStatus) -> bool {
    let refused = matches!(status.last_error.as_deref(), Some(IssueError::Refused { .. }));
    status.held.is_none() && !refused
}
