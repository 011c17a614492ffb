//! What the kernel programs count and say, in metrics and log.

use std::{path::Path, sync::Arc, time::Duration};

use prometheus::{
    IntCounterVec, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use crate::{
    capture::{self, Capture, SharedTables},
    observe::Metrics,
    supervise::Tasks,
};

/// How often the kernel programs' log is looked at. They say little, and no more often than their
/// counters double.
const LOG_INTERVAL: Duration = Duration::from_millis(500);

/// How often the entries of the kernel's tables are counted.
const TABLE_INTERVAL: Duration = Duration::from_secs(30);

/// Registers the kernel's counters and starts to read its log.
///
/// # Errors
/// The names are taken.
pub(super) fn observe(
    tasks: &mut Tasks,
    capture: &mut Capture,
    pin_directory: &Path,
    metrics: &Metrics,
) -> anyhow::Result<()> {
    metrics.register(Counters::new(capture.shared())?)?;
    count_tables(tasks, pin_directory, metrics)?;
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

/// Starts to count what is in the kernel's tables, now and then: not when scraped, because a full
/// table takes a while.
fn count_tables(tasks: &mut Tasks, pins: &Path, metrics: &Metrics) -> anyhow::Result<()> {
    let entries = metrics.gauges(
        "culvert_capture_table_entries",
        "Entries in tables of the kernel programs, by table; counted twice a minute.",
        &["table"],
    )?;
    let most = metrics.gauges(
        "culvert_capture_table_max_entries",
        "Entries that tables of the kernel programs take, by table.",
        &["table"],
    )?;
    let (pins, token) = (pins.to_owned(), tasks.token());
    tasks.spawn("kernel tables", async move {
        let mut interval = tokio::time::interval(TABLE_INTERVAL);
        let count = async {
            loop {
                interval.tick().await;
                let pins = pins.clone();
                // A panic there is reported by its hook; what was counted last stays.
                let counted = tokio::task::spawn_blocking(move || capture::table_use(&pins)).await;
                for table in counted.unwrap_or_default() {
                    let name = &[table.table];
                    entries.with_label_values(name).set(table.entries.into());
                    most.with_label_values(name).set(table.most.into());
                }
            }
        };
        token.run_until_cancelled(count).await;
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
