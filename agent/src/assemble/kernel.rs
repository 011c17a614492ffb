//! What the kernel programs count and say, in metrics and log.

use std::{sync::Arc, time::Duration};

use prometheus::{
    IntCounterVec, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use crate::{
    capture::{Capture, SharedTables},
    observe::Metrics,
    supervise::Tasks,
};

/// How often the kernel programs' log is looked at. They say little, and no more often than their
/// counters double.
const LOG_INTERVAL: Duration = Duration::from_millis(500);

/// Registers the kernel's counters and starts to read its log.
///
/// # Errors
/// The names are taken.
pub(super) fn observe(
    tasks: &mut Tasks,
    capture: &mut Capture,
    metrics: &Metrics,
) -> anyhow::Result<()> {
    metrics.register(Counters::new(capture.shared())?)?;
    let Some(mut log) = capture.take_log() else { return Ok(()) };
    let token = tasks.token();
    tasks.spawn("kernel log", async move {
        let mut interval = tokio::time::interval(LOG_INTERVAL);
        let read = async {
            loop {
                interval.tick().await;
                log.flush();
            }
        };
        token.run_until_cancelled(read).await;
        Ok(())
    });
    Ok(())
}

/// Reads the per-CPU counters when it is scraped.
struct Counters {
    tables: Arc<SharedTables>,
    events: IntCounterVec,
}

impl Counters {
    fn new(tables: Arc<SharedTables>) -> prometheus::Result<Self> {
        let help =
            "Connections that the kernel programs steered, passed, refused or lost, by event";
        let options = Opts::new("culvert_capture_events_total", help);
        Ok(Self { tables, events: IntCounterVec::new(options, &["event"])? })
    }
}

impl Collector for Counters {
    fn desc(&self) -> Vec<&Desc> {
        self.events.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for (event, total) in self.tables.counters() {
            let counter = self.events.with_label_values(&[event]);
            counter.inc_by(total.saturating_sub(counter.get()));
        }
        self.events.collect()
    }
}
