//! What the tunnel counts of its own: HBONE connections, by the end that this agent is.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts};

use crate::observe::{Metrics, RegisterError};

/// Which end of an HBONE connection this agent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It opened the connection.
    Client,
    /// It accepted the connection.
    Server,
}

impl End {
    const fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

/// The tunnel's metrics; cloning shares them.
#[derive(Clone)]
pub struct TunnelMetrics {
    open: IntGaugeVec,
    opened: IntCounterVec,
    limited: IntCounterVec,
    revoked: IntCounterVec,
    reused: IntCounter,
    awaited: IntCounter,
    waiting: IntGauge,
}

/// A connection or a flow that is counted until this is dropped.
pub struct Counted(IntGauge);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The limits that can be reached, by the settings' names. Present from the start: the first time
/// that one is reached is a rise only if there was a zero before.
const LIMITS: [&str; 4] =
    ["connections", "connectionsPerPair", "handshakes", "handshakesPerSource"];

impl TunnelMetrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// A name is taken.
    ///
    /// # Panics
    /// Never: the names are well-formed.
    pub fn register(metrics: &Metrics) -> Result<Self, RegisterError> {
        let counters = |name: &str, help: &str, label: &str| {
            IntCounterVec::new(Opts::new(name, help), &[label]).expect("well-formed")
        };
        let opened = counters(
            "culvert_tunnel_connections_opened_total",
            "HBONE connections past their handshake, by the end that this agent is",
            "end",
        );
        let limited = counters(
            "culvert_tunnel_limit_reached_total",
            "Times that a limit of the tunnel refused a flow or a connection, by limit",
            "limit",
        );
        let revoked = counters(
            "culvert_tunnel_root_revoked_total",
            "HBONE connections closed because a root was revoked, by the end that this agent is",
            "end",
        );
        let open = IntGaugeVec::new(
            Opts::new(
                "culvert_tunnel_connections",
                "HBONE connections that are open, by the end that this agent is",
            ),
            &["end"],
        )
        .expect("well-formed");
        let flows = counters(
            "culvert_tunnel_pool_flows_total",
            "Flows that got a place on an HBONE connection, by whether it was open already",
            "connection",
        );
        let (reused, awaited) =
            (flows.with_label_values(&["reused"]), flows.with_label_values(&["awaited"]));
        let waiting = metrics.gauge(
            "culvert_tunnel_pool_waiting_flows",
            "Flows that wait for an HBONE connection to be opened",
        )?;
        metrics.register(flows)?;
        metrics.register(opened.clone())?;
        metrics.register(limited.clone())?;
        metrics.register(revoked.clone())?;
        metrics.register(open.clone())?;
        for end in [End::Client, End::Server] {
            opened.with_label_values(&[end.label()]);
            open.with_label_values(&[end.label()]);
            revoked.with_label_values(&[end.label()]);
        }
        for limit in LIMITS {
            limited.with_label_values(&[limit]);
        }
        Ok(Self { open, opened, limited, revoked, reused, awaited, waiting })
    }

    /// Counts a connection.
    pub(super) fn connection(&self, end: End) -> Counted {
        self.opened.with_label_values(&[end.label()]).inc();
        let open = self.open.with_label_values(&[end.label()]);
        open.inc();
        Counted(open)
    }

    /// Counts a connection that was closed because a root was revoked.
    pub(super) fn revoked(&self, end: End) {
        self.revoked.with_label_values(&[end.label()]).inc();
    }

    /// Counts a flow that got a place on a connection, and whether it had to wait for that.
    pub(super) fn placed(&self, waited: bool) {
        if waited { self.awaited.inc() } else { self.reused.inc() }
    }

    /// Counts a flow as waiting for a connection until the answer is dropped.
    pub(super) fn waits(&self) -> Counted {
        self.waiting.inc();
        Counted(self.waiting.clone())
    }

    /// Counts that a limit was reached.
    pub(super) fn limit_reached(&self, limit: &'static str) {
        let counter: IntCounter = self.limited.with_label_values(&[limit]);
        counter.inc();
    }
}
