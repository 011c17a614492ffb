//! What a person sees of the figures, and what is kept in a file.

use super::case::{Case, Unit};
use super::figures::{Plane, Results, Sample, Spread};
use super::peers;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs;

/// Share of the CPU time that the host may take away before the figures are doubted.
const STOLEN: f64 = 0.05;

/// The table.
pub(crate) fn table(results: &Results) -> String {
    let mut text = format!(
        "\n   {}\n   {} repeats of {} s each, planes interleaved; median (least … most)\n\n   \
         {:<13} {:<12} {:<32} {:<22} {:>8} {:>8}  {:<19} {}\n",
        machine(),
        results.repeats,
        results.seconds,
        "test",
        "plane",
        "rate",
        "times plain",
        "p50 µs",
        "p99 µs",
        "system CPU",
        "agents' CPU",
    );
    for case in results.cases() {
        for plane in results.planes() {
            row(&mut text, results, case, plane);
        }
    }
    let stolen = results.most(|sample| sample.stolen);
    let _ = write!(
        text, // writing to a String does not fail, here and below
        "\n   memory of both agents: {:.0} MB idle, {:.0} MB at most\n   \
         other programs used {:.0} % of the CPUs before the run; stolen by the host at most \
         {stolen:.2} CPUs\n",
        results.idle_memory / 1e6,
        results.most(|sample| sample.memory) / 1e6,
        results.others * 100.0,
    );
    if stolen > STOLEN {
        text +=
            "   warning: the host took CPU time away; figures of this run are not to be quoted\n";
    }
    text
}

fn row(text: &mut String, results: &Results, case: Case, plane: Plane) {
    let spread = |figure: fn(&Sample) -> Option<f64>| results.spread(case, plane, figure);
    let (unit, per) = units(case);
    let decimals = if case.test.unit() == Unit::Gigabyte { 2 } else { 0 };
    let rate =
        spread(|sample| Some(sample.rate)).map_or(String::new(), |Spread { min, median, max }| {
            format!("{median:.decimals$} {unit} ({min:.decimals$} … {max:.decimals$})")
        });
    let (mut ratio, mut cost) = (String::new(), String::new());
    if plane != Plane::Plain {
        let times = |figure: fn(&Sample) -> Option<f64>| results.times_plain(case, plane, figure);
        if let Some(Spread { min, median, max }) = times(|sample| Some(sample.rate)) {
            ratio = format!("{median:.2}× ({min:.2} … {max:.2})");
        }
        if let Some(times) = times(|sample| Some(sample.system_cpu)) {
            cost = format!(" {:.1}×", times.median);
        }
    }
    let time =
        |spread: Option<Spread>| spread.map_or(String::new(), |s| format!("{:.0}", s.median));
    let cpu =
        |spread: Option<Spread>| spread.map_or(String::new(), |s| format!("{:.2} {per}", s.median));
    let name = if plane == Plane::Plain { case.to_string() } else { String::new() };
    let _ = writeln!(
        text,
        "   {name:<13} {:<12} {rate:<32} {ratio:<22} {:>8} {:>8}  {:<19} {}",
        plane.to_string(),
        time(spread(|sample| sample.p50_us)),
        time(spread(|sample| sample.p99_us)),
        cpu(spread(|sample| Some(sample.system_cpu))) + &cost,
        cpu(spread(|sample| Some(sample.agents_cpu))),
    );
}

fn units(case: Case) -> (&'static str, &'static str) {
    match case.test.unit() {
        Unit::Gigabyte => ("Gbit/s", "s/GB"),
        Unit::Thousand => ("/s", "s/1000"),
    }
}

/// On which side of ztunnel's published figures this run is.
pub(crate) fn beside_ztunnel(results: &Results) -> String {
    let mut text = "   beside ztunnel, as times plain TCP of each one's own run \
                    (docs/benchmarks.md):\n"
        .to_owned();
    let all = peers::beside(results);
    for peers::Beside { case, measure, own, other } in &all {
        let verdict = if measure.no_worse(*own, *other) { "no worse" } else { "WORSE" };
        let _ = writeln!(
            text,
            "   {:<13} {:<11} culvert {own:>5.2}×   ztunnel {other:>5.2}×   {verdict}",
            case.to_string(),
            measure.name(),
        );
    }
    let worse = all.iter().filter(|one| !one.measure.no_worse(one.own, one.other)).count();
    let _ = write!(text, "   compared: {} figures, {worse} worse", all.len());
    text
}

/// What observing costs: with all of it against with none of it, in the same repeat.
pub(crate) fn observing(results: &Results) -> String {
    let mut text = "   all that observes on, against all of it off, of the same repeat; median \
                    (least … most):\n"
        .to_owned();
    for case in results.cases() {
        let times = |figure: fn(&Sample) -> Option<f64>| {
            let spread = results.times(case, [Plane::Culvert, Plane::Dark], figure);
            spread.map_or("—".to_owned(), |Spread { min, median, max }| {
                format!("{median:.3}× ({min:.3} … {max:.3})")
            })
        };
        let _ = writeln!(
            text,
            "   {:<13} rate {:<24} p99 {:<24} agents' CPU {}",
            case.to_string(),
            times(|sample| Some(sample.rate)),
            times(|sample| sample.p99_us),
            times(|sample| Some(sample.agents_cpu)),
        );
    }
    text
}

/// All figures: `planes.PLANE.TEST`, where `ratio` is the rate relative to plain.
pub(crate) fn json(results: &Results) -> Value {
    let mut planes = json!({});
    for plane in results.planes() {
        for case in results.cases() {
            planes[plane.to_string()][case.key()] = figures(results, case, plane);
        }
    }
    json!({
        "machine": machine(),
        "repeats": results.repeats,
        "seconds": results.seconds,
        "others_cpu_share": results.others,
        "idle_agents_rss_mb": results.idle_memory / 1e6,
        "planes": planes,
    })
}

fn figures(results: &Results, case: Case, plane: Plane) -> Value {
    let mut all = json!({});
    let (rate, per) = match case.test.unit() {
        Unit::Gigabyte => ("gbps", "GB"),
        Unit::Thousand => ("per_s", "1000"),
    };
    let mut put = |name: &str, spread: Option<Spread>| {
        if let Some(Spread { min, median, max }) = spread {
            all[name] = json!(median);
            all[format!("{name}_min")] = json!(min);
            all[format!("{name}_max")] = json!(max);
        }
    };
    let times = |figure: fn(&Sample) -> Option<f64>| results.times_plain(case, plane, figure);
    put("ratio", times(|sample| Some(sample.rate)));
    put("p50_times_plain", times(|sample| sample.p50_us));
    put("p99_times_plain", times(|sample| sample.p99_us));
    put("system_cpu_times_plain", times(|sample| Some(sample.system_cpu)));
    if plane == Plane::Culvert {
        let dark = |figure: fn(&Sample) -> Option<f64>| {
            results.times(case, [Plane::Culvert, Plane::Dark], figure)
        };
        put("rate_times_dark", dark(|sample| Some(sample.rate)));
        put("p99_times_dark", dark(|sample| sample.p99_us));
    }
    let spread = |figure: fn(&Sample) -> Option<f64>| results.spread(case, plane, figure);
    put(rate, spread(|sample| Some(sample.rate)));
    put("p50_us", spread(|sample| sample.p50_us));
    put("p99_us", spread(|sample| sample.p99_us));
    put(&format!("system_cpu_s_per_{per}"), spread(|sample| Some(sample.system_cpu)));
    put(&format!("agents_cpu_s_per_{per}"), spread(|sample| Some(sample.agents_cpu)));
    put("agents_rss_mb", spread(|sample| Some(sample.memory / 1e6)));
    put("stolen_cpus", spread(|sample| Some(sample.stolen)));
    all
}

/// Processor, number of cores and kernel, as far as this machine tells.
fn machine() -> String {
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor = processor
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{processor}, {cores} cores, Linux {}", kernel.trim())
}

#[cfg(test)]
mod tests {
    use super::super::figures::tests::sample;
    use super::{Case, Plane, Results, beside_ztunnel, json, observing, table};

    fn results() -> Results {
        let case = Case { test: "bulk1".parse().unwrap(), awake: false };
        let mut results = Results::new(2, 1, 0.0, 2e7);
        for rate in [20.0, 24.0] {
            results.add(case, Plane::Plain, sample(rate));
            results.add(case, Plane::Culvert, sample(rate / 4.0));
        }
        results
    }

    #[test]
    fn file_has_the_ratio_under_plane_and_test() {
        let file = json(&results());
        let bulk1 = &file["planes"]["culvert"]["bulk1"];
        assert_eq!(bulk1["ratio"], 0.25);
        assert_eq!(bulk1["gbps"], 5.5);
        assert_eq!(bulk1["gbps_min"], 5.0);
        assert_eq!(bulk1["system_cpu_s_per_GB"], 1.0);
        assert_eq!(file["planes"]["plain"]["bulk1"]["ratio"], 1.0);
    }

    #[test]
    fn table_shows_both_planes_and_the_verdict() {
        let table = table(&results());
        assert!(table.contains("22.00 Gbit/s (20.00 … 24.00)"), "{table}");
        assert!(table.contains("0.25× (0.25 … 0.25)"), "{table}");
        let beside = beside_ztunnel(&results());
        assert!(beside.contains("no worse"), "{beside}");
        assert!(beside.ends_with("compared: 2 figures, 0 worse"), "{beside}");
    }

    #[test]
    fn cost_of_observing_is_told_where_it_was_measured() {
        let mut results = results();
        let case = results.cases()[0];
        assert!(observing(&results).contains("rate —"));
        assert!(json(&results)["planes"]["culvert-dark"].is_null());
        for rate in [10.0, 12.0] {
            results.add(case, Plane::Dark, sample(rate));
        }
        let told = observing(&results);
        assert!(told.contains("rate 0.500× (0.500 … 0.500)"), "{told}");
        assert_eq!(json(&results)["planes"]["culvert"]["bulk1"]["rate_times_dark"], 0.5);
        assert_eq!(json(&results)["planes"]["culvert-dark"]["bulk1"]["gbps"], 11.0);
    }
}
