//! `/certs`: the identities of this node.

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Most users of one identity that are named; further ones are only counted.
pub const USERS_NAMED: usize = 64;

/// Answer to `GET /certs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identities {
    /// This node.
    pub node: String,
    /// The trust domain of all of them.
    pub trust_domain: String,
    /// The agent's clock.
    pub now: String,
    /// Every identity that is held or lingers, by name.
    pub identities: Vec<Identity>,
}

/// One identity; no key is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// The SPIFFE ID.
    pub id: String,
    /// `asking`, `backing_off`, `held`, `renewing` or `retrying_renewal`.
    pub state: String,
    /// The certificate in use.
    pub certificate: Option<Certificate>,
    /// When the authority is asked next; none while it is being asked.
    pub next_renewal: Option<String>,
    /// How many requests in a row have failed.
    pub failures: u32,
    /// What the authority said last, where there is no certificate.
    pub last_error: Option<String>,
    /// Workloads that use it, `NAMESPACE/NAME`; the first [`USERS_NAMED`].
    pub users: Vec<String>,
    /// How many use it.
    pub user_count: usize,
    /// When it will be forgotten, if nobody uses it.
    pub lingers_until: Option<String>,
}

/// What there is to see of a certificate at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    /// Upper-case hexadecimal, as `openssl x509 -serial` prints it.
    pub serial: String,
    /// Name of the certificate that issued it.
    pub issuer: String,
    /// First second at which it is valid.
    pub not_before: String,
    /// Last second at which it is valid.
    pub not_after: String,
}

/// Answer to `POST /certs/ID/export`: everything that it takes to be that workload.
///
/// Overwritten when dropped; printed without its key.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(rename_all = "camelCase")]
pub struct Export {
    /// The SPIFFE ID.
    pub id: String,
    /// Last second at which the certificate is valid.
    pub not_after: String,
    /// PEM, leaf first.
    pub certificate_chain: String,
    /// PEM, PKCS#8.
    pub private_key: String,
    /// PEM.
    pub root_certificates: String,
}

impl std::fmt::Debug for Export {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Export")
            .field("id", &self.id)
            .field("private_key", &"[redacted]")
            .finish_non_exhaustive()
    }
}
