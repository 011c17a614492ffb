//! What can go wrong between the agent and the kernel.

use std::{io, path::PathBuf};

use aya::{EbpfError, maps::MapError, programs::ProgramError};

/// Why the kernel programs could not take hold on this node.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// The binary carries no kernel object.
    #[error(
        "this binary was built without kernel programs; run `cargo xtask build-ebpf`, then build it again"
    )]
    NoObject,
    /// The node's own network namespace could not be told.
    #[error(
        "cannot read this network namespace's cookie; needs /proc, CAP_SYS_ADMIN and kernel 5.14 or later"
    )]
    HostNetns(#[source] io::Error),
    /// The network namespace of the host's process 1 cannot be opened.
    #[error(
        "cannot open {path}, the node's network namespace; `capture.hostProc` must be the host's /proc, and the agent needs CAP_SYS_PTRACE and no AppArmor profile that forbids it"
    )]
    HostProc {
        /// What was to be opened.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The cgroup is the agent's container, so no pod is in it.
    #[error(
        "{cgroup} is the agent's own container and holds no pod; mount the host's cgroup tree and set `capture.cgroup` to it"
    )]
    OwnCgroup {
        /// The configured directory.
        cgroup: PathBuf,
    },
    /// The pin directory is not on a BPF file system.
    #[error(
        "{path} is not on a BPF file system; run `mount -t bpf bpf /sys/fs/bpf`, or set `capture.pinDirectory`"
    )]
    NoBpffs {
        /// The configured directory.
        path: PathBuf,
    },
    /// A pin could not be made or removed.
    #[error("cannot write to the pin directory {path}; needs root rights")]
    Pin {
        /// The pin.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Whose turn it is could not be told.
    #[error(
        "cannot lock {path}, which tells the agents of a node whose turn it is; needs flock(2)"
    )]
    Turn {
        /// The pin directory.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The configured cgroup is not one.
    #[error("{path} is not a directory of a cgroup v2 tree; mount one or set `capture.cgroup`")]
    NoCgroup2 {
        /// The configured directory.
        path: PathBuf,
    },
    /// The programs are attached and do not run for the agent itself.
    #[error(
        "programs attached to {cgroup} do not see this process; set `capture.cgroup` to a directory above the agent and all pods, best the root of the tree"
    )]
    NotEffective {
        /// The configured directory.
        cgroup: PathBuf,
    },
    /// The self-test's own connection failed.
    #[error("the self-test could not connect over loopback; is `lo` up on this node?")]
    SelfTest(#[source] io::Error),
    /// The object did not load as a whole: a map, or its BTF.
    #[error(
        "the kernel refused the maps; needs CAP_BPF (run as root) and a kernel with BTF; maps pinned by another version go with `culvert release`"
    )]
    Load(#[source] Box<EbpfError>),
    /// The object lacks a program or map that the agent names: the two do not belong together.
    #[error(
        "the kernel object has no `{name}`; agent and object are of different versions, build both again"
    )]
    Missing {
        /// Name of the program or map.
        name: &'static str,
    },
    /// The kernel refused a program; the source holds the verifier's own account.
    #[error(
        "the kernel refused program `{program}`; needs kernel 5.15 or later, the verifier's log follows"
    )]
    Program {
        /// Name of the program.
        program: &'static str,
        /// What the kernel said.
        #[source]
        source: Box<ProgramError>,
    },
    /// A pinned link could not be taken over.
    #[error(
        "cannot put the new `{program}` into the link that an earlier agent pinned; remove it with `culvert release` and start again"
    )]
    Update {
        /// Name of the program.
        program: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A map could not be opened as the type that the agent expects.
    #[error(
        "map `{name}` is not what this agent expects; maps pinned by another version go with `culvert release`"
    )]
    Map {
        /// Name of the map.
        name: &'static str,
        /// What aya said.
        #[source]
        source: Box<MapError>,
    },
}

/// Why a workload could not be enrolled, or taken out cleanly.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnrolError {
    /// The workload has no namespace here.
    #[error(
        "workload {workload} names no network namespace; set `netns` for workloads of this node"
    )]
    NoNetns {
        /// `namespace/name`.
        workload: String,
    },
    /// Its namespace could not be opened or entered.
    #[error("cannot enter {path}, the network namespace of {workload}; is the pod running?")]
    Netns {
        /// `namespace/name`.
        workload: String,
        /// The configured path.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The path leads to the node's own namespace, or to the agent's.
    #[error(
        "{path} is the network namespace of the node or of the agent; {workload} needs one of its own to be enrolled"
    )]
    HostNetwork {
        /// `namespace/name`.
        workload: String,
        /// The configured path.
        path: PathBuf,
    },
    /// The namespace has other addresses than the workload is said to have.
    #[error(
        "{workload} is said to have {declared}, but its namespace has {found}; correct `addresses`, or traffic would go past the mesh"
    )]
    Addresses {
        /// `namespace/name`.
        workload: String,
        /// Addresses of the workload.
        declared: String,
        /// Addresses of the namespace.
        found: String,
    },
    /// A listener could not be made in the namespace.
    #[error("cannot listen inside the namespace of {workload}")]
    Listen {
        /// `namespace/name`.
        workload: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The namespace's routes could not be prepared for deliveries.
    #[error("cannot prepare delivery in the namespace of {workload}: {step}")]
    Routes {
        /// `namespace/name`.
        workload: String,
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The program could not be attached to the namespace.
    #[error("cannot attach the sk_lookup program to the namespace of {workload}")]
    Attach {
        /// `namespace/name`.
        workload: String,
        /// What the kernel said.
        #[source]
        source: AttachError,
    },
    /// A table of the kernel refused an entry.
    #[error("table `{table}` refused an entry; it may be full, see culvert_capture_events_total")]
    Table {
        /// Name of the map.
        table: &'static str,
        /// What aya said.
        #[source]
        source: Box<MapError>,
    },
}
