//! HTTP read along on one open flow, into the series of the flow.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use prometheus::IntCounter;

use super::http::{Cut, Exchange, GaveUp, Reader, Seen, Version};
use super::labels::{FlowLabels, Reporter};
use super::metrics::{RegisterError, Registered};
use super::reason::Reason;
use super::series::{OUTCOMES, Outcome, Places, Series};

/// Which flows are read along.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadHttp {
    /// Whether any are.
    pub on: bool,
    /// Destination ports that are not, sorted or not.
    pub except_ports: Vec<u16>,
}

impl Default for ReadHttp {
    fn default() -> Self {
        Self { on: true, except_ports: Vec::new() }
    }
}

impl ReadHttp {
    /// A reader for this flow, unless it is not to be read.
    pub(super) fn reader(&self, labels: &FlowLabels) -> Option<Reader> {
        let wanted = self.on
            && labels.source.http()
            && labels.destination.http()
            && !self.except_ports.contains(&labels.final_address().port());
        wanted.then(Reader::new)
    }
}

/// What is counted of all readers together.
pub(super) struct HttpMetrics {
    places: Arc<Places>,
    flows: [IntCounter; 2],
    gave_up: [IntCounter; GaveUp::ALL.len()],
    unlisted: IntCounter,
}

impl HttpMetrics {
    pub(super) fn new(registry: &Registered) -> Result<Self, RegisterError> {
        let flows = registry.counters(
            "culvert_observe_http_flows_total",
            "Flows whose first bytes are HTTP's.",
            &["version"],
        )?;
        let gave_up = registry.counters(
            "culvert_observe_http_gave_up_total",
            "Flows that began as HTTP and are read no further.",
            &["reason"],
        )?;
        let unlisted = registry.counters(
            "culvert_observe_http_unlisted_total",
            "Requests that are in no series of istio_requests_total because there are too many.",
            &[],
        )?;
        Ok(Self {
            places: Places::new(OUTCOMES),
            flows: [Version::One, Version::Two]
                .map(|version| flows.with_label_values(&[version.label()])),
            gave_up: GaveUp::ALL.map(|why| gave_up.with_label_values(&[why.label()])),
            unlisted: unlisted.with_label_values::<&str>(&[]),
        })
    }
}

/// The reader of one flow.
pub(super) struct Along {
    reader: Reader,
    /// The outcome of the last request: most requests of a flow end alike.
    last: Option<Arc<Outcome>>,
}

impl Along {
    pub(super) const fn new(reader: Reader) -> Self {
        Self { reader, last: None }
    }

    /// Reads on in what the source of the flow says.
    pub(super) fn request(&mut self, bytes: &[u8], place: Place<'_>) {
        if !self.reader.is_off() {
            let mut sink = Sink { last: &mut self.last, place };
            self.reader.request(bytes, Instant::now(), &mut sink);
        }
    }

    /// Reads on in what its destination says.
    pub(super) fn response(&mut self, bytes: &[u8], place: Place<'_>) {
        if !self.reader.is_off() {
            let mut sink = Sink { last: &mut self.last, place };
            self.reader.response(bytes, Instant::now(), &mut sink);
        }
    }

    /// The flow has ended.
    pub(super) fn end(&mut self, reporter: Reporter, reason: Reason, place: Place<'_>) {
        if self.reader.is_off() {
            return;
        }
        let cut = match (reason, reporter) {
            (Reason::Ok, _) => None,
            (Reason::ApplicationReset, Reporter::Source)
            | (Reason::PeerReset, Reporter::Destination) => Some(Cut::Client),
            _ => Some(Cut::Server),
        };
        let mut sink = Sink { last: &mut self.last, place };
        self.reader.end(cut, Instant::now(), &mut sink);
    }
}

/// Where a flow's requests are counted.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) metrics: &'a HttpMetrics,
    pub(super) series: &'a Series,
    /// The requests of the flow itself.
    pub(super) requests: &'a AtomicU64,
}

struct Sink<'a> {
    last: &'a mut Option<Arc<Outcome>>,
    place: Place<'a>,
}

impl Seen for Sink<'_> {
    fn begun(&mut self, version: Version) {
        self.place.metrics.flows[version as usize].inc();
    }

    fn exchange(&mut self, exchange: Exchange) {
        self.place.requests.fetch_add(1, Ordering::Relaxed);
        self.place.series.requests.fetch_add(1, Ordering::Relaxed);
        let how = (&exchange).into();
        if !self.last.as_ref().is_some_and(|last| last.is(how)) {
            *self.last = self.place.series.outcomes.find(how, &self.place.metrics.places);
        }
        match &self.last {
            Some(outcome) => outcome.count(exchange.duration),
            None => self.place.metrics.unlisted.inc(),
        }
    }

    fn gave_up(&mut self, why: GaveUp) {
        self.place.metrics.gave_up[why as usize].inc();
    }
}

#[cfg(test)]
mod tests;
