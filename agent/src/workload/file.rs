//! The mesh from two files, watched: an edit takes effect at once, a bad one does nothing but say
//! so.

mod located;
pub mod policies;
#[cfg(test)]
mod tests;
mod watcher;
pub mod workloads;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use culvert_spiffe::TrustDomain;
use prometheus::{IntCounterVec, IntGauge};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::report::PolicyReport;
use super::snapshot::{Snapshot, SnapshotError};
use crate::config::{Config, YamlError};
use crate::observe::{Metrics, RegisterError};
use policies::{PolicyFile, PolicyNews};
use watcher::Watcher;

/// The most a file may hold: some hundred thousand workloads.
const MOST_BYTES: u64 = 64 << 20;

/// Which files say what the mesh is, and what must be known to read them.
#[derive(Clone, Debug)]
pub struct Files {
    /// The workloads file.
    pub workloads: PathBuf,
    /// The policies file, if there is one.
    pub policies: Option<PathBuf>,
    /// Trust domain of every identity in them.
    pub trust_domain: TrustDomain,
    /// The namespace whose policies hold for the mesh.
    pub root_namespace: String,
    /// The node that this agent is for.
    pub node: String,
}

impl Files {
    /// As the configuration has them, unless a cluster stands in their place.
    pub fn of(config: &Config) -> Option<Self> {
        Some(Self {
            workloads: config.workloads.clone()?,
            policies: config.policies.clone(),
            trust_domain: config.trust_domain.clone(),
            root_namespace: config.mesh.root_namespace.clone(),
            node: config.node.clone(),
        })
    }
}

/// Why the files do not say what the mesh is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// A file could not be read.
    #[error("cannot read {path}; make it a readable file or name another in agent.yaml")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file is larger than any mesh.
    #[error("{path} has {bytes} bytes; the most allowed is {MOST_BYTES}")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// A file says something that cannot be.
    #[error(transparent)]
    Invalid(#[from] YamlError),
    /// Entries contradict each other.
    #[error("{path}: contradictory entries")]
    Contradiction {
        /// The file.
        path: PathBuf,
        /// Which entries.
        #[source]
        source: SnapshotError,
    },
    /// The metrics' names were taken.
    #[error(transparent)]
    Metrics(#[from] RegisterError),
}

/// What stood in the files.
#[derive(Clone, PartialEq, Eq)]
struct Texts {
    workloads: String,
    policies: Option<String>,
}

/// Publishes the mesh as the files have it.
///
/// `open` reads them once and fails if they are wrong; [`Source::watch`] then follows them and
/// never fails: while they are wrong, the last good snapshot stays.
pub struct Source {
    files: Files,
    publish: watch::Sender<Arc<Snapshot>>,
    // What was tried last, good or bad, so that one bad edit is reported once.
    last: Result<Texts, String>,
    reloads: IntCounterVec,
    entries: IntGauge,
    report: PolicyReport,
}

impl Source {
    /// Reads both files. The receiver holds the first snapshot, of generation 1.
    ///
    /// # Errors
    ///
    /// [`FileError`] when a file cannot be read or is wrong.
    pub fn open(
        files: Files,
        metrics: &Metrics,
    ) -> Result<(Self, watch::Receiver<Arc<Snapshot>>), FileError> {
        let reloads = metrics.counters(
            "culvert_workload_reload_total",
            "Edits of the workloads and policies files, by what came of them.",
            &["result"],
        )?;
        let entries = metrics.gauge("culvert_workload_entries", "Workloads in force.")?;
        for result in ["ok", "refused"] {
            reloads.with_label_values(&[result]);
        }
        let texts = files.read()?;
        let mut report = PolicyReport::register(metrics)?;
        let (snapshot, PolicyNews { documents, findings }) = files.parse(&texts, 1)?;
        report.tell(documents, &findings);
        entries.set(count(&snapshot));
        let (publish, receiver) = watch::channel(Arc::new(snapshot));
        Ok((Self { files, publish, last: Ok(texts), reloads, entries, report }, receiver))
    }

    /// Follows the files until `stop` is cancelled.
    ///
    /// Notices a file written in place, replaced by a rename, or reached through a link that is
    /// swapped, as a mounted `ConfigMap` is. Cancel safe: dropped, it only stops following.
    pub async fn watch(mut self, stop: CancellationToken) {
        let paths = std::iter::once(&self.files.workloads).chain(&self.files.policies);
        let mut watcher = Watcher::new(paths.map(PathBuf::as_path));
        loop {
            // First, not after the first change: an edit since `open` is not to be missed.
            self.reload();
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = watcher.changed() => {}
            }
        }
    }

    /// Reads the files again and publishes what is new in them.
    fn reload(&mut self) {
        let texts = match self.files.read() {
            Ok(texts) => texts,
            Err(error) => return self.refuse(&error),
        };
        if self.last.as_ref() == Ok(&texts) {
            return;
        }
        let generation = self.publish.borrow().generation + 1;
        match self.files.parse(&texts, generation) {
            Ok((snapshot, PolicyNews { documents, findings })) => {
                self.report.tell(documents, &findings);
                let mended = std::mem::replace(&mut self.last, Ok(texts)).is_err();
                self.reloads.with_label_values(&["ok"]).inc();
                self.entries.set(count(&snapshot));
                let workloads = snapshot.workloads().len();
                let policies = snapshot.policies().len();
                let snapshot = Arc::new(snapshot);
                let changed = self.publish.send_if_modified(|current| {
                    let changed = !current.same_content(&snapshot);
                    if changed {
                        *current = snapshot;
                    }
                    changed
                });
                if changed {
                    tracing::info!(generation, workloads, policies, "mesh changed");
                } else if mended {
                    tracing::info!("files are good again and say what is in force");
                }
            }
            Err(error) => self.refuse(&error),
        }
    }

    fn refuse(&mut self, error: &FileError) {
        let mut text = error.to_string();
        if let Some(source) = std::error::Error::source(error) {
            text = format!("{text}: {source}");
        }
        if self.last.as_ref().err() == Some(&text) {
            return;
        }
        self.reloads.with_label_values(&["refused"]).inc();
        let generation = self.publish.borrow().generation;
        tracing::error!(error = text, generation, "edit refused; the last good state stays");
        self.last = Err(text);
    }
}

impl Files {
    fn read(&self) -> Result<Texts, FileError> {
        Ok(Texts {
            workloads: read(&self.workloads)?,
            policies: self.policies.as_deref().map(read).transpose()?,
        })
    }

    fn parse(&self, texts: &Texts, generation: u64) -> Result<(Snapshot, PolicyNews), FileError> {
        let workloads =
            workloads::parse(&self.workloads, &texts.workloads, &self.trust_domain, &self.node)?;
        let PolicyFile { policies, news } = match (&self.policies, &texts.policies) {
            (Some(path), Some(text)) => policies::parse(path, text, &self.root_namespace)?,
            _ => PolicyFile::default(),
        };
        let snapshot = Snapshot::new(
            generation,
            self.trust_domain.clone(),
            &self.root_namespace,
            workloads,
            policies.with_findings(news.findings.clone()),
        )
        .map_err(|source| FileError::Contradiction { path: self.workloads.clone(), source })?;
        Ok((snapshot, news))
    }
}

fn count(snapshot: &Snapshot) -> i64 {
    i64::try_from(snapshot.workloads().len()).unwrap_or(i64::MAX)
}

fn read(path: &Path) -> Result<String, FileError> {
    let refuse = |source| FileError::Read { path: path.to_owned(), source };
    let bytes = std::fs::metadata(path).map_err(refuse)?.len();
    if bytes > MOST_BYTES {
        return Err(FileError::TooLarge { path: path.to_owned(), bytes });
    }
    std::fs::read_to_string(path).map_err(refuse)
}
