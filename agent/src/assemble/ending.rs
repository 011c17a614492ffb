//! How the agent ends: in a stated order, and with nothing left behind where it is removed.
//!
//! ```text
//!  stopped   enrolment ends · listeners close · flows drain · tasks end
//!  removed   pods start unasked · enrolment ends · annotations go · programs go
//!            · listeners close · flows drain · tasks end · routes and files go
//! ```

use std::{sync::Arc, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

use super::{cni, host_proc, removal::Removal, worker::Workers};
use crate::{
    capture::Leaving,
    config::Config,
    identity,
    supervise::Tasks,
    workload::{Steered, kubernetes::Annotated},
};

/// How long tasks that have nothing to drain may take to end, and annotations to go.
const STOP: Duration = Duration::from_secs(5);

/// All that runs.
pub(super) struct Running {
    /// Enrols; ends before the rest, so that nothing is enrolled while everything is taken out.
    pub(super) enrolling: Tasks,
    /// Takes new work; ends before the tasks that serve the flows.
    pub(super) front: Tasks,
    /// What the flows need until they have ended.
    pub(super) tasks: Tasks,
    pub(super) workers: Arc<Workers>,
    /// Whether the agent is being removed, where that is known.
    pub(super) removal: Option<Removal>,
    /// Where is told what is steered.
    pub(super) steered: watch::Sender<Arc<Steered>>,
    /// Which pods are said to be steered, where there is a cluster.
    pub(super) annotated: Option<Annotated>,
}

impl Running {
    /// Waits until the agent is told to stop, or a part of it has failed.
    ///
    /// # Errors
    /// Which part, and why.
    pub(super) async fn until_stop(&mut self, stop: &mut Stop) -> anyhow::Result<()> {
        tokio::select! {
            // A signal that came together with a failure is what the operator wanted.
            biased;
            () = stop.asked() => Ok(()),
            error = self.enrolling.failed() => Err(error),
            error = self.front.failed() => Err(error),
            error = self.tasks.failed() => Err(error),
            () = self.workers.ended() => anyhow::bail!("a worker has died"),
        }
    }

    /// Ends everything. Flows get their time to drain.
    pub(super) async fn end(self, config: &Config) {
        let is_removed = match &self.removal {
            Some(removal) => removal.is_under_way().await,
            None => false,
        };
        if is_removed {
            // First of all: from now on pods start without asking us.
            cni::leave(config);
        }
        tracing::info!(is_removed, "draining");
        self.enrolling.stop(STOP).await;
        let mut leaving = None;
        if is_removed {
            // The other nodes hear of it before it is so, and what is new goes its own way before
            // the listeners close.
            self.steered.send_replace(Arc::new(Steered::from_iter([])));
            if let Some(annotated) = self.annotated {
                annotated.until_none(STOP).await;
            }
            leaving = begin_to_leave(config);
        }
        self.front.stop(STOP).await;
        if let Some(workers) = Arc::into_inner(self.workers) {
            workers.join().await;
        }
        self.tasks.stop(STOP).await;
        if let Some(leaving) = leaving {
            leaving.finish().await;
            remove_files(config);
        }
    }
}

/// Takes the programs out of the kernel.
fn begin_to_leave(config: &Config) -> Option<Leaving> {
    tracing::warn!("Culvert is being removed: this node's workloads leave the mesh");
    Leaving::begin(&config.capture.pin_directory, host_proc(config))
        .inspect_err(|error| {
            let error = identity::with_sources(error);
            tracing::error!(error, "not everything was taken out; run `culvert release` here");
        })
        .ok()
}

/// Removes what is kept for the next agent. Sockets have gone with their owners.
fn remove_files(config: &Config) {
    match std::fs::remove_file(&config.ca.bundle_file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            let file = config.ca.bundle_file.display();
            tracing::warn!(%file, %error, "file stays behind");
        }
        Ok(()) | Err(_) => {}
    }
    if let Some(directory) = config.workload_api.as_ref().and_then(|api| api.socket.parent()) {
        // One that is not empty is not ours alone.
        let _ = std::fs::remove_dir(directory); // reason: see above
    }
}

/// The signals that tell the agent to stop, and the word of an operator that may.
pub(super) struct Stop {
    terminate: Signal,
    interrupt: Signal,
    quit: CancellationToken,
}

impl Stop {
    /// They are handled from now on.
    pub(super) fn new() -> std::io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self { terminate, interrupt, quit: CancellationToken::new() })
    }

    /// What means the same as a signal when it is cancelled.
    pub(super) fn quit(&self) -> CancellationToken {
        self.quit.clone()
    }

    /// Waits until one of them comes, or has come.
    ///
    /// Cancel safe.
    pub(super) async fn asked(&mut self) {
        tokio::select! {
            // They mean the same.
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            () = self.quit.cancelled() => {}
        }
    }
}
