//! The series in Prometheus' text format.
//!
//! Written by hand and not through the registry: the labels of a series are some nine hundred
//! bytes that never change, and copying them is all that a scrape has to do.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use culvert_spiffe::SpiffeId;

use super::super::labels::{Names, UNKNOWN};
use super::super::reason::{Reason, ResponseFlags};
use super::{Key, Series};

/// A family of counters under Istio's name.
pub(in super::super) struct Family {
    /// Its name.
    pub(in super::super) name: &'static str,
    help: &'static str,
    samples: fn(&Series, &mut dyn FnMut(ResponseFlags, u64)),
}

/// The families of the series, sorted by name.
pub(in super::super) const FAMILIES: [Family; 5] = [
    Family {
        name: "istio_tcp_connections_closed_total",
        help: "Flows closed.",
        samples: |series, sample| ended(series, |_| true, sample),
    },
    Family {
        name: "istio_tcp_connections_failed_total",
        help: "Flows that ended otherwise than cleanly.",
        samples: |series, sample| ended(series, Reason::is_failure, sample),
    },
    Family {
        name: "istio_tcp_connections_opened_total",
        help: "Flows opened.",
        samples: |series, sample| {
            sample(ResponseFlags::None, series.opened.load(Ordering::Relaxed));
        },
    },
    Family {
        // The response is "sent" and the request "received", whoever reports: istio/istio issue
        // 32399.
        name: "istio_tcp_received_bytes_total",
        help: "Bytes from the source to the destination, at either reporter.",
        samples: |series, sample| {
            sample(ResponseFlags::None, series.request.load(Ordering::Relaxed));
        },
    },
    Family {
        name: "istio_tcp_sent_bytes_total",
        help: "Bytes from the destination to the source, at either reporter.",
        samples: |series, sample| {
            sample(ResponseFlags::None, series.response.load(Ordering::Relaxed));
        },
    },
];

/// Flows that ended for a reason that `counts`, by flags.
fn ended(series: &Series, counts: fn(Reason) -> bool, sample: &mut dyn FnMut(ResponseFlags, u64)) {
    let mut sums = [0; ResponseFlags::ALL.len()];
    for reason in Reason::ALL.into_iter().filter(|reason| counts(*reason)) {
        sums[reason.response_flags() as usize] += series.closed(reason);
    }
    for (flags, sum) in ResponseFlags::ALL.into_iter().zip(sums) {
        if sum > 0 {
            sample(flags, sum);
        }
    }
}

/// The labels of a series, in ztunnel's order, but for the three that tell its samples apart.
///
/// Source: istio/ztunnel `src/proxy/metrics.rs`, `CommonTrafficLabels`.
pub(super) struct Labels(Box<str>);

impl Labels {
    /// As it is written, with a comma at its end.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn new(key: Key<'_>, cluster: &str) -> Self {
        let mut text = String::new();
        push(&mut text, "", "reporter", key.reporter.label());
        end(&mut text, "source_", (key.source, key.source_principal), cluster);
        let (host, namespace, name) = key.service.map_or((UNKNOWN, UNKNOWN, UNKNOWN), |asked| {
            (&asked.host, &asked.namespace, &asked.name)
        });
        push(&mut text, "destination_", "service", host);
        push(&mut text, "destination_", "service_namespace", namespace);
        push(&mut text, "destination_", "service_name", name);
        end(&mut text, "destination_", (key.destination, key.destination_principal), cluster);
        Self(text.into_boxed_str())
    }
}

/// The labels of one end.
fn end(
    text: &mut String,
    prefix: &str,
    (names, principal): (Option<&Names>, Option<&SpiffeId>),
    cluster: &str,
) {
    let [workload, service, revision, namespace, app, version] =
        names.map_or([UNKNOWN; 6], Names::values);
    let cluster = names.map_or(UNKNOWN, |_| cluster);
    for (name, value) in [
        ("workload", workload),
        ("canonical_service", service),
        ("canonical_revision", revision),
        ("workload_namespace", namespace),
        ("principal", principal.map_or(UNKNOWN, SpiffeId::as_str)),
        ("app", app),
        ("version", version),
        ("cluster", cluster),
    ] {
        push(text, prefix, name, value);
    }
}

/// One label with its value, and a comma after it.
fn push(text: &mut String, prefix: &str, name: &str, value: &str) {
    text.push_str(prefix);
    text.push_str(name);
    text.push_str("=\"");
    for letter in value.chars() {
        match letter {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            letter => text.push(letter),
        }
    }
    text.push_str("\",");
}

/// Writes every family, and of each its samples.
pub(in super::super) fn encode(all: &[Arc<Series>], text: &mut String) {
    for family in &FAMILIES {
        let mut first = true;
        for series in all {
            (family.samples)(series, &mut |flags, value| {
                if std::mem::take(&mut first) {
                    // A string takes whatever is written to it.
                    let _ = write!(
                        text,
                        "# HELP {} {}\n# TYPE {} counter\n",
                        family.name, family.help, family.name
                    );
                }
                sample(text, family.name, series, flags, value);
            });
        }
    }
}

fn sample(text: &mut String, name: &str, series: &Series, flags: ResponseFlags, value: u64) {
    text.push_str(name);
    text.push('{');
    text.push_str(&series.text.0);
    // A string takes whatever is written to it.
    let _ = writeln!(
        text,
        "request_protocol=\"tcp\",response_flags=\"{}\",connection_security_policy=\"{}\"}} {value}",
        flags.label(),
        series.security.label()
    );
}
