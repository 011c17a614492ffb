//! `cargo xtask manual`: runs the commands of the documentation as they stand there.
//!
//! Every block of commands (` ```sh `) in a manual that is run has a mark on the line before it:
//!
//! | mark | the block |
//! |---|---|
//! | `<!-- run -->` | is one script for `sh -eu`, run in the checkout, for at most a minute |
//! | `<!-- run within 300s -->` | the same with another limit |
//! | `<!-- run last -->` | the same, after all manuals |
//! | `<!-- run helm -->` | belongs to a sequence of its own, of that name |
//! | `<!-- not run: why -->` | is left out, for the reason given |
//! | `<!-- prints -->` | (before ` ```text `) is what the script above prints: each line is looked for, in this order; `…` stands for anything |
//!
//! A block without a mark is an error, so that no command gets into a manual untested.
//!
//! The main sequence installs with Kustomize, enrols, operates, and last takes all of it out again.
//! `readme` and `helm` begin with a cluster that has nothing of it.

mod marks;
mod script;
#[cfg(test)]
mod tests;

pub(crate) use marks::{Step, steps};

use crate::{paths, run};
use anyhow::{Context, Result};
use std::fs;
use std::path::PathBuf;

/// Manuals whose commands are run, in this order.
pub(crate) const MANUALS: [&str; 4] =
    ["README.md", "docs/install.md", "docs/policy.md", "docs/operations.md"];

/// What is run.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Manuals, by path from the root of the checkout; without one, all that are run.
    manuals: Vec<PathBuf>,
    /// The sequence of this name, instead of the main one.
    #[arg(long)]
    sequence: Option<String>,
    /// Only show what would be run.
    #[arg(long)]
    list: bool,
}

/// Runs the command, against the cluster that `KUBECONFIG` names.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let manuals = if arguments.manuals.is_empty() {
        MANUALS.iter().map(PathBuf::from).collect()
    } else {
        arguments.manuals.clone()
    };
    let mut all = Vec::new();
    for manual in manuals {
        let text = fs::read_to_string(paths::root().join(&manual))
            .with_context(|| format!("could not read {}", manual.display()))?;
        all.extend(steps(&manual.display().to_string(), &text)?);
    }
    all.retain(|step| step.sequence == arguments.sequence);
    // Stable: within either kind the order stays.
    all.sort_by_key(|step| step.last);
    for step in all {
        if arguments.list {
            println!("# {}\n{}", step.place, step.script);
            continue;
        }
        run::say(format!("{}\n{}", step.place, step.script.trim_end()));
        print!("{}", step.run(&[])?);
    }
    Ok(())
}
