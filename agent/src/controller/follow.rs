//! Follows the policies of the cluster and writes their statuses.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::select;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Error};
use prometheus::IntCounterVec;
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::condition::{Verdict, conditions};
use super::kind::{GROUP, Kind, VERSIONS};
use crate::observe::{Metrics, RegisterError};

/// How often it is looked whether the cluster has a resource that it did not have.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// How soon a write that failed is tried again.
const WRITE_AGAIN: Duration = Duration::from_secs(10);
/// The longest that one answer of the API server is waited for.
const ANSWER: Duration = Duration::from_secs(5);

/// Namespace and name.
type Key = (String, String);

/// Writes the status of each policy of the cluster.
pub(super) struct Follower {
    client: Client,
    root_namespace: String,
    writes: IntCounterVec,
}

/// What became of a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    /// It says the same already.
    Same,
    /// It is there.
    Done,
    /// The object has changed or is gone; the watch tells of it.
    Outdated,
    /// The API server does not take it, now or ever.
    Refused,
    /// No answer: to be tried again.
    Failed,
}

impl Written {
    const ALL: [Self; 4] = [Self::Done, Self::Outdated, Self::Refused, Self::Failed];

    const fn label(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Done => "written",
            Self::Outdated => "outdated",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

impl Follower {
    /// For a mesh of this root namespace.
    ///
    /// # Errors
    /// A metric's name is taken.
    pub(super) fn new(
        client: Client,
        root_namespace: String,
        metrics: &Metrics,
    ) -> Result<Self, RegisterError> {
        let writes = metrics.counters(
            "culvert_controller_status_writes_total",
            "Statuses of policies that were to be written, by what became of it.",
            &["kind", "result"],
        )?;
        for kind in Kind::ALL {
            for result in Written::ALL {
                writes.with_label_values(&[kind.name(), result.label()]);
            }
        }
        Ok(Self { client, root_namespace, writes })
    }

    /// Writes what is not there yet, then follows. Cancel safe: begun anew, it finds what is
    /// missing.
    pub(super) async fn follow(&self) -> Infallible {
        let [first, second] = Kind::ALL.map(|kind| Box::pin(self.kind(kind)));
        select(first, second).await.factor_first().0
    }

    async fn kind(&self, kind: Kind) -> Infallible {
        let mut complaint = None;
        loop {
            match self.served(kind).await {
                Ok(Some(resource)) => self.resource(kind, &resource).await,
                Ok(None) => say(&mut complaint, kind, "the cluster does not have this kind"),
                Err(error) => say(&mut complaint, kind, &error.to_string()),
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// The resource in the best version that the cluster serves.
    async fn served(&self, kind: Kind) -> Result<Option<ApiResource>, Error> {
        for version in VERSIONS {
            match self.client.list_api_group_resources(&format!("{GROUP}/{version}")).await {
                Ok(list) if list.resources.iter().any(|each| each.kind == kind.name()) => {
                    return Ok(Some(kind.resource(version)));
                }
                Ok(_) => {}
                Err(Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Follows one resource as long as the cluster has it.
    async fn resource(&self, kind: Kind, resource: &ApiResource) {
        let api = Api::<DynamicObject>::all_with(self.client.clone(), resource);
        let events = watcher(api, watcher::Config::default()).default_backoff();
        let mut events = std::pin::pin!(events);
        let mut again: BTreeMap<Key, DynamicObject> = BTreeMap::new();
        let mut tick = interval(WRITE_AGAIN);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut complaint = None;
        loop {
            tokio::select! {
                // Order does not matter: what fails is kept, and the newest version counts.
                event = events.next() => match event {
                    Some(Ok(Event::Apply(object) | Event::InitApply(object))) => {
                        complaint = None;
                        again.remove(&key(&object));
                        self.attempt(kind, resource, object, &mut again).await;
                    }
                    Some(Ok(Event::Delete(object))) => drop(again.remove(&key(&object))),
                    Some(Ok(Event::Init | Event::InitDone)) => complaint = None,
                    Some(Err(error)) => {
                        say(&mut complaint, kind, &error.to_string());
                        if is_missing(&error) {
                            return;
                        }
                    }
                    None => return,
                },
                _ = tick.tick(), if !again.is_empty() => {
                    for (_, object) in std::mem::take(&mut again) {
                        self.attempt(kind, resource, object, &mut again).await;
                    }
                }
            }
        }
    }

    async fn attempt(
        &self,
        kind: Kind,
        resource: &ApiResource,
        object: DynamicObject,
        again: &mut BTreeMap<Key, DynamicObject>,
    ) {
        let written = self.write(kind, resource, &object).await;
        if written != Written::Same {
            self.writes.with_label_values(&[kind.name(), written.label()]).inc();
        }
        if written == Written::Failed {
            again.insert(key(&object), object);
        }
    }

    async fn write(&self, kind: Kind, resource: &ApiResource, object: &DynamicObject) -> Written {
        let verdict = Verdict::of(&kind.findings(object, &self.root_namespace));
        let status = object.data.get("status").unwrap_or(&Value::Null);
        let now = Timestamp::now().to_string();
        let generation = object.metadata.generation;
        let Some(conditions) = conditions(status, &verdict, generation, &now) else {
            return Written::Same;
        };
        let (namespace, name) = key(object);
        let api = Api::<DynamicObject>::namespaced_with(self.client.clone(), &namespace, resource);
        // With the version, so that no condition of another writer is lost.
        let patch = Patch::Merge(json!({
            "metadata": {"resourceVersion": object.metadata.resource_version},
            "status": {"conditions": conditions},
        }));
        let policy = format!("{} {namespace}/{name}", kind.name());
        let params = PatchParams::default();
        let asked = api.patch_status(&name, &params, &patch);
        match timeout(ANSWER, asked).await {
            Ok(Ok(_)) => {
                let Verdict { accepted, reason, message } = &verdict;
                // Not under its own name: that is the log line's.
                tracing::info!(policy, accepted, reason, says = message, "status written");
                Written::Done
            }
            Ok(Err(Error::Api(status))) if matches!(status.code, 404 | 409) => Written::Outdated,
            Ok(Err(Error::Api(status))) if matches!(status.code, 400 | 413 | 422) => {
                tracing::warn!(policy, error = status.message, "status not taken");
                Written::Refused
            }
            Ok(Err(error)) => {
                tracing::warn!(policy, %error, "status not written; will be tried again");
                Written::Failed
            }
            Err(_) => {
                tracing::warn!(policy, "no answer to a status; will be tried again");
                Written::Failed
            }
        }
    }
}

fn key(object: &DynamicObject) -> Key {
    let metadata = &object.metadata;
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

/// Whether the cluster does not have the resource any more.
fn is_missing(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(Error::Api(status))
        | watcher::Error::WatchStartFailed(Error::Api(status)) => status.code == 404,
        _ => false,
    }
}

/// Logs a fault when it is another one than the last.
fn say(last: &mut Option<String>, kind: Kind, fault: &str) {
    if last.as_deref() != Some(fault) {
        tracing::warn!(kind = kind.name(), fault, "policies cannot be followed; trying again");
        *last = Some(fault.to_owned());
    }
}
