//! The CNI plugin's end, where it is wanted.

use std::sync::Arc;

use tokio::sync::watch;

use crate::{
    cni,
    config::Config,
    observe::{Metrics, Readiness},
    supervise::Tasks,
    workload::{Announce, Steered},
};

/// What the plugin's end is told by, and asks.
pub(super) struct Parts {
    /// Who decides over announced pods.
    pub(super) announce: Arc<dyn Announce>,
    /// What is steered now.
    pub(super) steered: watch::Receiver<Arc<Steered>>,
    /// Whether this agent serves the node.
    pub(super) ready: watch::Receiver<Readiness>,
}

/// Starts the plugin's end. It listens once this agent is ready: until then the one that it
/// replaces, if there is one, answers.
pub(super) fn offer(front: &mut Tasks, config: &Config, parts: Parts, metrics: &Metrics) {
    let Some(cni) = &config.cni else { return };
    let proc = config.capture.host_proc.clone();
    let (socket, metrics, token) = (cni.socket.clone(), metrics.clone(), front.token());
    front.spawn("CNI", async move {
        let Parts { announce, steered, mut ready } = parts;
        let is_ready = ready.wait_for(|ready| matches!(ready, Readiness::Ready));
        if !matches!(token.run_until_cancelled(is_ready).await, Some(Ok(_))) {
            // Told to stop before it began; `supervise` hears of an end that came too early.
            return Ok(());
        }
        let parts = cni::Parts { socket: &socket, proc, announce, steered, metrics: &metrics };
        let server = cni::Server::bind(parts)?;
        tracing::info!(socket = %socket.display(), "listening for the CNI plugin");
        server.run(token).await;
        Ok(())
    });
}

/// Says that the agent leaves this node for good: the plugin lets every pod pass, and goes as well.
pub(super) fn leave(config: &Config) {
    let Some(cni) = &config.cni else { return };
    if let Err(error) = cni::off::set(&cni.socket) {
        tracing::error!(%error, "the CNI plugin stays; run `culvert cni remove` on this node");
    }
}
