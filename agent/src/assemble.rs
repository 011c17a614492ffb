//! Builds the agent's parts, starts and stops them in a stated order.
//!
//! ```text
//!  start  metrics and readiness (not ready) · workloads · identity · kernel programs · workers
//!         · enrolment of the first snapshot ─▶ ready
//!  stop   readiness off · enrolment ends · listeners closed · flows drain · what is left is cut
//!         · tasks joined
//! ```
//!
//! Programs, maps and links stay pinned when the agent stops: enrolled workloads are refused, or
//! pass by `capture.whenAgentDown`, until the next agent takes over.

mod cni;
mod ending;
mod enrolment;
mod hand_over;
mod kernel;
mod mesh;
mod removal;
mod series;
mod troubles;
mod worker;

use std::{path::Path, sync::Arc};

use anyhow::Context as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::{
    ending::{Running, Stop},
    enrolment::{Enrolment, Kernel},
    mesh::Mesh,
    removal::Removal,
    worker::{Shared, Workers},
};
use crate::{
    admin,
    capture::{self, Capture},
    config::{Config, Tunnel, WhenAgentDown},
    explain::{Pods, Prober},
    identity::{self, IdentityStore},
    observe::{self, Health, LogControl, Metrics, Pulses, Readiness, Routes, Server},
    supervise::Tasks,
    sys,
    tunnel::{Limits, TunnelMetrics},
    workload::{
        Snapshot,
        kubernetes::{self, Annotator},
    },
    workload_api,
};

/// Runs the agent until it is told to stop (SIGTERM, SIGINT) or a part of it fails.
///
/// # Errors
/// What could not be started, or which part failed.
pub async fn run(config: Config, log: LogControl) -> anyhow::Result<()> {
    sys::dump::forbid().context("cannot forbid core dumps, which would hold keys")?;
    // Before all else: a container's first process ignores signals that it does not handle.
    let mut stop = Stop::new()?;
    let open_files =
        sys::rlimit::raise_open_files().context("cannot raise the limit of open files")?;
    let config = Arc::new(config);
    tracing::info!(node = config.node, open_files, log = log.get(), "agent starting");
    let metrics = Metrics::with((&config.observe).into())?;
    series::bound(&metrics, &config);
    let mut tasks = Tasks::new(CancellationToken::new());
    trace(&mut tasks, &config, &metrics)?;
    let (readiness, ready) = watch::channel(Readiness::Starting("reading workloads".into()));
    let pulses = Pulses::register(&metrics)?;
    tasks.spawn("heartbeat", {
        let (token, pulse) = (tasks.token(), pulses.add("control"));
        async move {
            token.run_until_cancelled(pulse.run()).await;
            Ok(())
        }
    });
    let health = Health { readiness: ready, pulses: pulses.clone() };
    serve(&mut tasks, &config, &metrics, health)?;

    let mesh = tokio::select! {
        // The API server may be away for long.
        biased;
        () = stop.asked() => return Ok(()),
        mesh = mesh::follow(&mut tasks, &config, &metrics) => mesh?,
    };
    let Mesh { mut snapshots, announce, annotator } = mesh;
    series::retire(&mut tasks, &metrics, &snapshots);

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

    troubles::follow(&mut tasks, &identity, &metrics);
    let steered = watch::Sender::default();
    let (programs, quit) = (watch::Sender::default(), stop.quit());
    let pods = Pods::default();
    let routes = admin::Routes::new(admin::Parts {
        prober: Prober::new(pods.clone(), identity.clone()),
        config: Arc::clone(&config),
        snapshots: snapshots.clone(),
        identities: identity.clone(),
        steered: steered.subscribe(),
        readiness: readiness.subscribe(),
        programs: programs.subscribe(),
        metrics: metrics.clone(),
        log,
        quit,
    });
    ask(&mut tasks, &config, routes, &metrics)?;

    let removal = follow_removal(&mut tasks, &config).await?;

    let workers = u16::try_from(config.tunnel.worker_count().get()).unwrap_or(u16::MAX);
    let settings = capture_settings(&config, workers)?;
    readiness.send_replace(Readiness::Starting("taking over from the agent before".into()));
    // As late as can be: from here on until the first workload is in, nothing new is enrolled.
    let turn = tokio::select! {
        // Whoever is told to stop need not take over first.
        biased;
        () = stop.asked() => return Ok(()),
        turn = hand_over::take(&config.node, &mut snapshots, &identity, &settings) => turn?,
    };
    let mut capture = Capture::attach(settings).context("the kernel side did not take hold")?;
    programs.send_replace(programs_of(&capture));
    readiness.send_replace(Readiness::NotReady("enrolling the first workloads".into()));
    kernel::observe(&mut tasks, &mut capture, &config.capture.pin_directory, &metrics)?;

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
        pulses,
        drain,
    };
    let workers = Arc::new(Workers::start(workers, &shared).context("cannot start workers")?);
    let enrolment = Enrolment::new(
        &config.node,
        snapshots,
        (Kernel { capture, turn }, identity),
        (&workers, steered),
        &metrics,
    )?
    .with_pods(pods);
    let (steered, ready) = (enrolment.steered(), readiness.subscribe());
    cni::offer(&mut front, &config, cni::Parts { announce, steered, ready }, &metrics);
    let enrolled = enrolment.told();
    let annotated = annotator.as_ref().map(Annotator::annotated);
    if let Some(annotator) = annotator {
        let (steered, token) = (enrolment.steered(), front.token());
        front.spawn("annotations", async move {
            annotator.run(steered, token).await;
            Ok(())
        });
    }
    // Ends before the rest: nothing is to be enrolled while everything is taken out.
    let mut enrolling = Tasks::new(CancellationToken::new());
    enrolling.spawn("enrolment", enrolment.run(readiness.clone(), enrolling.token()));

    let mut running =
        Running { enrolling, front, tasks, workers, removal, steered: enrolled, annotated };
    let outcome = running.until_stop(&mut stop).await;
    readiness.send_replace(Readiness::NotReady("stopping".into()));
    running.end(&config).await;
    tracing::info!("agent stopped");
    outcome
}

/// Sends spans of flows to a collector, if one is set.
fn trace(tasks: &mut Tasks, config: &Config, metrics: &Metrics) -> anyhow::Result<()> {
    let Some(settings) = &config.observe.traces else { return Ok(()) };
    let endpoint = settings.endpoint.to_string();
    let share = settings.sample_ratio.millionths();
    let exporter = observe::traces::trace(metrics, &config.node, &endpoint, share)?;
    tracing::info!(name = "traces", endpoint, "sending");
    let token = tasks.token();
    tasks.spawn("traces", async move {
        exporter.run(token).await;
        Ok(())
    });
    Ok(())
}

/// Starts the admin server.
fn ask(
    tasks: &mut Tasks,
    config: &Config,
    routes: admin::Routes,
    metrics: &Metrics,
) -> anyhow::Result<()> {
    let admin = admin::Server::bind(&config.admin, routes, metrics.registry())?;
    let address = admin.address().map(tracing::field::display);
    tracing::info!(name = "admin", socket = %config.admin.socket.display(), address, "listening");
    let token = tasks.token();
    tasks.spawn("admin", async move {
        admin.run(token).await;
        Ok(())
    });
    Ok(())
}

/// The programs as the admin server tells of them.
fn programs_of(capture: &Capture) -> Vec<admin::model::Program> {
    let programs = capture.programs().into_iter();
    programs
        .map(|(name, id, cgroup)| admin::model::Program {
            name: name.to_owned(),
            id,
            attached: cgroup.into_iter().map(|path| path.display().to_string()).collect(),
        })
        .collect()
}

/// Follows the agent's own objects in the cluster, where they are known.
async fn follow_removal(tasks: &mut Tasks, config: &Config) -> anyhow::Result<Option<Removal>> {
    let Some(removal) = &config.removal else { return Ok(None) };
    let of_the_mesh = config.kubernetes.as_ref().and_then(|k| k.kubeconfig.as_deref());
    let kubeconfig = removal.kubeconfig.as_deref().or(of_the_mesh);
    let client = kubernetes::connect(kubeconfig).await.context("cannot follow `removal`")?;
    Ok(Some(Removal::follow(client, removal, tasks)))
}

fn host_proc(config: &Config) -> &Path {
    config.capture.host_proc.as_deref().unwrap_or(Path::new(sys::peer::OWN_PROC))
}

/// Takes everything that an agent left in the kernel out again. Enrolled workloads go on without
/// the mesh.
///
/// # Errors
/// A pin could not be removed.
pub fn release(config: &Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime
        .block_on(capture::release(&config.capture.pin_directory, host_proc(config)))
        .context("cannot take everything out")
}

fn serve(
    tasks: &mut Tasks,
    config: &Config,
    metrics: &Metrics,
    health: Health,
) -> anyhow::Result<()> {
    let routes = [
        ("metrics", config.observe.metrics, Routes::Metrics(metrics.clone())),
        ("readiness", config.observe.readiness, Routes::Health(health)),
    ];
    for (name, address, routes) in routes {
        let server = Server::bind(address, routes)?;
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
        host_proc: config.capture.host_proc.as_deref(),
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
        Some(cgroup) => sys::mounts::cgroup2_at(cgroup),
        None => sys::mounts::cgroup2()?
            .context("no cgroup v2 is mounted; mount one or set `capture.cgroup`")?,
    };
    Ok(capture::Settings {
        cgroup,
        pin_directory: config.capture.pin_directory.clone(),
        host_proc: config.capture.host_proc.clone(),
        pass_when_down: config.capture.when_agent_down == WhenAgentDown::Pass,
        workers,
        ranges: config.mesh.ranges.clone(),
    })
}
