//! Who talks to whom: what was counted, as plain data.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use super::labels::{Party, Path, Reporter, Security, ServiceName};
use super::open::End;
use super::reason::Reason;
use super::series::{Quantiles, Series};

/// All flows between two workloads that are alike: one series of the metrics.
///
/// Its ends are workloads, named as [`workload_name`](super::workload_name) does: the pods of a
/// Deployment are one.
#[derive(Clone, Debug)]
pub struct EdgeView {
    /// Which end this agent stands at.
    pub reporter: Reporter,
    /// Where the flows come from.
    pub source: End,
    /// Where they go to.
    pub destination: End,
    /// The Service that was asked for.
    pub service: Option<ServiceName>,
    /// The port that they go to, unless it is several.
    pub port: Option<u16>,
    /// How they are protected.
    pub security: Security,
    /// The way of the latest.
    pub path: Path,
    /// Flows opened.
    pub opened: u64,
    /// Flows closed.
    pub closed: u64,
    /// Flows open now.
    pub open: u64,
    /// Flows that failed or were refused, by reason; none that is zero.
    pub failed: Vec<(Reason, u64)>,
    /// Bytes from the source to the destination, whoever reports.
    pub sent: u64,
    /// Bytes from the destination to the source, whoever reports.
    pub received: u64,
    /// HTTP requests seen in passing.
    pub requests: u64,
    /// Time from a request's first byte to the first of its answer.
    pub first_byte: Option<Quantiles>,
    /// Time that the handshakes took which these flows waited for.
    pub handshake: Option<Quantiles>,
    /// When the latest opened.
    pub last_opened: SystemTime,
    /// The latest addresses of sources that are no known workload, at most eight, oldest first;
    /// the node's own host is not among them.
    pub strangers: Vec<IpAddr>,
}

impl EdgeView {
    pub(super) fn of(series: &Series) -> Self {
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let ended = Reason::ALL.map(|reason| (reason, series.closed(reason)));
        let failed = |(reason, count): &(Reason, u64)| reason.is_failure() && *count > 0;
        Self {
            reporter: series.reporter,
            source: end(&series.source, series.source_principal.as_ref()),
            destination: end(&series.destination, series.destination_principal.as_ref()),
            service: series.service.clone(),
            port: series.port(),
            security: series.security,
            path: series.path(),
            opened: count(&series.opened),
            closed: ended.iter().map(|(_, count)| count).sum(),
            open: count(&series.open),
            failed: ended.into_iter().filter(failed).collect(),
            sent: count(&series.request),
            received: count(&series.response),
            requests: count(&series.requests),
            first_byte: series.first_byte.quantiles(),
            handshake: series.handshake.quantiles(),
            last_opened: SystemTime::UNIX_EPOCH + Duration::from_millis(count(&series.last_opened)),
            strangers: series.strangers(),
        }
    }
}

/// One end as plain data, by its workload.
fn end(party: &Party, identity: Option<&culvert_spiffe::SpiffeId>) -> End {
    End {
        namespace: party.namespace().map(str::to_owned),
        workload: party.workload_name().map(str::to_owned),
        owner: party.workload_name().map(str::to_owned),
        identity: identity.cloned(),
    }
}
