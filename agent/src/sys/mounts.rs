//! Where the kernel's own file systems are mounted.

use std::{
    io,
    path::{Path, PathBuf},
};

/// `BPF_FS_MAGIC` (include/uapi/linux/magic.h).
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
/// `CGROUP2_SUPER_MAGIC` (include/uapi/linux/magic.h).
const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;

/// The first cgroup v2 mount of this mount namespace, if there is one.
///
/// # Errors
/// `/proc` is not mounted.
pub fn cgroup2() -> io::Result<Option<PathBuf>> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    Ok(first_of_kind(&mounts, "cgroup2"))
}

fn first_of_kind(mounts: &str, kind: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_, path, found) = (fields.next()?, fields.next()?, fields.next()?);
        (found == kind).then(|| PathBuf::from(path))
    })
}

/// Whether `path`, or its nearest parent that exists, lies on a BPF file system.
///
/// # Errors
/// As `statfs(2)`, other than that the path is not there.
pub fn is_bpffs(path: &Path) -> io::Result<bool> {
    let mut at = Some(path);
    while let Some(here) = at {
        match rustix::fs::statfs(here) {
            Ok(stat) => return Ok(stat.f_type == BPF_FS_MAGIC),
            Err(rustix::io::Errno::NOENT) => at = here.parent(),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}

/// Whether `path` is a directory of a cgroup v2 tree.
///
/// # Errors
/// As `statfs(2)`.
pub fn is_cgroup2(path: &Path) -> io::Result<bool> {
    Ok(rustix::fs::statfs(path)?.f_type == CGROUP2_SUPER_MAGIC)
}

/// The cgroup v2 directory that is meant by `path`: itself, or `unified` in it, which is where the
/// tree stands on hosts that have version 1 beside it.
pub fn cgroup2_at(path: &Path) -> PathBuf {
    let unified = path.join("unified");
    let hybrid = !is_cgroup2(path).unwrap_or(false) && is_cgroup2(&unified).unwrap_or(false);
    if hybrid { unified } else { path.to_owned() }
}

/// Whether `path` is the cgroup that this very process is in, and not the root of the tree: what a
/// container sees as its root is such a one.
pub fn is_own_cgroup(path: &Path) -> bool {
    // The root of the tree alone has no type.
    let own = std::process::id().to_string();
    path.join("cgroup.type").exists()
        && std::fs::read_to_string(path.join("cgroup.procs"))
            .is_ok_and(|processes| processes.lines().any(|process| process == own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_first_mount_of_a_kind() {
        let mounts = "proc /proc proc rw 0 0\ncgroup /a cgroup rw 0 0\nnone /b cgroup2 rw 0 0\n";
        assert_eq!(first_of_kind(mounts, "cgroup2"), Some(PathBuf::from("/b")));
        assert_eq!(first_of_kind("proc /proc proc rw 0 0\n", "cgroup2"), None);
    }
}
