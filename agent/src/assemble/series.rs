//! Keeps the series of flows to those of workloads that are there.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::config::Config;
use crate::observe::{Metrics, SeriesSettings};
use crate::supervise::Tasks;
use crate::workload::{Snapshot, WorkloadKey};

/// How often series that may go are looked for.
const INTERVAL: Duration = Duration::from_secs(30);
/// What Istio calls a cluster that nobody gave a name.
const CLUSTER: &str = "Kubernetes";

/// Says how many series there may be, before the first is there.
pub(super) fn bound(metrics: &Metrics, config: &Config) {
    let in_a_cluster = config.kubernetes.as_ref().map(|_| CLUSTER.to_owned());
    metrics.set_series(SeriesSettings {
        most: usize::try_from(config.observe.max_series).unwrap_or(usize::MAX),
        cluster: config.observe.cluster.clone().or(in_a_cluster),
    });
}

/// Lets the series of workloads go that are gone.
pub(super) fn retire(
    tasks: &mut Tasks,
    metrics: &Metrics,
    snapshots: &watch::Receiver<Arc<Snapshot>>,
) {
    let (metrics, snapshots, token) = (metrics.clone(), snapshots.clone(), tasks.token());
    tasks.spawn("series", async move {
        token.run_until_cancelled(look(&metrics, &snapshots)).await;
        Ok(())
    });
}

async fn look(metrics: &Metrics, snapshots: &watch::Receiver<Arc<Snapshot>>) {
    let mut interval = tokio::time::interval(INTERVAL);
    loop {
        interval.tick().await;
        let snapshot = Arc::clone(&snapshots.borrow());
        let there: HashSet<WorkloadKey> =
            snapshot.workloads().iter().map(|workload| workload.owner()).collect();
        metrics.retire_series(|namespace, workload| {
            there.contains(&WorkloadKey::new(namespace, workload))
        });
    }
}
