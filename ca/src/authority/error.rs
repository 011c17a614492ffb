//! Why the authority cannot work.

use culvert_spiffe::{BundleError, TrustDomain, VerifyError};
use time::OffsetDateTime;

use crate::source::SourceError;
use crate::state::StateError;
use crate::store::StoreError;

/// Why the authority cannot work, or cannot sign.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// The store cannot be used.
    #[error("cannot use the authority's store")]
    Store(#[from] StoreError),
    /// The state document cannot be used.
    #[error("cannot use the authority's state")]
    State(#[from] StateError),
    /// There is no state document where there was one.
    #[error(
        "the authority's state document is gone, but its root certificates are there; restore \
         it from a backup, or remove root-cert.pem too (in a cluster: the ConfigMap \
         culvert-root-cert in its namespace) to begin a new mesh"
    )]
    Lost,
    /// The state document is of an earlier day than what is in use.
    #[error(
        "the authority's state document went back to bundle {found} while {used} is in use; \
         restart the server if a backup was restored on purpose"
    )]
    Older {
        /// Its bundle's number.
        found: u64,
        /// The number in use.
        used: u64,
    },
    /// Others change the state all the time.
    #[error("others change the authority's state all the time; trying again")]
    Contended,
    /// The state belongs to another trust domain.
    #[error(
        "the authority's state is of trust domain {found}, not {asked}; use another --dir or namespace"
    )]
    ForeignTrustDomain {
        /// The one it is of.
        found: String,
        /// The one asked for.
        asked: TrustDomain,
    },
    /// The root is over.
    #[error(
        "root certificate ended {not_after}; plug in a CA that is valid with --cacerts, or begin a \
         new mesh in another --dir, in a cluster without the Secret culvert-ca and the ConfigMap \
         culvert-root-cert of its namespace"
    )]
    RootExpired {
        /// Its end.
        not_after: OffsetDateTime,
    },
    /// The operator's files cannot be used, and there is nothing else to sign with.
    #[error("cannot use the plugged-in CA")]
    Source(#[from] SourceError),
    /// The issuing certificate is over and no new one could be made.
    #[error("issuing certificate is about to end and could not be replaced; see the error before")]
    IssuerExpired,
    /// The store was not readable for so long that other replicas may have moved on.
    #[error("the authority's state could not be read since {since}; repair the store")]
    Unconfirmed {
        /// When it was read last.
        since: OffsetDateTime,
    },
    /// The roots are no trust bundle.
    #[error("root certificates are no trust bundle; restore the state document from a backup")]
    Bundle(#[from] BundleError),
    /// The request is for a key of the authority itself.
    #[error("request is for a key of the authority itself")]
    OwnKey,
    /// Signing failed.
    #[error("cannot make a certificate")]
    Sign(#[from] rcgen::Error),
    /// What was signed does not verify, so it was not handed out.
    #[error("certificate just signed does not verify; compare the clock with the root's dates")]
    Unverified(#[from] VerifyError),
    /// What was signed is for somebody else, so it was not handed out.
    #[error("certificate just signed cannot be read back")]
    Unreadable,
}
