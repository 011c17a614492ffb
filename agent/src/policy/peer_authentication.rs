//! Which PeerAuthentication holds for a port of a workload, and what it says.
//!
//! ```text
//!  port of the workload's policy ─UNSET─▶ mode of that policy ─UNSET─▶ namespace ─UNSET─▶ mesh
//!                                                                                 ─UNSET─▶ PERMISSIVE
//! ```
//!
//! On each level the oldest policy counts, whole: a younger one fills no gap of it. Source:
//! istio/api `security/v1beta1/peer_authentication.proto`. Where istiod's ambient conversion
//! departs from that documentation (a port exception under a mesh-wide STRICT opens or closes
//! more than that port) the documentation is followed.

use crate::workload::{MtlsMode, PeerAuthentication, Snapshot, Workload};

use super::verdict::Rule;

/// What a port takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Acceptance {
    /// Mutual TLS and plaintext: PERMISSIVE, DISABLE, or nothing said.
    PlaintextToo,
    /// Mutual TLS only: STRICT.
    MutualTlsOnly,
}

/// What holds for a port, and by which rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// What the port takes.
    pub acceptance: Acceptance,
    /// Who says so.
    pub rule: Rule,
}

/// What holds for `port` of `workload`; for ports without a mode of their own when `port` is none.
pub fn effective(snapshot: &Snapshot, workload: &Workload, port: Option<u16>) -> Effective {
    let Levels { workload: own, namespace, mesh } = Levels::of(snapshot, workload);
    let port_mode = own
        .zip(port)
        .and_then(|(policy, port)| policy.ports.get(&port).map(|mode| (*mode, policy, Some(port))));
    let levels = [own, namespace, mesh];
    let modes = levels.into_iter().flatten().map(|policy| (policy.mode, policy, None));
    for (mode, policy, port) in port_mode.into_iter().chain(modes) {
        let acceptance = match mode {
            MtlsMode::Unset => continue,
            MtlsMode::Disable | MtlsMode::Permissive => Acceptance::PlaintextToo,
            MtlsMode::Strict => Acceptance::MutualTlsOnly,
        };
        let rule = Rule::PeerAuthentication {
            namespace: policy.namespace.clone(),
            name: policy.name.clone(),
            port,
        };
        return Effective { acceptance, rule };
    }
    Effective { acceptance: Acceptance::PlaintextToo, rule: Rule::Default }
}

/// The ports for which the workload's own policy has a mode.
pub fn ports_with_own_mode(snapshot: &Snapshot, workload: &Workload) -> impl Iterator<Item = u16> {
    let own = Levels::of(snapshot, workload).workload;
    own.into_iter().flat_map(|policy| policy.ports.keys().copied())
}

/// The policy that counts on each level.
#[derive(Default)]
struct Levels<'a> {
    workload: Option<&'a PeerAuthentication>,
    namespace: Option<&'a PeerAuthentication>,
    mesh: Option<&'a PeerAuthentication>,
}

impl<'a> Levels<'a> {
    /// Relies on the snapshot's order: oldest first.
    fn of(snapshot: &'a Snapshot, workload: &Workload) -> Self {
        let root = snapshot.root_namespace();
        let mut levels = Self::default();
        let policies = snapshot.policies();
        // Istio knows no selector in the root namespace, not even for its own workloads.
        levels.mesh = policies.peer_authentications_in(root).find(|policy| !policy.has_selector());
        if workload.namespace == root {
            return levels;
        }
        for policy in policies.peer_authentications_in(&workload.namespace) {
            let level = if !policy.has_selector() {
                &mut levels.namespace
            } else if policy.selects(workload) {
                &mut levels.workload
            } else {
                continue;
            };
            level.get_or_insert(policy);
        }
        levels
    }
}
