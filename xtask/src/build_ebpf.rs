//! `cargo xtask build-ebpf`: builds the kernel programs into the object that the agent embeds.

use crate::setup::{self, Purpose};
use crate::{paths, run};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// The kernel's own instruction set, little endian, as on every machine we support.
const TARGET: &str = "bpfel-unknown-none";

/// LLVM's major version in the compiler and in the linker; they must agree on the bitcode.
const LLVM_MAJOR: &str = "22";

/// Builds the object and tells where it is.
pub(crate) fn run() -> Result<PathBuf> {
    setup::ensure(&[Purpose::Agent, Purpose::Kernel])?;
    check_compiler()?;
    let linker = setup::bpf_linker();
    let flags = [format!("-Clinker={}", linker.display()), "-Clink-arg=--btf".to_owned()];
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(paths::root())
        .args(["build", "--package", "culvert-ebpf", "--profile", "bpf", "--target", TARGET])
        .args(["-Z", "build-std=core"])
        // `build-std` is not stable yet; the stable compiler allows it when told so.
        .env("RUSTC_BOOTSTRAP", "1")
        // Only the kernel's target sees these: with `--target` cargo keeps them from the host.
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env("CARGO_TARGET_DIR", paths::target());
    run::plain("building the kernel programs", &mut cargo)?;
    let built = paths::target().join(TARGET).join("bpf/culvert-ebpf");
    let object = paths::kernel_object();
    keep(&built, &object)?;
    Ok(object)
}

/// Copies the object only when it changed, so that an unchanged one rebuilds nothing.
fn keep(built: &PathBuf, object: &PathBuf) -> Result<()> {
    let bytes = fs::read(built).with_context(|| format!("no object at {}", built.display()))?;
    if fs::read(object).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    if let Some(parent) = object.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(object, &bytes).with_context(|| format!("could not write {}", object.display()))?;
    run::say(format!("kernel programs: {} ({} bytes)", object.display(), bytes.len()));
    Ok(())
}

/// The linker reads the compiler's bitcode, so both must carry the same LLVM.
fn check_compiler() -> Result<()> {
    let version = run::read(Command::new("rustc").arg("-vV"))?;
    let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: ")).unwrap_or("?");
    if llvm.split('.').next() != Some(LLVM_MAJOR) {
        let release = version.lines().next().unwrap_or("rustc");
        bail!(
            "{release} carries LLVM {llvm}, the kernel programs need LLVM {LLVM_MAJOR}; \
             run with `RUSTUP_TOOLCHAIN=1.95.0`"
        );
    }
    Ok(())
}
