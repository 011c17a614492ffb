//! From the queue to the collector.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use prometheus::{IntCounter, IntCounterVec};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::observe::metrics::RegisterError;

/// Spans of one message.
const BATCH: usize = 512;
/// How long the first span of a message waits for others.
const GATHER: Duration = Duration::from_secs(1);
/// How long the collector may take for one message.
const EXPORT: Duration = Duration::from_secs(10);
/// How long it may take for what is left when the agent stops.
const LAST: Duration = Duration::from_secs(2);

/// Why traces cannot be turned on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TracesError {
    /// The endpoint is no address.
    #[error("cannot make traces for {endpoint}; set `observe.traces.endpoint` to host:port")]
    Endpoint {
        /// As it was given.
        endpoint: String,
        /// What the library says.
        #[source]
        source: Box<ExporterBuildError>,
    },
    /// They are on already.
    #[error("traces are turned on twice; do it once, when the agent starts")]
    Twice(#[from] RegisterError),
}

/// Sends the spans on. Ends with its token, and sends what is left then.
pub struct Exporter {
    waiting: mpsc::Receiver<SpanData>,
    collector: SpanExporter,
    endpoint: String,
    sent: IntCounter,
    failed: IntCounter,
    /// Whether the last message was refused: each change is told once.
    failing: bool,
}

impl Exporter {
    pub(super) fn new(
        node: &str,
        endpoint: &str,
        waiting: mpsc::Receiver<SpanData>,
        spans: &IntCounterVec,
    ) -> Result<Self, TracesError> {
        let url = format!("http://{endpoint}");
        let built =
            SpanExporter::builder().with_tonic().with_endpoint(&url).with_timeout(EXPORT).build();
        let mut exporter = built.map_err(|source| TracesError::Endpoint {
            endpoint: endpoint.to_owned(),
            source: Box::new(source),
        })?;
        let resource = Resource::builder_empty().with_service_name("culvert").with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("k8s.node.name", node.to_owned()),
        ]);
        exporter.set_resource(&resource.build());
        Ok(Self {
            waiting,
            collector: exporter,
            endpoint: endpoint.to_owned(),
            sent: spans.with_label_values(&["sent"]),
            failed: spans.with_label_values(&["failed"]),
            failing: false,
        })
    }

    /// Sends spans until `token` is cancelled.
    pub async fn run(mut self, token: CancellationToken) {
        let mut last = loop {
            let mut batch = Vec::new();
            let gathered = gather(&mut self.waiting, &mut batch);
            if token.run_until_cancelled(gathered).await.is_none() {
                break batch;
            }
            if batch.is_empty() {
                // Nobody is left who could have a span.
                return;
            }
            if token.run_until_cancelled(self.export(batch, EXPORT)).await.is_none() {
                break Vec::new();
            }
        };
        while last.len() < BATCH
            && let Ok(span) = self.waiting.try_recv()
        {
            last.push(span);
        }
        if !last.is_empty() {
            self.export(last, LAST).await;
        }
    }

    async fn export(&mut self, batch: Vec<SpanData>, limit: Duration) {
        let count = batch.len() as u64; // at most 512
        let done = timeout(limit, self.collector.export(batch)).await;
        let error = match done {
            Ok(Ok(())) => {
                self.sent.inc_by(count);
                if std::mem::take(&mut self.failing) {
                    tracing::info!(endpoint = self.endpoint, "traces reach the collector again");
                }
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        self.failed.inc_by(count);
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(
                endpoint = self.endpoint,
                error,
                "traces do not reach the collector; they are lost until it answers"
            );
        }
    }
}

/// The next spans: one at least, and those that come soon after it. None when there will be none.
///
/// Cancel safe: what came until then is in `batch`.
async fn gather(waiting: &mut mpsc::Receiver<SpanData>, batch: &mut Vec<SpanData>) {
    if waiting.recv_many(batch, BATCH).await == 0 {
        return;
    }
    let more = async {
        while batch.len() < BATCH {
            let room = BATCH - batch.len();
            if waiting.recv_many(batch, room).await == 0 {
                return;
            }
        }
    };
    // Full or not, it goes.
    let _ = timeout(GATHER, more).await; // reason: see above
}
