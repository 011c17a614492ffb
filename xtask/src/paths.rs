//! Where things are: the workspace, its target directory, and the cache of built tools.

use std::env;
use std::path::{Path, PathBuf};

/// The workspace's root directory.
pub(crate) fn root() -> PathBuf {
    // `cargo run` tells the checkout that is run; several may share one target directory.
    let manifest = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest.parent().map_or_else(|| manifest.clone(), Path::to_path_buf)
}

/// Cargo's target directory; `CARGO_TARGET_DIR` counts as it does for cargo.
pub(crate) fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(path) if !path.is_empty() => env::current_dir().unwrap_or_default().join(path),
        _ => root().join("target"),
    }
}

/// Tools that `setup` builds, kept across checkouts: `CULVERT_TOOLS`, else the user's cache.
pub(crate) fn tools() -> PathBuf {
    if let Some(path) = env::var_os("CULVERT_TOOLS") {
        return PathBuf::from(path);
    }
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
        .unwrap_or_else(|| root().join("target"));
    cache.join("culvert/tools")
}

/// The kernel programs as the agent embeds them.
pub(crate) fn kernel_object() -> PathBuf {
    target().join("bpf/culvert-ebpf.o")
}

/// Where a program is found in `PATH` or in the administrator's folders, which a plain user's
/// `PATH` leaves out on Debian.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}
