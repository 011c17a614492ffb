//! The outcomes of HTTP requests in Prometheus' text format.

use std::fmt::Write as _;
use std::sync::Arc;

use super::Series;
use super::outcomes::{BOUNDS, Outcome};

const REQUESTS: &str = "istio_requests_total";
const DURATION: &str = "istio_request_duration_milliseconds";

/// The families' names, sorted.
pub(in super::super) const NAMES: [&str; 2] = [DURATION, REQUESTS];

/// Writes both families, if there is anything to say.
pub(in super::super) fn encode(all: &[Arc<Series>], text: &mut String) {
    let all: Vec<(&Series, Arc<Outcome>)> = all
        .iter()
        .flat_map(|series| series.outcomes.all().into_iter().map(|outcome| (&**series, outcome)))
        .collect();
    if all.is_empty() {
        return;
    }
    // A string takes whatever is written to it, here and below.
    let _ = writeln!(
        text,
        "# HELP {DURATION} Time from a request's first byte to its answer's last, in milliseconds, \
         of HTTP seen in passing.\n# TYPE {DURATION} histogram"
    );
    for (series, outcome) in &all {
        histogram(text, series, outcome);
    }
    let _ = writeln!(
        text,
        "# HELP {REQUESTS} HTTP requests seen in passing that have ended.\n# TYPE {REQUESTS} counter"
    );
    for (series, outcome) in &all {
        let labels = Labels(series, outcome);
        let _ = writeln!(text, "{REQUESTS}{{{labels}}} {}", outcome.sums()[BOUNDS.len()]);
    }
}

fn histogram(text: &mut String, series: &Series, outcome: &Outcome) {
    let labels = Labels(series, outcome).to_string();
    // Both from one reading, so that the count is the last bucket's.
    let sums = outcome.sums();
    for (end, sum) in BOUNDS.iter().zip(sums) {
        let _ = writeln!(text, "{DURATION}_bucket{{{labels},le=\"{end}\"}} {sum}");
    }
    let count = sums[BOUNDS.len()];
    let micros = outcome.micros();
    let _ = writeln!(text, "{DURATION}_bucket{{{labels},le=\"+Inf\"}} {count}");
    let _ = writeln!(text, "{DURATION}_sum{{{labels}}} {}.{:03}", micros / 1_000, micros % 1_000);
    let _ = writeln!(text, "{DURATION}_count{{{labels}}} {count}");
}

/// The labels of an outcome.
struct Labels<'a>(&'a Series, &'a Outcome);

impl std::fmt::Display for Labels<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(series, outcome) = self;
        let how = outcome.how();
        write!(
            f,
            "{}request_protocol=\"{}\",response_code=\"{}\",grpc_response_status=\"",
            series.text.as_str(),
            how.protocol(),
            how.status()
        )?;
        if let Some(status) = how.grpc_status() {
            write!(f, "{status}")?;
        }
        write!(
            f,
            "\",response_flags=\"{}\",connection_security_policy=\"{}\"",
            how.flags(),
            series.security.label()
        )
    }
}
