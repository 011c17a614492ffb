//! A clock of a program's own, by libfaketime: off by so much, and moved while the program runs.

use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Where Debian has the library, by architecture.
const FOLDERS: [&str; 3] = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib"];

/// The clock of one program. Only the time of day is moved: timers go on as they do.
#[derive(Debug, Clone)]
pub struct Clock {
    file: PathBuf,
    library: PathBuf,
}

impl Clock {
    /// A clock that is right, kept in `file`.
    pub(crate) fn new(file: &Path) -> Result<Self> {
        let Some(library) = library() else {
            bail!("no libfaketime here; `cargo xtask setup` brings it (Debian package faketime)");
        };
        let clock = Self { file: file.to_owned(), library };
        clock.set(0)?;
        Ok(clock)
    }

    /// Puts it ahead of the right time by so many seconds, or behind; a running program sees a step.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn set(&self, seconds: i64) -> Result<()> {
        crate::files::replace(&self.file, &format!("{seconds:+}\n"))
            .context("could not set the clock")
    }

    /// What stands before the words of a program to give it this clock.
    pub(crate) fn words(&self) -> Vec<OsString> {
        let setting = |name: &str, value: &Path| {
            let mut word = OsString::from(name);
            word.push(value);
            word
        };
        vec![
            "env".into(),
            setting("LD_PRELOAD=", &self.library),
            setting("FAKETIME_TIMESTAMP_FILE=", &self.file),
            // Read at every look, so that a step counts at once.
            "FAKETIME_NO_CACHE=1".into(),
            "FAKETIME_DONT_FAKE_MONOTONIC=1".into(),
            "DONT_FAKE_MONOTONIC=1".into(),
            "NO_FAKE_STAT=1".into(),
            "FAKETIME_DISABLE_SHM=1".into(),
        ]
    }

    /// Whether this machine can move a program's clock.
    pub fn is_possible() -> bool {
        library().is_some()
    }
}

fn library() -> Option<PathBuf> {
    let paths = FOLDERS.iter().map(|folder| Path::new(folder).join("faketime/libfaketimeMT.so.1"));
    paths.into_iter().find(|path| path.is_file())
}
