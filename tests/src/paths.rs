//! Where the built programs are.

use anyhow::{Result, bail};
use std::env;
use std::path::{Path, PathBuf};

/// Cargo's target directory: `CARGO_TARGET_DIR`, else the one that this very program stands in.
pub fn target() -> PathBuf {
    if let Some(path) = env::var_os("CARGO_TARGET_DIR").filter(|path| !path.is_empty()) {
        return env::current_dir().unwrap_or_default().join(path);
    }
    let own = env::current_exe().unwrap_or_default();
    own.ancestors()
        .find(|directory| directory.join("CACHEDIR.TAG").is_file())
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), Path::to_path_buf)
}

/// The `culvert` binary: `CULVERT_BIN`, else the one of the debug build.
///
/// # Errors
/// It is not there; the text says how to build it.
pub fn culvert() -> Result<PathBuf> {
    program("CULVERT_BIN", "culvert", "cargo xtask build")
}

/// The program that plays the applications in pods.
///
/// # Errors
/// It is not there; the text says how to build it.
pub fn testapp() -> Result<PathBuf> {
    program("CULVERT_TESTAPP", "culvert-testapp", "cargo build -p culvert-tests")
}

/// A further program of the tests, such as `culvert-caller`.
///
/// # Errors
/// It is not built.
pub fn tool(name: &str) -> Result<PathBuf> {
    program("CULVERT_TEST_PROGRAM", name, "cargo build -p culvert-tests")
}

fn program(variable: &str, name: &str, build: &str) -> Result<PathBuf> {
    let path =
        env::var_os(variable).map_or_else(|| target().join("debug").join(name), PathBuf::from);
    if !path.is_file() {
        bail!("{} is not built; run `{build}` or set {variable}", path.display());
    }
    Ok(path)
}
