//! Settings of the whole machine that a kubelet changes, kept so that they can be set back.

use super::layout;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// What a kubelet sets, under `/proc/sys`; no namespace has its own.
const SETTINGS: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

fn kept() -> PathBuf {
    layout::directory().join("settings")
}

/// Keeps how they stand.
pub(super) fn remember() -> Result<()> {
    let lines: Vec<_> = SETTINGS
        .iter()
        .filter_map(|name| {
            let value = fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?;
            Some(format!("{name} {}", value.trim()))
        })
        .collect();
    fs::write(kept(), lines.join("\n")).context("could not keep the machine's settings")
}

/// Sets back what was changed meanwhile.
pub(super) fn restore() -> Result<()> {
    // Nothing is kept where nothing was begun.
    let Ok(text) = fs::read_to_string(kept()) else { return Ok(()) };
    for (name, value) in text.lines().filter_map(|line| line.split_once(' ')) {
        let path = Path::new("/proc/sys").join(name);
        if fs::read_to_string(&path).is_ok_and(|now| now.trim() != value) {
            fs::write(&path, value)
                .with_context(|| format!("could not set {} back to {value}", path.display()))?;
        }
    }
    Ok(())
}
