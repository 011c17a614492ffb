//! Pods that go on talking whatever happens, and what they tell of it.

use super::applications::{self, BANK, ECHO, Pod, SHOP};
use super::subject::Subject;
use anyhow::{Context, Result, ensure};
use culvert_tests::until;
use serde_json::Value;
use std::time::Duration;

/// Longest until a client has told something new.
const NEWS: Duration = Duration::from_secs(30);

/// Two clients, one on each node, that ask the ledger: each round by a new connection, and on
/// connections that they keep.
pub(crate) struct Load<'a> {
    subject: &'a Subject,
    names: [String; 2],
}

/// What clients told, all together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Told {
    /// New connections that got their answer.
    pub(crate) ok: u64,
    /// New connections that did not.
    pub(crate) failed: u64,
    /// Answers on kept connections.
    pub(crate) kept_ok: u64,
    /// Kept connections that broke.
    pub(crate) kept_broken: u64,
    /// The longest that a new connection and its answer took.
    pub(crate) longest_ms: u64,
}

impl<'a> Load<'a> {
    /// Starts them and waits for their first answers. Ends when dropped.
    pub(crate) fn start(subject: &'a Subject, name: &str, kept: usize) -> Result<Self> {
        let address = applications::cluster_address(subject.kubectl(), BANK, "ledger")?;
        let to = format!("{address}:{ECHO}");
        let kept = kept.to_string();
        let words = [
            "culvert-testapp",
            "steady",
            "--to",
            &to,
            "--kept",
            &kept,
            "--every-ms",
            "50",
            "--patience",
            "20",
        ];
        let names = ["a", "b"].map(|end| format!("{name}-{end}"));
        for (name, node) in names.iter().zip(subject.nodes()) {
            let pod = Pod::new(SHOP, name, &words).on(node);
            subject.kubectl().apply(&pod.document(subject.applications_image()))?;
        }
        let load = Self { subject, names };
        for name in &load.names {
            applications::ready(subject.kubectl(), SHOP, &format!("pod/{name}"))?;
        }
        load.news()?;
        Ok(load)
    }

    /// What they told until now.
    pub(crate) fn told(&self) -> Result<Told> {
        let mut told = Told::default();
        for name in &self.names {
            let line = self.subject.kubectl().last_line(SHOP, name)?;
            told.add(&line);
        }
        Ok(told)
    }

    /// Waits until each has had at least twenty more answers to new connections.
    pub(crate) fn news(&self) -> Result<Told> {
        let count = |name: &String| -> Option<u64> {
            self.subject.kubectl().last_line(SHOP, name).ok()?["ok"].as_u64()
        };
        for name in &self.names {
            let before = count(name).unwrap_or_default();
            until("new connections of a client", NEWS, || {
                count(name).filter(|now| *now >= before + 20)
            })?;
        }
        self.told()
    }

    /// Ends them and tells all that they had.
    pub(crate) fn stop(self) -> Result<Told> {
        self.told()
    }

    /// The errors that they met, for a person.
    pub(crate) fn errors(&self) -> Result<String> {
        let mut all = Vec::new();
        for name in &self.names {
            let line = self.subject.kubectl().last_line(SHOP, name)?;
            let errors = line["errors"].as_object().context("the line of a client")?;
            all.extend(errors.iter().map(|(error, count)| format!("{name}: {count} {error}")));
        }
        Ok(all.join(", "))
    }
}

impl Drop for Load<'_> {
    fn drop(&mut self) {
        for name in &self.names {
            let words = ["-n", SHOP, "pod", name, "--wait=false", "--grace-period=1"];
            if let Err(error) = self.subject.kubectl().delete(&words) {
                eprintln!("warning: {error:#}");
            }
        }
    }
}

impl Told {
    fn add(&mut self, line: &Value) {
        let number = |name: &str| line[name].as_u64().unwrap_or_default();
        self.ok += number("ok");
        self.failed += number("failed");
        self.kept_ok += number("kept_ok");
        self.kept_broken += number("kept_broken");
        self.longest_ms = self.longest_ms.max(number("longest_ms"));
    }

    /// Fails if a new connection failed.
    pub(crate) fn whole(self) -> Result<Self> {
        ensure!(self.failed == 0, "{} of {} new connections failed", self.failed, self.ok);
        Ok(self)
    }
}

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { ok, failed, kept_ok, kept_broken, longest_ms } = self;
        write!(
            f,
            "{ok} new connections, {failed} failed, longest {longest_ms} ms; {kept_ok} answers on \
             kept ones, {kept_broken} broken"
        )
    }
}
