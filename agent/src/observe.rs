//! What a flow's life looks like from outside: metrics, the access log, readiness.
//!
//! ```text
//!  pipeline ── FlowLabels ──▶ Metrics::open ──▶ OpenFlow ── close(Reason) ──▶ counters
//!                                                        ├──────────────────▶ access log
//!                                                        └── Trouble ───────▶ Event on the pod
//!  Prometheus ──▶ :15020/metrics          kubelet ──▶ :15021/healthz/…
//! ```
//!
//! Named by every stage, names none of them: what it must know of a workload it is told as a
//! [`Party`].

mod access;
mod along;
mod edges;
mod fix;
mod flow;
mod health;
pub mod http;
mod labels;
mod limit;
mod log;
mod metrics;
mod open;
mod owner;
mod reason;
mod series;
mod server;
mod settings;
#[cfg(test)]
mod tests;
pub mod traces;
mod trouble;

pub use along::ReadHttp;
pub use edges::EdgeView;
pub use flow::OpenFlow;
pub use health::{Health, Pulse, Pulses, Readiness};
pub use labels::{FlowLabels, Party, Path, Reporter, Security, ServiceName};
pub use limit::RateLimit;
pub use log::{BadFilter, LogControl, LogForm};
pub use metrics::{EncodeError, Metrics, RegisterError};
pub use open::{End, FlowView, FlowsView};
pub use owner::workload_name;
pub use reason::{Reason, ResponseFlags};
pub use series::{Quantiles, SeriesSettings};
pub use server::{Routes, ServeError, Server};
pub use settings::Settings;
pub use traces::{Trace, TraceParent};
pub use trouble::Trouble;
