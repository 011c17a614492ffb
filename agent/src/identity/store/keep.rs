//! The one task of an identity: executes its [`State`].

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustls::pki_types::UnixTime;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::entry::Entry;
use super::{Shared, chain};
use crate::identity::ca_client::IssueError;
use crate::identity::roots::Rests;
use crate::identity::state::{Action, Draw, Event, Lease, State};
use crate::identity::svid::Svid;

/// Longest sleep without a look at the wall clock: it may have been set, or the machine suspended.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// Executes the state of one identity until it is wiped or the agent stops.
pub(super) async fn keep(shared: Arc<Shared>, entry: Arc<Entry>) {
    let (mut state, _ask) = State::start();
    let mut wanted = entry.since;
    let mut references = entry.references.subscribe();
    // The last reference may have gone before this task ran; look once.
    references.mark_changed();
    let mut in_use = true;
    let mut recoveries = shared.ca.recoveries();
    let mut bundles = shared.ca.roots().watch();
    let mut request = Some(Box::pin(shared.ca.issue(&entry.id, false)));
    loop {
        let pause = pause_until(state.wake_at());
        let event = tokio::select! {
            // The order is of no consequence but for the first: a stop is never put off.
            biased;
            () = shared.cancel.cancelled() => return,
            answer = async {
                match request.as_mut() {
                    Some(request) => request.await,
                    None => std::future::pending().await,
                }
            } => {
                request = None;
                Some(take(&shared, &entry, wanted, answer))
            }
            // The senders live in `entry` and `shared`, so each of these ends with a change.
            _ = references.changed() => used(&mut references, &mut in_use),
            _ = recoveries.changed() => Some(Event::Reachable),
            _ = bundles.changed() => rests(&shared, &entry),
            () = tokio::time::sleep(pause) => Some(Event::Woke),
        };
        let mut events = event;
        while let Some(event) = events.take() {
            let (next, actions) = state.step(event, SystemTime::now(), Draw(rand::random()));
            state = next;
            entry.note(state);
            for action in actions {
                match action {
                    Action::Ask => {
                        request = Some(Box::pin(shared.ca.issue(&entry.id, entry.is_ready())));
                    }
                    Action::Withdraw => {
                        entry.withdraw(event);
                        wanted = Instant::now();
                    }
                    Action::Wipe if shared.wipe(&entry) => {
                        debug!(identity = %entry.id, "identity wiped");
                        return;
                    }
                    // A reference came; the change of the count brings `Referenced`.
                    Action::Wipe => {}
                }
            }
            if matches!(event, Event::Issued(_)) {
                // The root may have been tainted while the request was under way.
                events = rests(&shared, &entry);
            }
        }
    }
}

/// What a change of the references means, if the use began or ended by it.
fn used(references: &mut watch::Receiver<Vec<Box<str>>>, in_use: &mut bool) -> Option<Event> {
    let used = !references.borrow_and_update().is_empty();
    match (std::mem::replace(in_use, used), used) {
        (true, false) => Some(Event::Released),
        (false, true) => Some(Event::Referenced),
        (true, true) | (false, false) => None,
    }
}

/// What the root under the certificate held means for it.
fn rests(shared: &Shared, entry: &Entry) -> Option<Event> {
    let svid = entry.ready()?;
    match shared.ca.roots().load().rests(svid.chain(), UnixTime::now()) {
        Rests::Sound => None,
        Rests::Tainted => {
            info!(identity = %entry.id, "svid rests on a tainted root; it is renewed within minutes");
            Some(Event::Tainted)
        }
        Rests::Nothing => Some(Event::Revoked),
    }
}

/// Publishes an answer of the authority and says what it means for the state.
///
/// `since` tells when the identity came to need a certificate, if it holds none.
fn take(shared: &Shared, entry: &Entry, since: Instant, answer: Result<Svid, IssueError>) -> Event {
    let renewal = entry.is_ready();
    // What was held back was not asked, so it is not counted either.
    if !matches!(answer, Err(IssueError::HeldBack { .. })) {
        shared.metrics.asked(renewal, answer.as_ref().map(|_| ()));
    }
    match answer {
        Ok(svid) => {
            let svid = Arc::new(svid);
            let end = svid.not_after();
            let waited = since.elapsed();
            if renewal {
                info!(identity = %entry.id, not_after = end.as_secs(), renewal, "svid issued");
            } else {
                let waited_us = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
                info!(
                    identity = %entry.id, not_after = end.as_secs(), renewal, waited_us,
                    "svid issued"
                );
                shared.metrics.waited(waited);
            }
            shared.metrics.holds(&svid);
            let lease = Lease {
                from: SystemTime::now(),
                until: SystemTime::UNIX_EPOCH + Duration::from_secs(end.as_secs()),
            };
            entry.publish(svid);
            Event::Issued(lease)
        }
        Err(error @ IssueError::HeldBack { wait, .. }) => {
            // The one that was asked has warned.
            debug!(identity = %entry.id, renewal, "authority not asked, as it is away");
            entry.explain_if_unknown(Arc::new(error));
            Event::HeldBack(wait)
        }
        Err(error) => {
            let error = Arc::new(error);
            warn!(
                identity = %entry.id, renewal, error = %chain(&*error),
                "authority issued no certificate"
            );
            entry.explain(error);
            Event::Failed
        }
    }
}

fn pause_until(at: Option<SystemTime>) -> Duration {
    let Some(at) = at else { return LONGEST_SLEEP };
    at.duration_since(SystemTime::now()).unwrap_or_default().min(LONGEST_SLEEP)
}
