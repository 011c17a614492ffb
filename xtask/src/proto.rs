//! `cargo xtask proto`: makes the checked-in code of the crate `culvert-proto` from its `.proto`
//! files, with no `protoc`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// Every `.proto` file that code is made from, relative to `proto/proto`.
const SOURCES: &[&str] = &["culvert_ca.proto", "istio_ca.proto", "spiffe_workload.proto"];

/// Makes the code anew; with `check`, only compares it with what is checked in.
///
/// # Errors
/// A source that does not compile, a file that cannot be written, and with `check` any difference.
pub(crate) fn generate(check: bool) -> anyhow::Result<()> {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("proto");
    let checked_in = crate_dir.join("src/generated");
    if !check {
        return compile(&crate_dir, &checked_in);
    }
    let fresh = tempfile::tempdir().context("cannot make a directory to compare in")?;
    compile(&crate_dir, fresh.path())?;
    for file in listing(fresh.path())? {
        let made = std::fs::read(fresh.path().join(&file))?;
        let path = checked_in.join(&file);
        let kept = std::fs::read(&path).unwrap_or_default();
        if made != kept {
            bail!("{} is not what its .proto file makes; run `cargo xtask proto`", path.display());
        }
    }
    Ok(())
}

fn compile(crate_dir: &Path, into: &Path) -> anyhow::Result<()> {
    let sources = crate_dir.join("proto");
    let files = SOURCES.iter().map(|source| sources.join(source));
    let descriptors = protox::compile(files, [&sources])
        .with_context(|| format!("cannot compile the files in {}", sources.display()))?;
    std::fs::create_dir_all(into)?;
    // No transport code: it would name tonic's own TLS and channel builders, which we do not use.
    tonic_prost_build::configure()
        .build_transport(false)
        .out_dir(into)
        .compile_fds(descriptors)
        .context("cannot make code from the compiled files")
}

fn listing(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        names.push(entry?.file_name().into());
    }
    names.sort();
    Ok(names)
}
