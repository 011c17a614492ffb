//! What was measured of others; `docs/benchmarks.md` has the whole table, the machine and the date.

use super::case::Case;
use super::figures::{Plane, Results, Sample};

/// What of a test is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Measure {
    /// Rate; higher is better.
    Rate,
    /// Median time of a request; lower is better.
    Median,
    /// Time that 99 of 100 requests do not exceed; lower is better.
    P99,
    /// CPU time of the whole system for the same work; lower is better.
    SystemCpu,
}

/// A figure of ztunnel, as times that of plain TCP of the same run.
struct Figure(&'static str, Measure, f64);

const ZTUNNEL: &[Figure] = &[
    Figure("bulk1", Measure::Rate, 0.16),
    Figure("bulk1", Measure::SystemCpu, 6.1),
    Figure("bulk8", Measure::Rate, 0.23),
    Figure("pp64x1", Measure::Median, 2.6),
    Figure("pp64x1_awake", Measure::Median, 6.8),
    Figure("pp64x64", Measure::Rate, 0.22),
    Figure("pp64x64", Measure::P99, 4.0),
    Figure("pp1kx64", Measure::Rate, 0.18),
    Figure("conn1", Measure::Rate, 0.18),
    Figure("conn1", Measure::Median, 6.5),
    Figure("conn32", Measure::Rate, 0.26),
];

impl Measure {
    /// What it is called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Median => "p50",
            Self::P99 => "p99",
            Self::SystemCpu => "system CPU",
        }
    }

    /// Its figure in a sample.
    pub(crate) fn of(self, sample: &Sample) -> Option<f64> {
        match self {
            Self::Rate => Some(sample.rate),
            Self::Median => sample.p50_us,
            Self::P99 => sample.p99_us,
            Self::SystemCpu => Some(sample.system_cpu),
        }
    }

    /// Whether one is at least as good as another.
    pub(crate) fn no_worse(self, own: f64, other: f64) -> bool {
        match self {
            Self::Rate => own >= other,
            Self::Median | Self::P99 | Self::SystemCpu => own <= other,
        }
    }
}

/// One comparison: both as times plain TCP.
pub(crate) struct Beside {
    /// Which test.
    pub(crate) case: Case,
    /// What is compared.
    pub(crate) measure: Measure,
    /// Culvert's, in this run.
    pub(crate) own: f64,
    /// ztunnel's, as published.
    pub(crate) other: f64,
}

/// Every comparison that this run allows.
pub(crate) fn beside(results: &Results) -> Vec<Beside> {
    let mut found = Vec::new();
    for case in results.cases() {
        for Figure(_, measure, other) in ZTUNNEL.iter().filter(|figure| figure.0 == case.key()) {
            let spread = results.times_plain(case, Plane::Culvert, |sample| measure.of(sample));
            if let Some(spread) = spread {
                found.push(Beside { case, measure: *measure, own: spread.median, other: *other });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::figures::tests::sample;
    use super::{Case, Measure, Plane, Results, ZTUNNEL, beside};

    #[test]
    fn rate_is_better_high_and_time_is_better_low() {
        assert!(Measure::Rate.no_worse(0.2, 0.16));
        assert!(!Measure::Rate.no_worse(0.1, 0.16));
        assert!(Measure::Median.no_worse(2.0, 2.6));
        assert!(!Measure::SystemCpu.no_worse(7.0, 6.1));
    }

    #[test]
    fn every_name_is_a_test() {
        for figure in ZTUNNEL {
            let name = figure.0.strip_suffix("_awake").unwrap_or(figure.0);
            assert!(name.parse::<super::super::case::Test>().is_ok(), "{name}");
        }
    }

    #[test]
    fn awake_is_compared_with_awake() {
        let case = Case { test: "pp64x1".parse().unwrap(), awake: true };
        let mut results = Results::new(1, 1, 0.0, 0.0);
        results.add(case, Plane::Plain, sample(20_000.0));
        results.add(case, Plane::Culvert, sample(5_000.0));
        let found = beside(&results);
        assert_eq!(found.len(), 1);
        assert!((found[0].own - 4.0).abs() < 1e-9);
        assert!((found[0].other - 6.8).abs() < 1e-9);
    }
}
