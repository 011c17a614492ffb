//! What the standard library does not offer of Linux: network namespaces, a few socket options,
//! two BPF commands. Every unsafe block of the agent is here.

pub mod bpf;
pub mod dump;
pub mod mounts;
pub mod netns;
pub mod rlimit;
pub mod socket;
