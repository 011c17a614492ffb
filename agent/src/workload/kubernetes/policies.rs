//! The cluster's policies, as far as they can be enforced, and what of them cannot.

use std::sync::Arc;

use kube::api::DynamicObject;
use kube::runtime::watcher::Event;

use super::pods;
use super::table::{Table, Touched};
use crate::observe::{Metrics, RegisterError};
use crate::workload::documents::{self, Findings, Metadata, Read};
use crate::workload::{
    AuthorizationPolicy, PeerAuthentication, Policies, PolicyReport, WorkloadKey,
};

/// Every policy of the cluster.
pub(super) struct PolicyTables {
    root_namespace: String,
    peer_authentications: Table<Read<PeerAuthentication>>,
    authorization_policies: Table<Read<AuthorizationPolicy>>,
    report: PolicyReport,
    changed: bool,
    all: Arc<Policies>,
}

impl PolicyTables {
    /// Without a policy.
    ///
    /// # Errors
    ///
    /// [`RegisterError`] when a metric's name is taken.
    pub(super) fn new(root_namespace: &str, metrics: &Metrics) -> Result<Self, RegisterError> {
        Ok(Self {
            root_namespace: root_namespace.to_owned(),
            peer_authentications: Table::default(),
            authorization_policies: Table::default(),
            report: PolicyReport::register(metrics)?,
            changed: false,
            all: Arc::default(),
        })
    }

    pub(super) fn peer_authentications(&self) -> &Table<Read<PeerAuthentication>> {
        &self.peer_authentications
    }

    pub(super) fn authorization_policies(&self) -> &Table<Read<AuthorizationPolicy>> {
        &self.authorization_policies
    }

    /// Takes an event of `PeerAuthentication`s; without one, there is no such kind.
    pub(super) fn take_peer_authentication(&mut self, event: Option<Event<DynamicObject>>) -> bool {
        let Self { root_namespace, peer_authentications, .. } = self;
        let read = |metadata: &Metadata, spec: &serde_json::Value| {
            documents::peer_authentication(metadata, spec, root_namespace)
        };
        let touched = take(peer_authentications, event, read);
        self.is_news(&touched)
    }

    /// Takes an event of `AuthorizationPolicy` objects; without one, there is no such kind.
    pub(super) fn take_authorization_policy(
        &mut self,
        event: Option<Event<DynamicObject>>,
    ) -> bool {
        let touched =
            take(&mut self.authorization_policies, event, documents::authorization_policy);
        self.is_news(&touched)
    }

    fn is_news(&mut self, touched: &Touched) -> bool {
        self.changed |= !touched.keys.is_empty();
        !touched.keys.is_empty() || touched.completed
    }

    /// All policies as they are now. The same `Arc` as before if none has changed.
    pub(super) fn policies(&mut self) -> Arc<Policies> {
        if std::mem::take(&mut self.changed) {
            let (own, others) = (&self.peer_authentications, &self.authorization_policies);
            let mut findings = found("PeerAuthentication", own);
            findings.extend(found("AuthorizationPolicy", others));
            self.report.tell(own.rows().len() + others.rows().len(), &findings);
            let all = Policies::new(
                own.rows().values().filter_map(|read| read.policy.clone()).collect(),
                others.rows().values().filter_map(|read| read.policy.clone()).collect(),
            );
            let all = all.with_findings(findings);
            if all != *self.all {
                self.all = Arc::new(all);
            }
        }
        Arc::clone(&self.all)
    }
}

fn take<T: PartialEq>(
    table: &mut Table<Read<T>>,
    event: Option<Event<DynamicObject>>,
    read: impl Fn(&Metadata, &serde_json::Value) -> Read<T>,
) -> Touched {
    let row = |object: &DynamicObject| {
        let spec = object.data.get("spec").unwrap_or(&serde_json::Value::Null);
        (pods::key(&object.metadata), Some(read(&Metadata::from(&object.metadata), spec)))
    };
    let event = match event {
        None => return table.absent(),
        Some(Event::Init) => Event::Init,
        Some(Event::InitApply(object)) => Event::InitApply(row(&object)),
        Some(Event::InitDone) => Event::InitDone,
        Some(Event::Apply(object)) => Event::Apply(row(&object)),
        Some(Event::Delete(object)) => Event::Delete((pods::key(&object.metadata), None)),
    };
    table.take(event)
}

fn found<T: PartialEq>(kind: &str, table: &Table<Read<T>>) -> Vec<(String, Findings)> {
    let all = table.rows().iter().filter(|(_, read)| !read.findings.is_empty());
    let told = |key: &WorkloadKey| format!("{kind} {key}");
    all.map(|(key, read)| (told(key), read.findings.clone())).collect()
}
