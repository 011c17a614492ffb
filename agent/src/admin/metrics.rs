//! What can be watched of the admin socket.

use http::StatusCode;
use prometheus::{IntCounterVec, Opts, Registry};

/// Collectors of the admin socket. Cloning shares them.
#[derive(Clone, Debug)]
pub(super) struct AdminMetrics {
    requests: IntCounterVec,
}

impl AdminMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let requests = IntCounterVec::new(
            Opts::new(
                "culvert_admin_requests_total",
                "Requests at the admin socket, by what was asked and the status that answered.",
            ),
            &["what", "status"],
        )?;
        registry.register(Box::new(requests.clone()))?;
        Ok(Self { requests })
    }

    /// `what` is one of a closed set; so are the statuses that are sent.
    pub(super) fn answered(&self, what: &'static str, status: StatusCode) {
        self.requests.with_label_values(&[what, status.as_str()]).inc();
    }
}
