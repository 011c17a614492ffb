//! [`Health`]: what probes are told.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use time::OffsetDateTime;

use crate::authority::Authority;

/// How long the care of the roots may take no turn. Each turn may wait several times for a store
/// that is away; a process that does is not helped by being started again.
const STUCK_AFTER: Duration = Duration::from_mins(2);

/// Whether the server does its work.
pub(super) struct Health {
    authority: Arc<Authority>,
    /// Guards when the care last took a turn.
    turned: Mutex<Instant>,
}

impl Health {
    /// Of a server that starts now.
    pub(super) fn new(authority: Arc<Authority>) -> Self {
        Self { authority, turned: Mutex::new(Instant::now()) }
    }

    /// Says that the care of the roots took a turn.
    pub(super) fn turned(&self, now: Instant) {
        *self.turned.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// Whether it can sign; an API server or disk that is away makes no difference for long.
    pub(super) fn ready(&self, now: OffsetDateTime) -> Result<(), String> {
        self.authority.can_sign(now).map_err(|error| error.to_string())
    }

    /// Whether it still turns.
    pub(super) fn live(&self, now: Instant) -> Result<(), String> {
        let turned = *self.turned.lock().unwrap_or_else(PoisonError::into_inner);
        let since = now.saturating_duration_since(turned);
        if since <= STUCK_AFTER {
            return Ok(());
        }
        Err(format!("the care of the roots is stuck for {} s", since.as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Directory;

    #[tokio::test]
    async fn server_is_ready_while_it_can_sign_and_live_while_its_care_turns() {
        let temp = tempfile::tempdir().unwrap();
        let now = OffsetDateTime::now_utc();
        let directory = Directory::open(temp.path()).unwrap();
        let authority = Authority::open(directory, "td".parse().unwrap(), now).await.unwrap();
        let health = Health::new(Arc::new(authority));
        let day = time::Duration::DAY;
        assert_eq!(health.ready(now), Ok(()));
        assert_eq!(health.ready(now + day), Ok(()), "the store is away for a day");
        let why = health.ready(now + day * 2).unwrap_err();
        assert!(why.contains("could not be read since"), "{why}");
        let begun = Instant::now();
        let minute = Duration::from_mins(1);
        assert_eq!(health.live(begun + minute), Ok(()));
        assert!(health.live(begun + 3 * minute).is_err());
        health.turned(begun + 3 * minute);
        assert_eq!(health.live(begun + 4 * minute), Ok(()));
    }
}
