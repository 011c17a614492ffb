//! Values and keys of the maps.

use crate::Addr;

/// What an enrolled pod is to the kernel programs. Value of [`crate::maps::PODS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enrolment {
    /// The pod's IPv6 address, `::` if it has none.
    pub addr6: Addr,
    /// The pod's IPv4 address in network order, 0 if it has none.
    pub addr4_be: u32,
    /// [`Self::PASS_WHEN_DOWN`], [`Self::FENCED`] or 0.
    pub flags: u32,
}

const _: () = assert!(size_of::<Enrolment>() == 24 && align_of::<Enrolment>() == 4);

impl Enrolment {
    /// While no agent listens, outbound connections leave unsteered instead of being refused.
    pub const PASS_WHEN_DOWN: u32 = 1;
    /// The pod should be enrolled and could not be: what may go to the mesh is refused, whatever
    /// addresses the pod has.
    pub const FENCED: u32 = 2;
}

/// An enrolled pod by its address. Value of [`crate::maps::LOCAL_PODS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalPod {
    /// [`Self::PASS_WHEN_DOWN`] or 0.
    pub flags: u32,
}

const _: () = assert!(size_of::<LocalPod>() == 4);

impl LocalPod {
    /// While no agent listens, plaintext from outside reaches the pod. Never set where policy
    /// is STRICT.
    pub const PASS_WHEN_DOWN: u32 = 1;
}

/// What is remembered with a socket. Value of [`crate::maps::SOCKETS`] and of
/// [`crate::maps::FLOWS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketState {
    /// The original destination's address; `::` on the agent's own sockets.
    pub addr: Addr,
    /// The original destination's port in network order.
    pub port_be: u16,
    // Zeroed by the constructors, so that no byte of the value is uninitialised.
    pad: u16,
    /// One of the constants below.
    pub kind: u32,
}

const _: () = assert!(size_of::<SocketState>() == 24 && align_of::<SocketState>() == 4);

impl SocketState {
    /// An application's socket, steered into the agent.
    pub const APPLICATION: u32 = 1;
    /// The agent's accepted end of such a connection.
    pub const CAPTURED: u32 = 2;
    /// A socket that the agent opened itself. Only the agent can write this (a map update by
    /// descriptor), so no pod can pass itself off as the agent.
    pub const AGENT: u32 = 3;
    /// A socket by which the agent delivers to an application of an enrolled pod: [`Self::AGENT`],
    /// and let through by the pod's `sk_lookup` program.
    pub const DELIVERY: u32 = 4;

    /// The state of a steered application's socket.
    #[inline(always)]
    pub const fn application(addr: Addr, port_be: u16) -> Self {
        Self { addr, port_be, pad: 0, kind: Self::APPLICATION }
    }

    /// The same original destination, for the agent's end.
    #[inline(always)]
    #[must_use]
    pub const fn captured(self) -> Self {
        Self { addr: self.addr, port_be: self.port_be, pad: 0, kind: Self::CAPTURED }
    }

    /// The state of a socket that the agent opens itself, other than to deliver.
    pub const fn agent() -> Self {
        Self { addr: Addr::UNSPECIFIED, port_be: 0, pad: 0, kind: Self::AGENT }
    }

    /// The state of a socket by which the agent delivers.
    pub const fn delivery() -> Self {
        Self { addr: Addr::UNSPECIFIED, port_be: 0, pad: 0, kind: Self::DELIVERY }
    }

    /// Whether the agent opened this socket.
    #[inline(always)]
    pub const fn is_agents(&self) -> bool {
        self.kind == Self::AGENT || self.kind == Self::DELIVERY
    }
}

/// A connection, seen from the end that opened it. Key of [`crate::maps::FLOWS`],
/// [`crate::maps::DELIVERIES`] and [`crate::maps::HOST_FLOWS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Address of the end that opened the connection.
    pub source: Addr,
    /// Address of the other end.
    pub destination: Addr,
    /// Port of the end that opened the connection, in network order.
    pub source_port_be: u16,
    /// Port of the other end, in network order.
    pub destination_port_be: u16,
}

const _: () = assert!(size_of::<FlowKey>() == 36 && align_of::<FlowKey>() == 4);

impl FlowKey {
    /// The same connection, seen from the other end.
    #[inline(always)]
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port_be: self.destination_port_be,
            destination_port_be: self.source_port_be,
        }
    }
}

/// One of the agent's listeners. Key of [`crate::maps::LISTENERS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerKey {
    /// The pod's address.
    pub pod: Addr,
    /// [`crate::maps::OUTBOUND_PORT`], [`crate::maps::PLAINTEXT_PORT`] or
    /// [`crate::maps::HBONE_PORT`]; host order.
    pub kind: u16,
    /// The worker that accepts from it, counted from 0.
    pub worker: u16,
}

const _: () = assert!(size_of::<ListenerKey>() == 20 && align_of::<ListenerKey>() == 4);

#[cfg(feature = "user")]
mod user {
    use super::{Enrolment, FlowKey, ListenerKey, LocalPod, SocketState};
    use crate::Addr;

    macro_rules! pod {
        ($($type:ty),*) => {$(
            // SAFETY: `repr(C)` or `repr(transparent)` over integers, any bit pattern is valid,
            // and the asserted size equals the sum of the fields: there is no padding to leak.
            unsafe impl aya::Pod for $type {}
        )*};
    }
    pod!(Addr, Enrolment, LocalPod, SocketState, FlowKey, ListenerKey);
}
