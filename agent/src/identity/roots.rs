//! [`TrustRoots`]: what every verifier of this node believes, replaced as a whole.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use culvert_spiffe::TrustBundle;
use tokio::sync::watch;

/// Everything by which peers are verified at one moment.
#[derive(Debug)]
pub struct BundleInForce {
    sequence: u64,
    bundle: TrustBundle,
    jwks: Arc<[u8]>,
}

impl BundleInForce {
    /// What stands in the root file, before the authority has pushed anything.
    pub(crate) fn of_file(bundle: TrustBundle) -> Self {
        Self { sequence: 0, bundle, jwks: Arc::default() }
    }

    /// The authority's number of it; 0 as long as none was pushed.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The roots under which peers are believed.
    pub fn bundle(&self) -> &TrustBundle {
        &self.bundle
    }

    /// The keys of JWT-SVIDs, a JWK set (RFC 7517); empty when the authority has sent none.
    pub fn jwks(&self) -> &Arc<[u8]> {
        &self.jwks
    }
}

/// The bundle in force, shared by all verifiers. Cloning shares it.
///
/// A change counts from the next handshake on; those who must act on it hear it from [`Self::watch`].
#[derive(Clone)]
pub(crate) struct TrustRoots(Arc<Inner>);

struct Inner {
    /// What handshakes read: no lock, no wait. Written under the lock of `changes` only.
    current: ArcSwap<BundleInForce>,
    changes: watch::Sender<Arc<BundleInForce>>,
}

impl TrustRoots {
    pub(crate) fn new(first: BundleInForce) -> Self {
        let first = Arc::new(first);
        let changes = watch::Sender::new(first.clone());
        Self(Arc::new(Inner { current: ArcSwap::new(first), changes }))
    }

    /// The bundle in force now.
    pub(crate) fn load(&self) -> Guard<Arc<BundleInForce>> {
        self.0.current.load()
    }

    /// The bundle in force, and each that replaces it. Works on any runtime.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<BundleInForce>> {
        self.0.changes.subscribe()
    }

    /// Puts in force what `decide` makes of the bundle in force, if it makes anything. Decisions
    /// are taken one after the other.
    pub(crate) fn replace(&self, decide: impl FnOnce(&BundleInForce) -> Option<BundleInForce>) {
        self.0.changes.send_if_modified(|current| {
            let Some(next) = decide(current) else { return false };
            *current = Arc::new(next);
            self.0.current.store(current.clone());
            true
        });
    }

    /// Adds roots to those in force; how an authority that pushes no bundles tells of its next
    /// root. Without effect once a bundle was pushed.
    pub(crate) fn add(&self, brought: &TrustBundle) {
        self.replace(|current| {
            let held = current.bundle.certificates();
            let known = brought.certificates().iter().all(|root| held.contains(root));
            if current.sequence > 0 || known {
                return None;
            }
            let all = held.iter().chain(brought.certificates()).cloned().collect();
            let domain = current.bundle.trust_domain().clone();
            // Both were bundles, so both together are one.
            let bundle = TrustBundle::from_certificates(domain, all).ok()?;
            tracing::info!(roots = bundle.certificates().len(), "trust bundle changed");
            Some(BundleInForce { sequence: 0, bundle, jwks: current.jwks.clone() })
        });
    }
}
