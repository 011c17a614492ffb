//! The libraries that a program loads, as the machine's own loader finds them.

use crate::run;
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Every library of a program, and the loader, by absolute path.
pub(super) fn of(program: &Path) -> Result<Vec<PathBuf>> {
    parse(&run::read(Command::new("ldd").arg(program))?)
}

/// Reads what `ldd` printed.
pub(super) fn parse(text: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        // "name => path (address)", or "path (address)" for the loader, or the kernel's own page.
        let path = line.split_once(" => ").map_or(line, |(_, path)| path);
        if path.starts_with("not found") {
            bail!("{}: library not found on this machine", line.split(' ').next().unwrap_or(line));
        }
        if let Some(path) = path.split(" (").next().filter(|path| path.starts_with('/')) {
            found.push(PathBuf::from(path));
        }
    }
    Ok(found)
}
