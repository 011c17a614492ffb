//! The program `openssl`: keys, requests and looks at certificates.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

/// What openssl wrote to standard output; a failure holds what it said.
pub(crate) fn openssl<S: AsRef<OsStr>>(words: impl IntoIterator<Item = S>) -> Result<String> {
    let mut command = Command::new("openssl");
    command.args(words);
    let output =
        command.output().context("could not start openssl; `cargo xtask setup` brings it")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(said);
    }
    bail!("{command:?}: {}{said}{}", output.status, String::from_utf8_lossy(&output.stderr))
}

/// Makes a key: an algorithm and its options, as `-algorithm` and `-pkeyopt` take them.
pub(crate) fn new_key(path: &Path, kind: &[&str]) -> Result<()> {
    let (algorithm, options) = kind.split_first().context("an algorithm")?;
    let path = path.display().to_string();
    let mut words = vec!["genpkey", "-quiet", "-algorithm", algorithm, "-out", &path];
    for option in options {
        words.extend(["-pkeyopt", option]);
    }
    if openssl(&words).is_err() {
        // Older ones know no -quiet.
        words.retain(|word| *word != "-quiet");
        openssl(&words)?;
    }
    Ok(())
}

/// A request for the key, with what `openssl req` is given besides.
pub(crate) fn request(key: &Path, more: &[&str]) -> Result<String> {
    let key = key.display().to_string();
    let words = ["req", "-new", "-subj", "/CN=anything", "-key", &key];
    openssl(words.iter().chain(more))
}

/// What is said of a certificate, by the options given.
pub(crate) fn shown(certificate: &Path, options: &[&str]) -> Result<String> {
    let path = certificate.display().to_string();
    openssl(["x509", "-noout", "-in", &path].iter().chain(options))
}
