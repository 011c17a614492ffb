//! `cargo xtask fuzz`: parsers of outside bytes under libFuzzer, with the stable compiler.
//!
//! Coverage comes from LLVM's own pass, which `-C passes` reaches without a nightly compiler; only
//! address checking would need one, and the crates fuzzed have no unsafe code to check. What is
//! found and what is new goes to `<target>/fuzz`; `--keep` merges what is new into the corpus that
//! is checked in.

use crate::setup::{self, Purpose};
use crate::{paths, run};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Coverage as libFuzzer wants it.
const COVERAGE: [&str; 5] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// Given explicitly, so that the flags above are for the targets and not for build scripts.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// Longest input tried: over the largest that a parser takes, a request of 16 KiB.
const MAX_INPUT: &str = "-max_len=20000";

/// Most inputs of a target that are checked in besides those that a person named.
const KEPT: usize = 80;

/// Longest that one input may take, in seconds.
const INPUT_LIMIT: &str = "-timeout=10";

/// What is fuzzed.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only these targets; all of them one after the other without.
    targets: Vec<String>,
    /// How long each.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Merge what is new into the corpus: the fewest and smallest inputs that reach as much.
    #[arg(long)]
    keep: bool,
}

/// Runs the command; a finding is a failure.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let known = targets()?;
    let chosen = if arguments.targets.is_empty() { &known } else { &arguments.targets };
    if let Some(unknown) = chosen.iter().find(|name| !known.contains(name)) {
        bail!("no fuzz target {unknown}; there are {}", known.join(", "));
    }
    setup::ensure(&[Purpose::Agent, Purpose::Fuzz])?;
    build()?;
    let mut found = Vec::new();
    for name in chosen {
        let target = Target::new(name)?;
        if !target.fuzz(arguments.seconds)? {
            found.push(name.as_str());
        }
        if arguments.keep {
            target.keep()?;
        }
    }
    if !found.is_empty() {
        bail!("findings in {}; each input stands above, make it a test", found.join(", "));
    }
    Ok(())
}

/// The targets, by their programs' sources.
fn targets() -> Result<Vec<String>> {
    let folder = paths::root().join("fuzz/targets");
    let mut names: Vec<_> = fs::read_dir(&folder)
        .with_context(|| format!("could not read {}", folder.display()))?
        .flatten()
        .filter_map(|entry| Some(entry.path().file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    Ok(names)
}

fn build() -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(paths::root())
        .args(["build", "--package", "culvert-fuzz", "--features", "engine", "--bins"])
        .args(["--profile", "fuzz", "--target", TRIPLE])
        .env("CARGO_TARGET_DIR", paths::target())
        .env("RUSTFLAGS", COVERAGE.join(" "));
    run::plain("building the fuzz targets", &mut cargo)
}

/// One target with its folders.
struct Target {
    program: PathBuf,
    /// Checked in.
    corpus: PathBuf,
    /// What was found to be new, from run to run.
    grown: PathBuf,
    /// Where findings go.
    findings: PathBuf,
}

impl Target {
    fn new(name: &str) -> Result<Self> {
        let own = paths::target().join("fuzz").join(name);
        let program = format!("fuzz-{}", name.replace('_', "-"));
        let target = Self {
            program: paths::target().join(TRIPLE).join("fuzz").join(program),
            corpus: paths::root().join("fuzz/corpus").join(name),
            grown: own.join("corpus"),
            findings: own.join("findings"),
        };
        for folder in [&target.grown, &target.findings] {
            fs::create_dir_all(folder)
                .with_context(|| format!("could not make {}", folder.display()))?;
        }
        Ok(target)
    }

    /// Whether nothing was found. What the engine says, its figures among it, is for the person.
    fn fuzz(&self, seconds: u64) -> Result<bool> {
        let mut command = Command::new(&self.program);
        command
            .args([&self.grown, &self.corpus])
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-artifact_prefix={}/", self.findings.display()))
            .args([MAX_INPUT, INPUT_LIMIT, "-print_final_stats=1", "-rss_limit_mb=1024"]);
        run::say(run::shown(&command));
        let status = command
            .stdin(Stdio::null())
            .status()
            .with_context(|| format!("could not start {}", self.program.display()))?;
        Ok(status.success())
    }

    /// Makes the corpus anew from itself and what was grown: few inputs that reach every edge. Those
    /// that a person named stay.
    fn keep(&self) -> Result<()> {
        let merged = self.grown.with_file_name("merged");
        if merged.exists() {
            fs::remove_dir_all(&merged)?;
        }
        fs::create_dir_all(&merged)?;
        let mut command = Command::new(&self.program);
        command.args(["-set_cover_merge=1", "-use_counters=0", MAX_INPUT]);
        command.args([&merged, &self.corpus, &self.grown]);
        run::plain("merging what is new into the corpus", &mut command)?;
        replace(&self.corpus, &merged)
    }
}

/// Puts what was merged in place of what was merged before.
fn replace(corpus: &Path, merged: &Path) -> Result<()> {
    let mut named = Vec::new();
    for path in files(corpus)? {
        // The engine names inputs by their hash.
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.len() == 40 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            fs::remove_file(&path)?;
        } else {
            named.push(fs::read(&path)?);
        }
    }
    let mut telling = files(merged)?;
    // The engine writes those first that reach most which no earlier one does.
    telling.sort_by_key(|path| fs::metadata(path).and_then(|about| about.modified()).ok());
    for path in telling.into_iter().take(KEPT) {
        if !named.contains(&fs::read(&path)?) {
            fs::copy(&path, corpus.join(path.file_name().unwrap_or_default()))?;
        }
    }
    Ok(())
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    Ok(fs::read_dir(folder)?.flatten().map(|entry| entry.path()).collect())
}
