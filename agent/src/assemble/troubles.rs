//! Tells of pods that get no certificate, before a connection of theirs fails for it.

use std::time::Duration;

use culvert_spiffe::VerifyError;
use tokio::time::MissedTickBehavior;

use crate::{
    identity::{IdentityStatus, IdentityStore, IssueError, with_sources},
    observe::Metrics,
    supervise::Tasks,
};

/// How often identities are looked at.
const LOOK: Duration = Duration::from_secs(5);
/// Requests that must have failed in a row: one may, when an authority's replica goes.
const FAILURES: u32 = 2;

/// Starts to look at identities.
pub(super) fn follow(tasks: &mut Tasks, identity: &IdentityStore, metrics: &Metrics) {
    let (identity, metrics, token) = (identity.clone(), metrics.clone(), tasks.token());
    tasks.spawn("troubles", async move {
        let mut interval = tokio::time::interval(LOOK);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let look = async {
            loop {
                interval.tick().await;
                tell(&identity.identities(), &metrics);
            }
        };
        token.run_until_cancelled(look).await;
        Ok(())
    });
}

/// Tells of each workload that has no certificate; how often is for [`Metrics::trouble`] to see to.
fn tell(identities: &[IdentityStatus], metrics: &Metrics) {
    for status in identities {
        let (None, Some(error)) = (&status.held, &status.last_error) else { continue };
        if status.failures < FAILURES {
            continue;
        }
        // Who else holds it is no workload.
        for (namespace, workload) in status.users.iter().filter_map(|user| user.split_once('/')) {
            metrics.trouble(namespace, workload, (event(error), "ObtainCertificate"), || {
                let error = with_sources(&**error);
                format!(
                    "no certificate for {} after {} requests: {error}",
                    status.id, status.failures
                )
            });
        }
    }
}

/// The `reason` of the Event. The error itself says how to mend it.
fn event(error: &IssueError) -> &'static str {
    match error {
        IssueError::Unreachable { .. }
        | IssueError::TimedOut { .. }
        | IssueError::HeldBack { .. } => "AuthorityUnreachable",
        IssueError::Refused { .. } => "CertificateRefused",
        IssueError::Unverified {
            source: VerifyError::NotYetValid { .. } | VerifyError::Expired { .. },
            ..
        } => "ClockSkew",
        IssueError::ReadToken { .. }
        | IssueError::Token { .. }
        | IssueError::Request { .. }
        | IssueError::Malformed { .. }
        | IssueError::Unverified { .. }
        | IssueError::Roots { .. }
        | IssueError::Unusable { .. } => "CertificateNotIssued",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn failing(error: IssueError, failures: u32) -> IdentityStatus {
        IdentityStatus {
            id: "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap(),
            phase: "backing_off",
            held: None,
            next_request: None,
            failures,
            last_error: Some(Arc::new(error)),
            users: vec!["shop/web-1".into(), "shop/web-2".into(), "workload API".into()],
            lingers_until: None,
        }
    }

    fn away() -> IssueError {
        IssueError::TimedOut { address: "ca.test:15012".parse().unwrap() }
    }

    #[test]
    fn each_pod_without_a_certificate_is_told_of_once() {
        let metrics = Metrics::new().unwrap();
        let mut troubles = metrics.troubles();
        tell(&[failing(away(), 1)], &metrics);
        assert!(troubles.try_recv().is_err(), "it is tried again first");
        tell(&[failing(away(), 2)], &metrics);
        tell(&[failing(away(), 3)], &metrics);
        for pod in ["web-1", "web-2"] {
            let told = troubles.try_recv().unwrap();
            assert_eq!((&*told.namespace, &*told.workload), ("shop", pod));
            assert_eq!(told.reason, "AuthorityUnreachable");
            assert!(told.note.contains("ca.test:15012"), "{}", told.note);
        }
        assert!(troubles.try_recv().is_err());
    }

    #[test]
    fn clock_that_is_wrong_is_told_apart() {
        let id: culvert_spiffe::SpiffeId = "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
        let unverified = |source| IssueError::Unverified {
            id: id.clone(),
            root_file: "root.pem".into(),
            source,
        };
        let not_yet = VerifyError::NotYetValid {
            id: id.clone(),
            ahead: "1 h".to_owned(),
            not_before: String::new(),
            now: String::new(),
        };
        assert_eq!(event(&unverified(not_yet)), "ClockSkew");
        assert_eq!(event(&unverified(VerifyError::NoCertificate)), "CertificateNotIssued");
        assert_eq!(event(&away()), "AuthorityUnreachable");
    }
}
