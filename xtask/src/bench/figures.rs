//! The arithmetic: from what the load told to rates, costs, ratios and their spread.

use super::case::{Case, Unit};
use anyhow::{Context, Result};
use serde_json::Value;
use std::fmt;

/// What carries the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plane {
    /// Nothing but the kernel: pods that are not enrolled.
    Plain,
    /// Enrolled pods: two agents, mutual TLS between them.
    Culvert,
    /// The same in a lab of its own, with everything that observes turned off.
    Dark,
}

impl Plane {
    /// All.
    pub(crate) const ALL: [Self; 3] = [Self::Plain, Self::Culvert, Self::Dark];
}

impl fmt::Display for Plane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Culvert => "culvert",
            Self::Dark => "culvert-dark",
        })
    }
}

/// Figures of one measurement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    /// Gbit/s, or requests a second.
    pub(crate) rate: f64,
    /// Median time of a request, in microseconds.
    pub(crate) p50_us: Option<f64>,
    /// Time that 99 of 100 requests do not exceed, in microseconds.
    pub(crate) p99_us: Option<f64>,
    /// CPU seconds of the whole system for each unit of work, without the spinner's.
    pub(crate) system_cpu: f64,
    /// CPU seconds of both agents for each unit of work.
    pub(crate) agents_cpu: f64,
    /// CPU seconds that the host of this virtual machine gave to others, for each second.
    pub(crate) stolen: f64,
    /// Resident memory of both agents right after, in bytes.
    pub(crate) memory: f64,
}

impl Sample {
    /// Reads a line of the load. Watched were both agents, then the spinner if there was one.
    pub(crate) fn read(unit: Unit, line: &Value, memory: f64) -> Result<Self> {
        let number =
            |key: &str| line[key].as_f64().with_context(|| format!("no number `{key}`: {line}"));
        let watched: Vec<f64> = line["watched_cpu_s"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_f64)
            .collect();
        let [first, second, spinner @ ..] = &watched[..] else {
            anyhow::bail!("CPU time of both agents is missing: {line}");
        };
        let seconds = number("seconds")?;
        let (units, rate) = match unit {
            Unit::Gigabyte => (number("bytes")? / 1e9, number("bytes")? * 8.0 / 1e9 / seconds),
            Unit::Thousand => (number("requests")? / 1e3, number("requests")? / seconds),
        };
        Ok(Self {
            rate,
            p50_us: line["p50_us"].as_f64(),
            p99_us: line["p99_us"].as_f64(),
            system_cpu: (number("system_cpu_s")? - spinner.iter().sum::<f64>()).max(0.0) / units,
            agents_cpu: (first + second) / units,
            stolen: number("stolen_cpu_s")? / seconds,
            memory,
        })
    }
}

/// Least, middle and most of some figures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// None of no figures.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut figures: Vec<_> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        let (min, max) = (*figures.first()?, *figures.last()?);
        let half = figures.len() / 2;
        let median = if figures.len().is_multiple_of(2) {
            f64::midpoint(figures[half - 1], figures[half])
        } else {
            figures[half]
        };
        Some(Self { min, median, max })
    }
}

/// All figures of a run.
pub(crate) struct Results {
    /// How often each test was repeated.
    pub(crate) repeats: u32,
    /// Seconds of each measurement.
    pub(crate) seconds: u32,
    /// Share of the CPUs that others used before the run.
    pub(crate) others: f64,
    /// Resident memory of both agents before any work, in bytes.
    pub(crate) idle_memory: f64,
    rows: Vec<Row>,
}

/// Samples of one test on one plane, one a repeat.
struct Row {
    case: Case,
    plane: Plane,
    samples: Vec<Sample>,
}

impl Results {
    /// None yet.
    pub(crate) fn new(repeats: u32, seconds: u32, others: f64, idle_memory: f64) -> Self {
        Self { repeats, seconds, others, idle_memory, rows: Vec::new() }
    }

    /// Keeps one.
    pub(crate) fn add(&mut self, case: Case, plane: Plane, sample: Sample) {
        if let Some(row) = self.rows.iter_mut().find(|row| row.case == case && row.plane == plane) {
            row.samples.push(sample);
        } else {
            self.rows.push(Row { case, plane, samples: vec![sample] });
        }
    }

    /// The cases, in the order in which they were run.
    pub(crate) fn cases(&self) -> Vec<Case> {
        let mut cases: Vec<Case> = Vec::new();
        for row in &self.rows {
            if !cases.contains(&row.case) {
                cases.push(row.case);
            }
        }
        cases
    }

    /// Spread of a figure; repeats that do not have it are left out.
    pub(crate) fn spread(
        &self,
        case: Case,
        plane: Plane,
        figure: impl Fn(&Sample) -> Option<f64>,
    ) -> Option<Spread> {
        Spread::of(self.samples(case, plane).iter().filter_map(figure))
    }

    /// Spread of how many times plain's figure of the same repeat a figure is.
    pub(crate) fn times_plain(
        &self,
        case: Case,
        plane: Plane,
        figure: impl Fn(&Sample) -> Option<f64>,
    ) -> Option<Spread> {
        self.times(case, [plane, Plane::Plain], figure)
    }

    /// Spread of how many times the second plane's figure of the same repeat the first one's is.
    pub(crate) fn times(
        &self,
        case: Case,
        [own, other]: [Plane; 2],
        figure: impl Fn(&Sample) -> Option<f64>,
    ) -> Option<Spread> {
        let pairs = self.samples(case, own).iter().zip(self.samples(case, other));
        Spread::of(pairs.filter_map(|(own, other)| {
            let (own, other) = (figure(own)?, figure(other)?);
            (other > 0.0).then(|| own / other)
        }))
    }

    /// The planes that were measured.
    pub(crate) fn planes(&self) -> impl Iterator<Item = Plane> {
        let measured = |plane: &Plane| self.rows.iter().any(|row| row.plane == *plane);
        Plane::ALL.into_iter().filter(measured)
    }

    /// The most that a figure was in the whole run.
    pub(crate) fn most(&self, figure: impl Fn(&Sample) -> f64) -> f64 {
        self.rows.iter().flat_map(|row| &row.samples).map(figure).fold(0.0, f64::max)
    }

    fn samples(&self, case: Case, plane: Plane) -> &[Sample] {
        let row = self.rows.iter().find(|row| row.case == case && row.plane == plane);
        row.map_or(&[], |row| &row.samples)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{Case, Plane, Results, Sample, Spread, Unit};
    use serde_json::json;

    pub(crate) fn sample(rate: f64) -> Sample {
        Sample {
            rate,
            p50_us: Some(1e6 / rate),
            p99_us: None,
            system_cpu: 1.0,
            agents_cpu: 0.5,
            stolen: 0.0,
            memory: 1e6,
        }
    }

    fn close(found: f64, wanted: f64) -> bool {
        (found - wanted).abs() < 1e-9
    }

    #[test]
    fn median_of_an_even_number_is_between_the_two() {
        let odd = Spread::of([3.0, 1.0, 2.0]).unwrap();
        assert_eq!(odd, Spread { min: 1.0, median: 2.0, max: 3.0 });
        let even = Spread::of([4.0, 1.0, 2.0, 3.0]).unwrap();
        assert_eq!(even, Spread { min: 1.0, median: 2.5, max: 4.0 });
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn bulk_counts_in_gigabytes_and_without_the_spinner() {
        let line = json!({ "bytes": 5_000_000_000_u64, "seconds": 2.0, "system_cpu_s": 4.5,
                           "stolen_cpu_s": 0.1, "watched_cpu_s": [1.0, 1.5, 2.0] });
        let sample = Sample::read(Unit::Gigabyte, &line, 0.0).unwrap();
        assert!(close(sample.rate, 20.0));
        assert!(close(sample.system_cpu, 0.5));
        assert!(close(sample.agents_cpu, 0.5));
        assert!(close(sample.stolen, 0.05));
        assert_eq!(sample.p50_us, None);
    }

    #[test]
    fn requests_count_in_thousands() {
        let line = json!({ "requests": 4000, "seconds": 2.0, "system_cpu_s": 2.0, "p50_us": 400.5,
                           "stolen_cpu_s": 0.0, "watched_cpu_s": [0.5, 0.5] });
        let sample = Sample::read(Unit::Thousand, &line, 0.0).unwrap();
        assert!(close(sample.rate, 2000.0));
        assert!(close(sample.system_cpu, 0.5));
        assert!(close(sample.agents_cpu, 0.25));
        assert_eq!(sample.p50_us, Some(400.5));
        assert!(Sample::read(Unit::Thousand, &json!({ "seconds": 1.0 }), 0.0).is_err());
    }

    #[test]
    fn ratio_is_to_plain_of_the_same_repeat() {
        let case = Case { test: "conn1".parse().unwrap(), awake: false };
        let mut results = Results::new(3, 1, 0.0, 0.0);
        for (plain, culvert) in [(100.0, 20.0), (200.0, 50.0), (50.0, 15.0)] {
            results.add(case, Plane::Culvert, sample(culvert));
            results.add(case, Plane::Plain, sample(plain));
        }
        let ratio = results.times_plain(case, Plane::Culvert, |sample| Some(sample.rate)).unwrap();
        assert!(close(ratio.min, 0.2) && close(ratio.median, 0.25) && close(ratio.max, 0.3));
        let slower = results.times_plain(case, Plane::Culvert, |sample| sample.p50_us).unwrap();
        assert!(close(slower.median, 4.0));
        assert!(results.times_plain(case, Plane::Culvert, |sample| sample.p99_us).is_none());
        assert_eq!(results.cases(), [case]);
    }
}
