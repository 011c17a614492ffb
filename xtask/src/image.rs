//! `cargo xtask image`: writes the container image of Culvert without any container engine.
//!
//! ```text
//!  programs ──libraries──▶ root ──archive──▶ layer ──oci──▶ one tar: OCI layout and manifest.json
//! ```
//!
//! The tar is both an OCI layout and what `docker save` writes, so `ctr images import`,
//! `docker load` and whatever pushes either of the two to a registry take it. The same inputs give
//! the same bytes: no time, no user and no order of a file system gets in.

mod archive;
mod elf;
mod libraries;
mod oci;
mod program;
mod root;

pub(crate) use oci::{Image, write};
pub(crate) use root::Root;

use crate::{paths, run};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Where the program is in the image; `PATH` has its folder.
const PROGRAM: &str = "usr/bin/culvert";
/// Where the CNI plugin is, for `culvert cni install` to copy onto the node.
const PLUGIN: &str = "usr/bin/culvert-cni";

/// Files of the image besides the program, below `daemonset/rootfs`: who is who, and how names are
/// resolved.
const FILES: [&str; 3] = ["etc/passwd", "etc/group", "etc/nsswitch.conf"];

/// What the image is made of.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where to write the image; without it, `image/culvert.tar` in the target directory.
    #[arg(long)]
    output: Option<PathBuf>,
    /// Name and tag of the image; without it, `localhost/culvert` and the version.
    #[arg(long, value_name = "NAME:TAG")]
    name: Option<String>,
    /// Build it as the tests do: larger and slower, and quickly there where the tests were built.
    #[arg(long, conflicts_with = "binary")]
    debug: bool,
    /// Take this program instead of building one. Libraries that it loads are copied along.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

/// Writes the image of what the tests have tested, and tells where it is.
pub(crate) fn of_tests() -> Result<PathBuf> {
    let output = paths::target().join("image/culvert-tests.tar");
    culvert(&program::as_tested()?, &program::plugin()?, &default_name(), &output)?;
    Ok(output)
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let binary = match &arguments.binary {
        Some(binary) => binary.clone(),
        None if arguments.debug => program::as_tested()?,
        None => program::as_shipped()?,
    };
    let output =
        arguments.output.clone().unwrap_or_else(|| paths::target().join("image/culvert.tar"));
    let name = arguments.name.clone().unwrap_or_else(default_name);
    let digest = culvert(&binary, &program::plugin()?, &name, &output)?;
    run::say(format!("image {name} ({digest}): {}", output.display()));
    eprintln!("    ctr -n k8s.io images import {}", output.display());
    Ok(())
}

/// The name that the manifests have: the store is the user's to name.
pub(crate) fn default_name() -> String {
    format!("localhost/culvert:{}", env!("CARGO_PKG_VERSION"))
}

/// Writes the image of a culvert program with its plugin, and tells the digest of its manifest.
fn culvert(binary: &Path, plugin: &Path, name: &str, output: &Path) -> Result<String> {
    let mut root = Root::default();
    root.program(PROGRAM, binary)?;
    root.program(PLUGIN, plugin)?;
    for file in FILES {
        root.copy(file, 0o644, &paths::root().join("daemonset/rootfs").join(file))?;
    }
    for licence in ["LICENSE", "LICENSE-MIT", "LICENSE-GPL-2.0"] {
        root.copy(
            &format!("usr/share/doc/culvert/{licence}"),
            0o644,
            &paths::root().join(licence),
        )?;
    }
    let image = Image {
        name: name.to_owned(),
        architecture: elf::inspect(binary)?.architecture()?,
        entrypoint: vec!["/usr/bin/culvert".to_owned()],
        environment: vec!["PATH=/usr/bin".to_owned()],
        labels: vec![
            ("org.opencontainers.image.title".to_owned(), "culvert".to_owned()),
            ("org.opencontainers.image.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
            ("org.opencontainers.image.licenses".to_owned(), "Apache-2.0".to_owned()),
        ],
        root,
    };
    if let Some(parent) = output.parent() {
        fs::create_dir_all(parent)
            .with_context(|| format!("could not make {}", parent.display()))?;
    }
    write(&image, output)
}

#[cfg(test)]
mod tests;
