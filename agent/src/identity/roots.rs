//! [`TrustRoots`]: what every verifier of this node believes, replaced as a whole.
//!
//! ```text
//!  root file ─┐ start                            ┌─▶ handshakes: load()
//!  bundle file┴──▶ BundleInForce ──▶ TrustRoots ─┼─▶ identities, connections: watch()
//!  authority ──push──▶ judge ──take──▲           └─▶ bundle file
//! ```

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use culvert_spiffe::{PeerRole, RootId, TrustBundle, TrustDomain, VerifyError};
use rustls::pki_types::{CertificateDer, UnixTime};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub(crate) mod file;
pub(crate) mod metrics;
pub(crate) mod offer;

use offer::OfferError;

/// What a root is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// Peers under it are believed.
    Trusted,
    /// Peers under it are believed for now; our own certificates under it are replaced.
    Tainted,
    /// Nothing under it is believed, and connections that rest on it are closed.
    Revoked,
}

impl Standing {
    /// Every standing.
    pub const ALL: [Self; 3] = [Self::Trusted, Self::Tainted, Self::Revoked];

    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Trusted => "trusted",
            Self::Tainted => "tainted",
            Self::Revoked => "revoked",
        }
    }
}

/// One root, and what it is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// DER.
    pub certificate: CertificateDer<'static>,
    /// Its identity.
    pub id: RootId,
    /// What it is good for.
    pub standing: Standing,
}

/// Everything by which peers are verified at one moment.
#[derive(Clone, Debug)]
pub struct BundleInForce {
    sequence: u64,
    /// Those of `roots` that are not revoked.
    bundle: TrustBundle,
    roots: Vec<Root>,
    jwks: Arc<[u8]>,
}

/// What a chain rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rests {
    /// On a root that is good; or the chain is at fault otherwise, which is not a root's matter.
    Sound,
    /// On a root that is tainted.
    Tainted,
    /// On no root that is believed.
    Nothing,
}

impl BundleInForce {
    /// What stands in the root file, before the authority has pushed anything.
    pub(crate) fn of_file(bundle: TrustBundle) -> Self {
        let roots = bundle
            .certificates()
            .iter()
            .zip(bundle.root_ids())
            .map(|(certificate, id)| Root {
                certificate: certificate.clone(),
                id: *id,
                standing: Standing::Trusted,
            })
            .collect();
        Self { sequence: 0, bundle, roots, jwks: Arc::default() }
    }

    /// A bundle that the authority numbered. A key that is revoked is revoked in every
    /// certificate that has it.
    pub(crate) fn numbered(
        trust_domain: TrustDomain,
        sequence: u64,
        given: Vec<(CertificateDer<'static>, Standing)>,
        jwks: Arc<[u8]>,
    ) -> Result<Self, OfferError> {
        let mut roots = Vec::with_capacity(given.len());
        for (certificate, standing) in given {
            let id = RootId::of_certificate(&certificate).ok_or(OfferError::Root { sequence })?;
            roots.push(Root { certificate, id, standing });
        }
        let revoked: Vec<_> = roots
            .iter()
            .filter(|root| root.standing == Standing::Revoked)
            .map(|root| root.id)
            .collect();
        let believed = roots.iter().filter(|root| !revoked.contains(&root.id));
        let believed = believed.map(|root| root.certificate.clone()).collect();
        let bundle = TrustBundle::from_certificates(trust_domain, believed)
            .map_err(|source| OfferError::Bundle { sequence, source })?;
        Ok(Self { sequence, bundle, roots, jwks })
    }

    /// The authority's number of it; 0 as long as none was pushed.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The roots under which peers are believed.
    pub fn bundle(&self) -> &TrustBundle {
        &self.bundle
    }

    /// All roots that it names, revoked ones too.
    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// The keys of JWT-SVIDs, a JWK set (RFC 7517); empty when the authority has sent none.
    pub fn jwks(&self) -> &Arc<[u8]> {
        &self.jwks
    }

    /// Whether a root of this key is named as revoked.
    pub fn is_revoked(&self, root: RootId) -> bool {
        self.has(root, Standing::Revoked)
    }

    fn has(&self, id: RootId, standing: Standing) -> bool {
        self.roots.iter().any(|root| root.id == id && root.standing == standing)
    }

    /// What a chain of our own, leaf first, rests on.
    pub(crate) fn rests(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Rests {
        match self.bundle.verify(chain, PeerRole::Server, now) {
            Ok(peer) if self.has(peer.root(), Standing::Tainted) => Rests::Tainted,
            Err(VerifyError::UnknownIssuer { .. }) => Rests::Nothing,
            // What has expired is withdrawn by its own clock.
            Ok(_) | Err(_) => Rests::Sound,
        }
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
            Some(BundleInForce::of_file(bundle))
        });
    }

    /// Waits until `root` is named as revoked, or a chain of our own rests on nothing.
    ///
    /// Cancel safe; works on any runtime.
    pub(crate) async fn revoked(&self, root: RootId, own: &[CertificateDer<'_>]) {
        let mut changes = self.watch();
        loop {
            let current = changes.borrow_and_update().clone();
            let lost = current.roots.iter().any(|root| root.standing == Standing::Revoked)
                && current.rests(own, UnixTime::now()) == Rests::Nothing;
            if current.is_revoked(root) || lost {
                return;
            }
            // Ends with an error only when the sender is gone, and `self` holds it.
            let _ = changes.changed().await;
        }
    }

    /// The roots that the authority itself is verified with: those in force, and those of the
    /// root file that are not revoked. So an agent finds an authority that was made anew.
    pub(crate) fn and(&self, file: &TrustBundle) -> TrustBundle {
        let current = self.load();
        let file = file.certificates().iter().zip(file.root_ids());
        let file = file.filter(|(_, id)| !current.is_revoked(**id)).map(|(root, _)| root);
        let all = current.bundle.certificates().iter().chain(file).cloned().collect();
        TrustBundle::from_certificates(current.bundle.trust_domain().clone(), all)
            .unwrap_or_else(|_| current.bundle.clone())
    }
}

#[cfg(test)]
mod tests;
