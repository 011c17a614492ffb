//! The files of `culvert certs export`: each whole or not at all, for their owner alone.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::admin::model::Export;
use crate::cli::error::CliError;

const CHAIN: &str = "cert-chain.pem";
pub(super) const KEY: &str = "key.pem";
const ROOTS: &str = "root-cert.pem";

/// Refuses where a file would be replaced unasked.
pub(super) fn check(directory: &Path, force: bool) -> Result<(), CliError> {
    let there = [CHAIN, KEY, ROOTS]
        .map(|name| directory.join(name))
        .into_iter()
        // Also a link that leads nowhere is something of that name.
        .find(|path| path.symlink_metadata().is_ok());
    match there {
        Some(path) if !force => Err(CliError::Exists { path }),
        Some(_) | None => Ok(()),
    }
}

/// Writes the three files with mode 0600, making the directory with 0700 if it is not there.
///
/// All are written under other names first; only then does each take its own, the key last. With
/// `force` what had that name is replaced, and never written into; without, it stays.
pub(super) fn write(directory: &Path, export: &Export, force: bool) -> Result<(), CliError> {
    let fault = |path: &Path| {
        let path = path.to_owned();
        move |source| CliError::Write { path, source }
    };
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(fault(directory))?;
    let files = [
        (CHAIN, &export.certificate_chain),
        (ROOTS, &export.root_certificates),
        (KEY, &export.private_key),
    ];
    let mut early = Vec::new();
    for (name, text) in files {
        let file = Early::write(directory, name, text).map_err(fault(&directory.join(name)))?;
        early.push(file);
    }
    for file in early {
        let path = file.path.clone();
        file.settle(force).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => CliError::Exists { path: path.clone() },
            _ => CliError::Write { path: path.clone(), source },
        })?;
    }
    Ok(())
}

/// A file under another name than its own; removed when dropped.
struct Early {
    early: PathBuf,
    path: PathBuf,
}

impl Early {
    fn write(directory: &Path, name: &str, text: &str) -> io::Result<Self> {
        let early = directory.join(format!(".{name}.{}", std::process::id()));
        // A new file, so that nobody's open one, and no link, gets the key.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&early)?;
        let file_of = Self { early, path: directory.join(name) };
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        Ok(file_of)
    }

    fn settle(self, force: bool) -> io::Result<()> {
        if force {
            fs::rename(&self.early, &self.path)
        } else {
            // Unlike a rename, this fails where something has the name.
            fs::hard_link(&self.early, &self.path)
        }
    }
}

impl Drop for Early {
    fn drop(&mut self) {
        // Gone already where it was renamed.
        let _ = fs::remove_file(&self.early);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn export() -> Export {
        Export {
            id: "spiffe://td/ns/a/sa/b".to_owned(),
            not_after: "2026-01-01T00:00:00Z".to_owned(),
            certificate_chain: "chain\n".to_owned(),
            private_key: "key\n".to_owned(),
            root_certificates: "roots\n".to_owned(),
        }
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn three_files_are_written_for_their_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let new = directory.path().join("a/b");
        check(&new, false).unwrap();
        write(&new, &export(), false).unwrap();
        assert_eq!(names(&new), [CHAIN, KEY, ROOTS]);
        for (name, text) in [(CHAIN, "chain\n"), (KEY, "key\n"), (ROOTS, "roots\n")] {
            assert_eq!(fs::read_to_string(new.join(name)).unwrap(), text);
            let mode = fs::metadata(new.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o600, "{name}");
        }
        assert_eq!(fs::metadata(&new).unwrap().permissions().mode() & 0o7777, 0o700);
    }

    #[test]
    fn file_that_is_there_stays_unless_forced() {
        let directory = tempfile::tempdir().unwrap();
        let key = directory.path().join(KEY);
        fs::write(&key, "another's").unwrap();
        assert!(
            matches!(check(directory.path(), false), Err(CliError::Exists { path }) if path == key)
        );
        // Also where it appears between check and write.
        let refused = write(directory.path(), &export(), false);
        assert!(matches!(refused, Err(CliError::Exists { path }) if path == key));
        assert_eq!(fs::read_to_string(&key).unwrap(), "another's");

        check(directory.path(), true).unwrap();
        write(directory.path(), &export(), true).unwrap();
        assert_eq!(fs::read_to_string(&key).unwrap(), "key\n");
        assert_eq!(names(directory.path()), [CHAIN, KEY, ROOTS]);
    }

    #[test]
    fn link_in_the_place_of_a_file_is_replaced_and_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let elsewhere = directory.path().join("elsewhere");
        fs::write(&elsewhere, "untouched").unwrap();
        std::os::unix::fs::symlink(&elsewhere, directory.path().join(KEY)).unwrap();
        write(directory.path(), &export(), true).unwrap();
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "untouched");
        assert!(!directory.path().join(KEY).is_symlink());
    }
}
