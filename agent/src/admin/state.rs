//! [`Routes`]: what everything is answered from.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::model::Program;
use super::profile::Profiler;
use crate::config::Config;
use crate::explain::Prober;
use crate::identity::IdentityStore;
use crate::observe::{LogControl, Metrics, Readiness};
use crate::workload::{Snapshot, Steered};

/// What the admin server is given.
pub struct Parts {
    /// The configuration in force.
    pub config: Arc<Config>,
    /// The mesh as it is known.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// This node's identities.
    pub identities: IdentityStore,
    /// What of this node is steered.
    pub steered: watch::Receiver<Arc<Steered>>,
    /// Whether the agent can do its work.
    pub readiness: watch::Receiver<Readiness>,
    /// The agent's programs in the kernel, once they are there.
    pub programs: watch::Receiver<Vec<Program>>,
    /// Flows and their edges.
    pub metrics: Metrics,
    /// Shakes hands to prove what policy says.
    pub prober: Prober,
    /// The level of the log.
    pub log: LogControl,
    /// Cancelled to end the agent.
    pub quit: CancellationToken,
}

/// What the admin server answers from. Cloning shares it.
#[derive(Clone)]
pub struct Routes(pub(super) Arc<State>);

/// What [`Parts`] become.
pub(super) struct State {
    pub(super) parts: Parts,
    pub(super) started: SystemTime,
    pub(super) profiler: Profiler,
}

impl Routes {
    /// Answers from these.
    pub fn new(parts: Parts) -> Self {
        let (started, profiler) = (SystemTime::now(), Profiler::default());
        Self(Arc::new(State { parts, started, profiler }))
    }
}

impl State {
    /// The mesh at this moment.
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.parts.snapshots.borrow())
    }

    /// What is steered at this moment.
    pub(super) fn steered(&self) -> Arc<Steered> {
        Arc::clone(&self.parts.steered.borrow())
    }

    /// This node's name.
    pub(super) fn node(&self) -> &str {
        &self.parts.config.node
    }
}
