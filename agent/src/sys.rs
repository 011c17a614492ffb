//! What the standard library does not offer of Linux: network namespaces, the process behind a
//! unix socket, a few socket options, kernel settings, two BPF commands. Every unsafe block of the agent is here.

pub mod bpf;
pub mod dump;
pub mod mounts;
pub mod netns;
pub mod peer;
pub mod rlimit;
pub mod socket;
pub mod sysctl;
