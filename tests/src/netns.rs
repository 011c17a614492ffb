//! Named network namespaces, and threads that work inside them.

use crate::process;
use anyhow::{Context, Result, anyhow};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::thread;

/// Where `ip netns` keeps the named ones.
pub(crate) const DIRECTORY: &str = "/run/netns";

/// A named network namespace of a lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// One that exists already.
    pub(crate) fn named(name: String) -> Self {
        Self { name }
    }

    /// Makes it, with its loopback device up and no wait for duplicate IPv6 addresses.
    pub(crate) fn create(name: String) -> Result<Self> {
        process::must("ip", &["netns", "add", &name])?;
        let netns = Self { name };
        for which in ["default", "all"] {
            netns.sysctl(&format!("net/ipv6/conf/{which}/accept_dad"), "0")?;
        }
        netns.ip("link set lo up\n")?;
        Ok(netns)
    }

    /// Its name, as `ip -n NAME` takes it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that it is entered by.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(DIRECTORY).join(&self.name)
    }

    /// Runs lines of `ip` commands in it.
    ///
    /// # Errors
    /// A line was refused; the text is what `ip` said.
    pub fn ip(&self, lines: &str) -> Result<()> {
        process::must_with_input("ip", &["-n", &self.name, "-batch", "-"], lines)
    }

    /// Sets one of its `/proc/sys` values.
    ///
    /// # Errors
    /// The kernel has no such value or refuses it.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{name}");
        self.enter(|| fs::write(&path, value))?
            .with_context(|| format!("could not write {value} to {path} in {}", self.name))
    }

    /// Runs `body` on a thread inside the namespace and waits for it; sockets that it makes stay
    /// there. The thread stays in the cgroup of this process, so no kernel program of the lab's
    /// agents sees its connections: it plays a machine that knows nothing of the mesh.
    ///
    /// # Errors
    /// The namespace is gone or may not be entered.
    pub fn enter<T: Send>(&self, body: impl FnOnce() -> T + Send) -> Result<T> {
        let path = self.path();
        let file = File::open(&path).with_context(|| format!("no namespace {}", path.display()))?;
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                    .with_context(|| format!("could not enter {}", path.display()))?;
                Ok(body())
            });
            inside.join().map_err(|_| anyhow!("the thread inside {} panicked", self.name))?
        })
    }

    /// Removes it; its devices go with it.
    pub(crate) fn delete(&self) -> Result<()> {
        process::must("ip", &["netns", "del", &self.name])
    }
}
