//! [`Namespaces`]: which there are, and what their labels ask for.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Namespace;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::Config;
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::watched::{Table, Watched};
use crate::enrolment::{Reading, Wish};

/// The namespaces of the cluster, by a watch of their metadata alone.
pub struct Namespaces {
    client: Client,
    watched: Watched<Known>,
}

#[derive(Default)]
struct Known {
    by_name: HashMap<String, One>,
}

struct One {
    uid: String,
    wish: Option<Wish>,
    terminating: bool,
}

impl Table for Known {
    type Object = PartialObjectMeta<Namespace>;

    fn put(&mut self, object: Self::Object) {
        let one = One {
            uid: object.uid().unwrap_or_default(),
            wish: Reading::of(object.labels()).wish,
            terminating: object.metadata.deletion_timestamp.is_some(),
        };
        self.by_name.insert(object.name_any(), one);
    }

    fn take_out(&mut self, object: &Self::Object) {
        self.by_name.remove(&object.name_any());
    }
}

impl Namespaces {
    /// Knows nothing until [`Namespaces::follow`] runs.
    pub fn new(client: Client) -> Self {
        Self { client, watched: Watched::new("namespaces") }
    }

    /// Follows them until `cancel`.
    pub async fn follow(&self, cancel: CancellationToken) {
        let api = Api::all(self.client.clone());
        self.watched.follow(api, Config::default(), cancel).await;
    }

    /// Waits until all of them are known. Cancel safe.
    pub(super) async fn listed(&self) {
        self.watched.listed().await;
    }

    /// What the labels of a namespace ask for; of one that is not known, nothing.
    pub(super) fn wish(&self, name: &str) -> Option<Wish> {
        self.watched.look(|known| known.by_name.get(name).and_then(|one| one.wish))
    }

    /// The UID of one, if it is known.
    pub(super) fn uid(&self, name: &str) -> Option<String> {
        self.watched.look(|known| known.by_name.get(name).map(|one| one.uid.clone()))
    }

    /// Those in which something can be made.
    pub(super) fn names(&self) -> Vec<String> {
        self.watched.look(|known| {
            let open = known.by_name.iter().filter(|(_, one)| !one.terminating);
            open.map(|(name, _)| name.clone()).collect()
        })
    }

    /// Changes when one of them does.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.watched.changes()
    }
}
