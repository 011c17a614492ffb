//! Programs of the lab: started in their place, heard, and ended.

use crate::wait;
use anyhow::{Context, Result, bail};
use std::env;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The signals that a lab sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Asks for a clean end.
    Terminate,
    /// Ends at once, with no chance to clean up.
    Kill,
    /// Stops it where it stands.
    Stop,
    /// Lets it go on.
    Continue,
    /// As Ctrl-C does.
    Interrupt,
}

impl Signal {
    fn number(self) -> rustix::process::Signal {
        match self {
            Self::Terminate => rustix::process::Signal::TERM,
            Self::Kill => rustix::process::Signal::KILL,
            Self::Stop => rustix::process::Signal::STOP,
            Self::Continue => rustix::process::Signal::CONT,
            Self::Interrupt => rustix::process::Signal::INT,
        }
    }
}

/// How a program ended and what it said.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Its status.
    pub status: ExitStatus,
    /// What it wrote to standard output; bytes that are no UTF-8 are replaced.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Finished {
    /// Its standard output, when it ended well.
    ///
    /// # Errors
    /// It did not; the text holds what it said.
    pub fn ok(self) -> Result<String> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        bail!("{}: {} {}", self.status, self.stdout.trim(), self.stderr.trim())
    }

    /// The last line of its standard output as JSON, as `culvert-testapp` prints it.
    ///
    /// # Errors
    /// It failed or the line is no JSON.
    pub fn json(self) -> Result<serde_json::Value> {
        let text = self.ok()?;
        let line = text.lines().last().context("no line of output")?;
        serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))
    }
}

/// A running program of the lab; dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: rustix::process::Pid,
    child: Mutex<Child>,
    stdout: PathBuf,
    stderr: PathBuf,
    kept: bool,
}

impl Process {
    /// Starts a command with its output going to `NAME.out` and `NAME.err` in `logs`.
    ///
    /// # Errors
    /// It could not be started.
    pub fn start(name: &str, mut command: Command, logs: &Path) -> Result<Self> {
        let (stdout, stderr) = (logs.join(format!("{name}.out")), logs.join(format!("{name}.err")));
        let create = |path: &Path| {
            File::create(path).with_context(|| format!("could not create {}", path.display()))
        };
        let child = command
            .stdin(Stdio::piped())
            .stdout(create(&stdout)?)
            .stderr(create(&stderr)?)
            // Ctrl-C is for the one who built the lab; he ends its programs in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("could not start {name}"))?;
        let pid = i32::try_from(child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw)
            .context("a child has a process id")?;
        Ok(Self {
            name: name.to_owned(),
            pid,
            child: Mutex::new(child),
            stdout,
            stderr,
            kept: false,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// What it has written to standard output so far.
    pub fn stdout(&self) -> String {
        text(&self.stdout)
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        text(&self.stderr)
    }

    /// All that it has said so far: standard output, then standard error.
    pub fn log(&self) -> String {
        self.stdout() + &self.stderr()
    }

    /// Where standard output goes; bytes that are no text are to be read there.
    pub fn stdout_path(&self) -> &Path {
        &self.stdout
    }

    /// Waits for a line that holds `text`, and gives that line.
    ///
    /// # Errors
    /// It did not come in time, or the program ended without it; its last lines are in the text.
    pub fn wait_for(&self, text: &str, limit: Duration) -> Result<String> {
        self.wait_for_line(&format!("`{text}`"), limit, |line| line.contains(text))
    }

    /// Waits for a line that `wanted` takes, and gives that line.
    ///
    /// # Errors
    /// As [`Process::wait_for`].
    pub fn wait_for_line(
        &self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<String> {
        let found = wait::until(&format!("{what} from {}", self.name), limit, || {
            // Looked at before the log is read: what it said last is not missed.
            let ended = self.try_status();
            let log = self.log();
            if let Some(line) = log.lines().find(|line| wanted(line)) {
                return Some(Ok(line.to_owned()));
            }
            ended.map(Err)
        });
        match found {
            Ok(Ok(line)) => Ok(line),
            Ok(Err(status)) => {
                bail!("{} ended with {status} without {what}:\n{}", self.name, self.tail(20))
            }
            Err(error) => Err(error.context(format!("{} said:\n{}", self.name, self.tail(20)))),
        }
    }

    /// The last lines of what it said.
    pub fn tail(&self, lines: usize) -> String {
        tail(&self.log(), lines)
    }

    /// Its status, when it has ended.
    pub fn try_status(&self) -> Option<ExitStatus> {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        child.try_wait().ok().flatten()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It still runs after `limit`.
    pub fn wait(&self, limit: Duration) -> Result<Finished> {
        let status = wait::until(&format!("{} to end", self.name), limit, || self.try_status())
            .with_context(|| format!("{} said:\n{}", self.name, self.tail(20)))?;
        Ok(Finished { status, stdout: self.stdout(), stderr: self.stderr() })
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// The process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if let Some(status) = self.try_status() {
            bail!("{} is gone already: {status}", self.name);
        }
        rustix::process::kill_process(self.pid, signal.number())
            .with_context(|| format!("could not signal {}", self.name))
    }

    /// Asks for a clean end and waits for it.
    ///
    /// # Errors
    /// It did not end in time.
    pub fn terminate(&self, limit: Duration) -> Result<Finished> {
        if self.try_status().is_none() {
            self.signal(Signal::Terminate)?;
        }
        self.wait(limit)
    }

    /// Ends it at once and waits until it is gone.
    pub fn kill(&self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = child.kill(); // gone already is as good
        let _ = child.wait(); // reaped, whatever its status
    }

    /// Writes a line to its standard input.
    ///
    /// # Errors
    /// It no longer reads.
    pub fn write_line(&self, line: &str) -> Result<()> {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let stdin = child.stdin.as_mut().context("its standard input is closed")?;
        writeln!(stdin, "{line}").with_context(|| format!("{} does not read", self.name))
    }

    /// Closes its standard input: the programs of `culvert-testapp` that hold end then.
    pub fn close_stdin(&self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        child.stdin = None;
    }

    /// Lets it run on; it ends with its lab.
    pub fn keep(mut self) {
        self.stay();
    }

    /// The same, for one that is still held.
    pub(crate) fn stay(&mut self) {
        self.kept = true;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.kept {
            self.kill();
        }
    }
}

/// The last lines of a text.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn text(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// Where a program is; the administrator's folders count too.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

/// Runs a short command that must succeed.
pub(crate) fn must(program: &str, arguments: &[&str]) -> Result<()> {
    must_with_input(program, arguments, "")
}

/// The same, with text for its standard input.
pub(crate) fn must_with_input(program: &str, arguments: &[&str], input: &str) -> Result<()> {
    let mut child = Command::new(find(program).unwrap_or_else(|| program.into()))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("could not start {program}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that fails early does not read it all; its own words tell more.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let how = output.status.signal().map_or(String::new(), |number| format!(" (signal {number})"));
    bail!(
        "`{program} {}` failed{how}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    )
}
