//! Runs one block of commands and looks at what it printed.

use super::Step;
use crate::{paths, run};
use anyhow::{Context, Result, bail};
use std::process::Command;
use std::time::Duration;

/// What `timeout` has for its own work.
const GRACE: Duration = Duration::from_secs(10);

impl Step {
    /// Runs the script in the checkout with these further variables, and gives what it printed.
    pub(crate) fn run(&self, environment: &[(&str, &str)]) -> Result<String> {
        // `timeout` ends everything that the script started, not only the shell.
        let mut shell = Command::new("timeout");
        shell
            .current_dir(paths::root())
            .args(["--kill-after=5", &format!("{}", self.limit.as_secs_f64())])
            .args(["sh", "-eu", "-c", &self.script])
            .envs(environment.iter().copied());
        let printed = run::read_within(&mut shell, self.limit + GRACE)
            .with_context(|| format!("{}: these commands failed:\n{}", self.place, self.script))?;
        if let Some(missing) = missing(&self.prints, &printed) {
            bail!("{}: `{missing}` was not printed, but:\n{printed}", self.place);
        }
        Ok(printed)
    }
}

/// The first of the expected lines that is not found behind those before it.
pub(super) fn missing<'a>(expected: &'a [String], printed: &str) -> Option<&'a str> {
    let mut lines = printed.lines();
    expected
        .iter()
        .map(String::as_str)
        .filter(|line| !line.trim().is_empty())
        .find(|line| !lines.any(|printed| like(line, printed)))
}

/// Whether a printed line is as expected. Columns may be wider, and `…` is anything.
fn like(expected: &str, printed: &str) -> bool {
    let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (expected, printed) = (plain(expected), plain(printed));
    let mut parts = expected.split('…');
    let Some(mut rest) = parts.next().and_then(|first| printed.strip_prefix(first)) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}
