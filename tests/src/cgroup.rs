//! The lab's part of the cgroup2 tree: where its processes are, and how they are ended.

use crate::wait;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest that processes may take to be gone after they were killed.
const GONE: Duration = Duration::from_secs(10);

/// Where cgroup2 is mounted; under a mixed setup that is not `/sys/fs/cgroup` itself.
///
/// # Errors
/// It is mounted nowhere.
pub(crate) fn mount_point() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").context("could not read /proc/mounts")?;
    mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|words| words.get(2) == Some(&"cgroup2"))
        .and_then(|words| words.get(1).map(PathBuf::from))
        .context("no cgroup2 is mounted; run `mount -t cgroup2 none /mnt` at a place of your own")
}

/// The folder of one lab.
pub(crate) fn of_lab(id: &str) -> Result<PathBuf> {
    Ok(mount_point()?.join(format!("culvert-lab-{id}")))
}

/// Makes a cgroup with its parents.
pub(crate) fn create(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("could not make cgroup {}", path.display()))
}

/// Ends every process in a cgroup and below, then removes it all.
pub(crate) fn remove(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    wait::until(&format!("cgroup {} to be empty", path.display()), GONE, || {
        // The whole tree at once, so that nothing forks away between two looks (kernel 5.14).
        let _ = fs::write(path.join("cgroup.kill"), "1"); // the next look tells whether it worked
        (!populated(path)).then_some(())
    })?;
    wait::until(&format!("cgroup {} to go", path.display()), GONE, || {
        remove_tree(path);
        (!path.exists()).then_some(())
    })
}

fn populated(path: &Path) -> bool {
    fs::read_to_string(path.join("cgroup.events")).is_ok_and(|text| text.contains("populated 1"))
}

/// Deepest first; a cgroup's own files are not removed, they go with it.
fn remove_tree(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let _ = fs::remove_dir(path); // tried again by the caller
}
