//! `cargo xtask bench`: what Culvert costs, beside plain TCP in the same run.
//!
//! ```text
//!   repeat 1        repeat 2                      one lab, two pairs of pods:
//!   plain  bulk1    culvert bulk1                   culvert  a1 ══ agent ══ agent ══▶ b1
//!   culvert bulk1   plain   bulk1   …               plain    x1 ────────────────────▶ y1
//!   culvert conn1   plain   conn1           `--dark`: a1 and b1 once more in another lab
//! ```
//!
//! Absolute figures move with the machine and its neighbours; what counts is the ratio to plain
//! TCP a moment before or after. `docs/benchmarks.md` tells what each test does.

mod ca;
mod case;
mod figures;
mod lab;
mod observe;
mod peers;
mod report;
mod spinner;

use crate::setup::{self, Purpose};
use crate::{build, interrupt, run};
use anyhow::{Context, Result, bail};
use case::{Case, Test};
use culvert_tests::sweep;
use figures::{Plane, Results};
use lab::{Bench, Plan};
use std::fs;
use std::path::PathBuf;

/// Tests of a run that names none.
const USUAL: [&str; 6] = ["bulk1", "bulk8", "pp64x1", "pp64x64", "conn1", "conn32"];

/// Tests of a run with `--dark` that names none: HTTP among them.
const DARK: [&str; 6] = ["bulk1", "pp64x64", "http64x1", "http2kx64", "conn1", "conn32"];

/// Share of the CPUs that others may use before the figures are doubted.
const QUIET: f64 = 0.05;

/// What is measured.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    other: Option<Other>,
    /// Tests, separated by commas: bulkN, ppSIZExN (`pp1kx64`), httpSIZExN, connN.
    #[arg(long, value_delimiter = ',')]
    tests: Vec<Test>,
    /// How often each test is repeated on each plane [default: 5].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeats: Option<u32>,
    /// Seconds of each measurement [default: 3].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: Option<u32>,
    /// Two repeats of one second: to see that it works, not to be quoted.
    #[arg(long)]
    quick: bool,
    /// Also measure with everything that observes turned off, and say what it costs; the agents
    /// that observe are scraped each second meanwhile.
    #[arg(long)]
    dark: bool,
    /// Keep the CPUs awake in every test; else only in a second run of the tests with one
    /// connection that answers.
    #[arg(long)]
    awake: bool,
    /// Measure this `culvert` binary instead of building one: to compare two of them.
    #[arg(long)]
    culvert: Option<PathBuf>,
    /// Write all figures to this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What can be measured besides connections.
#[derive(clap::Subcommand)]
enum Other {
    /// Measure the authority: requests a second, handshakes, and a new pod's certificate.
    Ca(ca::Arguments),
    /// Measure a scrape of many series, and what flows feel of it.
    Observe(observe::Arguments),
}

impl Arguments {
    fn repeats(&self) -> u32 {
        self.repeats.unwrap_or(if self.quick { 2 } else { 5 })
    }

    fn seconds(&self) -> u32 {
        self.seconds.unwrap_or(if self.quick { 1 } else { 3 })
    }

    fn cases(&self) -> Result<Vec<Case>> {
        let usual = if self.dark { DARK } else { USUAL };
        let usual = || usual.iter().map(|name| name.parse()).collect::<Result<Vec<Test>>>();
        let tests = if self.tests.is_empty() { usual()? } else { self.tests.clone() };
        Ok(tests.into_iter().flat_map(|test| Case::of(test, self.awake)).collect())
    }
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.other {
        Some(Other::Ca(arguments)) => return ca::run(arguments),
        Some(Other::Observe(arguments)) => return observe::run(arguments),
        None => {}
    }
    let cases = arguments.cases()?;
    setup::ensure(&[Purpose::Agent, Purpose::Kernel, Purpose::Run])?;
    let culvert = match &arguments.culvert {
        Some(binary) => binary.clone(),
        None => build::shipped()?,
    };
    let load = build::load()?;

    let id = format!("bench-{}", std::process::id());
    let dark = format!("{id}-dark");
    let ids = [id.clone(), dark.clone()];
    let interrupt =
        interrupt::clean_up_by(move || ids.iter().try_for_each(|id| sweep::remove(id)))?;
    let seconds = arguments.seconds();
    let plan = Plan { culvert, load, seconds, dark: arguments.dark.then_some(dark) };
    let outcome = measure(&id, plan, arguments, &cases);
    // While the lab is being taken down because of Ctrl-C, what failed here failed because of it.
    interrupt.wait_if_raised();
    let results = outcome?;
    println!("{}", report::table(&results));
    println!("{}", report::beside_ztunnel(&results));
    if arguments.dark {
        println!("{}", report::observing(&results));
    }
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&report::json(&results))?;
        fs::write(path, text + "\n")
            .with_context(|| format!("could not write {}", path.display()))?;
        run::say(format!("figures: {}", path.display()));
    }
    Ok(())
}

fn measure(id: &str, plan: Plan, arguments: &Arguments, cases: &[Case]) -> Result<Results> {
    let (repeats, seconds) = (arguments.repeats(), arguments.seconds());
    run::say("building two nodes, their pods, the CA and two agents");
    let lab = lab::start(id, plan)?;
    let busy = lab.others()?;
    if busy > QUIET {
        eprintln!(
            "warning: other programs use {:.0} % of the CPUs; figures of this run are not to be \
             quoted",
            busy * 100.0
        );
    }
    let mut results = Results::new(repeats, seconds, busy, lab.memory(Plane::Culvert)?);
    repeat(&lab, cases, repeats, &mut results)?;
    if lab.tunnelled()? == 0.0 {
        bail!("no flow of this run went through the tunnel; its figures would mean nothing");
    }
    Ok(results)
}

fn repeat(lab: &Bench, cases: &[Case], repeats: u32, results: &mut Results) -> Result<()> {
    for repeat in 1..=repeats {
        for case in cases {
            run::say(format!("repeat {repeat} of {repeats}: {case}"));
            // Who comes first changes, so that what drifts meets all.
            let mut planes = lab.planes();
            if repeat % 2 == 0 {
                planes.reverse();
            }
            for plane in planes {
                let sample =
                    lab.measure(plane, *case).with_context(|| format!("{case} on {plane}"))?;
                results.add(*case, plane, sample);
            }
        }
    }
    Ok(())
}
