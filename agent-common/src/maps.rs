//! Names, sizes and pins of maps and programs, and the ports between pod and agent.
//!
//! A string literal of one of these names anywhere else is a defect; in the kernel crate the
//! statics carry these names because the loader finds them by name.

/// Where an application's outbound connection is steered to: the pod's own address, this port.
pub const OUTBOUND_PORT: u16 = 15001;
/// The listener for plaintext from outside.
pub const PLAINTEXT_PORT: u16 = 15006;
/// The listener for HBONE from outside, as in Istio ambient.
pub const HBONE_PORT: u16 = 15008;

/// Mark of the agent's deliveries inside a pod's namespace; answers carry it back to loopback.
pub const DELIVERY_MARK: u32 = 0x1338;
/// Routing table of a pod's namespace that sends marked answers to loopback.
pub const DELIVERY_TABLE: u32 = 100;

/// Enrolled pods: netns cookie (`u64`) to [`crate::Enrolment`].
pub const PODS: &str = "PODS";
/// Addresses of enrolled pods: [`crate::Addr`] to [`crate::LocalPod`].
pub const LOCAL_PODS: &str = "LOCAL_PODS";
/// Which destinations are steered: longest prefix of [`crate::Addr`] to a `u32` of [`dest`].
pub const DESTINATIONS: &str = "DESTINATIONS";
/// State kept with a socket: [`crate::SocketState`].
pub const SOCKETS: &str = "SOCKETS";
/// Steered connections between their SYN and their acceptance: [`crate::FlowKey`] to
/// [`crate::SocketState`].
pub const FLOWS: &str = "FLOWS";
/// Deliveries of the agent between SYN and establishment: [`crate::FlowKey`] to `u32`.
pub const DELIVERIES: &str = "DELIVERIES";
/// Connections that the node's own namespace opened to enrolled pods: [`crate::FlowKey`] to `u32`.
pub const HOST_FLOWS: &str = "HOST_FLOWS";
/// The agent's listeners: [`crate::ListenerKey`] to a listening socket.
pub const LISTENERS: &str = "LISTENERS";
/// Per-CPU counters, by [`crate::Counter`].
pub const COUNTERS: &str = "COUNTERS";

/// Maps that outlive the agent's process: all but the log ring.
pub const PINNED: [&str; 9] =
    [PODS, LOCAL_PODS, DESTINATIONS, SOCKETS, FLOWS, DELIVERIES, HOST_FLOWS, LISTENERS, COUNTERS];

/// Most enrolled pods of one node (Kubernetes' own limit is 110, large nodes run 500).
pub const MAX_PODS: usize = 4096;
/// Most prefixes in [`DESTINATIONS`].
pub const MAX_DESTINATIONS: usize = 65_536;
/// Most connections between SYN and acceptance at one time.
pub const MAX_FLOWS: usize = 16_384;
/// Most listeners: pods, two families, three kinds, workers.
pub const MAX_LISTENERS: usize = 65_536;

/// Verdicts of the [`DESTINATIONS`] trie; no match means [`dest::PASS`].
pub mod dest {
    /// Leave the connection to the kernel: the destination is not in the mesh.
    pub const PASS: u32 = 0;
    /// Steer the connection into the agent.
    pub const STEER: u32 = 1;
}

/// Global of the kernel object: the netns cookie of the node's own namespace.
pub const HOST_NETNS: &str = "HOST_NETNS";
/// Global of the kernel object: how many workers share the listeners; at least one.
pub const WORKERS: &str = "WORKERS";

/// Program at `cgroup/connect4`.
pub const CONNECT4: &str = "culvert_connect4";
/// Program at `cgroup/connect6`.
pub const CONNECT6: &str = "culvert_connect6";
/// Program at `cgroup/getpeername4`.
pub const GETPEERNAME4: &str = "culvert_peername4";
/// Program at `cgroup/getpeername6`.
pub const GETPEERNAME6: &str = "culvert_peername6";
/// Program at `cgroup/sock_ops`.
pub const SOCK_OPS: &str = "culvert_sock_ops";
/// Program at `sk_lookup` of each enrolled pod's namespace.
pub const SK_LOOKUP: &str = "culvert_sk_lookup";
