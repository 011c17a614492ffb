//! A flow that has ended, as a span.

use std::net::SocketAddr;
use std::time::SystemTime;

use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::Trace;
use crate::observe::{FlowLabels, Party, Reason, Reporter};

/// What is known of a flow at its end.
pub(in super::super) struct Done<'a> {
    pub(in super::super) trace: Trace,
    pub(in super::super) labels: &'a FlowLabels,
    pub(in super::super) opened: SystemTime,
    pub(in super::super) closed: SystemTime,
    pub(in super::super) sent: u64,
    pub(in super::super) received: u64,
    pub(in super::super) requests: u64,
    pub(in super::super) reason: Reason,
}

impl Done<'_> {
    pub(super) fn data(&self) -> SpanData {
        let span = |id: u64| SpanId::from_bytes(id.to_be_bytes());
        let kind = match self.labels.reporter {
            Reporter::Source => SpanKind::Client,
            Reporter::Destination => SpanKind::Server,
        };
        let status = if self.reason.is_failure() {
            Status::error(self.reason.label())
        } else {
            Status::Unset
        };
        SpanData {
            span_context: SpanContext::new(
                TraceId::from_bytes(self.trace.whole.to_be_bytes()),
                span(self.trace.own),
                TraceFlags::SAMPLED,
                false,
                TraceState::NONE,
            ),
            parent_span_id: self.trace.parent.map_or(SpanId::INVALID, span),
            parent_span_is_remote: self.trace.parent.is_some(),
            span_kind: kind,
            // The same for all flows, so that they are found together; what differs is below.
            name: "connection".into(),
            start_time: self.opened,
            end_time: self.closed,
            attributes: self.attributes(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status,
            instrumentation_scope: InstrumentationScope::builder("culvert").build(),
        }
    }

    /// Names as in OpenTelemetry's conventions where there are such, else under `culvert.`.
    fn attributes(&self) -> Vec<KeyValue> {
        let labels = self.labels;
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let mut all = vec![
            KeyValue::new("network.transport", "tcp"),
            KeyValue::new("culvert.security", labels.security.label()),
            KeyValue::new("culvert.path", labels.path.label()),
            KeyValue::new("culvert.reason", self.reason.label()),
            KeyValue::new("culvert.sent_bytes", number(self.sent)),
            KeyValue::new("culvert.received_bytes", number(self.received)),
            KeyValue::new("culvert.http_requests", number(self.requests)),
        ];
        let mut address = |side: &'static [&'static str; 2], address: SocketAddr| {
            all.push(KeyValue::new(side[0], address.ip().to_canonical().to_string()));
            all.push(KeyValue::new(side[1], i64::from(address.port())));
        };
        address(&["client.address", "client.port"], labels.source_address);
        address(&["server.address", "server.port"], labels.final_address());
        let mut text = |name: &'static str, value: Option<String>| {
            all.extend(value.map(|value| KeyValue::new(name, value)));
        };
        let party = |party: &Party| Some(format!("{}/{}", party.namespace()?, party.name()?));
        text("culvert.source.workload", party(&labels.source));
        text("culvert.destination.workload", party(&labels.destination));
        text("culvert.source.principal", labels.source_principal.as_ref().map(ToString::to_string));
        text(
            "culvert.destination.principal",
            labels.destination_principal.as_ref().map(ToString::to_string),
        );
        text("culvert.service", labels.service.as_ref().map(|service| service.host.clone()));
        all
    }
}
