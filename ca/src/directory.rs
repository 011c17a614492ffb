//! [`Directory`]: where the authority keeps its keys. Every file is written whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// A directory of small files, mode 0700, with atomic and durable replacement.
#[derive(Clone, Debug)]
pub struct Directory {
    path: PathBuf,
}

/// Why a file of the directory could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}; the authority needs a directory of its own that it may write")]
pub struct DirectoryError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Who may read a file besides its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// Nobody: it holds a key (0600).
    Secret,
    /// Everybody: it is public (0644).
    Public,
}

impl Directory {
    /// Opens the directory, making it (0700) when it is absent.
    pub fn open(path: &Path) -> Result<Self, DirectoryError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|source| failed("make directory", path, source))?;
        Ok(Self { path: path.to_owned() })
    }

    /// Path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Reads a file; `None` when there is none. The bytes are overwritten when dropped.
    pub fn read(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, DirectoryError> {
        let path = self.file(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(Zeroizing::new(bytes))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(failed("read", &path, source)),
        }
    }

    /// Puts a file in place of whatever had its name.
    pub fn replace(
        &self,
        name: &str,
        bytes: &[u8],
        visibility: Visibility,
    ) -> Result<(), DirectoryError> {
        let fresh = self.write_aside(name, bytes, visibility)?;
        let path = self.file(name);
        fs::rename(&fresh, &path).map_err(|source| failed("put in place", &path, source))?;
        self.sync()
    }

    /// Makes a file unless there is one already; says whether it did. Of several processes that
    /// try at once, one wins.
    pub fn create(
        &self,
        name: &str,
        bytes: &[u8],
        visibility: Visibility,
    ) -> Result<bool, DirectoryError> {
        let fresh = self.write_aside(name, bytes, visibility)?;
        let path = self.file(name);
        let linked = fs::hard_link(&fresh, &path);
        fs::remove_file(&fresh).map_err(|source| failed("remove", &fresh, source))?;
        match linked {
            Ok(()) => self.sync().map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(source) => Err(failed("make", &path, source)),
        }
    }

    /// Removes what writers of `name` that died halfway left aside: it may hold keys. Only for who
    /// keeps all other writers of that name away.
    pub(crate) fn sweep(&self, name: &str) -> Result<(), DirectoryError> {
        let list = || -> io::Result<Vec<PathBuf>> {
            let prefix = format!(".{name}.");
            let mut left = Vec::new();
            for entry in fs::read_dir(&self.path)? {
                let entry = entry?;
                if entry.file_name().to_str().is_some_and(|found| found.starts_with(&prefix)) {
                    left.push(entry.path());
                }
            }
            Ok(left)
        };
        for path in list().map_err(|source| failed("list", &self.path, source))? {
            fs::remove_file(&path).map_err(|source| failed("remove", &path, source))?;
        }
        Ok(())
    }

    fn write_aside(
        &self,
        name: &str,
        bytes: &[u8],
        visibility: Visibility,
    ) -> Result<PathBuf, DirectoryError> {
        let path =
            self.file(&format!(".{name}.{}.{:016x}", std::process::id(), rand::random::<u64>()));
        let mode = match visibility {
            Visibility::Secret => 0o600,
            Visibility::Public => 0o644,
        };
        let write = || {
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write().map_err(|source| failed("write", &path, source))?;
        Ok(path)
    }

    /// Makes the names durable, as `sync_all` did the bytes.
    fn sync(&self) -> Result<(), DirectoryError> {
        File::open(&self.path)
            .and_then(|directory| directory.sync_all())
            .map_err(|source| failed("sync", &self.path, source))
    }
}

/// Writes a file outside the directory whole or not at all, for its owner only.
pub(crate) fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), DirectoryError> {
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| {
        failed("write", path, io::Error::new(io::ErrorKind::InvalidInput, "no file name in it"))
    })?;
    Directory { path: parent.to_owned() }.replace(name, bytes, Visibility::Secret)
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> DirectoryError {
    DirectoryError { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn files_are_whole_and_private() {
        let temp = tempfile::tempdir().unwrap();
        let directory = Directory::open(&temp.path().join("ca")).unwrap();
        assert_eq!(mode(&temp.path().join("ca")), 0o700);
        assert!(directory.read("key").unwrap().is_none());
        directory.replace("key", b"one", Visibility::Secret).unwrap();
        directory.replace("key", b"two", Visibility::Secret).unwrap();
        assert_eq!(directory.read("key").unwrap().unwrap().as_slice(), b"two");
        assert_eq!(mode(&directory.file("key")), 0o600);
        directory.replace("root", b"pem", Visibility::Public).unwrap();
        assert_eq!(mode(&directory.file("root")), 0o644);
        assert_eq!(
            fs::read_dir(temp.path().join("ca")).unwrap().count(),
            2,
            "nothing is left over"
        );
    }

    #[test]
    fn first_creation_wins() {
        let temp = tempfile::tempdir().unwrap();
        let directory = Directory::open(temp.path()).unwrap();
        assert!(directory.create("key", b"one", Visibility::Secret).unwrap());
        assert!(!directory.create("key", b"two", Visibility::Secret).unwrap());
        assert_eq!(directory.read("key").unwrap().unwrap().as_slice(), b"one");
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1, "nothing is left over");
    }
}
