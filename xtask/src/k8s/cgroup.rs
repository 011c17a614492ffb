//! The cluster's cgroups: where its processes are counted, and how they are ended.
//!
//! A machine may have the trees of version 1, each beside one of version 2 (all of them are used
//! then), or version 2 alone.

use super::layout;
use anyhow::{Context, Result};
use culvert_tests::until;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest that processes may take to be gone after they were killed.
const GONE: Duration = Duration::from_secs(20);

/// A mounted cgroup tree.
struct Tree {
    path: PathBuf,
    version2: bool,
}

/// The cluster's folder in the tree of version 2, where all its processes are.
pub(super) fn version2() -> Result<PathBuf> {
    trees()?
        .into_iter()
        .find(|tree| tree.version2)
        .map(|tree| tree.path.join(layout::cgroup()))
        .context("no cgroup2 is mounted; run `mount -t cgroup2 none /mnt` at a place of your own")
}

/// Makes a folder of the cluster in every tree, and tells them.
pub(super) fn make(name: &str) -> Result<Vec<PathBuf>> {
    trees()?.iter().map(|tree| tree.make(name)).collect()
}

/// Ends every process in a cgroup of version 2 and below it, and waits until they are gone.
pub(super) fn kill(cgroup: &Path) -> Result<()> {
    if !cgroup.exists() {
        return Ok(());
    }
    until(&format!("all processes in {} to end", cgroup.display()), GONE, || {
        // The whole tree at once, so that nothing forks away between two looks (kernel 5.14).
        let _ = fs::write(cgroup.join("cgroup.kill"), "1"); // the next look tells whether it worked
        (!populated(cgroup)).then_some(())
    })
}

/// Removes the cluster's folder from every tree, once its processes are gone.
pub(super) fn remove() -> Result<()> {
    for tree in trees()? {
        let cgroup = tree.path.join(layout::cgroup());
        until(&format!("cgroup {} to go", cgroup.display()), GONE, || {
            remove_tree(&cgroup);
            (!cgroup.exists()).then_some(())
        })?;
    }
    Ok(())
}

/// Whether a process lives in a cgroup of version 2 or below it.
pub(super) fn populated(cgroup: &Path) -> bool {
    fs::read_to_string(cgroup.join("cgroup.events")).is_ok_and(|text| text.contains("populated 1"))
}

impl Tree {
    fn make(&self, name: &str) -> Result<PathBuf> {
        let mut at = self.path.clone();
        for part in &PathBuf::from(layout::cgroup()).join(name) {
            let parent = at.clone();
            at.push(part);
            if !at.is_dir() {
                fs::create_dir(&at)
                    .with_context(|| format!("could not make cgroup {}", at.display()))?;
            }
            self.inherit(&parent, &at)?;
        }
        Ok(at)
    }

    /// Hands down what a new cgroup does not have by itself.
    fn inherit(&self, parent: &Path, child: &Path) -> Result<()> {
        if self.version2 {
            // What is in use by version 1 cannot be had, and is not missed.
            let controllers = fs::read_to_string(parent.join("cgroup.controllers"))?;
            for controller in controllers.split_whitespace() {
                let _ = fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"));
            }
            return Ok(());
        }
        for name in ["cpuset.cpus", "cpuset.mems"] {
            let (from, to) = (parent.join(name), child.join(name));
            if from.is_file() && fs::read_to_string(&to)?.trim().is_empty() {
                fs::write(&to, fs::read(&from)?)
                    .with_context(|| format!("could not write {}", to.display()))?;
            }
        }
        Ok(())
    }
}

fn trees() -> Result<Vec<Tree>> {
    let mounts = fs::read_to_string("/proc/mounts").context("could not read /proc/mounts")?;
    Ok(trees_among(&mounts))
}

fn trees_among(mounts: &str) -> Vec<Tree> {
    let tree = |line: &str| {
        let mut words = line.split(' ').skip(1);
        let (path, kind) = (words.next()?, words.next()?);
        let version2 = kind == "cgroup2";
        (version2 || kind == "cgroup").then(|| Tree { path: path.into(), version2 })
    };
    mounts.lines().filter_map(tree).collect()
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

#[cfg(test)]
mod tests {
    use super::trees_among;

    #[test]
    fn both_versions_are_found_and_nothing_else() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let found: Vec<_> =
            trees_among(mounts).into_iter().map(|tree| (tree.path, tree.version2)).collect();
        let expected = [("/sys/fs/cgroup/cpu", false), ("/sys/fs/cgroup/unified", true)];
        assert_eq!(found, expected.map(|(path, version2)| (path.into(), version2)));
    }
}
