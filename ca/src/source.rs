//! [`Cacerts`]: a CA that the operator plugs in, in the layout of Istio's `cacerts` secret or of a
//! `kubernetes.io/tls` one.
//!
//! | Istio | TLS secret | holds |
//! |---|---|---|
//! | `ca-cert.pem` | `tls.crt` | the certificate that signs (in `tls.crt`: and those above it) |
//! | `ca-key.pem` | `tls.key` | its key |
//! | `root-cert.pem` | `ca.crt` | the roots |
//! | `cert-chain.pem` | – | certificates between it and a root; may be absent when there are none |
//!
//! Looked at each second. A set is taken whole, once everything about it holds, or not at all.

use std::path::{Path, PathBuf};

use culvert_spiffe::TrustDomain;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::rotation::{self, Change, Made};
use crate::state::{Issuing, KeyPem, Origin, Phase, State};

mod check;
mod error;

pub use error::SourceError;

/// Most bytes of a file; a real one has a few thousand.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// Seconds after which a refused set is looked at again though no byte of it changed: its time may
/// have come.
const AGAIN_AFTER: i64 = 60;

/// File names of one layout.
struct Layout {
    certificate: &'static str,
    key: &'static str,
    roots: &'static str,
    chain: Option<&'static str>,
}

const ISTIO: Layout = Layout {
    certificate: "ca-cert.pem",
    key: "ca-key.pem",
    roots: "root-cert.pem",
    chain: Some("cert-chain.pem"),
};
const TLS: Layout = Layout { certificate: "tls.crt", key: "tls.key", roots: "ca.crt", chain: None };

/// Follows the operator's files.
#[derive(Debug)]
pub(crate) struct Cacerts {
    directory: PathBuf,
    seen: Option<Seen>,
}

#[derive(Debug)]
struct Seen {
    hash: Vec<u8>,
    refused_at: Option<i64>,
}

/// A set of files that holds.
#[derive(Clone, Debug)]
pub(crate) struct Plugged {
    /// Roots, PEM.
    anchors: Vec<String>,
    /// The certificate that signs, PEM.
    certificate: String,
    /// What is presented after a leaf, PEM.
    chain: Vec<String>,
    key: KeyPem,
}

/// The bytes of one set.
struct Files {
    layout: &'static Layout,
    directory: PathBuf,
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
    roots: Vec<u8>,
    chain: Vec<u8>,
}

impl Cacerts {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory, seen: None }
    }

    /// Reads the files; `None` when they are the ones seen before.
    ///
    /// Not cancel safe: a change seen by a look that is dropped may not be seen by the next.
    pub(crate) async fn look(
        &mut self,
        domain: &TrustDomain,
        largest_ttl: i64,
        now: OffsetDateTime,
    ) -> Result<Option<Plugged>, SourceError> {
        let directory = self.directory.clone();
        let files = tokio::task::spawn_blocking(move || Files::read(&directory))
            .await
            .unwrap_or(Err(SourceError::Stopping));
        let hash = match &files {
            Ok(files) => files.hash(),
            // What cannot be read has no content; its text tells one such fault from another.
            Err(error) => error.to_string().into_bytes(),
        };
        let seconds = now.unix_timestamp();
        if let Some(seen) = &self.seen
            && seen.hash == hash
            && seen.refused_at.is_none_or(|at| (at..at + AGAIN_AFTER).contains(&seconds))
        {
            return Ok(None);
        }
        let checked = files.and_then(|files| check::check(&files, domain, largest_ttl, now));
        self.seen = Some(Seen { hash, refused_at: checked.is_err().then_some(seconds) });
        checked.map(Some)
    }
}

impl Files {
    fn read(directory: &Path) -> Result<Self, SourceError> {
        let layout = [&ISTIO, &TLS]
            .into_iter()
            .find(|layout| directory.join(layout.certificate).exists())
            .ok_or_else(|| SourceError::Empty { directory: directory.to_owned() })?;
        let chain = layout.chain.map(|name| directory.join(name)).filter(|path| path.exists());
        Ok(Self {
            layout,
            directory: directory.to_owned(),
            certificate: read(&directory.join(layout.certificate))?,
            key: Zeroizing::new(read(&directory.join(layout.key))?),
            roots: read(&directory.join(layout.roots))?,
            chain: chain.map(|path| read(&path)).transpose()?.unwrap_or_default(),
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Where certificates between signer and root are looked for.
    fn chain_path(&self) -> PathBuf {
        self.path(self.layout.chain.unwrap_or(self.layout.certificate))
    }

    fn hash(&self) -> Vec<u8> {
        let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        for part in [&self.certificate, &*self.key, &self.roots, &self.chain] {
            context.update(&part.len().to_be_bytes());
            context.update(part);
        }
        context.finish().as_ref().to_vec()
    }
}

fn read(file: &Path) -> Result<Vec<u8>, SourceError> {
    let fail = |source| SourceError::File { file: file.to_owned(), source };
    if std::fs::metadata(file).map_err(fail)?.len() > MAX_FILE_BYTES {
        return Err(SourceError::TooLarge { file: file.to_owned() });
    }
    std::fs::read(file).map_err(fail)
}

impl Plugged {
    /// The first generation of a new authority.
    pub(crate) fn into_first(self) -> Made {
        self.made(1)
    }

    fn made(&self, number: u64) -> Made {
        Made {
            origin: Origin::Plugged,
            anchors: self.anchors.clone(),
            key: None,
            issuing: Some(self.issuing(number)),
        }
    }

    fn issuing(&self, number: u64) -> Issuing {
        Issuing {
            number,
            certificate: self.certificate.clone(),
            chain: self.chain.clone(),
            key: self.key.clone(),
        }
    }

    /// The state that takes this set in; `None` when it has it already.
    ///
    /// With the same roots the next certificate is signed by it. With other roots it waits, beside
    /// the set in use, until every agent knows them: as any other root.
    pub(crate) fn adopt(&self, mut state: State, now: i64) -> Option<State> {
        let active = state.active()?;
        let prepared = state.in_phase(Phase::Prepared);
        if prepared.is_some_and(|one| self.is(one)) {
            return None;
        }
        let in_use = self.is(active);
        let same_roots = active.origin == Origin::Plugged && self.has_roots_of(&active.anchors);
        if in_use && prepared.is_none() {
            return None;
        }
        if let Some(prepared) = prepared.map(|one| one.number) {
            // Replaced before it ever signed.
            state = rotation::apply(state, Change::Removed(prepared), now);
        }
        let number = state.last_issuing + 1;
        if in_use {
            return Some(state);
        }
        let change = if same_roots {
            Change::Reissued(self.issuing(number))
        } else {
            Change::Prepared(self.made(number))
        };
        Some(rotation::apply(state, change, now))
    }

    fn is(&self, generation: &crate::state::Generation) -> bool {
        generation.origin == Origin::Plugged
            && self.has_roots_of(&generation.anchors)
            && generation.issuing.as_ref().is_some_and(|issuing| {
                issuing.certificate == self.certificate
                    && issuing.chain == self.chain
                    && issuing.key == self.key
            })
    }

    fn has_roots_of(&self, anchors: &[String]) -> bool {
        self.anchors.len() == anchors.len()
            && anchors.iter().all(|anchor| self.anchors.contains(anchor))
    }
}

#[cfg(test)]
mod tests;
