//! Programs of the cluster: each in a cgroup of its own, by which it is ended whole.

use super::{cgroup, layout};
use anyhow::{Context, Result, bail};
use culvert_tests::until;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Where a program's own processes are below its cgroup; a node's containers are beside it.
pub(super) const LEAF: &str = "main";

/// How many lines of a log are shown of a program that did not come up.
const TAIL: usize = 25;

/// A program of the cluster that runs in the background, known by its name alone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Component<'a>(pub(super) &'a str);

impl Component<'_> {
    /// Starts it in a network namespace, or in the machine's own.
    pub(super) fn start(self, netns: Option<&str>, words: &[String]) -> Result<()> {
        let places = cgroup::make(&format!("{}/{LEAF}", self.0))?;
        let log = self.log();
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("could not open {}", log.display()))?;
        let mut command = enter(&places, netns);
        command
            .args(words)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            // Ctrl-C is for the command, not for the cluster that it leaves behind.
            .process_group(0)
            .spawn()
            .with_context(|| format!("could not start {}", self.0))?;
        Ok(())
    }

    /// Waits until `ready` says so; fails at once when the program has ended.
    pub(super) fn wait(self, limit: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
        let what = format!("{} to be ready", self.0);
        let came = until(&what, limit, || {
            if ready() {
                return Some(true);
            }
            (!self.runs()).then_some(false)
        });
        match came {
            Ok(true) => Ok(()),
            Ok(false) => bail!("{} ended; it said last:\n{}", self.0, self.tail()),
            Err(error) => Err(error.context(format!("{} said last:\n{}", self.0, self.tail()))),
        }
    }

    /// Ends it at once, with all that it started.
    pub(super) fn kill(self) -> Result<()> {
        cgroup::kill(&cgroup::version2()?.join(self.0))
    }

    /// Whether any process of it lives.
    pub(super) fn runs(self) -> bool {
        cgroup::version2().is_ok_and(|root| cgroup::populated(&root.join(self.0)))
    }

    fn log(self) -> PathBuf {
        layout::logs().join(format!("{}.log", self.0))
    }

    fn tail(self) -> String {
        tail(&self.log())
    }
}

/// The last lines of a log.
pub(super) fn tail(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}

/// A command that moves itself into cgroups and a network namespace before it becomes what its
/// arguments say: one process from first to last.
pub(super) fn enter(cgroups: &[PathBuf], netns: Option<&str>) -> Command {
    let mut command = Command::new("sh");
    command.args([
        "-c",
        r#"while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs" || exit; shift; done; shift; exec "$@""#,
        "sh",
    ]);
    command.args(cgroups).arg("--");
    if let Some(netns) = netns {
        // Not `ip netns exec`: it would hide the BPF file system and the cgroups.
        command.arg("nsenter").arg(format!("--net=/run/netns/{netns}")).arg("--");
    }
    command
}
