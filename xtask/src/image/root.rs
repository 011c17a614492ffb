//! The files of an image, gathered before they are written.

use super::archive::{Archive, Kind};
use super::{elf, libraries};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

enum Entry {
    Directory,
    File(Vec<u8>),
    Link(String),
}

/// The root of an image. Paths are relative to it and without a slash at either end; folders on
/// the way to a file are made by themselves.
#[derive(Default)]
pub(crate) struct Root {
    entries: BTreeMap<String, (u32, Entry)>,
}

impl Root {
    /// Adds a file with these contents.
    pub(crate) fn file(&mut self, path: &str, mode: u32, contents: impl Into<Vec<u8>>) {
        self.put(path, mode, Entry::File(contents.into()));
    }

    /// Adds an empty folder.
    pub(crate) fn directory(&mut self, path: &str, mode: u32) {
        self.put(path, mode, Entry::Directory);
    }

    /// Adds a symbolic link.
    pub(crate) fn link(&mut self, path: &str, target: &str) {
        self.put(path, 0o777, Entry::Link(target.to_owned()));
    }

    /// Adds a copy of a file of this machine.
    pub(crate) fn copy(&mut self, path: &str, mode: u32, source: &Path) -> Result<()> {
        let contents =
            fs::read(source).with_context(|| format!("could not read {}", source.display()))?;
        self.file(path, mode, contents);
        Ok(())
    }

    /// Adds a program of this machine and, if it loads any, its libraries at the places where the
    /// loader looks for them.
    pub(crate) fn program(&mut self, path: &str, source: &Path) -> Result<()> {
        if !elf::inspect(source)?.is_static() {
            for library in libraries::of(source)? {
                let place = library.to_string_lossy().trim_start_matches('/').to_owned();
                self.copy(&place, 0o755, &library)?;
            }
        }
        self.copy(path, 0o755, source)
    }

    /// The whole as a layer: an uncompressed tar, sorted by path.
    pub(super) fn layer(&self) -> Result<Vec<u8>> {
        let mut archive = Archive::default();
        for (path, (mode, entry)) in &self.entries {
            let kind = match entry {
                Entry::Directory => Kind::Directory,
                Entry::File(contents) => Kind::File(contents),
                Entry::Link(target) => Kind::Link(target),
            };
            archive.add(path, *mode, &kind)?;
        }
        Ok(archive.finish())
    }

    fn put(&mut self, path: &str, mode: u32, entry: Entry) {
        for (at, _) in path.match_indices('/') {
            let parent = path[..at].to_owned();
            self.entries.entry(parent).or_insert((0o755, Entry::Directory));
        }
        self.entries.insert(path.to_owned(), (mode, entry));
    }
}
