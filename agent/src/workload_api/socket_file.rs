//! [`SocketFile`]: the socket file, put in place whole and taken away again.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// Everybody may connect; who it is decides what he gets.
const SOCKET_MODE: u32 = 0o666;
/// Only the agent puts sockets there.
const DIRECTORY_MODE: u32 = 0o755;
/// Bits by which others than the owner could put a socket of their own in our socket's place.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Why the Workload API has no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The path has no directory or no name.
    #[error(
        "`workloadApi.socket` {0} is no path of a socket; use one such as \
             /run/culvert-workload/api.sock"
    )]
    NoSocketPath(PathBuf),
    /// The directory cannot be made.
    #[error("cannot make directory {path} for the Workload API; the agent must run as root")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Others may write into the directory, and so could put their own socket there.
    #[error(
        "directory {path} of the Workload API may be written by others than its owner; \
             `chmod 755` it, or name another in `workloadApi.socket`"
    )]
    Writable {
        /// The directory.
        path: PathBuf,
    },
    /// Something that is no socket has the name.
    #[error("{path} is there and is no socket; remove it, or set another `workloadApi.socket`")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The socket cannot be made.
    #[error("cannot make the Workload API's socket {path}; look at the directory's rights")]
    Bind {
        /// The path.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// A socket that is in place; dropping it takes it away.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    /// Listens at `path`, in place of the socket of an agent before this one.
    ///
    /// The new socket is made under another name and renamed: there is no moment without one, and
    /// none at which it has other rights.
    pub(super) fn bind(path: &Path) -> Result<(UnixListener, Self), SocketError> {
        let no_path = || SocketError::NoSocketPath(path.to_owned());
        let directory = path.parent().filter(|p| p.is_absolute()).ok_or_else(no_path)?;
        let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(no_path)?;
        prepare(directory)?;
        let is_free = match fs::symlink_metadata(path) {
            Ok(there) => there.file_type().is_socket(),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        if !is_free {
            return Err(SocketError::NotASocket { path: path.to_owned() });
        }
        // No longer than the configuration leaves room for.
        let fresh = directory.join(format!("{name}.new"));
        let bind = || {
            // Left by an agent that was killed in between.
            match fs::remove_file(&fresh) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            let listener = UnixListener::bind(&fresh)?;
            fs::set_permissions(&fresh, Permissions::from_mode(SOCKET_MODE))?;
            let own = fs::symlink_metadata(&fresh)?;
            fs::rename(&fresh, path)?;
            Ok((listener, Self { path: path.to_owned(), device: own.dev(), inode: own.ino() }))
        };
        bind().map_err(|source| {
            let _ = fs::remove_file(&fresh); // reason: it may never have been made
            SocketError::Bind { path: path.to_owned(), source }
        })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the path still leads here, and not to the socket of the next agent.
    fn is_in_place(&self) -> bool {
        fs::symlink_metadata(&self.path)
            .is_ok_and(|there| (there.dev(), there.ino()) == (self.device, self.inode))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_in_place()
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(socket = %self.path.display(), %error, "socket not removed");
        }
    }
}

fn prepare(directory: &Path) -> Result<(), SocketError> {
    let failed = |source| SocketError::Directory { path: directory.to_owned(), source };
    if !directory.exists() {
        DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(directory).map_err(failed)?;
        // The mode above went through the umask.
        fs::set_permissions(directory, Permissions::from_mode(DIRECTORY_MODE)).map_err(failed)?;
    }
    let mode = fs::metadata(directory).map_err(failed)?.permissions().mode();
    if mode & WRITABLE_BY_OTHERS != 0 {
        return Err(SocketError::Writable { path: directory.to_owned() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn socket_has_its_rights_and_goes_with_its_owner() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("made/api.sock");
        let (_listener, file) = SocketFile::bind(&path).unwrap();
        assert_eq!(mode(&path), 0o666);
        assert_eq!(mode(path.parent().unwrap()), 0o755);
        tokio::net::UnixStream::connect(&path).await.unwrap();
        drop(file);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn stale_socket_is_replaced_and_the_next_ones_is_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("api.sock");
        let (killed, stale) = SocketFile::bind(&path).unwrap();
        std::mem::forget(stale);
        drop(killed);
        let (_old, first) = SocketFile::bind(&path).unwrap();
        let (_new, second) = SocketFile::bind(&path).unwrap();
        drop(first);
        tokio::net::UnixStream::connect(&path).await.expect("the next agent's is still there");
        drop(second);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn file_link_and_open_directory_are_not_replaced() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("api.sock");
        fs::write(&path, "precious").unwrap();
        let error = SocketFile::bind(&path).unwrap_err();
        assert!(matches!(error, SocketError::NotASocket { .. }), "{error:?}");
        let link = temp.path().join("link.sock");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(SocketFile::bind(&link), Err(SocketError::NotASocket { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");

        let open = temp.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
        let error = SocketFile::bind(&open.join("api.sock")).unwrap_err();
        assert!(matches!(error, SocketError::Writable { .. }), "{error:?}");
        assert!(matches!(
            SocketFile::bind(Path::new("api.sock")),
            Err(SocketError::NoSocketPath(_))
        ));
    }
}
