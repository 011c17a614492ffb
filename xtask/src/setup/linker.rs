//! The linker for kernel programs, built once into the cache of tools.

use crate::{paths, run};
use anyhow::Result;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// The version that the kernel programs are built with, here and in CI.
const VERSION: &str = "0.13.0";

/// Where LLVM's libraries of the compiler's own major version are.
const LLVM: &str = "/usr/lib/llvm-22";

/// Longest that building it may take; it takes three minutes on two cores.
const LIMIT: Duration = Duration::from_mins(25);

/// Where the linker is.
pub(crate) fn path() -> PathBuf {
    paths::tools().join("bin/bpf-linker")
}

/// Builds the linker where it is not there in the wanted version.
pub(crate) fn ensure() -> Result<()> {
    let version = run::read(Command::new(path()).arg("--version")).unwrap_or_default();
    if version.split_whitespace().any(|word| word == VERSION) {
        return Ok(());
    }
    let mut cargo = Command::new("cargo");
    cargo
        .args(["install", "bpf-linker", "--version", VERSION, "--locked"])
        .args(["--no-default-features", "--features", "llvm-22", "--root"])
        .arg(paths::tools())
        .env("LLVM_PREFIX", LLVM)
        // The tool's own build must not take part in the workspace's.
        .env_remove("CARGO_TARGET_DIR");
    run::quiet(&format!("building bpf-linker {VERSION} (once; some minutes)"), &mut cargo, LIMIT)
}
