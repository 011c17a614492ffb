//! What is counted of flows that are alike: one [`Series`] for each set of labels.
//!
//! ```text
//!  OpenFlow ──▶ Series ◀── Table ──▶ text::encode   (/metrics)
//!                                └──▶ Metrics::edges (map, preflight)
//! ```
//!
//! A flow finds its series once, when it opens; after that it only adds to atomics.

mod buckets;
mod outcomes;
mod requests;
mod table;
#[cfg(test)]
mod tests;
mod text;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use culvert_spiffe::SpiffeId;

use super::labels::{FlowLabels, Names, Party, Path, Reporter, Security, ServiceName};
use super::reason::Reason;

pub(super) use buckets::Buckets;
pub use buckets::Quantiles;
pub(super) use outcomes::{OUTCOMES, Outcome, Outcomes, Places};
pub use table::SeriesSettings;
pub(super) use table::{Rest, Table};

/// Addresses that are remembered of peers whose workload is not known.
const STRANGERS: usize = 8;

/// The names of the families that [`encode`] writes.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    text::FAMILIES.iter().map(|family| family.name).chain(requests::NAMES)
}

/// All series in Prometheus' text format.
pub(super) fn encode(all: &[Arc<Series>], text: &mut String) {
    requests::encode(all, text);
    text::encode(all, text);
}

/// What makes two flows count as one series, borrowed from wherever it stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key<'a> {
    reporter: Reporter,
    source: Option<&'a Names>,
    destination: Option<&'a Names>,
    source_principal: Option<&'a SpiffeId>,
    destination_principal: Option<&'a SpiffeId>,
    service: Option<&'a ServiceName>,
    security: Security,
}

impl<'a> From<&'a FlowLabels> for Key<'a> {
    fn from(labels: &'a FlowLabels) -> Self {
        Self {
            reporter: labels.reporter,
            source: labels.source.names(),
            destination: labels.destination.names(),
            source_principal: labels.source_principal.as_ref(),
            destination_principal: labels.destination_principal.as_ref(),
            service: labels.service.as_ref(),
            security: labels.security,
        }
    }
}

/// The counters of all flows with one set of labels.
pub(super) struct Series {
    pub(super) reporter: Reporter,
    pub(super) source: Party,
    pub(super) destination: Party,
    pub(super) source_principal: Option<SpiffeId>,
    pub(super) destination_principal: Option<SpiffeId>,
    pub(super) service: Option<ServiceName>,
    pub(super) security: Security,
    /// Their labels as `/metrics` writes them, made once.
    text: text::Labels,
    pub(super) opened: AtomicU64,
    pub(super) open: AtomicU64,
    closed: [AtomicU64; Reason::ALL.len()],
    /// Bytes from the source to the destination, whoever reports.
    pub(super) request: AtomicU64,
    /// Bytes from the destination to the source, whoever reports.
    pub(super) response: AtomicU64,
    /// HTTP requests seen in passing.
    pub(super) requests: AtomicU64,
    /// The same, by how they ended.
    pub(super) outcomes: Outcomes,
    pub(super) handshake: Buckets,
    pub(super) first_byte: Buckets,
    /// Milliseconds since 1970.
    pub(super) last_opened: AtomicU64,
    /// When the latest flow ended, likewise.
    last_closed: AtomicU64,
    port: AtomicU32,
    path: AtomicU8,
    // Guards the addresses of sources without a workload; taken only for such flows, and only to
    // look at eight addresses.
    strangers: Mutex<Vec<IpAddr>>,
}

/// No flow has opened yet, so there is no port.
const NO_PORT: u32 = u32::MAX;
/// The flows do not agree on one port.
const SEVERAL_PORTS: u32 = u32::MAX - 1;

impl Series {
    fn new(labels: &FlowLabels, cluster: &str) -> Self {
        Self {
            reporter: labels.reporter,
            source: labels.source.clone(),
            destination: labels.destination.clone(),
            source_principal: labels.source_principal.clone(),
            destination_principal: labels.destination_principal.clone(),
            service: labels.service.clone(),
            security: labels.security,
            text: text::Labels::new(Key::from(labels), cluster),
            opened: AtomicU64::new(0),
            open: AtomicU64::new(0),
            closed: [const { AtomicU64::new(0) }; Reason::ALL.len()],
            request: AtomicU64::new(0),
            response: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            outcomes: Outcomes::default(),
            handshake: Buckets::default(),
            first_byte: Buckets::default(),
            last_opened: AtomicU64::new(0),
            last_closed: AtomicU64::new(0),
            port: AtomicU32::new(NO_PORT),
            path: AtomicU8::new(Path::Direct as u8),
            strangers: Mutex::default(),
        }
    }

    fn key(&self) -> Key<'_> {
        Key {
            reporter: self.reporter,
            source: self.source.names(),
            destination: self.destination.names(),
            source_principal: self.source_principal.as_ref(),
            destination_principal: self.destination_principal.as_ref(),
            service: self.service.as_ref(),
            security: self.security,
        }
    }

    /// Counts one more flow of these labels as opened.
    fn begin(&self, labels: &FlowLabels, now: u64) {
        self.opened.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        self.last_opened.fetch_max(now, Ordering::Relaxed);
        self.path.store(labels.path as u8, Ordering::Relaxed);
        let port = u32::from(labels.final_address().port());
        let seen = self.port.load(Ordering::Relaxed);
        if seen != port && seen != SEVERAL_PORTS {
            let seen = if seen == NO_PORT { port } else { SEVERAL_PORTS };
            self.port.store(seen, Ordering::Relaxed);
        }
        if labels.source.name().is_none() && !labels.from_node {
            self.remember(labels.source_address);
        }
    }

    fn remember(&self, source: SocketAddr) {
        let address = source.ip().to_canonical();
        let mut seen = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = seen.iter().position(|known| *known == address) {
            seen.remove(at);
        } else if seen.len() == STRANGERS {
            seen.remove(0);
        }
        seen.push(address);
    }

    /// Counts the end of a flow. `now` is in milliseconds since 1970.
    pub(super) fn end(&self, reason: Reason, now: u64) {
        self.last_closed.fetch_max(now, Ordering::Relaxed);
        self.closed[reason as usize].fetch_add(1, Ordering::Relaxed);
        // Last, and seen so: with no flow left, the series may go.
        self.open.fetch_sub(1, Ordering::Release);
    }

    /// How many milliseconds no flow has been open; nothing while one is.
    fn idle(&self, now: u64) -> Option<u64> {
        let last = || {
            let opened = self.last_opened.load(Ordering::Relaxed);
            opened.max(self.last_closed.load(Ordering::Relaxed))
        };
        (self.open.load(Ordering::Acquire) == 0).then(|| now.saturating_sub(last()))
    }

    /// How many flows ended so.
    pub(super) fn closed(&self, reason: Reason) -> u64 {
        self.closed[reason as usize].load(Ordering::Relaxed)
    }

    /// The port that all flows went to, unless they went to several.
    pub(super) fn port(&self) -> Option<u16> {
        u16::try_from(self.port.load(Ordering::Relaxed)).ok()
    }

    /// The way of the flow that opened last.
    pub(super) fn path(&self) -> Path {
        let path = self.path.load(Ordering::Relaxed);
        let all = [Path::Tunnel, Path::Direct, Path::Kernel];
        all.into_iter().find(|known| *known as u8 == path).unwrap_or(Path::Direct)
    }

    /// The latest addresses of sources without a workload, oldest first.
    pub(super) fn strangers(&self) -> Vec<IpAddr> {
        self.strangers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
