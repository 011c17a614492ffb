//! `cargo xtask setup`: makes a fresh machine able to build Culvert and to run its tests.
//!
//! What is there already is left alone, so it costs nothing to call it first; the other commands
//! do. What is missing comes from the distribution's packages, the toolchain's own components, or
//! is built from the crates registry into the cache of tools.

mod apt;
mod linker;
mod rust_src;

use crate::paths;
use anyhow::{Result, bail};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What of the machine is wanted.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only what building needs, without what the demo and the tests run.
    #[arg(long)]
    build_only: bool,
}

/// What something is needed for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Building the agent: a C compiler for the crypto library.
    Agent,
    /// Building the kernel programs.
    Kernel,
    /// Building the fuzzing engine, which is C++.
    Fuzz,
    /// Running the demo and the tests.
    Run,
    /// Asking a real Prometheus what the dashboards ask.
    Observability,
    /// Running a Kubernetes cluster beside them.
    Kubernetes,
}

/// How it is told that something is there.
enum Sign {
    /// A program of this name.
    Program(&'static str),
    /// A file at this path.
    File(&'static str),
}

/// Something that a Debian package brings.
struct Need {
    sign: Sign,
    package: &'static str,
    purpose: Purpose,
}

const fn need(purpose: Purpose, sign: Sign, package: &'static str) -> Need {
    Need { sign, package, purpose }
}

const NEEDS: &[Need] = &[
    need(Purpose::Agent, Sign::Program("cc"), "gcc"),
    need(Purpose::Agent, Sign::File("/usr/include/stdlib.h"), "libc6-dev"),
    need(Purpose::Agent, Sign::Program("make"), "make"),
    need(Purpose::Agent, Sign::Program("cmake"), "cmake"),
    need(Purpose::Kernel, Sign::Program("c++"), "g++"),
    need(Purpose::Kernel, Sign::File("/usr/lib/llvm-22/bin/llvm-config"), "llvm-22-dev"),
    need(Purpose::Kernel, Sign::File("/usr/lib/llvm-22/include/llvm-c/Core.h"), "llvm-22-dev"),
    need(Purpose::Kernel, Sign::File("/usr/lib/llvm-22/lib/libPolly.a"), "libpolly-22-dev"),
    need(Purpose::Kernel, Sign::File("/usr/include/zstd.h"), "libzstd-dev"),
    need(Purpose::Kernel, Sign::File("/usr/include/zlib.h"), "zlib1g-dev"),
    need(Purpose::Fuzz, Sign::Program("c++"), "g++"),
    need(Purpose::Run, Sign::Program("ip"), "iproute2"),
    need(Purpose::Run, Sign::Program("nsenter"), "util-linux"),
    need(Purpose::Run, Sign::Program("nginx"), "nginx-light"),
    need(Purpose::Run, Sign::Program("curl"), "curl"),
    need(Purpose::Run, Sign::Program("openssl"), "openssl"),
    need(Purpose::Run, Sign::Program("faketime"), "faketime"),
    need(Purpose::Run, Sign::Program("tcpdump"), "tcpdump"),
    need(Purpose::Run, Sign::Program("socat"), "socat"),
    need(Purpose::Run, Sign::Program("nghttp"), "nghttp2-client"),
    need(Purpose::Run, Sign::Program("nghttpd"), "nghttp2-server"),
    need(Purpose::Observability, Sign::Program("prometheus"), "prometheus"),
    need(Purpose::Observability, Sign::Program("promtool"), "prometheus"),
    need(Purpose::Run, Sign::Program("chromium"), "chromium"),
    need(
        Purpose::Run,
        Sign::File("/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf"),
        "fonts-dejavu-core",
    ),
    need(Purpose::Kubernetes, Sign::Program("runc"), "runc"),
    need(Purpose::Kubernetes, Sign::File("/usr/lib/cni/bridge"), "containernetworking-plugins"),
    need(Purpose::Kubernetes, Sign::Program("iptables"), "iptables"),
    need(Purpose::Kubernetes, Sign::Program("conntrack"), "conntrack"),
    need(Purpose::Kubernetes, Sign::Program("bpftool"), "bpftool"),
    need(Purpose::Kubernetes, Sign::Program("busybox"), "busybox-static"),
    need(Purpose::Kubernetes, Sign::Program("sysctl"), "procps"),
];

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut purposes = vec![Purpose::Agent, Purpose::Kernel];
    if !arguments.build_only {
        purposes.extend([Purpose::Run, Purpose::Observability]);
    }
    ensure(&purposes)?;
    eprintln!("==> this machine has all that it needs");
    Ok(())
}

/// Brings what the given purposes need and is not there yet.
pub(crate) fn ensure(purposes: &[Purpose]) -> Result<()> {
    let missing = missing(purposes);
    if !missing.is_empty() {
        apt::install(&missing)?;
        let still = self::missing(purposes);
        if !still.is_empty() {
            bail!("installed, and yet not found where expected: {}", still.join(" "));
        }
    }
    if purposes.contains(&Purpose::Kernel) {
        rust_src::ensure()?;
        linker::ensure()?;
    }
    Ok(())
}

/// The packages that are wanted and not there, each once.
fn missing(purposes: &[Purpose]) -> Vec<&'static str> {
    let mut packages: Vec<_> = NEEDS
        .iter()
        .filter(|need| purposes.contains(&need.purpose))
        .filter(|need| match need.sign {
            Sign::Program(name) => paths::which(name).is_none(),
            Sign::File(path) => !Path::new(path).exists(),
        })
        .map(|need| need.package)
        .collect();
    packages.dedup();
    packages
}

/// Whether this process may do what root may.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// The linker for kernel programs, as `ensure` leaves it.
pub(crate) fn bpf_linker() -> std::path::PathBuf {
    linker::path()
}
