//! [`Candidate`]: which of several replicas leads, by a `Lease` of the API server.
//!
//! ```text
//!             made, or taken over when its holder was silent for 15 s
//!   Follows ──────────────────────────────────────────────────────────▶ Leads ──▶ renewed each 3 s
//!      ▲  another holds it, or not renewed for 10 s                       │
//!      └──────────────────────────────────────────────────────────────────┘
//! ```
//!
//! How long a holder is silent is measured here, from when its last sign was seen, so clocks need
//! not agree. A leader that cannot renew steps down before others may take over. Still, two may
//! believe to lead for a moment, as after a suspend: what leaders do must bear that.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{GetParams, PostParams};
use kube::core::Request;
use kube::{Client, Resource as _};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{KubernetesError, ask, found};
use crate::complaint::Complaint;

/// How long a silent holder keeps the lease.
const HELD_FOR: Duration = Duration::from_secs(15);
/// How long a holder that cannot renew goes on leading: less than others wait.
const LEAD_FOR: Duration = Duration::from_secs(10);
/// How often it is renewed, and looked at by those who wait.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// Longest that giving it back may take at a stop.
const RELEASE_DEADLINE: Duration = Duration::from_secs(2);

/// One that would lead.
pub struct Candidate {
    client: Client,
    namespace: String,
    /// The Lease's name.
    name: &'static str,
    /// By which this one is told from the others.
    holder: String,
    leads: watch::Sender<bool>,
    view: View,
}

/// What a candidate knows of the lease.
#[derive(Debug, Default)]
struct View {
    /// The last sign of the holder, and when it was first seen.
    sign: Option<(Sign, Instant)>,
    /// When the lease was last renewed by us; counted from before the asking.
    renewed: Option<Instant>,
}

/// What changes with each renewal.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sign {
    holder: String,
    version: Option<String>,
}

/// What to do about the lease.
#[derive(Debug, PartialEq, Eq)]
enum Move {
    /// There is none: make it.
    Make,
    /// It is ours, or nobody's: write it.
    Hold,
    /// Another one's.
    Wait,
}

impl View {
    /// Looks at the lease as it is now.
    fn step(&mut self, lease: Option<&Lease>, me: &str, now: Instant) -> Move {
        let Some(lease) = lease else {
            self.sign = None;
            return Move::Make;
        };
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone());
        let holder = holder.unwrap_or_default();
        if holder == me || holder.is_empty() {
            self.sign = None;
            return Move::Hold;
        }
        let sign = Sign { holder, version: lease.metadata.resource_version.clone() };
        match &self.sign {
            Some((known, since)) if *known == sign => {
                if now.saturating_duration_since(*since) >= HELD_FOR {
                    Move::Hold
                } else {
                    Move::Wait
                }
            }
            _ => {
                self.sign = Some((sign, now));
                Move::Wait
            }
        }
    }

    /// When leading ends unless it is renewed before.
    fn ends(&self) -> Option<Instant> {
        self.renewed.map(|at| at + LEAD_FOR)
    }
}

impl Candidate {
    /// One that would hold the Lease `name` in `namespace` as `holder`, which no other has.
    pub fn new(client: Client, namespace: String, name: &'static str, holder: String) -> Self {
        let (leads, view) = (watch::Sender::new(false), View::default());
        Self { client, namespace, name, holder, leads, view }
    }

    /// Whether it leads now, and each change.
    pub fn leads(&self) -> watch::Receiver<bool> {
        self.leads.subscribe()
    }

    /// Is a candidate until `cancel`; then gives the lease back, so that another need not wait.
    pub async fn run(mut self, cancel: CancellationToken) {
        let mut complaint = Complaint::default();
        loop {
            let next = Instant::now() + LOOK_EVERY;
            match cancel.run_until_cancelled(self.look_unless_over()).await {
                None => break,
                Some(Ok(())) => {
                    complaint.over();
                }
                Some(Err(error)) => {
                    if let Some(error) = complaint.say(&error) {
                        warn!(lease = self.name, error, "cannot tell who leads; trying again");
                    }
                }
            }
            if cancel.run_until_cancelled(self.wait(next)).await.is_none() {
                break;
            }
        }
        self.release().await;
    }

    /// Looks once; steps down when that takes longer than leading lasts.
    async fn look_unless_over(&mut self) -> Result<(), KubernetesError> {
        let ends = self.view.ends();
        let leads = self.leads.clone();
        let name = self.name;
        let mut look = std::pin::pin!(self.look());
        let Some(ends) = ends else { return look.await };
        tokio::select! {
            // An answer that came in time counts.
            biased;
            looked = &mut look => return looked,
            () = sleep_until(ends) => say(&leads, name, false),
        }
        look.await
    }

    /// Waits until `next`; steps down when leading ends before.
    async fn wait(&mut self, next: Instant) {
        if let Some(ends) = self.view.ends().filter(|ends| *ends <= next) {
            sleep_until(ends).await;
            self.view.renewed = None;
            say(&self.leads, self.name, false);
        }
        sleep_until(next).await;
    }

    async fn look(&mut self) -> Result<(), KubernetesError> {
        let began = Instant::now();
        let asked = self.leases().get(self.name, &GetParams::default());
        let lease = found(ask::<Lease>(&self.client, "read its Lease", asked).await)?;
        let held = match self.view.step(lease.as_ref(), &self.holder, Instant::now()) {
            Move::Wait => false,
            Move::Make => self.write(Lease::default()).await?,
            Move::Hold => self.write(lease.unwrap_or_default()).await?,
        };
        self.view.renewed = held.then_some(began);
        say(&self.leads, self.name, held);
        Ok(())
    }

    /// Writes the lease with our name in it; `false` when somebody else was first.
    async fn write(&self, mut lease: Lease) -> Result<bool, KubernetesError> {
        let now = MicroTime(Timestamp::now());
        let mut spec = lease.spec.take().unwrap_or_default();
        if spec.holder_identity.as_deref() != Some(self.holder.as_str()) {
            // As others count: who makes it is no change of the holder.
            let made = lease.metadata.resource_version.is_none();
            let before = spec.lease_transitions.unwrap_or(0);
            spec.lease_transitions = Some(if made { 0 } else { before.saturating_add(1) });
            spec.acquire_time = Some(now.clone());
        }
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.holder.clone()),
            lease_duration_seconds: Some(i32::try_from(HELD_FOR.as_secs()).unwrap_or(i32::MAX)),
            renew_time: Some(now),
            ..spec
        });
        self.put(lease).await
    }

    async fn put(&self, mut lease: Lease) -> Result<bool, KubernetesError> {
        let new = lease.metadata.resource_version.is_none();
        lease.metadata.name = Some(self.name.to_owned());
        // Of texts, numbers and times: always written.
        let body = serde_json::to_vec(&lease).unwrap_or_default();
        let asked = if new {
            self.leases().create(&PostParams::default(), body)
        } else {
            self.leases().replace(self.name, &PostParams::default(), body)
        };
        match ask::<Lease>(&self.client, "write its Lease", asked).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_conflict() || error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Gives the lease back if it is ours.
    async fn release(self) {
        if self.view.renewed.is_none() {
            return;
        }
        say(&self.leads, self.name, false);
        let given_back = async {
            let asked = self.leases().get(self.name, &GetParams::default());
            let mut lease: Lease = ask(&self.client, "read its Lease", asked).await?;
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() != Some(self.holder.as_str()) {
                return Ok(false);
            }
            spec.holder_identity = None;
            self.put(lease).await
        };
        // Not given back, it runs out by itself.
        let _ = timeout(RELEASE_DEADLINE, given_back).await;
    }

    fn leases(&self) -> Request {
        Request::new(Lease::url_path(&(), Some(&self.namespace)))
    }
}

fn say(leads: &watch::Sender<bool>, lease: &str, now: bool) {
    let changed = leads.send_if_modified(|before| std::mem::replace(before, now) != now);
    if changed {
        info!(lease, leads = now, "leadership changed");
    }
}

#[cfg(test)]
mod tests;
