//! The standard library's source, from which `core` is built for the kernel's target.
//!
//! The toolchain's own component is the way; where its host cannot be reached, Debian's package
//! of the very same compiler version holds the same files.

use crate::{paths, run};
use anyhow::{Context, Result, anyhow, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Longest that the toolchain's manager may take: it answers at once or not at all.
const COMPONENT_LIMIT: Duration = Duration::from_mins(1);

/// Longest that a download from the distribution may take.
const PACKAGE_LIMIT: Duration = Duration::from_mins(5);

/// Debian suites that carry recent compilers, in the order in which they are asked.
const SUITES: [&str; 2] = ["trixie-backports", "sid"];

/// Brings the source where it is missing.
pub(crate) fn ensure() -> Result<()> {
    let library = library()?;
    if library.join("core/src/lib.rs").exists() {
        return Ok(());
    }
    if paths::which("rustup").is_some() {
        let mut rustup = Command::new("rustup");
        rustup.args(["component", "add", "rust-src"]);
        let added = run::quiet("adding the toolchain's rust-src", &mut rustup, COMPONENT_LIMIT);
        if added.is_ok() && library.join("core/src/lib.rs").exists() {
            return Ok(());
        }
        eprintln!("    not to be had there; asking the distribution");
    }
    from_distribution(&library).context(
        "the standard library's source is missing; `rustup component add rust-src` brings it \
         where the network allows",
    )
}

/// Where the compiler looks for the source.
fn library() -> Result<PathBuf> {
    let sysroot = run::read(Command::new("rustc").args(["--print", "sysroot"]))?;
    Ok(Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library"))
}

/// The compiler's version, as `1.95.0`.
fn version() -> Result<String> {
    let text = run::read(Command::new("rustc").arg("--version"))?;
    let version = text.split_whitespace().nth(1).context("rustc told no version")?;
    Ok(version.to_owned())
}

fn from_distribution(library: &Path) -> Result<()> {
    if paths::which("apt-get").is_none() || paths::which("dpkg").is_none() {
        bail!("this machine has no Debian packages to take it from");
    }
    let version = version()?;
    let mut last = anyhow!("no suite asked");
    for suite in SUITES {
        let apt = PrivateApt::new(suite)?;
        match apt.unpack("rust-src", &version) {
            Ok(unpacked) => {
                let source = unpacked.join(format!("usr/src/rustc-{version}/library"));
                return install(&source, library);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn install(source: &Path, library: &Path) -> Result<()> {
    let parent = library.parent().context("the library folder has no parent")?;
    fs::create_dir_all(parent)
        .with_context(|| format!("could not make {}; is it writable?", parent.display()))?;
    // Copied beside first and renamed, so that a copy cut short is never taken for the whole.
    let partial = parent.join(".library.partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    run::read(Command::new("cp").arg("-R").arg(source).arg(&partial))?;
    fs::rename(&partial, library)
        .with_context(|| format!("could not put the source at {}", library.display()))
}

/// apt with lists and caches of its own, so that the machine's settings stay as they are.
struct PrivateApt {
    directory: PathBuf,
    suite: &'static str,
}

impl PrivateApt {
    fn new(suite: &'static str) -> Result<Self> {
        let directory = paths::tools().join("apt").join(suite);
        for part in ["lists/partial", "cache/archives/partial", "parts", "unpacked"] {
            fs::create_dir_all(directory.join(part))?;
        }
        let (name, text) = sources(suite)?;
        fs::write(directory.join(name), text)?;
        Ok(Self { directory, suite })
    }

    /// Downloads the package whose upstream version is `version`, and unpacks it.
    fn unpack(&self, package: &str, version: &str) -> Result<PathBuf> {
        let what = format!("fetching the lists of {}", self.suite);
        run::quiet(&what, self.command("apt-get").arg("update"), PACKAGE_LIMIT)?;
        let known = run::read(self.command("apt-cache").args(["madison", package]))?;
        let full = known
            .lines()
            .filter_map(|line| line.split('|').nth(1))
            .map(str::trim)
            .find(|full| full.starts_with(&format!("{version}+dfsg")))
            .with_context(|| format!("{} has no {package} {version}", self.suite))?;
        let what = format!("downloading {package} {full}");
        let unpacked = self.directory.join("unpacked");
        run::quiet(
            &what,
            self.command("apt-get")
                .args(["download", &format!("{package}={full}")])
                .current_dir(&unpacked),
            PACKAGE_LIMIT,
        )?;
        let archive = fs::read_dir(&unpacked)?
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .context("apt-get download left no file")?;
        run::read(Command::new("dpkg").arg("-x").arg(&archive).arg(&unpacked))?;
        Ok(unpacked)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let path = |part: &str| self.directory.join(part).display().to_string();
        let list = ["own.sources", "own.list"]
            .iter()
            .find(|name| self.directory.join(name).exists())
            .map_or_else(|| path("own.list"), |name| path(name));
        for (option, value) in [
            ("Dir::Etc::sourcelist", list),
            ("Dir::Etc::sourceparts", path("parts")),
            ("Dir::State::lists", path("lists")),
            ("Dir::Cache", path("cache")),
            // Without this apt drops to a user that cannot write to root's own cache.
            ("APT::Sandbox::User", "root".to_owned()),
        ] {
            command.arg("-o").arg(format!("{option}={value}"));
        }
        command
    }
}

/// The machine's own Debian source with another suite: same mirror, same keys, same options.
fn sources(suite: &str) -> Result<(&'static str, String)> {
    for path in ["/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"] {
        let Ok(text) = fs::read_to_string(path) else { continue };
        let derived = if path.ends_with(".sources") {
            from_stanzas(&text, suite).map(|text| ("own.sources", text))
        } else {
            from_lines(&text, suite).map(|text| ("own.list", text))
        };
        if let Some(derived) = derived {
            return Ok(derived);
        }
    }
    bail!("no Debian mirror found in this machine's apt sources")
}

/// A stanza of the newer form, with its suites replaced.
fn from_stanzas(text: &str, suite: &str) -> Option<String> {
    let stanza = text.split("\n\n").find(|stanza| {
        stanza.lines().any(|line| line.starts_with("Suites:"))
            && !stanza.contains("-security")
            && stanza.lines().any(|line| line.starts_with("Types:") && line.contains("deb"))
    })?;
    let lines: Vec<_> = stanza
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| match line.split_once(':') {
            Some(("Suites", _)) => format!("Suites: {suite}"),
            Some(("Components", _)) => "Components: main".to_owned(),
            Some(("Types", _)) => "Types: deb".to_owned(),
            _ => line.to_owned(),
        })
        .collect();
    Some(lines.join("\n") + "\n")
}

/// A line of the older form, with its suite replaced.
fn from_lines(text: &str, suite: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with("deb ") && !line.contains("-security"))?;
    let (options, rest) = match line["deb ".len()..].trim().strip_prefix('[') {
        Some(rest) => {
            let (options, rest) = rest.split_once(']')?;
            (format!("[{options}] "), rest.trim())
        }
        None => (String::new(), line["deb ".len()..].trim()),
    };
    let mirror = rest.split_whitespace().next()?;
    Some(format!("deb {options}{mirror} {suite} main\n"))
}

#[cfg(test)]
mod tests {
    use super::{from_lines, from_stanzas};

    #[test]
    fn stanza_keeps_mirror_and_keys() {
        let text = "# note\nTypes: deb deb-src\nURIs: http://mirror.test/debian\n\
                    Suites: bookworm bookworm-updates\nComponents: main contrib\n\
                    Signed-By: /keys.gpg\n\nTypes: deb\nURIs: http://mirror.test/s\n\
                    Suites: bookworm-security\nComponents: main\n";
        assert_eq!(
            from_stanzas(text, "next").unwrap(),
            "Types: deb\nURIs: http://mirror.test/debian\nSuites: next\nComponents: main\n\
             Signed-By: /keys.gpg\n"
        );
    }

    #[test]
    fn line_keeps_mirror_and_options() {
        let text = "# note\ndeb [signed-by=/k arch=amd64] http://mirror.test/debian stable main\n";
        assert_eq!(
            from_lines(text, "next").unwrap(),
            "deb [signed-by=/k arch=amd64] http://mirror.test/debian next main\n"
        );
    }
}
