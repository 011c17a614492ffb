//! What can be watched of the Workload API.

use std::sync::Arc;

use prometheus::{IntCounterVec, IntGauge};
use tonic::Code;

use super::attest::Refusal;
use crate::observe::{Metrics, RateLimit, RegisterError};

/// Lines a second about callers without an identity: they may call as often as they like.
const REFUSAL_LINES_A_SECOND: u32 = 10;

/// The calls of the API, as metrics and log lines name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    FetchX509Svid,
    FetchX509Bundles,
    FetchJwtSvid,
    FetchJwtBundles,
    ValidateJwtSvid,
}

impl Method {
    pub(super) const ALL: [Self; 5] = [
        Self::FetchX509Svid,
        Self::FetchX509Bundles,
        Self::FetchJwtSvid,
        Self::FetchJwtBundles,
        Self::ValidateJwtSvid,
    ];

    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::FetchX509Svid => "fetch_x509_svid",
            Self::FetchX509Bundles => "fetch_x509_bundles",
            Self::FetchJwtSvid => "fetch_jwt_svid",
            Self::FetchJwtBundles => "fetch_jwt_bundles",
            Self::ValidateJwtSvid => "validate_jwt_svid",
        }
    }
}

/// Why a connection was closed by us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// Its caller, or all callers, have as many as they may.
    TooMany,
    /// No descriptor was left to watch its caller with.
    Unwatched,
    /// No call came in time.
    Silent,
    /// The caller ended.
    Ended,
}

impl Cut {
    pub(super) const ALL: [Self; 4] = [Self::TooMany, Self::Unwatched, Self::Silent, Self::Ended];

    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::TooMany => "too_many",
            Self::Unwatched => "unwatched",
            Self::Silent => "silent",
            Self::Ended => "ended",
        }
    }
}

/// Collectors of the Workload API. Cloning shares them.
#[derive(Clone)]
pub(super) struct ApiMetrics {
    calls: IntCounterVec,
    refusals: IntCounterVec,
    messages: IntCounterVec,
    cut: IntCounterVec,
    /// Connections open now.
    pub(super) connections: IntGauge,
    /// Calls under way now, open streams among them.
    pub(super) open: IntGauge,
    /// Whether one more refusal may write a line.
    pub(super) refusal_lines: Arc<RateLimit>,
}

impl ApiMetrics {
    pub(super) fn register(metrics: &Metrics) -> Result<Self, RegisterError> {
        let own = Self {
            calls: metrics.counters(
                "culvert_workload_api_calls_total",
                "Calls of the Workload API, by method and the status that ended them.",
                &["method", "code"],
            )?,
            refusals: metrics.counters(
                "culvert_workload_api_refusals_total",
                "Callers of the Workload API that are no enrolled workload, by the reason.",
                &["reason"],
            )?,
            messages: metrics.counters(
                "culvert_workload_api_messages_total",
                "Messages sent on streams of the Workload API, the first of each among them.",
                &["method"],
            )?,
            cut: metrics.counters(
                "culvert_workload_api_connections_cut_total",
                "Connections of the Workload API that the agent closed, by the reason.",
                &["reason"],
            )?,
            connections: metrics.gauge(
                "culvert_workload_api_connections",
                "Connections of the Workload API open now.",
            )?,
            open: metrics.gauge(
                "culvert_workload_api_open_calls",
                "Calls of the Workload API under way now, open streams among them.",
            )?,
            refusal_lines: Arc::new(RateLimit::new(REFUSAL_LINES_A_SECOND)),
        };
        // Present from the start, so that an alert on them can tell zero from absent.
        for label in Refusal::LABELS {
            own.refusals.with_label_values(&[label]);
        }
        for cut in Cut::ALL {
            own.cut.with_label_values(&[cut.label()]);
        }
        for method in Method::ALL {
            own.calls.with_label_values(&[method.label(), code_label(Code::Ok)]);
        }
        Ok(own)
    }

    pub(super) fn ended(&self, method: Method, code: Code) {
        self.calls.with_label_values(&[method.label(), code_label(code)]).inc();
    }

    pub(super) fn refused(&self, refusal: &Refusal) {
        self.refusals.with_label_values(&[refusal.label()]).inc();
    }

    pub(super) fn sent(&self, method: Method) {
        self.messages.with_label_values(&[method.label()]).inc();
    }

    pub(super) fn cut(&self, cut: Cut) {
        self.cut.with_label_values(&[cut.label()]).inc();
    }
}

/// The statuses that the API ends calls with; a closed set.
fn code_label(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::InvalidArgument => "invalid_argument",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::Unavailable => "unavailable",
        _ => "other",
    }
}
