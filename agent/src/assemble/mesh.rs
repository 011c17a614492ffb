//! What the mesh is, from whichever source the configuration names.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::watch;

use crate::{
    config::Config,
    observe::Metrics,
    supervise::Tasks,
    workload::{
        Announce, Listed, Snapshot,
        file::{self, Files},
        kubernetes,
    },
};

/// The mesh as it is known.
pub(super) struct Mesh {
    /// Each state of it; the first one is there.
    pub(super) snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Who takes announcements of pods that are about to start.
    pub(super) announce: Arc<dyn Announce>,
    /// Who tells the cluster which pods are steered, if there is a cluster.
    pub(super) annotator: Option<kubernetes::Annotator>,
}

/// Starts to write troubles of local pods as Events, unless the configuration forbids it.
fn tell(
    tasks: &mut Tasks,
    config: &Config,
    source: &kubernetes::Source,
    metrics: &Metrics,
) -> anyhow::Result<()> {
    if !config.observe.events {
        return Ok(());
    }
    let (events, token) = (source.events(metrics)?, tasks.token());
    tasks.spawn("events", async move {
        events.run(token).await;
        Ok(())
    });
    Ok(())
}

/// Begins to follow the mesh. With a cluster, waits until the API server has listed everything.
///
/// # Errors
/// The files are wrong, or there are no credentials for the API server.
pub(super) async fn follow(
    tasks: &mut Tasks,
    config: &Config,
    metrics: &Metrics,
) -> anyhow::Result<Mesh> {
    let token = tasks.token();
    if let Some(settings) = kubernetes::Settings::of(config) {
        let kubeconfig = config.kubernetes.as_ref().and_then(|k| k.kubeconfig.as_deref());
        let client = kubernetes::connect(kubeconfig).await?;
        tracing::info!("asking the API server for the mesh");
        let (source, snapshots) = kubernetes::Source::open(settings, client, metrics).await?;
        let announce = Arc::new(source.announcer());
        let annotator = Some(source.annotator(metrics)?);
        tell(tasks, config, &source, metrics)?;
        tasks.spawn("workloads", async move { Ok(source.run(token).await?) });
        return Ok(Mesh { snapshots, announce, annotator });
    }
    let files = Files::of(config).context("neither files nor a cluster say what the mesh is")?;
    let (source, snapshots) = file::Source::open(files, metrics)?;
    tasks.spawn("workloads", async move {
        source.watch(token).await;
        Ok(())
    });
    // The file says who is in the mesh, also of pods that are announced.
    let announce = Arc::new(Listed::new(&config.node, snapshots.clone()));
    Ok(Mesh { snapshots, announce, annotator: None })
}
