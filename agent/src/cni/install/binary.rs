//! The plugin's file in the directory of plugins.

use std::{
    fs::{self, File, Permissions},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use super::{super::PLUGIN, InstallError};

/// Name under which the file is made before it is put in its place.
const EARLY: &str = ".culvert-cni.new";

/// What came of an installation.
pub(super) struct Copied {
    /// The plugin's file.
    pub(super) path: PathBuf,
    /// Whether it was another one before.
    pub(super) new: bool,
}

/// Copies `from`, or the plugin that stands beside this program, into the directory of plugins. A
/// runtime that calls it meanwhile finds the old file or the new one.
pub(super) fn install(
    from: Option<&Path>,
    directory: &Path,
    allow_dynamic: bool,
) -> Result<Copied, InstallError> {
    let beside;
    let from = if let Some(from) = from {
        from
    } else {
        beside = std::env::current_exe()
            .map_err(|source| InstallError::Read { path: "/proc/self/exe".into(), source })?
            .with_file_name(PLUGIN);
        &beside
    };
    let unread = |source| InstallError::Read { path: from.to_owned(), source };
    let mut source = File::open(from).map_err(unread)?;
    match is_dynamic(&mut source).map_err(unread)? {
        None => return Err(InstallError::NoProgram { path: from.to_owned() }),
        Some(true) if !allow_dynamic => {
            return Err(InstallError::Dynamic { path: from.to_owned() });
        }
        Some(_) => {}
    }
    let path = directory.join(PLUGIN);
    source.rewind().map_err(unread)?;
    if is_same(&mut source, &path).map_err(unread)? {
        return Ok(Copied { path, new: false });
    }
    source.rewind().map_err(unread)?;
    let early = directory.join(EARLY);
    let copy = || -> io::Result<()> {
        let mut target = File::create(&early)?;
        io::copy(&mut source, &mut target)?;
        target.set_permissions(Permissions::from_mode(0o755))?;
        target.sync_all()?;
        fs::rename(&early, &path)
    };
    let mut copy = copy;
    copy().map_err(|source| InstallError::Write { path: path.clone(), source })?;
    Ok(Copied { path, new: true })
}

/// Removes the plugin's file, and tells which files there were.
pub(super) fn remove(directory: &Path) -> Result<Vec<PathBuf>, InstallError> {
    let mut removed = Vec::new();
    for name in [PLUGIN, EARLY] {
        let path = directory.join(name);
        match fs::remove_file(&path) {
            Ok(()) => removed.push(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(InstallError::Write { path, source }),
        }
    }
    Ok(removed)
}

fn is_same(source: &mut File, path: &Path) -> io::Result<bool> {
    let Ok(mut there) = File::open(path) else { return Ok(false) };
    let whole = there.metadata().is_ok_and(|there| there.permissions().mode() & 0o111 == 0o111);
    if !whole || source.metadata()?.len() != there.metadata()?.len() {
        return Ok(false);
    }
    let (mut ours, mut theirs) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let count = source.read(&mut ours)?;
        if count == 0 {
            return Ok(true);
        }
        if there.read_exact(&mut theirs[..count]).is_err() || ours[..count] != theirs[..count] {
            return Ok(false);
        }
    }
}

/// Whether an ELF program asks for a loader (`PT_INTERP`); none for what is no such program.
///
/// Source: System V ABI, chapters 4 (ELF header) and 5 (program header), 64-bit, little-endian.
fn is_dynamic(file: &mut File) -> io::Result<Option<bool>> {
    const INTERPRETER: u32 = 3;
    let mut header = [0; 64];
    match file.read_exact(&mut header) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    if header[..6] != *b"\x7fELF\x02\x01" {
        return Ok(None);
    }
    let half = |at: usize| u64::from(u16::from_le_bytes([header[at], header[at + 1]]));
    let mut offset = [0; 8];
    offset.copy_from_slice(&header[32..40]);
    let (offset, size, count) = (u64::from_le_bytes(offset), half(54), half(56));
    for number in 0..count {
        let mut kind = [0; 4];
        file.seek(SeekFrom::Start(offset.saturating_add(number * size)))?;
        match file.read_exact(&mut kind) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        if u32::from_le_bytes(kind) == INTERPRETER {
            return Ok(Some(true));
        }
    }
    Ok(Some(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program of one program header.
    fn program(kind: u32) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 56];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = 1;
        bytes[64..68].copy_from_slice(&kind.to_le_bytes());
        bytes
    }

    #[test]
    fn static_program_is_copied_once_and_replaced_when_it_changes() {
        let temp = tempfile::tempdir().unwrap();
        let from = temp.path().join("culvert");
        fs::write(&from, program(1)).unwrap();
        let bin = temp.path().join("bin");
        fs::create_dir(&bin).unwrap();
        let copied = install(Some(&from), &bin, false).unwrap();
        assert!(copied.new);
        assert_eq!(fs::read(&copied.path).unwrap(), program(1));
        assert_eq!(fs::metadata(&copied.path).unwrap().permissions().mode() & 0o777, 0o755);
        assert!(!install(Some(&from), &bin, false).unwrap().new);
        let mut other = program(1);
        other.push(7);
        fs::write(&from, &other).unwrap();
        assert!(install(Some(&from), &bin, false).unwrap().new);
        assert_eq!(fs::read(&copied.path).unwrap(), other);
        assert_eq!(fs::read_dir(&bin).unwrap().count(), 1, "nothing else is left there");
        assert_eq!(remove(&bin).unwrap(), [copied.path]);
        assert!(remove(&bin).unwrap().is_empty());
    }

    #[test]
    fn program_with_a_loader_is_refused_unless_allowed() {
        let temp = tempfile::tempdir().unwrap();
        let from = temp.path().join("culvert");
        fs::write(&from, program(3)).unwrap();
        let refused = install(Some(&from), temp.path(), false);
        assert!(matches!(refused, Err(InstallError::Dynamic { .. })));
        assert!(!temp.path().join(PLUGIN).exists());
        assert!(install(Some(&from), temp.path(), true).unwrap().new);
    }

    #[test]
    fn what_is_no_program_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let from = temp.path().join("culvert");
        let mut cut = program(1);
        cut.truncate(66);
        for bytes in [&b"#!/bin/sh\n"[..], &[], &cut] {
            fs::write(&from, bytes).unwrap();
            let refused = install(Some(&from), temp.path(), true);
            assert!(matches!(refused, Err(InstallError::NoProgram { .. })), "{bytes:?}");
        }
    }
}
