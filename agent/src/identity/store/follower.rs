//! The one task that follows the authority's trust bundle, puts it in force, and says so.

use std::time::Duration;

use culvert_proto::culvert::ca as wire;
use rustls::pki_types::UnixTime;
use tokio::sync::mpsc;
use tokio::time::{Instant, interval_at, sleep};
use tracing::{debug, error, info, warn};

use super::{Arc, Shared, chain};
use crate::identity::ca_client::FollowError;
use crate::identity::roots::metrics::Outcome;
use crate::identity::roots::offer::{self, Judgement, OfferError, Served};
use crate::identity::roots::{BundleInForce, Standing, file};

/// How often the number in force is said again, so that the authority knows who lives.
const SAY_EVERY: Duration = Duration::from_mins(1);
/// How often a bundle is judged again that was refused for the sake of a certificate in use.
const JUDGE_AGAIN: Duration = Duration::from_secs(5);
/// Bound of the first wait before the next attempt; doubled by each failure.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// Bound of every such wait.
const BACKOFF_MOST: Duration = Duration::from_secs(30);
/// Wait before an authority is asked again that pushes no bundles.
const UNSUPPORTED: Duration = Duration::from_mins(5);
/// Numbers that wait to be sent. Full only when the connection is stuck; the next minute says more.
const SAID_WAITING: usize = 4;

/// Follows until the store is told to stop.
pub(super) async fn follow(shared: Arc<Shared>) {
    let mut changes = shared.ca.roots().watch();
    let shown = async {
        loop {
            shared.bundle_metrics.shows(&changes.borrow_and_update());
            // Ends with an error only when the sender is gone, and `shared` holds it.
            let _ = changes.changed().await;
        }
    };
    tokio::select! {
        // Of the three only the first ends.
        () = shared.cancel.cancelled() => {}
        () = shown => {}
        () = follow_again(&shared) => {}
    }
}

async fn follow_again(shared: &Shared) {
    let mut failures = 0_u32;
    loop {
        let ended = follow_once(shared, &mut failures).await;
        shared.bundle_metrics.connected(false);
        let wait = match &ended {
            Ok(()) => backoff(0),
            Err(FollowError::Unsupported { .. }) => UNSUPPORTED,
            Err(_) => backoff(failures),
        };
        match ended {
            Ok(()) => {
                debug!("trust bundle's stream ended in order");
                failures = 0;
                sleep(wait).await;
                continue;
            }
            Err(error @ FollowError::Unsupported { .. }) => {
                info!(error = %chain(&error), "trust bundle not followed");
            }
            // Once is enough, until it was followed again.
            Err(error) if failures == 0 => {
                warn!(error = %chain(&error), "trust bundle not followed; trying again");
            }
            Err(error) => debug!(error = %chain(&error), failures, "trust bundle not followed"),
        }
        failures = failures.saturating_add(1);
        sleep(wait).await;
    }
}

/// Follows one stream to its end. Sets `failures` to 0 once it brought a bundle.
async fn follow_once(shared: &Shared, failures: &mut u32) -> Result<(), FollowError> {
    let (say, said) = mpsc::channel(SAID_WAITING);
    let mut follower = Follower { shared, say, waits: None, last_refusal: String::new() };
    follower.say();
    let mut pushed = shared.ca.follow(said).await?;
    let mut minute = interval_at(Instant::now() + SAY_EVERY, SAY_EVERY);
    loop {
        tokio::select! {
            // Each of them is short; the order is of no consequence.
            message = pushed.message() => match message {
                Ok(Some(message)) => {
                    *failures = 0;
                    shared.bundle_metrics.connected(true);
                    follower.offered(message).await;
                }
                Ok(None) => return Ok(()),
                Err(status) => return Err(shared.ca.broken(status)),
            },
            _ = minute.tick() => follower.say(),
            () = sleep(JUDGE_AGAIN), if follower.waits.is_some() => {
                if let Some(bundle) = follower.waits.take() {
                    follower.judge(bundle).await;
                }
            }
        }
    }
}

struct Follower<'a> {
    shared: &'a Shared,
    say: mpsc::Sender<wire::BundleInForce>,
    /// A bundle that a certificate in use stands against.
    waits: Option<BundleInForce>,
    /// So that the same refusal is logged once.
    last_refusal: String,
}

impl Follower<'_> {
    /// Says which number is in force.
    fn say(&self) {
        let sequence = self.shared.ca.roots().load().sequence();
        if self.say.try_send(wire::BundleInForce { sequence }).is_err() {
            debug!(sequence, "authority takes no acknowledgement now");
        }
    }

    async fn offered(&mut self, message: wire::TrustBundle) {
        self.waits = None;
        match offer::read(message, self.shared.ca.trust_domain()) {
            Ok(bundle) => self.judge(bundle).await,
            Err(error) => self.refuse(&error),
        }
    }

    async fn judge(&mut self, offered: BundleInForce) {
        let served = self.shared.served();
        let mut judged = Ok(Outcome::Same);
        self.shared.ca.roots().replace(|current| {
            match offer::judge(current, &offered, &served, UnixTime::now()) {
                Ok(Judgement::Take(bundle)) => {
                    judged = Ok(Outcome::Taken);
                    return Some(*bundle);
                }
                Ok(Judgement::Same) => {}
                Ok(Judgement::Older) => judged = Ok(Outcome::Older),
                Err(error) => judged = Err(error),
            }
            None
        });
        match judged {
            Ok(outcome) => {
                self.shared.bundle_metrics.offered(outcome);
                match outcome {
                    Outcome::Taken => self.taken(offered).await,
                    Outcome::Older => {
                        let in_force = self.shared.ca.roots().load().sequence();
                        warn!(
                            sequence = offered.sequence(),
                            in_force,
                            "authority offers an older trust bundle than the one in force; if it \
                             stays so, its store was set back"
                        );
                    }
                    Outcome::Same | Outcome::Refused | Outcome::Unkept => {}
                }
                self.say();
            }
            Err(error) => {
                self.refuse(&error);
                self.waits = matches!(error, OfferError::Needed { .. }).then_some(offered);
            }
        }
    }

    /// Keeps what has just been put in force. Only then is it acknowledged: an agent that starts
    /// anew must not know less than it said.
    async fn taken(&self, bundle: BundleInForce) {
        let of = |standing| bundle.roots().iter().filter(|root| root.standing == standing).count();
        info!(
            sequence = bundle.sequence(),
            trusted = of(Standing::Trusted),
            tainted = of(Standing::Tainted),
            revoked = of(Standing::Revoked),
            "trust bundle in force"
        );
        let path = self.shared.ca.bundle_file().to_owned();
        let kept = tokio::task::spawn_blocking(move || file::write(&path, &bundle)).await;
        if let Ok(Err(error)) = kept {
            self.shared.bundle_metrics.offered(Outcome::Unkept);
            error!(error = %chain(&error), "trust bundle not kept on disk");
        }
    }

    fn refuse(&mut self, error: &OfferError) {
        let text = chain(error);
        if text != self.last_refusal {
            self.shared.bundle_metrics.offered(Outcome::Refused);
            error!(error = %text, "trust bundle refused; the one in force stays");
            self.last_refusal = text;
        }
    }
}

impl Shared {
    /// The certificates in use.
    fn served(&self) -> Vec<Served> {
        let entries = self.entries.read().unwrap_or_else(super::PoisonError::into_inner);
        let ready = entries.values().filter_map(|entry| entry.ready());
        ready
            .map(|svid| Served { identity: svid.id().clone(), chain: svid.chain().to_vec() })
            .collect()
    }
}

/// Full jitter: anything up to a bound that doubles with each failure.
fn backoff(failures: u32) -> Duration {
    let doubled = BACKOFF_FIRST.saturating_mul(2_u32.saturating_pow(failures.min(16)));
    doubled.min(BACKOFF_MOST).mul_f64(rand::random())
}
