//! A program that keeps every core awake and gives way to everybody.

use anyhow::{Context, Result, ensure};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The running program; it ends when this is dropped.
pub(crate) struct Spinner(Child);

impl Spinner {
    /// Starts it, not in the lab: in the control group of this very process, for between groups
    /// `SCHED_IDLE` counts for nothing.
    pub(crate) fn start(load: &Path) -> Result<Self> {
        let child = Command::new("chrt")
            .args(["--idle", "0"])
            .arg(load)
            .arg("spin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("could not start `chrt`, which is in Debian's package util-linux")?;
        let mut spinner = Self(child);
        let stdout = spinner.0.stdout.take().context("its output is a pipe")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line.trim() == "spinning", "the spinner said `{}`", line.trim());
        Ok(spinner)
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait(); // it ends with its input, whatever its status
    }
}
