//! Debian packages: installed without starting a service, or named when that cannot be done.

use crate::{paths, run};
use anyhow::{Context, Result, bail};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Longest that a download of package lists or packages may take.
const LIMIT: Duration = Duration::from_mins(15);

/// Asked by Debian's maintainer scripts before they start a service.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Installs packages, or says in one line what is missing and how to get it.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if paths::which("apt-get").is_none() {
        bail!("missing here: what Debian's packages `{list}` bring; install their like by hand");
    }
    if !super::is_root() {
        bail!("missing here: {list}; run `sudo apt-get install --no-install-recommends {list}`");
    }
    let _no_services = NoServices::begin()?;
    run::quiet("fetching the lists of packages", apt().arg("update"), LIMIT)?;
    run::quiet(
        &format!("installing {list}"),
        apt().args(["install", "-y", "--no-install-recommends"]).args(packages),
        LIMIT,
    )
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").arg("-q");
    command
}

/// While it lives, no package starts a service: nginx is wanted as a program only.
struct NoServices {
    placed: bool,
}

impl NoServices {
    fn begin() -> Result<Self> {
        let opened = OpenOptions::new().write(true).create_new(true).mode(0o755).open(POLICY);
        match opened {
            Ok(mut file) => {
                file.write_all(b"#!/bin/sh\nexit 101\n")
                    .with_context(|| format!("could not write {POLICY}"))?;
                Ok(Self { placed: true })
            }
            // The machine has a policy of its own; it is its owner's to decide.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Ok(Self { placed: false })
            }
            Err(error) => Err(error).with_context(|| format!("could not write {POLICY}")),
        }
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.placed && fs::remove_file(Path::new(POLICY)).is_err() {
            eprintln!("warning: {POLICY} is still there; run `rm {POLICY}`");
        }
    }
}
