//! [`Store`]: where the authority keeps what must outlive it. A few small documents, each replaced
//! whole, and only by who has seen the one that it replaces.
//!
//! ```text
//!  read ──▶ bytes, version ──▶ (decide) ──▶ swap(version, new bytes) ──▶ Done │ Conflict: read again
//! ```
//!
//! A directory is one; a Kubernetes Secret with its `resourceVersion` fits the same interface. All
//! replicas of an authority share one store, and agree by it.

use std::path::PathBuf;
use std::pin::Pin;

use zeroize::Zeroizing;

use crate::directory::DirectoryError;
use crate::kubernetes::KubernetesError;

mod directory;

pub use directory::{DirectoryStore, ROOT_CERTIFICATES_FILE};

/// What an operation of a store answers with. Dropping it leaves a document old or new, never half.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Tells one content of a document from another. Opaque outside the store that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version(String);

impl Version {
    /// A version by the store's own account.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The store's own account.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A document as it was read.
#[derive(Debug)]
pub struct Document {
    /// Its content; may hold keys, so it is overwritten when dropped.
    pub bytes: Zeroizing<Vec<u8>>,
    /// Which content this is.
    pub version: Version,
}

/// How a replacement ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Swap {
    /// In place, and durable.
    Done(Version),
    /// Somebody else was first; nothing was written.
    Conflict,
}

/// Keeps named documents. Safe for several processes at once.
pub trait Store: Send + Sync + 'static {
    /// Reads a document; `None` when there is none.
    ///
    /// # Errors
    /// The store cannot be reached or read.
    fn read<'a>(&'a self, name: &'static str) -> StoreFuture<'a, Option<Document>>;

    /// Puts `bytes` in place of the content `seen`; of no document, when that is `None`.
    ///
    /// # Errors
    /// The store cannot be reached or written. The document may be old or new then, never half.
    fn swap<'a>(
        &'a self,
        name: &'static str,
        seen: Option<&'a Version>,
        bytes: &'a [u8],
    ) -> StoreFuture<'a, Swap>;

    /// The public root certificates as they were last published (PEM), if ever.
    ///
    /// # Errors
    /// As [`Store::read`].
    fn published(&self) -> StoreFuture<'_, Option<Vec<u8>>>;

    /// Publishes root certificates (PEM) to where nodes and people take them from.
    ///
    /// # Errors
    /// As [`Store::swap`].
    fn publish<'a>(&'a self, roots: &'a [u8]) -> StoreFuture<'a, ()>;
}

/// Why a store did not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A file could not be read or written.
    #[error("cannot use the authority's directory")]
    Directory(#[from] DirectoryError),
    /// The lock between processes could not be had.
    #[error("cannot lock {path}; is the disk one that several machines share without locks?")]
    Lock {
        /// The lock's file.
        path: PathBuf,
        /// The system's account.
        #[source]
        source: std::io::Error,
    },
    /// The API server did not do it.
    #[error("cannot use the authority's objects in the cluster")]
    Kubernetes(#[from] KubernetesError),
    /// There is a Secret of that name which is not ours.
    #[error(
        "Secret {secret} is there and is not the authority's; give it another name, or remove it"
    )]
    ForeignSecret {
        /// Its name.
        secret: String,
    },
    /// The API server told no version.
    #[error("API server tells no resourceVersion of a Secret; nothing can be compared by it")]
    NoVersion,
    /// The process is stopping.
    #[error("work on the store was cut off; the authority is stopping")]
    Stopping,
}
