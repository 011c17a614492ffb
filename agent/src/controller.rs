//! `culvert controller`: tells each policy, in its own status, what is made of it.
//!
//! ```text
//!  API server ──watch──▶ follow ──▶ workload::documents ──▶ condition ──patch──▶ …/status
//!                          ▲                (as the agents read it)
//!       Lease ──leads?─────┘
//! ```
//!
//! One of several replicas writes. What is written depends on the policy alone, so two that both
//! believe to lead write the same. Nothing waits for it: agents read policies by themselves.
//!
//! # Permissions
//!
//! `peerauthentications` and `authorizationpolicies` of `security.istio.io`: `list`, `watch`; their
//! `/status`: `patch`; in its own namespace `leases` of `coordination.k8s.io`: `create`, and `get`,
//! `update` of `culvert-controller`.

mod condition;
mod follow;
mod kind;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use culvert_ca::kubernetes::{connect, lease::Candidate};
use prometheus::IntGauge;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::observe::{Metrics, Routes, Server};
use crate::supervise::Tasks;
use follow::Follower;

/// The Lease that decides which replica writes.
const LEASE: &str = "culvert-controller";
/// How long tasks may take to end.
const STOP: Duration = Duration::from_secs(5);

/// Arguments of `culvert controller`.
#[derive(Args)]
pub struct Options {
    /// Namespace of the Lease that decides which replica writes.
    #[arg(long, env = "CULVERT_NAMESPACE", default_value = "culvert-system")]
    namespace: String,
    /// Name of this replica in the Lease, which no other has.
    #[arg(long, env = "CULVERT_POD_NAME")]
    name: String,
    /// The namespace whose policies hold for the whole mesh; as in the agents' configuration.
    #[arg(long, default_value = "istio-system")]
    root_namespace: String,
    /// Address of `/metrics` for Prometheus; none without it.
    #[arg(long)]
    metrics: Option<SocketAddr>,
    /// Filter of the log on standard error.
    #[arg(long, default_value = "info")]
    pub log: String,
}

/// Writes statuses until it is told to stop (SIGTERM, SIGINT).
///
/// # Errors
/// There is no API server to ask, or a part of it failed.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let client = connect().await?;
    let metrics = Metrics::new()?;
    let mut tasks = Tasks::new(CancellationToken::new());
    if let Some(address) = options.metrics {
        let server = Server::bind(address, Routes::Metrics(metrics.clone()))?;
        tracing::info!(name = "metrics", address = %server.address(), "listening");
        let token = tasks.token();
        tasks.spawn("metrics", async move {
            server.run(token).await;
            Ok(())
        });
    }
    let candidate = Candidate::new(client.clone(), options.namespace, LEASE, options.name);
    let leads = candidate.leads();
    let follower = Follower::new(client, options.root_namespace, &metrics)?;
    let leading = metrics.gauge(
        "culvert_controller_leads",
        "Whether this replica is the one that writes statuses.",
    )?;
    let token = tasks.token();
    tasks.spawn("lease", async move {
        candidate.run(token).await;
        Ok(())
    });
    let token = tasks.token();
    tasks.spawn("policies", async move {
        token.run_until_cancelled(while_leading(leads, &follower, &leading)).await;
        Ok(())
    });
    let outcome = until_stop(&mut tasks).await;
    tasks.stop(STOP).await;
    outcome
}

async fn until_stop(tasks: &mut Tasks) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        // A signal that came together with a failure is what the operator wanted.
        biased;
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        error = tasks.failed() => Err(error),
    }
}

/// Follows the policies as long as this replica leads; anew each time, so that nothing that
/// happened in between is missed. Ends when nobody can tell any more who leads.
async fn while_leading(mut leads: watch::Receiver<bool>, follower: &Follower, leading: &IntGauge) {
    while leads.wait_for(|leads| *leads).await.is_ok() {
        leading.set(1);
        tracing::info!("this replica writes the status of policies");
        tokio::select! {
            // Order does not matter: following never ends by itself.
            _ = leads.wait_for(|leads| !*leads) => {}
            never = follower.follow() => match never {},
        }
        leading.set(0);
        tracing::info!("this replica does not write any more");
    }
}
