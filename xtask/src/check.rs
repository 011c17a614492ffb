//! `cargo xtask check`: what a commit must pass before it is one.

mod arrows;
mod sizes;
mod words;

use crate::setup::{self, Purpose};
use crate::{manifests, paths, proto, run};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is checked besides the usual.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Demand that `cargo deny` runs, instead of only where it is installed.
    #[arg(long)]
    deny: bool,
}

/// A source file with its place in the workspace.
struct Source {
    path: PathBuf,
    text: String,
}

/// Runs every check and names all that fail.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(&[Purpose::Agent])?;
    let sources = sources()?;
    let steps: [(&str, &dyn Fn() -> Result<()>); 8] = [
        ("format", &|| cargo(&["fmt", "--all", "--check"])),
        ("clippy", &clippy),
        ("direction of the stages", &|| found(&arrows::against(&sources))),
        ("words", &|| found(&words::banned(&sources))),
        ("size of the files", &|| found(&sizes::too_long(&sources))),
        ("generated protocol code", &|| proto::generate(true)),
        ("chart made from the base", &|| manifests::generate(true)),
        ("dependencies", &|| deny(arguments.deny)),
    ];
    let mut failed = Vec::new();
    for (name, step) in steps {
        run::say(format!("checking: {name}"));
        if let Err(error) = step() {
            eprintln!("{error:#}");
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("not passed: {}", failed.join(", "));
    }
    Ok(())
}

fn clippy() -> Result<()> {
    let words = ["clippy", "--workspace", "--exclude", "culvert-ebpf", "--all-targets"];
    cargo(&[&words[..], &["--", "-D", "warnings"]].concat())
}

fn deny(demanded: bool) -> Result<()> {
    if paths::which("cargo-deny").is_some() {
        return cargo(&["deny", "check"]);
    }
    if demanded {
        bail!("no cargo-deny here; run `cargo install cargo-deny --locked`");
    }
    eprintln!("    left out: no cargo-deny here; `cargo install cargo-deny --locked` brings it");
    Ok(())
}

fn cargo(words: &[&str]) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(paths::root()).args(words).env("CARGO_TARGET_DIR", paths::target());
    run::plain(&format!("cargo {}", words.join(" ")), &mut cargo)
}

fn found(faults: &[String]) -> Result<()> {
    if faults.is_empty() {
        return Ok(());
    }
    bail!("{}", faults.join("\n"))
}

/// Every Rust file that a person wrote.
fn sources() -> Result<Vec<Source>> {
    let mut found = Vec::new();
    for member in fs::read_dir(paths::root())?.flatten() {
        if member.path().join("Cargo.toml").is_file() {
            collect(&member.path(), &mut found)?;
        }
    }
    found.sort_by(|left, right| left.path.cmp(&right.path));
    Ok(found)
}

fn collect(directory: &Path, found: &mut Vec<Source>) -> Result<()> {
    for entry in fs::read_dir(directory)?.flatten() {
        let path = entry.path();
        let generated = path.ends_with("proto/src/generated") || path.ends_with("target");
        if path.is_dir() && !generated {
            collect(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path)
                .with_context(|| format!("could not read {}", path.display()))?;
            let path = path.strip_prefix(paths::root()).unwrap_or(&path).to_path_buf();
            found.push(Source { path, text });
        }
    }
    Ok(())
}

impl Source {
    /// Lines with their numbers, without comments and without the tests at the foot.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text
            .lines()
            .enumerate()
            .take_while(|(_, line)| !line.starts_with("#[cfg(test)]"))
            .map(|(number, line)| (number + 1, line))
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    fn at(&self, number: usize, fault: &str) -> String {
        format!("{}:{number}: {fault}", self.path.display())
    }
}
