//! [`DirectoryStore`]: documents as files, for one machine or a shared disk that has locks.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;

use zeroize::Zeroizing;

use super::{Document, Store, StoreError, StoreFuture, Swap, Version};
use crate::directory::{Directory, Visibility};

/// The root certificates alone, for agents and people.
pub const ROOT_CERTIFICATES_FILE: &str = "root-cert.pem";
/// Held, by `flock`, while a document is compared and replaced. Never removed: a lock on a file
/// that has another name by now guards nothing.
const LOCK_FILE: &str = ".lock";

/// A directory (0700) with a file for each document (0600), `<name>.json`. A file is written aside,
/// synced, renamed, and the directory synced; its version is the hash of its content.
#[derive(Clone, Debug)]
pub struct DirectoryStore {
    directory: Directory,
}

impl DirectoryStore {
    /// A store in `directory`.
    pub fn new(directory: Directory) -> Self {
        Self { directory }
    }

    /// Runs `work` where it may block. Not cut off when the caller goes away.
    fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Directory) -> Result<T, StoreError> + Send + 'static,
    ) -> StoreFuture<'_, T> {
        let directory = self.directory.clone();
        Box::pin(async move {
            tokio::task::spawn_blocking(move || work(&directory))
                .await
                .unwrap_or(Err(StoreError::Stopping))
        })
    }
}

impl Store for DirectoryStore {
    fn read<'a>(&'a self, name: &'static str) -> StoreFuture<'a, Option<Document>> {
        self.blocking(move |directory| {
            Ok(directory.read(&file(name))?.map(|bytes| Document { version: hash(&bytes), bytes }))
        })
    }

    fn swap<'a>(
        &'a self,
        name: &'static str,
        seen: Option<&'a Version>,
        bytes: &'a [u8],
    ) -> StoreFuture<'a, Swap> {
        let seen = seen.cloned();
        let bytes = Zeroizing::new(bytes.to_vec());
        self.blocking(move |directory| {
            let _lock = lock(directory)?;
            let found = directory.read(&file(name))?.map(|bytes| hash(&bytes));
            if found != seen {
                return Ok(Swap::Conflict);
            }
            directory.sweep(&file(name))?;
            directory.replace(&file(name), &bytes, Visibility::Secret)?;
            Ok(Swap::Done(hash(&bytes)))
        })
    }

    fn published(&self) -> StoreFuture<'_, Option<Vec<u8>>> {
        self.blocking(|directory| {
            Ok(directory.read(ROOT_CERTIFICATES_FILE)?.map(|bytes| bytes.to_vec()))
        })
    }

    fn publish<'a>(&'a self, roots: &'a [u8]) -> StoreFuture<'a, ()> {
        let roots = roots.to_vec();
        self.blocking(move |directory| {
            Ok(directory.replace(ROOT_CERTIFICATES_FILE, &roots, Visibility::Public)?)
        })
    }
}

fn file(name: &str) -> String {
    format!("{name}.json")
}

fn hash(bytes: &[u8]) -> Version {
    use std::fmt::Write as _;

    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    Version::new(digest.as_ref().iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

/// The lock; given back when dropped, by the kernel too when the process dies.
fn lock(directory: &Directory) -> Result<std::fs::File, StoreError> {
    let path = directory.file(LOCK_FILE);
    let take = || {
        let file =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path)?;
        file.lock()?;
        Ok(file)
    };
    take().map_err(|source| StoreError::Lock { path: path.clone(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::Arc;

    use tokio::task::JoinSet;

    use super::*;

    fn store(temp: &tempfile::TempDir) -> DirectoryStore {
        DirectoryStore::new(Directory::open(temp.path()).unwrap())
    }

    #[tokio::test]
    async fn document_is_replaced_only_by_who_has_seen_it() {
        let temp = tempfile::tempdir().unwrap();
        let store = store(&temp);
        assert!(store.read("state").await.unwrap().is_none());
        let Swap::Done(first) = store.swap("state", None, b"one").await.unwrap() else {
            panic!("nobody else is there");
        };
        assert_eq!(store.swap("state", None, b"other").await.unwrap(), Swap::Conflict);
        let Swap::Done(second) = store.swap("state", Some(&first), b"two").await.unwrap() else {
            panic!("it was seen");
        };
        assert_eq!(store.swap("state", Some(&first), b"three").await.unwrap(), Swap::Conflict);
        let read = store.read("state").await.unwrap().unwrap();
        assert_eq!((read.bytes.as_slice(), read.version), (&b"two"[..], second));
        let mode = std::fs::metadata(temp.path().join("state.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[tokio::test]
    async fn keys_that_a_dead_writer_left_aside_are_swept() {
        let temp = tempfile::tempdir().unwrap();
        let store = store(&temp);
        for name in [".state.json.1.0123456789abcdef", ".root-cert.pem.1.0123456789abcdef"] {
            std::fs::write(temp.path().join(name), "half a key").unwrap();
        }
        store.swap("state", None, b"one").await.unwrap();
        let names = std::fs::read_dir(temp.path()).unwrap();
        let mut names: Vec<_> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        // What others write is not its to touch.
        assert_eq!(names, [".lock", ".root-cert.pem.1.0123456789abcdef", "state.json"]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_many_that_count_at_once_none_loses_a_step() {
        let temp = tempfile::tempdir().unwrap();
        let store = Arc::new(store(&temp));
        store.swap("state", None, b"0").await.unwrap();
        let mut writers = JoinSet::new();
        for _ in 0..8 {
            // A store of its own each, as other processes have.
            let store = Arc::new(DirectoryStore::clone(&store));
            writers.spawn(async move {
                for _ in 0..10 {
                    loop {
                        let seen = store.read("state").await.unwrap().unwrap();
                        let count: u32 = std::str::from_utf8(&seen.bytes).unwrap().parse().unwrap();
                        let next = (count + 1).to_string();
                        let swap = store.swap("state", Some(&seen.version), next.as_bytes()).await;
                        if swap.unwrap() != Swap::Conflict {
                            break;
                        }
                    }
                }
            });
        }
        while let Some(ended) = writers.join_next().await {
            ended.unwrap();
        }
        assert_eq!(store.read("state").await.unwrap().unwrap().bytes.as_slice(), b"80");
    }
}
