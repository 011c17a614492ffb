//! A place where programs run: a network namespace and a cgroup.

use crate::netns::Netns;
use crate::paths;
use crate::process::{self, Finished, Process};
use crate::wait;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Where programs of a pod or of a node's host run.
#[derive(Debug, Clone)]
pub struct Place {
    name: String,
    netns: Netns,
    cgroup: PathBuf,
    logs: PathBuf,
    started: Arc<AtomicU32>,
}

impl Place {
    pub(crate) fn new(name: &str, netns: Netns, cgroup: PathBuf, logs: &Path) -> Self {
        let started = Arc::new(AtomicU32::new(0));
        Self { name: name.to_owned(), netns, cgroup, logs: logs.to_owned(), started }
    }

    /// Its name: the pod's or the node's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its network namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The cgroup of its processes.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// A command that will run here.
    pub fn command<S: AsRef<std::ffi::OsStr>>(&self, words: &[S]) -> Command {
        let nsenter = process::find("nsenter").unwrap_or_else(|| "nsenter".into());
        // The shell moves itself before anything else runs, and becomes nsenter, which becomes
        // the program: one process id from first to last. Only the network namespace is entered:
        // `ip netns exec` would also hide the BPF file system and the cgroups.
        let mut command = Command::new("sh");
        command
            .args(["-c", r#"echo $$ > "$0" && exec "$@""#])
            .arg(self.cgroup.join("cgroup.procs"))
            .arg(nsenter)
            .arg(format!("--net={}", self.netns.path().display()))
            .arg("--")
            .args(words);
        command
    }

    /// Starts a program here.
    ///
    /// # Errors
    /// It could not be started.
    pub fn spawn<S: AsRef<std::ffi::OsStr>>(&self, words: &[S]) -> Result<Process> {
        let program = words.first().context("a program is wanted")?.as_ref();
        let program = Path::new(program).file_name().unwrap_or_default().to_string_lossy();
        self.spawn_as(&program, words)
    }

    /// The same with a name of its own for the logs.
    pub(crate) fn spawn_as<S: AsRef<std::ffi::OsStr>>(
        &self,
        program: &str,
        words: &[S],
    ) -> Result<Process> {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}.{program}.{number}", self.name);
        Process::start(&name, self.command(words), &self.logs)
    }

    /// Runs a program here to its end.
    ///
    /// # Errors
    /// It could not be started or runs longer than `limit`; how it ended is in the value.
    pub fn run<S: AsRef<std::ffi::OsStr>>(&self, words: &[S], limit: Duration) -> Result<Finished> {
        let process = self.spawn(words)?;
        process.close_stdin();
        process.wait(limit)
    }

    /// Starts `culvert-testapp` here.
    ///
    /// # Errors
    /// It is not built or could not be started.
    pub fn app(&self, arguments: &[&str]) -> Result<Process> {
        self.spawn(&Self::app_words(arguments)?)
    }

    /// Runs `culvert-testapp` here to its end.
    ///
    /// # Errors
    /// As [`Place::run`].
    pub fn run_app(&self, arguments: &[&str], limit: Duration) -> Result<Finished> {
        self.run(&Self::app_words(arguments)?, limit)
    }

    /// Starts a server of `culvert-testapp` here and waits until it listens.
    ///
    /// # Errors
    /// It does not come up; its last lines are in the text.
    pub fn server(&self, arguments: &[&str]) -> Result<Process> {
        let server = self.app(arguments)?;
        server.wait_for("listening", wait::SOON)?;
        Ok(server)
    }

    fn app_words(arguments: &[&str]) -> Result<Vec<std::ffi::OsString>> {
        let app = paths::testapp()?.into_os_string();
        Ok(std::iter::once(app).chain(arguments.iter().map(Into::into)).collect())
    }
}
