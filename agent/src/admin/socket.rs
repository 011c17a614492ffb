//! The socket itself: made whole under another name, then put in its place.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

use super::error::AdminError;

/// A listening socket, and the file that leads to it. The file goes with it, unless another agent
/// has put its own in the place meanwhile.
pub(crate) struct Socket {
    pub(crate) listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl Socket {
    /// Listens at `path`, mode 0600; `setting` is what names that path in the configuration. An
    /// agent that listens there already keeps its connections
    /// and gets no new ones, as for an agent that hands over to the next.
    pub(crate) fn bind(path: &Path, setting: &'static str) -> Result<Self, AdminError> {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(directory) = directory {
            DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(|source| {
                let path = directory.to_owned();
                AdminError::Directory { path, setting, source }
            })?;
        }
        if fs::symlink_metadata(path).is_ok_and(|found| !found.file_type().is_socket()) {
            return Err(AdminError::NotASocket { path: path.to_owned(), setting });
        }
        let listen = || -> io::Result<Self> {
            // Never reachable under its own name with another mode, nor absent for a moment.
            let mut early = path.as_os_str().to_owned();
            early.push(".new");
            let early = PathBuf::from(early);
            match fs::remove_file(&early) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            let listener = UnixListener::bind(&early)?;
            fs::set_permissions(&early, Permissions::from_mode(0o600))?;
            let inode = fs::symlink_metadata(&early)?.ino();
            fs::rename(&early, path)?;
            Ok(Self { listener, path: path.to_owned(), inode })
        };
        listen().map_err(|source| AdminError::Listen { path: path.to_owned(), setting, source })
    }

    /// Whether the file still leads here: no other agent has put its own in the place.
    pub(crate) fn is_ours(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.is_ours() {
            // A file that stays is in nobody's way: the next agent replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}
