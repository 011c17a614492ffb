//! [`Entry`]: what connections, tasks and onlookers share of one identity.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use culvert_spiffe::SpiffeId;
use rustls::pki_types::UnixTime;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{error, warn};

use super::{SVID_WAIT, SvidError};
use crate::identity::ca_client::IssueError;
use crate::identity::state::{Event, State};
use crate::identity::status::IdentityStatus;
use crate::identity::svid::Svid;

/// What connections see of one identity.
pub(super) struct Entry {
    pub(super) id: SpiffeId,
    /// When the first reference was taken.
    pub(super) since: Instant,
    /// Who holds a reference, a name each.
    pub(super) references: watch::Sender<Vec<Box<str>>>,
    pub(super) current: watch::Sender<Current>,
    /// Where its task stands, as of the last step; for those who look from outside.
    pub(super) state: Mutex<State>,
}

/// The SVID to use now, or why there is none.
#[derive(Clone, Debug)]
pub enum Current {
    /// This one. Its time may be over before the next is published; [`Svid::is_expired`] tells.
    Ready(Arc<Svid>),
    /// None, and the authority's last answer if there was one.
    Absent(Option<Arc<IssueError>>),
}

impl Entry {
    /// A new identity with its first user.
    pub(super) fn new(id: SpiffeId, user: Box<str>) -> Self {
        let (state, _ask) = State::start();
        Self {
            id,
            since: Instant::now(),
            references: watch::Sender::new(vec![user]),
            current: watch::Sender::new(Current::Absent(None)),
            state: Mutex::new(state),
        }
    }

    pub(super) async fn svid(&self) -> Result<Arc<Svid>, SvidError> {
        if let Some(svid) = self.ready() {
            return Ok(svid);
        }
        let mut current = self.current.subscribe();
        let ready = async {
            // Ends with an error only when the sender is gone, and `self` holds it.
            let _ = current.wait_for(|now| matches!(now, Current::Ready(_))).await;
        };
        // A timeout is told by `ready()` below: the certificate may come in the same moment.
        let _ = timeout(SVID_WAIT, ready).await;
        self.ready().ok_or_else(|| SvidError::TimedOut {
            id: self.id.clone(),
            source: match &*self.current.borrow() {
                Current::Absent(last) => last.clone(),
                Current::Ready(_) => None,
            },
        })
    }

    /// The SVID, if one is held and its time is not over.
    pub(super) fn ready(&self) -> Option<Arc<Svid>> {
        match &*self.current.borrow() {
            Current::Ready(svid) if !svid.is_expired(UnixTime::now()) => Some(svid.clone()),
            Current::Ready(_) | Current::Absent(_) => None,
        }
    }

    pub(super) fn publish(&self, svid: Arc<Svid>) {
        self.current.send_replace(Current::Ready(svid));
    }

    pub(super) fn withdraw(&self, why: Event) {
        if why == Event::Revoked {
            warn!(identity = %self.id, "svid withdrawn: it rests on no root that is believed; asking anew");
        } else {
            error!(identity = %self.id, "svid expired before it could be renewed");
        }
        self.current.send_replace(Current::Absent(None));
    }

    /// Keeps the last answer for those who wait; an SVID that is held stays.
    pub(super) fn explain(&self, why: Arc<IssueError>) {
        self.current.send_if_modified(|current| match current {
            Current::Absent(last) => {
                *last = Some(why);
                true
            }
            Current::Ready(_) => false,
        });
    }

    /// As [`Entry::explain`], but an answer of the authority itself stays.
    pub(super) fn explain_if_unknown(&self, why: Arc<IssueError>) {
        if matches!(&*self.current.borrow(), Current::Absent(None)) {
            self.explain(why);
        }
    }

    pub(super) fn note(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    pub(super) fn status(&self) -> IdentityStatus {
        let state = *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let users = self.references.borrow().clone();
        let (svid, last_error) = match &*self.current.borrow() {
            Current::Ready(svid) => (Some(svid.clone()), None),
            Current::Absent(error) => (None, error.clone()),
        };
        IdentityStatus::new(self.id.clone(), svid, last_error, state, users)
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(&*self.current.borrow(), Current::Ready(_))
    }
}
