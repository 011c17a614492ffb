//! [`Publisher`]: the root certificates in a ConfigMap of each namespace, by the leader alone.
//!
//! ```text
//!  roots, namespaces, ConfigMaps (all followed) ──▶ which are absent or differ ──▶ write those
//! ```
//!
//! A ConfigMap that somebody edits or removes is put right again. Each one is owned by the
//! authority's own namespace, so that with it they all go.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use futures_util::stream::{self, StreamExt as _};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::watcher::Config;
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::secrets::{config_map, write_config_map};
use super::watched::{Table, Watched};
use super::{KubernetesError, Namespaces};
use crate::complaint::Complaint;

/// Name of the ConfigMap with the root certificates.
pub const CONFIG_MAP: &str = "culvert-root-cert";
/// Its key.
pub const CONFIG_MAP_KEY: &str = "root-cert.pem";

/// Writes under way at a time.
const WRITES: usize = 8;
/// How long changes are gathered before they are acted on.
const GATHER: Duration = Duration::from_millis(50);
/// Least time between two writes to one namespace; after failures more, up to [`PACE_MOST`].
const PACE: Duration = Duration::from_secs(1);
/// Longest wait after failures.
const PACE_MOST: Duration = Duration::from_mins(1);

/// Publishes root certificates, while it leads.
pub struct Publisher {
    client: Client,
    /// The authority's own namespace, which owns the ConfigMaps.
    namespace: String,
    namespaces: Arc<Namespaces>,
    /// The certificates, PEM.
    roots: watch::Receiver<Arc<str>>,
    leads: watch::Receiver<bool>,
    complaint: Complaint,
}

/// What each namespace has: hash of the certificates and owner.
#[derive(Default)]
struct Maps {
    by_namespace: HashMap<String, Content>,
}

#[derive(PartialEq, Eq)]
struct Content {
    hash: [u8; 32],
    owner: Option<String>,
}

/// When a namespace may be written to again.
struct Pace {
    next: Instant,
    failures: u32,
}

impl Table for Maps {
    type Object = ConfigMap;

    fn put(&mut self, map: ConfigMap) {
        let roots = map.data.as_ref().and_then(|data| data.get(CONFIG_MAP_KEY));
        let owner = map.owner_references().first().map(|owner| owner.uid.clone());
        let content = Content { hash: hash(roots.map_or("", String::as_str)), owner };
        self.by_namespace.insert(map.namespace().unwrap_or_default(), content);
    }

    fn take_out(&mut self, map: &ConfigMap) {
        self.by_namespace.remove(&map.namespace().unwrap_or_default());
    }
}

impl Publisher {
    /// Publishes `roots` in all `namespaces` while `leads` says so; `namespace` is the authority's.
    pub fn new(
        client: Client,
        namespace: String,
        namespaces: Arc<Namespaces>,
        roots: watch::Receiver<Arc<str>>,
        leads: watch::Receiver<bool>,
    ) -> Self {
        Self { client, namespace, namespaces, roots, leads, complaint: Complaint::default() }
    }

    /// Runs until `cancel`.
    pub async fn run(mut self, cancel: CancellationToken) {
        loop {
            let mut leads = self.leads.clone();
            let begin = leads.wait_for(|leads| *leads);
            // Who decides about the lead is gone only at a stop.
            let Some(Ok(_)) = cancel.run_until_cancelled(begin).await else { return };
            let mut leads = self.leads.clone();
            let term = cancel.child_token();
            let maps = Watched::new("ConfigMaps of root certificates");
            let api = Api::<ConfigMap>::all(self.client.clone());
            let config = Config::default().fields(&format!("metadata.name={CONFIG_MAP}"));
            tokio::select! {
                _ = leads.wait_for(|leads| !*leads) => {}
                () = maps.follow(api, config, term.clone()) => {}
                () = self.repair(&maps) => {}
            }
            if cancel.is_cancelled() {
                return;
            }
        }
    }

    /// Writes whatever is not as it should be. Ends never.
    async fn repair(&mut self, maps: &Watched<Maps>) {
        self.namespaces.listed().await;
        maps.listed().await;
        let mut changes = (self.namespaces.changes(), maps.changes(), self.roots.clone());
        let mut pace = HashMap::new();
        loop {
            changes.0.mark_unchanged();
            changes.1.mark_unchanged();
            let roots = changes.2.borrow_and_update().clone();
            let next = self.write(maps, &roots, &mut pace).await;
            // Whichever comes first; all is looked at anew after it.
            tokio::select! {
                _ = changes.0.changed() => {}
                _ = changes.1.changed() => {}
                Ok(()) = changes.2.changed() => {}
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
            sleep(GATHER).await;
        }
    }

    /// One round; says when the next is due, if one is.
    async fn write(
        &mut self,
        maps: &Watched<Maps>,
        roots: &str,
        pace: &mut HashMap<String, Pace>,
    ) -> Option<Instant> {
        let owner = self.namespaces.uid(&self.namespace);
        let wanted = Content { hash: hash(roots), owner: owner.clone() };
        let mut due = self.namespaces.names();
        maps.look(|maps| due.retain(|name| maps.by_namespace.get(name) != Some(&wanted)));
        let now = Instant::now();
        pace.retain(|_, pace| now < pace.next + PACE_MOST);
        due.retain(|name| pace.get(name).is_none_or(|pace| pace.next <= now));
        let object = self.object(roots, owner.as_deref());
        let object = &object;
        let client = &self.client;
        let writes = stream::iter(due).map(|name| async move {
            let written = write_config_map(client, &name, object).await;
            (name, written)
        });
        let written: BTreeMap<_, _> = writes.buffer_unordered(WRITES).collect().await;
        let (mut done, mut failed) = (0_usize, 0_usize);
        for (name, written) in written {
            match written {
                Ok(map) => {
                    done += 1;
                    maps.ahead(map);
                    pace.insert(name, Pace { next: Instant::now() + PACE, failures: 0 });
                }
                Err(error) => {
                    failed += 1;
                    let failures = pace.get(&name).map_or(0, |pace| pace.failures) + 1;
                    let wait = PACE.saturating_mul(2_u32.saturating_pow(failures)).min(PACE_MOST);
                    self.complain(&name, &error);
                    pace.insert(name, Pace { next: Instant::now() + wait, failures });
                }
            }
        }
        if done > 0 {
            info!(namespaces = done, failed, "root certificates published");
        }
        if failed == 0 {
            self.complaint.over();
        }
        pace.values().map(|pace| pace.next).filter(|next| *next > now).min()
    }

    fn complain(&mut self, namespace: &str, error: &KubernetesError) {
        // One that ends meanwhile takes nothing new, and needs nothing.
        if error.is_not_found() || is_terminating(error) {
            return;
        }
        if let Some(error) = self.complaint.say(error) {
            warn!(namespace, error, "root certificates not published; trying again");
        }
    }

    fn object(&self, roots: &str, owner: Option<&str>) -> serde_json::Value {
        let mut object = config_map(roots);
        if let Some(uid) = owner {
            object["metadata"]["ownerReferences"] = json!([{
                "apiVersion": "v1", "kind": "Namespace", "name": self.namespace, "uid": uid,
            }]);
        }
        object
    }
}

/// Whether a write was refused because the namespace is being deleted.
fn is_terminating(error: &KubernetesError) -> bool {
    match error {
        KubernetesError::Forbidden { source, .. } => source
            .details
            .iter()
            .flat_map(|details| &details.causes)
            .any(|cause| cause.reason == "NamespaceTerminating"),
        _ => false,
    }
}

fn hash(roots: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, roots.as_bytes()).as_ref());
    hash
}

#[cfg(test)]
mod tests;
