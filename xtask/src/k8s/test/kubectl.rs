//! `kubectl`, as a person has it: every request bounded, every failure with what it said.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::run;

/// Longest that one request to the API server may take.
const REQUEST: &str = "--request-timeout=30s";

/// A `kubectl` and the cluster that it talks to.
#[derive(Clone, Debug)]
pub(crate) struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

/// How a command ended, good or bad.
pub(crate) struct Said {
    /// Whether its status was 0.
    pub(crate) good: bool,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
}

impl Kubectl {
    /// Talks to the cluster of `kubeconfig` by `program`.
    pub(crate) fn new(program: PathBuf, kubeconfig: PathBuf) -> Self {
        Self { program, kubeconfig }
    }

    /// The file by which others may talk to the cluster.
    pub(crate) fn kubeconfig(&self) -> &PathBuf {
        &self.kubeconfig
    }

    /// The program.
    pub(crate) fn program(&self) -> &PathBuf {
        &self.program
    }

    /// A command that is not started yet.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(words);
        command
    }

    /// Runs it to its end, whatever that is.
    pub(crate) fn try_run(&self, words: &[&str]) -> Result<Said> {
        let mut command = self.command(words);
        let output = command
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("could not start `{}`", run::shown(&command)))?;
        Ok(Said {
            good: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs it and returns its standard output; fails with what it said.
    pub(crate) fn ok(&self, words: &[&str]) -> Result<String> {
        let said = self.try_run(words)?;
        if said.good {
            return Ok(said.stdout);
        }
        bail!("kubectl {}: {} {}", words.join(" "), said.stdout.trim(), said.stderr.trim())
    }

    /// What `kubectl get WORDS -o json` says.
    pub(crate) fn get(&self, words: &[&str]) -> Result<Value> {
        let all: Vec<_> =
            ["get"].iter().chain(words).chain(&["-o", "json", REQUEST]).copied().collect();
        let text = self.ok(&all)?;
        serde_json::from_str(&text).with_context(|| format!("kubectl get {}", words.join(" ")))
    }

    /// Applies documents, as `kubectl apply -f -` does.
    pub(crate) fn apply(&self, documents: &str) -> Result<()> {
        let said = self.try_apply(documents)?;
        ensure!(said.good, "kubectl apply: {} {}", said.stdout.trim(), said.stderr.trim());
        Ok(())
    }

    /// The same, also when the API server refuses them.
    pub(crate) fn try_apply(&self, documents: &str) -> Result<Said> {
        let mut child = self
            .command(&["apply", "-f", "-", REQUEST])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("could not start kubectl")?;
        let mut stdin = child.stdin.take().context("a pipe was asked for")?;
        stdin.write_all(documents.as_bytes()).context("kubectl does not read")?;
        drop(stdin);
        let output = child.wait_with_output()?;
        Ok(Said {
            good: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Deletes documents and waits for their end.
    pub(crate) fn delete(&self, words: &[&str]) -> Result<()> {
        let all: Vec<_> = ["delete", "--ignore-not-found", "--timeout=120s"]
            .iter()
            .chain(words)
            .copied()
            .collect();
        self.ok(&all).map(drop)
    }

    /// Waits until the rollout of a workload (`deployment/web`) is complete.
    pub(crate) fn rolled_out(&self, namespace: &str, workload: &str) -> Result<()> {
        self.ok(&["-n", namespace, "rollout", "status", workload, "--timeout=180s"]).map(drop)
    }

    /// Runs a program in a pod.
    pub(crate) fn exec(&self, namespace: &str, pod: &str, words: &[&str]) -> Result<Said> {
        let all: Vec<_> =
            ["-n", namespace, "exec", pod, "--"].iter().chain(words).copied().collect();
        self.try_run(&all)
    }

    /// Starts a program in a pod; it ends when the pipe to its standard input is closed.
    pub(crate) fn exec_held(&self, namespace: &str, pod: &str, words: &[&str]) -> Result<Child> {
        let all: Vec<_> =
            ["-n", namespace, "exec", "-i", pod, "--"].iter().chain(words).copied().collect();
        self.command(&all)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("could not start kubectl exec")
    }

    /// The last line that a pod printed, as JSON.
    pub(crate) fn last_line(&self, namespace: &str, pod: &str) -> Result<Value> {
        let text = self.ok(&["-n", namespace, "logs", pod, "--tail=1", REQUEST])?;
        serde_json::from_str(text.trim()).with_context(|| format!("{namespace}/{pod}: {text:?}"))
    }
}
