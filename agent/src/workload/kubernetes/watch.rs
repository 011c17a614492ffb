//! Follows one kind of object at the API server, for ever.
//!
//! Listed in pages, then watched from the version of the list; a watch that breaks goes on from
//! the last version seen, and lists again only when the API server no longer has it. What stands
//! here already stays while the API server is away.

use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Resource};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use prometheus::{IntCounterVec, IntGaugeVec};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::kind::Kind;
use super::objects::Object;
use crate::observe::{Metrics, RegisterError};

/// Objects of one answer. A hundred pods of ten kilobytes are decoded at a time.
const PAGE: u32 = 250;
/// How long a watch lasts before it is begun anew, in seconds: a connection whose other end has
/// vanished is noticed after that.
const WATCH: u32 = 150;
/// Pause after the first failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// A watch that has not failed for so long since it was begun again works.
const GOOD: Duration = Duration::from_secs(10);

/// The group of the policies.
const GROUP: &str = "security.istio.io";
/// Its versions, of which Istio before 1.22 has only the second.
const VERSIONS: [&str; 2] = ["v1", "v1beta1"];
/// How often a kind is looked for that is not there.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// How long policies must be gone, with their very kind, until it is believed.
const BELIEVE_ABSENT: Duration = Duration::from_secs(30);

/// How the watches do.
#[derive(Clone)]
pub(super) struct Health {
    failures: IntCounterVec,
    failing: IntGaugeVec,
}

impl Health {
    /// Nothing has failed yet.
    ///
    /// # Errors
    ///
    /// [`RegisterError`] when a metric's name is taken.
    pub(super) fn new(metrics: &Metrics) -> Result<Self, RegisterError> {
        let failures = metrics.counters(
            "culvert_workload_watch_failures_total",
            "Requests to list or watch objects that failed; each is tried again.",
            &["resource"],
        )?;
        let failing = metrics.gauges(
            "culvert_workload_watch_failing",
            "1 while a watch of the API server fails and what was last heard stays in force.",
            &["resource"],
        )?;
        for kind in Kind::ALL {
            failures.with_label_values(&[kind.label()]);
            failing.with_label_values(&[kind.label()]);
        }
        Ok(Self { failures, failing })
    }

    fn failed(&self, kind: Kind) -> bool {
        self.failures.with_label_values(&[kind.label()]).inc();
        let failing = self.failing.with_label_values(&[kind.label()]);
        let first = failing.get() == 0;
        failing.set(1);
        first
    }

    fn mended(&self, kind: Kind) {
        let failing = self.failing.with_label_values(&[kind.label()]);
        if failing.get() != 0 {
            failing.set(0);
            tracing::info!(resource = kind.label(), "the API server is heard again");
        }
    }
}

/// What a watch tells.
pub(super) enum News<K> {
    /// Something happened to an object, or to the list.
    Event(Event<K>),
    /// The API server has no such kind of object.
    Absent,
}

impl<K> News<K> {
    /// The event, if there is such a kind at all.
    pub(super) fn event(self) -> Option<Event<K>> {
        match self {
            Self::Event(event) => Some(event),
            Self::Absent => None,
        }
    }
}

/// Why a watch was not gone on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Nobody listens any more.
    Unheard,
    /// The API server has no such kind of object; whether it had it before.
    Absent {
        /// Whether something was heard.
        heard: bool,
    },
}

/// Where news go, and where it is noted how the watch does.
pub(super) type To<C> = (mpsc::Sender<C>, Health);

/// Tells what happens to the objects of one kind, until nobody listens any more or the API server
/// has no such kind.
///
/// Cancel safe: dropped, it only stops.
pub(super) async fn follow<K, C>(
    api: Api<K>,
    kind: Kind,
    wrap: fn(News<K>) -> C,
    (changes, health): &To<C>,
) -> End
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let config = watcher::Config::default().page_size(PAGE).timeout(WATCH);
    let mut events = pin!(watcher::watcher(api, config));
    let mut pauses = Pauses::default();
    let mut heard = false;
    loop {
        let next = match pauses.good_at() {
            Some(good) => {
                let Ok(next) = tokio::time::timeout_at(good, events.next()).await else {
                    pauses = Pauses::default();
                    health.mended(kind);
                    continue;
                };
                next
            }
            None => events.next().await,
        };
        let news = match next {
            Some(Ok(event)) => {
                // The beginning of a list is told before it is asked for.
                if !matches!(event, Event::Init) {
                    heard = true;
                    pauses = Pauses::default();
                    health.mended(kind);
                }
                News::Event(event)
            }
            Some(Err(error)) if is_absent(&error) => return End::Absent { heard },
            Some(Err(error)) => {
                if health.failed(kind) {
                    let error = describe(&error);
                    tracing::warn!(resource = kind.label(), error, "watch failed; tried again");
                }
                tokio::time::sleep(pauses.next()).await;
                continue;
            }
            // The stream of a watcher has no end.
            None => return End::Unheard,
        };
        if changes.send(wrap(news)).await.is_err() {
            return End::Unheard;
        }
    }
}

/// Follows a kind that every cluster has: that it is absent says that the API server is not up yet.
///
/// Returns when nobody listens any more.
pub(super) async fn follow_always<K: Object, C>(
    client: Client,
    kind: Kind,
    wrap: fn(News<K>) -> C,
    to: To<C>,
) {
    let mut pauses = Pauses::default();
    loop {
        match follow(Api::<K>::all(client.clone()), kind, wrap, &to).await {
            End::Unheard => return,
            End::Absent { heard } => {
                to.1.failed(kind);
                if heard {
                    pauses = Pauses::default();
                }
                tokio::time::sleep(pauses.next()).await;
            }
        }
    }
}

/// Follows a kind of policies, under whichever version the API server has it. It may have none:
/// then it is looked for again now and then.
///
/// Returns when nobody listens any more.
pub(super) async fn follow_policies<C>(
    client: Client,
    kind: Kind,
    name: &'static str,
    wrap: fn(News<DynamicObject>) -> C,
    to: To<C>,
) {
    // Since when the kind that was there before is not.
    let mut absent: Option<Instant> = None;
    let mut was_there = false;
    loop {
        for version in VERSIONS {
            let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(GROUP, version, name));
            let api = Api::<DynamicObject>::all_with(client.clone(), &resource);
            match follow(api, kind, wrap, &to).await {
                End::Unheard => return,
                End::Absent { heard: false } => {}
                End::Absent { heard: true } => (was_there, absent) = (true, None),
            }
        }
        let since = *absent.get_or_insert_with(Instant::now);
        if !was_there || since.elapsed() >= BELIEVE_ABSENT {
            if was_there {
                tracing::warn!(
                    resource = kind.label(),
                    "the cluster has no such policies any more"
                );
            }
            was_there = false;
            if to.0.send(wrap(News::Absent)).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Pauses between attempts.
#[derive(Default)]
struct Pauses {
    last: Option<(Duration, Instant)>,
}

impl Pauses {
    /// The next pause, of which a random half keeps the agents of a cluster apart.
    fn next(&mut self) -> Duration {
        let pause = self.last.map_or(FIRST_PAUSE, |(last, _)| (last * 2).min(LONGEST_PAUSE));
        self.last = Some((pause, Instant::now()));
        pause.mul_f64(rand::random_range(0.5..=1.0))
    }

    /// When the failures are over if there is none until then.
    fn good_at(&self) -> Option<Instant> {
        self.last.map(|(pause, since)| since + pause + GOOD)
    }
}

/// Whether the API server does not know the kind at all.
fn is_absent(error: &watcher::Error) -> bool {
    use watcher::Error as E;
    match error {
        E::InitialListFailed(kube::Error::Api(status))
        | E::WatchStartFailed(kube::Error::Api(status)) => status.code == 404,
        E::InitialListFailed(_)
        | E::WatchStartFailed(_)
        | E::WatchError(_)
        | E::WatchFailed(_)
        | E::NoResourceVersion => false,
    }
}

/// The whole chain of causes, of which kube's texts repeat the next one.
pub(super) fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
