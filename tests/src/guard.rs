//! What a lab needs of the machine, asked before it is built.

use crate::{cgroup, paths, process};
use std::path::Path;
use std::process::Command;

/// Where the kernel's pinned objects live.
pub(crate) const BPFFS: &str = "/sys/fs/bpf";

/// What is missing for a lab, and the command that mends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing(pub String);

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Missing {}

/// Whether a lab can be built here. Mounts the BPF file system where it is not mounted yet.
///
/// # Errors
/// The first thing that is missing.
pub fn check() -> Result<(), Missing> {
    match paths::culvert() {
        Ok(_) => machine(),
        Err(error) => Err(Missing(error.to_string())),
    }
}

/// The same, whatever binary the lab will run.
pub(crate) fn machine() -> Result<(), Missing> {
    let missing = |text: String| Err(Missing(text));
    if !rustix::process::geteuid().is_root() {
        return missing("network namespaces and BPF need root; run again with `sudo`".into());
    }
    for (program, package) in [("ip", "iproute2"), ("nsenter", "util-linux")] {
        if process::find(program).is_none() {
            return missing(format!("no `{program}` here; run `apt-get install {package}`"));
        }
    }
    if let Err(error) = cgroup::mount_point() {
        return missing(error.to_string());
    }
    if let Err(error) = bpffs() {
        return missing(format!(
            "no BPF file system at {BPFFS} and none could be mounted: {error}"
        ));
    }
    match Command::new("unshare").args(["--net", "true"]).output() {
        Ok(output) if output.status.success() => Ok(()),
        _ => missing(
            "no new network namespace can be made here; a container needs \
                      CAP_SYS_ADMIN and CAP_NET_ADMIN (`--privileged`)"
                .into(),
        ),
    }
}

/// Mounts the BPF file system where it is not mounted.
fn bpffs() -> rustix::io::Result<()> {
    /// `BPF_FS_MAGIC` of the kernel's `include/uapi/linux/magic.h`.
    const MAGIC: u64 = 0xcafe_4a11;
    let known = rustix::fs::statfs(BPFFS)?;
    if u64::try_from(known.f_type).is_ok_and(|magic| magic == MAGIC) {
        return Ok(());
    }
    rustix::mount::mount("bpf", Path::new(BPFFS), "bpf", rustix::mount::MountFlags::empty(), None)
}
