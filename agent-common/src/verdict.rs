//! Decisions without a helper call, so that they are tested on the host.

use crate::{Addr, Enrolment};

/// What becomes of an enrolled pod's connection, as far as its destination's address alone says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outbound {
    /// Never leaves the pod or the link, or cannot leave it: left to the kernel.
    Pass,
    /// To be steered to this address of the pod itself, if the destination is in the mesh.
    Steer(Addr),
}

/// Decides by the destination's address.
///
/// A pod without an address of the destination's family cannot reach it: the kernel is left to
/// say so with its own error (the agent enrols no pod that has an address it was not told of).
#[inline(always)]
pub const fn outbound(destination: Addr, pod: &Enrolment) -> Outbound {
    if destination.stays_near() {
        return Outbound::Pass;
    }
    let own = if destination.is_v4() { Addr::from_v4_be(pod.addr4_be) } else { pod.addr6 };
    if own.is_unspecified() || own.same(destination) {
        Outbound::Pass
    } else {
        Outbound::Steer(own)
    }
}

/// Which worker takes a connection, from its source port.
///
/// Linux gives connecting sockets ports of one parity first, so the low bit alone would send
/// everything to one worker: multiply (Knuth's constant) and take high bits.
#[inline(always)]
pub const fn worker_of(source_port: u16, workers: u32) -> u16 {
    let mixed = (source_port as u32).wrapping_mul(2_654_435_761) >> 16;
    // `workers` is at least one; the check spares the verifier a division by zero.
    if workers == 0 { 0 } else { (mixed % workers) as u16 }
}

#[cfg(test)]
#[cfg(feature = "user")]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn addr(text: &str) -> Addr {
        Addr::from(text.parse::<IpAddr>().unwrap())
    }

    fn pod() -> Enrolment {
        Enrolment { addr6: addr("fd00::2"), addr4_be: addr("10.0.0.2").v4_be(), flags: 0 }
    }

    #[test]
    fn what_stays_in_the_pod_is_not_steered() {
        for text in [
            "127.0.0.1",
            "::1",
            "0.0.0.0",
            "::",
            "10.0.0.2",
            "fd00::2",
            "fe80::1",
            "169.254.169.254",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.2",
        ] {
            assert_eq!(outbound(addr(text), &pod()), Outbound::Pass, "{text}");
        }
    }

    #[test]
    fn the_rest_goes_to_the_pods_own_address_of_that_family() {
        assert_eq!(outbound(addr("10.0.0.3"), &pod()), Outbound::Steer(addr("10.0.0.2")));
        assert_eq!(outbound(addr("fd00::3"), &pod()), Outbound::Steer(addr("fd00::2")));
    }

    #[test]
    fn a_family_that_the_pod_lacks_is_left_to_the_kernel() {
        let v4_only = Enrolment { addr6: Addr::UNSPECIFIED, ..pod() };
        assert_eq!(outbound(addr("fd00::3"), &v4_only), Outbound::Pass);
        let v6_only = Enrolment { addr4_be: 0, ..pod() };
        assert_eq!(outbound(addr("10.0.0.3"), &v6_only), Outbound::Pass);
    }

    #[test]
    fn ports_of_one_parity_reach_every_worker_evenly() {
        for workers in [1_u32, 2, 3, 4, 8] {
            let mut hits = std::vec![0_u32; workers as usize];
            for port in (32_768..60_999_u16).step_by(2) {
                hits[usize::from(worker_of(port, workers))] += 1;
            }
            let even = 14_116 / workers;
            assert!(hits.iter().all(|&n| n > even * 9 / 10 && n < even * 11 / 10), "{hits:?}");
        }
    }
}
