//! Builds the programs that go into the image, with everything linked in: the image needs no
//! library, and the CNI plugin runs on any node.

use super::elf;
use crate::{build, build_ebpf, paths, run};
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What makes a program static, as far as the compiler is concerned.
const STATIC: &str = "-Ctarget-feature=+crt-static";

/// Builds it optimised, in a directory of its own for the target.
pub(super) fn as_shipped() -> Result<PathBuf> {
    let object = build_ebpf::run()?;
    // From the target's directory the build script would not find it by itself.
    released("culvert-agent", "culvert", &[("CULVERT_EBPF_OBJECT", &object)])
}

/// Builds the CNI plugin, optimised: it has so few dependencies that tests need no other way.
pub(super) fn plugin() -> Result<PathBuf> {
    released("culvert-cni", "culvert-cni", &[])
}

fn released(package: &str, binary: &str, environment: &[(&str, &Path)]) -> Result<PathBuf> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let own = std::env::var("RUSTFLAGS").unwrap_or_default();
    let flags: Vec<&str> = own.split_whitespace().chain([STATIC]).collect();
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(paths::root())
        .args(["build", "--release", "--package", package, "--bin", binary])
        // With a target named, cargo keeps the flags from build scripts and macros, which must
        // stay loadable.
        .args(["--target", &target])
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        // Lines for a backtrace cost more than all of the code, and names are enough for one.
        .env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo")
        .envs(environment.iter().copied())
        .env("CARGO_TARGET_DIR", paths::target());
    run::plain(&format!("building {binary} for the image"), &mut cargo)?;
    checked(paths::target().join(target).join("release").join(binary))
}

/// Builds it as the tests do, from the same dependencies.
pub(super) fn as_tested() -> Result<PathBuf> {
    build_ebpf::run()?;
    let mut cargo = build::cargo("build");
    cargo
        .args(["--bin", "culvert"])
        // A test among what is built makes cargo take the features that the tests' build has.
        .args(["--test", "identities"])
        // Flags for all would build every dependency anew. Only how the program is linked differs,
        // so a wrapper adds the flag there; cargo keeps what is built with one apart.
        .env("RUSTC_WORKSPACE_WRAPPER", wrapper()?);
    run::plain("building culvert for the image, as the tests do", &mut cargo)?;
    checked(paths::target().join("debug/culvert"))
}

/// A script that cargo calls with the compiler's whole command line.
fn wrapper() -> Result<PathBuf> {
    let place = paths::target().join("image/static-culvert");
    let script = format!(
        "#!/bin/sh\ncase \" $* \" in\n*' --crate-name culvert '*) exec \"$@\" {STATIC} ;;\n\
         *) exec \"$@\" ;;\nesac\n"
    );
    if fs::read_to_string(&place).is_ok_and(|old| old == script) {
        return Ok(place);
    }
    fs::create_dir_all(paths::target().join("image"))?;
    fs::write(&place, script).with_context(|| format!("could not write {}", place.display()))?;
    fs::set_permissions(&place, fs::Permissions::from_mode(0o755))?;
    Ok(place)
}

fn checked(binary: PathBuf) -> Result<PathBuf> {
    if !elf::inspect(&binary)?.is_static() {
        bail!("{} was to load no library, and does", binary.display());
    }
    Ok(binary)
}
