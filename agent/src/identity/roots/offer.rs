//! A bundle that the authority offers: read from the wire, and judged before it is in force.

use std::sync::Arc;

use culvert_proto::culvert::ca as wire;
use culvert_spiffe::{BundleError, PeerRole, RootId, SpiffeId, TrustDomain, VerifyError};
use rustls::pki_types::{CertificateDer, UnixTime};

use super::{BundleInForce, Standing};

/// Most roots of a bundle; while a root is replaced there are two, seldom three.
const MAX_ROOTS: usize = 32;
/// Most bytes of one root; ours are 0.4 kB, RSA ones of a plugged-in authority 2 kB.
const MAX_ROOT_BYTES: usize = 16 * 1024;
/// Most bytes of the keys of JWT-SVIDs.
const MAX_JWKS_BYTES: usize = 64 * 1024;

/// Why an offered bundle is not put in force. The one in force stays.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OfferError {
    /// It says that it is for another trust domain.
    #[error(
        "trust bundle {sequence} is for trust domain {offered}, this agent is in {expected}; give \
         agent and authority the same `trustDomain`"
    )]
    ForeignTrustDomain { sequence: u64, offered: String, expected: TrustDomain },
    /// It has no number, or is beyond the bounds.
    #[error("trust bundle {sequence} is malformed ({part}); check the authority's version")]
    Malformed { sequence: u64, part: &'static str },
    /// A root cannot be read.
    #[error("trust bundle {sequence} has a root that is no certificate; repair the authority")]
    Root { sequence: u64 },
    /// Its roots are no bundle.
    #[error("trust bundle {sequence} has no roots to believe in; repair the authority")]
    Bundle {
        sequence: u64,
        #[source]
        source: BundleError,
    },
    /// It leaves out a root that a certificate in use needs.
    #[error(
        "trust bundle {sequence} leaves out root {root}, which the certificate of {identity} rests \
         on; it is taken once that certificate is renewed, or the root is tainted or revoked"
    )]
    Needed { sequence: u64, root: RootId, identity: SpiffeId },
    /// It has the number of the one in force, and other roots.
    #[error(
        "another trust bundle than the one in force has the number {sequence}; if the authority \
         was made anew, stop the agent, remove `ca.bundleFile` and start it again"
    )]
    Forked { sequence: u64 },
}

/// What becomes of an offered bundle.
#[derive(Debug)]
pub(crate) enum Judgement {
    /// It is put in force.
    Take(Box<BundleInForce>),
    /// It is in force.
    Same,
    /// A newer one is in force.
    Older,
}

/// A certificate that is in use here.
pub(crate) struct Served {
    pub(crate) identity: SpiffeId,
    /// Leaf first.
    pub(crate) chain: Vec<CertificateDer<'static>>,
}

/// Reads a bundle of `expected` from the wire.
pub(crate) fn read(
    message: wire::TrustBundle,
    expected: &TrustDomain,
) -> Result<BundleInForce, OfferError> {
    let sequence = message.sequence;
    let malformed = |part| Err(OfferError::Malformed { sequence, part });
    if message.trust_domain != expected.as_str() {
        let offered = message.trust_domain.chars().take(255).collect::<String>();
        return Err(OfferError::ForeignTrustDomain {
            sequence,
            offered: offered.escape_default().to_string(),
            expected: expected.clone(),
        });
    }
    if sequence == 0 {
        return malformed("it has no number");
    }
    if message.roots.len() > MAX_ROOTS {
        return malformed("too many roots");
    }
    if message.roots.iter().any(|root| root.certificate.len() > MAX_ROOT_BYTES) {
        return malformed("a root is too large");
    }
    if message.jwks.len() > MAX_JWKS_BYTES {
        return malformed("the JWT keys are too large");
    }
    let roots = message
        .roots
        .into_iter()
        .map(|root| (root.standing(), CertificateDer::from(root.certificate)))
        .map(|(standing, certificate)| (certificate, standing_of(standing)))
        .collect();
    BundleInForce::numbered(expected.clone(), sequence, roots, Arc::from(message.jwks))
}

fn standing_of(wire: wire::Standing) -> Standing {
    match wire {
        wire::Standing::Trusted => Standing::Trusted,
        wire::Standing::Tainted => Standing::Tainted,
        // Nobody has said what it is good for, so for nothing.
        wire::Standing::Revoked | wire::Standing::Unspecified => Standing::Revoked,
    }
}

/// Decides whether `offered` takes the place of `current`, with these certificates in use.
///
/// The highest number wins; a number never goes back.
pub(crate) fn judge(
    current: &BundleInForce,
    offered: &BundleInForce,
    served: &[Served],
    now: UnixTime,
) -> Result<Judgement, OfferError> {
    let sequence = offered.sequence;
    if sequence < current.sequence {
        return Ok(Judgement::Older);
    }
    if sequence == current.sequence {
        if offered.roots != current.roots {
            return Err(OfferError::Forked { sequence });
        }
        // The JWT keys turn over apart from the roots.
        let same = offered.jwks == current.jwks;
        return Ok(if same { Judgement::Same } else { Judgement::Take(Box::new(offered.clone())) });
    }
    for Served { identity, chain } in served {
        let Err(VerifyError::UnknownIssuer { .. }) =
            offered.bundle.verify(chain, PeerRole::Server, now)
        else {
            continue;
        };
        // Without a path today there is nothing to lose.
        let Ok(peer) = current.bundle.verify(chain, PeerRole::Server, now) else { continue };
        let root = peer.root();
        let named = |bundle: &BundleInForce, standing| bundle.has(root, standing);
        let given_up = named(offered, Standing::Revoked)
            || named(offered, Standing::Tainted)
            || named(current, Standing::Tainted);
        if !given_up {
            return Err(OfferError::Needed { sequence, root, identity: identity.clone() });
        }
    }
    Ok(Judgement::Take(Box::new(offered.clone())))
}
