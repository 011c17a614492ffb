//! The mark of an agent that leaves this node for good: the plugin lets every pod pass, and takes
//! itself out.
//!
//! ```text
//!  agent: uninstalled ──▶ set ──▶ plugin passes ──▶ install --watch removes it ──▶ cleared
//! ```
//!
//! Without it, pods could not start between the agent's end and the plugin's. It stands beside the
//! agent's socket, in a directory that root alone may write to.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Name of the mark.
const NAME: &str = "cni.off";

/// Where the mark of the agent at `socket` stands.
fn path(socket: &Path) -> PathBuf {
    socket.with_file_name(NAME)
}

/// Says that the agent at `socket` leaves this node for good. To be called first of all, while it
/// still answers.
///
/// # Errors
/// The file could not be written: pods of this node will not start until the plugin is removed.
pub fn set(socket: &Path) -> io::Result<()> {
    fs::write(path(socket), "")
}

/// Takes the mark back: an agent is here to stay.
///
/// # Errors
/// The file could not be removed.
pub fn clear(socket: &Path) -> io::Result<()> {
    match fs::remove_file(path(socket)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Whether the mark is there.
pub fn is_set(socket: &Path) -> bool {
    path(socket).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mark_is_set_and_cleared_more_than_once() {
        let temp = tempfile::tempdir().unwrap();
        let socket = temp.path().join("cni.sock");
        assert!(!is_set(&socket));
        clear(&socket).unwrap();
        for _ in 0..2 {
            set(&socket).unwrap();
            assert!(is_set(&socket));
        }
        clear(&socket).unwrap();
        assert!(!is_set(&socket));
    }
}
