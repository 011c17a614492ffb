//! What the server does beside its calls, every second: files, certificates, rotation of roots.

use std::sync::Arc;
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::certificate::ServerCertificate;
use super::health::Health;
use crate::attest::Residents;
use crate::authority::Authority;
use crate::complaint::Complaint;
use crate::metrics::CaMetrics;

/// How often files and certificates are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How far the clock may stray from an even run between two looks. More is a jump, or a suspend,
/// after which other machines must be heard before anything is concluded from silence.
const STRAY: Duration = Duration::from_secs(30);

/// Follows the workloads file and the store, and replaces certificates when their time comes.
pub(super) struct Care {
    authority: Arc<Authority>,
    placement: Arc<dyn Residents>,
    certificate: Arc<ServerCertificate>,
    metrics: CaMetrics,
    health: Arc<Health>,
    pace: Pace,
    complaint: Complaint,
}

impl Care {
    pub(super) fn new(
        authority: Arc<Authority>,
        placement: Arc<dyn Residents>,
        certificate: Arc<ServerCertificate>,
        metrics: CaMetrics,
        health: Arc<Health>,
    ) -> Self {
        let pace = Pace { wall: OffsetDateTime::now_utc(), steady: Instant::now() };
        Self {
            authority,
            placement,
            certificate,
            metrics,
            health,
            pace,
            complaint: Complaint::default(),
        }
    }

    pub(super) async fn run(mut self, cancel: CancellationToken) {
        while cancel.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            let placement = self.placement.clone();
            // Reads a file, so not on a thread that serves.
            let looked = tokio::task::spawn_blocking(move || placement.look());
            if let Err(error) = looked.await {
                error!(%error, "look at the workloads file failed; trying again");
            }
            self.look(OffsetDateTime::now_utc()).await;
            self.health.turned(Instant::now());
        }
    }

    async fn look(&mut self, now: OffsetDateTime) {
        if let Some(jump) = self.pace.jumped(now, Instant::now()) {
            warn!(
                seconds = jump.whole_seconds(),
                "the clock jumped; steps of root rotation wait until it has run evenly"
            );
            self.authority.distrust_clock(now);
        }
        let tended = self.authority.tend(now).await.map(|_| ());
        let renewed = self.certificate.renew(&self.authority, now);
        match tended.and(renewed) {
            Ok(()) => {
                self.complaint.over();
            }
            Err(error) => {
                if let Some(error) = self.complaint.say(&error) {
                    error!(error, "care of the roots failed, all stays as it was; trying again");
                }
            }
        }
        self.metrics.ends(&self.authority);
    }
}

/// Compares the wall clock with one that only runs forward.
struct Pace {
    wall: OffsetDateTime,
    steady: Instant,
}

impl Pace {
    /// By how much the wall clock strayed since the last look, if by too much.
    fn jumped(&mut self, wall: OffsetDateTime, steady: Instant) -> Option<time::Duration> {
        let expected = self.wall + steady.saturating_duration_since(self.steady);
        *self = Self { wall, steady };
        let strayed = wall - expected;
        (strayed.abs() > STRAY).then_some(strayed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_that_jumps_is_noticed_and_one_that_drifts_is_not() {
        let (wall, steady) = (OffsetDateTime::UNIX_EPOCH, Instant::now());
        let mut pace = Pace { wall, steady };
        let second = Duration::from_secs(1);
        assert_eq!(pace.jumped(wall + second, steady + second), None);
        assert_eq!(pace.jumped(wall + second * 3, steady + second * 2), None, "a second off");
        let ahead = pace.jumped(wall + second * 4 + time::Duration::hours(48), steady + second * 3);
        assert_eq!(ahead, Some(time::Duration::hours(48)));
        let back = pace.jumped(wall + second * 5, steady + second * 4);
        assert_eq!(back, Some(-time::Duration::hours(48)));
        assert_eq!(pace.jumped(wall + second * 6, steady + second * 5), None);
    }
}
