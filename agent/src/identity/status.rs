//! [`IdentityStatus`]: what an operator is told of one identity. No key is in it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use culvert_spiffe::{CertificateFacts, SpiffeId};

use super::ca_client::IssueError;
use super::state::{Phase, State, Usage};
use super::svid::Svid;

/// One identity of this node, as it stands at a moment.
#[derive(Clone, Debug)]
pub struct IdentityStatus {
    /// Whose.
    pub id: SpiffeId,
    /// Where its certificate stands: `asking`, `backing_off`, `held`, `renewing`,
    /// `retrying_renewal`.
    pub phase: &'static str,
    /// What is held; none before the first certificate, or once the last one is over.
    pub held: Option<Held>,
    /// When the authority is asked next; none while it is being asked.
    pub next_request: Option<SystemTime>,
    /// How many requests in a row have failed.
    pub failures: u32,
    /// What the authority said last, where there is no certificate.
    pub last_error: Option<Arc<IssueError>>,
    /// The names under which it is held: workloads of this node, sorted.
    pub users: Vec<Box<str>>,
    /// When it will be forgotten, if nobody holds it.
    pub lingers_until: Option<SystemTime>,
}

/// A certificate that is held.
#[derive(Clone, Debug)]
pub struct Held {
    /// The SVID itself.
    pub svid: Arc<Svid>,
    /// Serial, issuer, dates.
    pub facts: CertificateFacts,
}

impl IdentityStatus {
    pub(super) fn new(
        id: SpiffeId,
        svid: Option<Arc<Svid>>,
        last_error: Option<Arc<IssueError>>,
        state: State,
        mut users: Vec<Box<str>>,
    ) -> Self {
        users.sort_unstable();
        let held = svid.and_then(|svid| Some(Held { facts: svid.facts()?, svid }));
        let (phase, next_request, failures) = match state.phase {
            Phase::Asking { failures } => ("asking", None, failures),
            Phase::BackingOff { failures, at } => ("backing_off", Some(at), failures),
            Phase::Held { renew_at, .. } => ("held", Some(renew_at), 0),
            Phase::Renewing { failures, .. } => ("renewing", None, failures),
            Phase::RetryingRenewal { failures, at, .. } => ("retrying_renewal", Some(at), failures),
        };
        let lingers_until = match state.usage {
            Usage::InUse => None,
            Usage::Lingering { until } => Some(until),
        };
        Self { id, phase, held, next_request, failures, last_error, users, lingers_until }
    }

    /// The last moment of the certificate held, if there is one.
    pub fn not_after(&self) -> Option<SystemTime> {
        let end = self.held.as_ref()?.facts.not_after.as_secs();
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(end))
    }
}
