//! What the authority tells its nodes: the bundle in force; and what it hears back from them.

use rustls::pki_types::CertificateDer;

/// The trust bundle as it is pushed to agents. Always the whole set, never a difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedBundle {
    /// Grows by each change; the highest wins. From 1.
    pub sequence: u64,
    /// Its roots, the oldest first. Revoked ones stay in it by name for as long as anything that
    /// they signed could be alive, so that agents close what rests on them.
    pub roots: Vec<PublishedRoot>,
}

/// One root of the bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedRoot {
    /// DER.
    pub certificate: CertificateDer<'static>,
    /// What it is good for.
    pub standing: Standing,
}

/// What a root is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// Peers under it are believed.
    Trusted,
    /// Peers under it are believed for now; certificates under it are replaced within 5 minutes.
    Tainted,
    /// Nothing under it is believed.
    Revoked,
}

/// What a node was heard to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It was given a certificate. Alone, this says that it learns roots from answers only.
    Issued,
    /// It follows the bundle, and has this sequence number in force.
    Following {
        /// The number that it acknowledged.
        in_force: u64,
    },
}

/// Which keys stand behind a certificate: for the audit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Generation {
    /// Number of the root, from 1.
    pub root: u64,
    /// Number of the issuing certificate, from 1.
    pub issuing: u64,
    /// Sequence number of the bundle that was in force.
    pub bundle: u64,
}

impl PublishedBundle {
    /// The roots by which peers are verified: all but the revoked.
    pub fn believed(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        let believed = |root: &&PublishedRoot| root.standing != Standing::Revoked;
        self.roots.iter().filter(believed).map(|root| &root.certificate)
    }
}
