//! `cargo xtask bench observe`: how long a scrape takes where series are many, and what the flows
//! feel that are counted meanwhile.
//!
//! Needs no lab: the load has the agent's own server and counts flows as its workers do.

use super::ca::{number, told};
use crate::{build, run};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// Lines that each set of labels is in a scrape, while no flow fails.
const LINES: usize = 4;

/// What is measured.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Lines of a scrape, separated by commas; 100,000 are `observe.maxSeries` of 25,000 sets.
    #[arg(long, value_delimiter = ',', default_values_t = [50_000, 100_000],
          value_parser = clap::value_parser!(u32).range(4..=1_000_000))]
    lines: Vec<u32>,
    /// How often each is scraped.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeats: u32,
    /// Write all figures to this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let load = build::scrape_load()?;
    let mut all = Vec::new();
    for lines in &arguments.lines {
        run::say(format!("{} scrapes of {lines} lines", arguments.repeats));
        let sets = usize::try_from(*lines)?.div_ceil(LINES).to_string();
        let repeats = arguments.repeats.to_string();
        let line = told(Command::new(&load).args(["--sets", &sets, "--repeats", &repeats]))?;
        println!("{}", table(&line)?);
        all.push(line);
    }
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&json!({ "observe": all }))?;
        fs::write(path, text + "\n")
            .with_context(|| format!("could not write {}", path.display()))?;
        run::say(format!("figures: {}", path.display()));
    }
    Ok(())
}

fn table(line: &Value) -> Result<String> {
    let figure = |of: &Value, key: &str| {
        number(of, key).with_context(|| format!("the load told no {key}: {line}"))
    };
    let mut text = format!(
        "\n   {} sets of labels, {:.1} MB\n\n",
        figure(line, "sets")?,
        figure(line, "bytes")? / 1e6
    );
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "   {name:<44} {value}"); // writing to a String does not fail
    };
    row("lines of flows", figure(line, "lines")?.to_string());
    let (median, most) = (figure(line, "scrape_p50_ms")?, figure(line, "scrape_max_ms")?);
    row("scrape over HTTP, p50, most", format!("{median:.0}, {most:.0} ms"));
    for (name, key) in
        [("a flow, p50, p99, p99.9, most", "quiet"), ("the same while it is scraped", "scraped")]
    {
        let times = ["p50_us", "p99_us", "p999_us", "max_us"].map(|key_of| (key, key_of));
        let times = times.map(|(of, key)| figure(&line[of], key));
        let [p50, p99, p999, most] = times;
        row(name, format!("{:.1}, {:.1}, {:.1}, {:.0} µs", p50?, p99?, p999?, most?));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_tells_both_sides_and_refuses_a_line_without() {
        let flows = json!({"p50_us": 1.0, "p99_us": 2.0, "p999_us": 3.0, "max_us": 44.0});
        let mut line = json!({
            "sets": 12_500, "lines": 50_000, "bytes": 45_000_000, "scrape_p50_ms": 90.0,
            "scrape_max_ms": 120.0, "quiet": flows, "scraped": flows,
        });
        let text = table(&line).unwrap();
        assert!(text.contains("12500 sets of labels, 45.0 MB"), "{text}");
        assert!(text.contains("90, 120 ms") && text.contains("1.0, 2.0, 3.0, 44 µs"), "{text}");
        line["scraped"] = Value::Null;
        assert!(table(&line).unwrap_err().to_string().contains("p50_us"));
    }
}
