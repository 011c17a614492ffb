//! The cluster's programs, built once from Go modules into the cache of tools.
//!
//! The modules and their versions stand in `tests/k8s/go`. The cache is keyed by what is built, so
//! a second build costs nothing and a changed version is a build of its own.

use crate::{paths, run};
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Longest that one program may take to build; all of them take ten minutes on two cores.
const LIMIT: Duration = Duration::from_hours(1);

/// What one program of many names answers to.
const NAMES: [&str; 10] = [
    "containerd",
    "coredns",
    "ctr",
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
];

/// Builds all that a cluster runs, where it is not there yet, and tells in which folder it is.
pub(super) fn ensure() -> Result<PathBuf> {
    let place = Place::open()?;
    let said = format!(
        "building Kubernetes {}, etcd {}, containerd {} and CoreDNS {} (once; some ten minutes)",
        place.version("k8s.io/kubernetes")?,
        place.version("go.etcd.io/etcd/server/v3")?,
        place.version("github.com/containerd/containerd/v2")?,
        place.version("github.com/coredns/coredns")?,
    );
    place.build("lab", "kubernetes", &said)?;
    place.build("shim", "containerd-shim-runc-v2", "building containerd's shim")?;
    place.build("pause", "pause", "building the pause program")?;
    for name in NAMES {
        let link = place.directory.join(name);
        if link.symlink_metadata().is_err() {
            symlink("kubernetes", &link)
                .with_context(|| format!("could not make {}", link.display()))?;
        }
    }
    Ok(place.directory)
}

/// Builds `helm`, where it is not there yet, and tells where it is.
pub(crate) fn helm() -> Result<PathBuf> {
    let place = Place::open()?;
    let said = format!("building helm {} (once)", place.version("helm.sh/helm/v4")?);
    place.build("helm", "helm", &said)?;
    Ok(place.directory.join("helm"))
}

/// Where the programs of one state of `tests/k8s/go` are built.
struct Place {
    source: PathBuf,
    modules: String,
    directory: PathBuf,
    /// Held while it lives: two builds at once would only take twice as long.
    _lock: File,
}

impl Place {
    fn open() -> Result<Self> {
        let source = paths::root().join("tests/k8s/go");
        let read = |name: &str| {
            let path = source.join(name);
            fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))
        };
        let modules = read("go.mod")?;
        let mut key = DefaultHasher::new();
        for name in ["go.sum", "lab/main.go", "shim/main.go", "pause/main.go", "helm/main.go"] {
            read(name)?.hash(&mut key);
        }
        modules.hash(&mut key);
        let directory = paths::tools().join(format!("k8s-{:016x}", key.finish()));
        fs::create_dir_all(&directory)
            .with_context(|| format!("could not make {}", directory.display()))?;
        let lock = File::create(directory.join("lock"))?;
        lock.lock().context("could not wait for another build")?;
        Ok(Self { source, modules, directory, _lock: lock })
    }

    /// The version of a module that is built, as `go.mod` has it.
    fn version(&self, module: &str) -> Result<&str> {
        version(&self.modules, module)
    }

    fn build(&self, package: &str, program: &str, said: &str) -> Result<()> {
        let (done, part) =
            (self.directory.join(program), self.directory.join(format!("{program}.part")));
        if done.is_file() {
            return Ok(());
        }
        if paths::which("go").is_none() {
            bail!("no `go` here; install Go {} or newer", self.wanted_go());
        }
        let mut go = Command::new("go");
        go.current_dir(&self.source)
            .args(["build", "-trimpath", "-ldflags", &self.link_flags()?, "-o"])
            .arg(&part)
            .arg(format!("./{package}"))
            .env("CGO_ENABLED", "0");
        run::quiet(said, &mut go, LIMIT)?;
        fs::rename(&part, &done).with_context(|| format!("could not make {}", done.display()))
    }

    fn wanted_go(&self) -> &str {
        self.modules.lines().find_map(|line| line.strip_prefix("go ")).unwrap_or("1.26")
    }

    /// Versions as the programs tell them: the API server derives from its own what it serves.
    fn link_flags(&self) -> Result<String> {
        let kubernetes = self.version("k8s.io/kubernetes")?;
        let mut parts = kubernetes.trim_start_matches('v').split('.');
        let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let component = |name, value| format!("-X k8s.io/component-base/version.{name}={value}");
        Ok([
            "-s -w".to_owned(),
            component("gitVersion", kubernetes),
            component("gitMajor", major),
            component("gitMinor", minor),
            component("gitTreeState", "archive"),
            component("buildDate", "1970-01-01T00:00:00Z"),
            format!(
                "-X github.com/containerd/containerd/v2/version.Version={}",
                self.version("github.com/containerd/containerd/v2")?
            ),
            format!(
                "-X helm.sh/helm/v4/internal/version.version={}",
                self.version("helm.sh/helm/v4")?
            ),
        ]
        .join(" "))
    }
}

/// The version that a `go.mod` requires of a module.
fn version<'a>(modules: &'a str, module: &str) -> Result<&'a str> {
    modules
        .lines()
        .filter_map(|line| line.trim().strip_prefix(module)?.strip_prefix(' '))
        .find_map(|rest| rest.split_whitespace().next().filter(|word| word.starts_with('v')))
        .with_context(|| format!("go.mod requires no {module}"))
}

/// A program among those that are built.
pub(super) fn program(directory: &Path, name: &str) -> PathBuf {
    directory.join(name)
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn versions_are_read_from_the_requirements() {
        let modules = "require (\n\tk8s.io/kubernetes v1.37.2\n\tk8s.io/kube v0.1 // indirect\n)\n\
                       replace k8s.io/api => k8s.io/api v0.37.2\n";
        assert_eq!(version(modules, "k8s.io/kubernetes").ok(), Some("v1.37.2"));
        assert_eq!(version(modules, "k8s.io/kube").ok(), Some("v0.1"));
        assert!(version(modules, "k8s.io/absent").is_err());
    }
}
