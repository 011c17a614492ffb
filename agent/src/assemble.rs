//! Builds the agent's parts, starts and stops them in a stated order.
//!
//! ```text
//!  start  metrics and readiness (not ready) · workloads · identity · kernel programs · workers
//!         · enrolment of the first snapshot ─▶ ready
//!  stop   readiness off · listeners closed · flows drain · what is left is cut · tasks joined
//! ```
//!
//! Programs, maps and links stay pinned when the agent stops: enrolled workloads are refused, or
//! pass by `capture.whenAgentDown`, until the next agent takes over.

mod enrolment;
mod kernel;
mod worker;

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

use self::{
    enrolment::Enrolment,
    worker::{Shared, Workers},
};
use crate::{
    admin,
    capture::{self, Capture},
    config::{Config, Tunnel, WhenAgentDown},
    identity::{self, IdentityStore},
    observe::{Metrics, Readiness, Routes, Server},
    supervise::Tasks,
    sys,
    tunnel::{Limits, TunnelMetrics},
    workload::{
        Snapshot,
        file::{Files, Source},
    },
    workload_api,
};

/// How long tasks that have nothing to drain may take to end.
const STOP: Duration = Duration::from_secs(5);

/// Runs the agent until it is told to stop (SIGTERM, SIGINT) or a part of it fails.
///
/// # Errors
/// What could not be started, or which part failed.
pub async fn run(config: Config) -> anyhow::Result<()> {
    sys::dump::forbid().context("cannot forbid core dumps, which would hold keys")?;
    let open_files =
        sys::rlimit::raise_open_files().context("cannot raise the limit of open files")?;
    tracing::info!(node = config.node, open_files, "agent starting");
    let metrics = Metrics::new()?;
    let mut tasks = Tasks::new(CancellationToken::new());
    let (readiness, ready) = watch::channel(Readiness::NotReady("starting".into()));
    serve(&mut tasks, &config, &metrics, ready).await?;

    let (source, snapshots) = Source::open(Files::from(&config), &metrics)?;
    tasks.spawn("workloads", {
        let token = tasks.token();
        async move {
            source.watch(token).await;
            Ok(())
        }
    });

    let (identity, identity_tasks) =
        IdentityStore::start(identity_settings(&config), tasks.token(), metrics.registry()).await?;
    tasks.spawn("identities", {
        let token = tasks.token();
        async move {
            token.cancelled().await;
            identity_tasks.join().await;
            Ok(())
        }
    });

    let routes = admin::Routes::new(&config.node, config.trust_domain.clone(), identity.clone());
    let admin = admin::Server::bind(&config.admin.socket, routes, metrics.registry())?;
    tracing::info!(name = "admin", socket = %config.admin.socket.display(), "listening");
    tasks.spawn("admin", {
        let token = tasks.token();
        async move {
            admin.run(token).await;
            Ok(())
        }
    });

    let workers = u16::try_from(config.tunnel.worker_count().get()).unwrap_or(u16::MAX);
    let mut capture = Capture::attach(capture_settings(&config, workers)?)
        .context("the kernel side did not take hold")?;
    kernel::observe(&mut tasks, &mut capture, &metrics)?;

    let drain = CancellationToken::new();
    // Ends before the others: metrics and certificates are there as long as flows drain.
    let mut front = Tasks::new(drain.clone());
    offer_identities(&mut front, &config, &snapshots, &identity, &metrics)?;
    let shared = Shared {
        snapshots: snapshots.clone(),
        identity: identity.clone(),
        metrics: metrics.clone(),
        tunnel: TunnelMetrics::register(&metrics)?,
        limits: limits(&config.tunnel),
        drain,
    };
    let workers = Arc::new(Workers::start(workers, &shared).context("cannot start workers")?);
    let enrolment =
        Enrolment::new(&config.node, snapshots, (capture, identity), &workers, &metrics)?;
    // For whoever tells the cluster, or holds a pod's start back until it is in.
    let _steered = enrolment.steered();
    front.spawn("enrolment", enrolment.run(readiness.clone(), front.token()));

    let outcome = until_stop([&mut front, &mut tasks], &workers).await;
    readiness.send_replace(Readiness::NotReady("stopping".into()));
    tracing::info!("draining");
    front.stop(STOP).await;
    if let Some(workers) = Arc::into_inner(workers) {
        workers.join().await;
    }
    tasks.stop(STOP).await;
    tracing::info!("agent stopped");
    outcome
}

/// Takes everything that an agent left in the kernel out again. Enrolled workloads go on without
/// the mesh.
///
/// # Errors
/// A pin could not be removed.
pub fn release(config: &Config) -> anyhow::Result<()> {
    capture::detach(&config.capture.pin_directory).context("cannot take everything out")
}

async fn until_stop([front, tasks]: [&mut Tasks; 2], workers: &Workers) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        // A signal that came together with a failure is what the operator wanted.
        biased;
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        error = front.failed() => Err(error),
        error = tasks.failed() => Err(error),
        () = workers.ended() => anyhow::bail!("a worker has died"),
    }
}

async fn serve(
    tasks: &mut Tasks,
    config: &Config,
    metrics: &Metrics,
    ready: watch::Receiver<Readiness>,
) -> anyhow::Result<()> {
    let routes = [
        ("metrics", config.observe.metrics, Routes::Metrics(metrics.clone())),
        ("readiness", config.observe.readiness, Routes::Readiness(ready)),
    ];
    for (name, address, routes) in routes {
        let server = Server::bind(address, routes).await?;
        tracing::info!(name, address = %server.address(), "listening");
        let token = tasks.token();
        tasks.spawn(name, async move {
            server.run(token).await;
            Ok(())
        });
    }
    Ok(())
}

/// Starts the Workload API, where it is wanted.
fn offer_identities(
    front: &mut Tasks,
    config: &Config,
    snapshots: &watch::Receiver<Arc<Snapshot>>,
    identity: &IdentityStore,
    metrics: &Metrics,
) -> anyhow::Result<()> {
    let Some(api) = &config.workload_api else { return Ok(()) };
    let server = workload_api::Server::bind(workload_api::Parts {
        socket: api.socket.clone(),
        node: &config.node,
        snapshots: snapshots.clone(),
        identity: identity.clone(),
        metrics,
    })?;
    tracing::info!(socket = %server.socket().display(), "workload API listening");
    let token = front.token();
    front.spawn("workload API", async move { Ok(server.run(token).await?) });
    Ok(())
}

fn identity_settings(config: &Config) -> identity::Settings {
    identity::Settings {
        ca_address: config.ca.address.clone(),
        root_file: config.ca.root_file.clone(),
        bundle_file: config.ca.bundle_file.clone(),
        token_file: config.ca.token_file.clone(),
        node: config.node.clone(),
        trust_domain: config.trust_domain.clone(),
        certificate_ttl: config.ca.certificate_ttl,
    }
}

fn limits(tunnel: &Tunnel) -> Limits {
    // A `usize` is at least 32 bits wide on every platform that eBPF runs on.
    let count = |limit: u32| limit as usize;
    Limits {
        drain: tunnel.drain_timeout,
        idle: tunnel.idle_timeout,
        stream_window: tunnel.stream_window,
        streams_per_connection: tunnel.streams_per_connection,
        connections_per_pair: count(tunnel.connections_per_pair),
        connections: count(tunnel.connections),
        handshakes: count(tunnel.handshakes),
        handshakes_per_source: count(tunnel.handshakes_per_source),
        ..Limits::default()
    }
}

fn capture_settings(config: &Config, workers: u16) -> anyhow::Result<capture::Settings> {
    let cgroup = match &config.capture.cgroup {
        Some(cgroup) => cgroup.clone(),
        None => sys::mounts::cgroup2()?
            .context("no cgroup v2 is mounted; mount one or set `capture.cgroup`")?,
    };
    Ok(capture::Settings {
        cgroup,
        pin_directory: config.capture.pin_directory.clone(),
        pass_when_down: config.capture.when_agent_down == WhenAgentDown::Pass,
        workers,
        ranges: config.mesh.ranges.clone(),
    })
}
