//! [`State`]: the cluster as the watches have told it, and the mesh that follows from it. Pure.
//!
//! ```text
//!  pods ───────┐
//!  namespaces ─┤
//!  nodes ──────┼─▶ State::view ─▶ workloads, services, policies     (a snapshot)
//!  services ───┤               ─▶ pods without a namespace          (to be looked for)
//!  announced ──┤               ─▶ pods and their annotation         (to be marked)
//!  netns ──────┘
//! ```

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use culvert_ca::enrolment::{Reading, Wish};
use culvert_spiffe::TrustDomain;
use ipnet::IpNet;
use kube::Resource;
use kube::api::DynamicObject;
use kube::runtime::watcher::Event;
use tokio::time::Instant;

use super::conflicts;
use super::fault::{Fault, Faults};
use super::kind::Kind;
use super::objects::{self, EndpointSlice, Namespace, Node, Pod, ZONE};
use super::pods::{self, PodRow};
use super::policies::PolicyTables;
use super::services::{self, Directory};
use super::table::{Table, Touched};
use super::watch::News;
use crate::workload::{Announced, PodUid, Policies, Services, Workload, WorkloadKey};

/// How long a pod that leaves the mesh stays enrolled so that its annotation can go first.
const LEAVE: Duration = Duration::from_secs(5);
/// How long an announced pod is believed in while no watch has shown it.
const BELIEVE: Duration = Duration::from_mins(1);

/// What never changes.
pub(super) struct Fixed {
    /// The agent's own node.
    pub(super) node: String,
    /// Trust domain of every identity.
    pub(super) trust_domain: TrustDomain,
    /// Ranges of pod addresses besides those that nodes tell.
    pub(super) pod_ranges: Vec<IpNet>,
}

/// News from the API server.
pub(super) enum Change {
    Pod(News<Pod>),
    Namespace(News<Namespace>),
    Node(News<Node>),
    Service(News<objects::Service>),
    Slice(News<EndpointSlice>),
    PeerAuthentication(News<DynamicObject>),
    AuthorizationPolicy(News<DynamicObject>),
}

/// The cluster as it was told.
pub(super) struct State {
    fixed: Fixed,
    faults: Faults,
    pods: Table<PodRow>,
    /// What each namespace's labels ask for.
    namespaces: Table<Option<Wish>>,
    /// Pod ranges of each node, and its zone.
    nodes: Table<(Vec<IpNet>, Option<Box<str>>)>,
    directory: Directory,
    policies: PolicyTables,
    announced: HashMap<PodUid, Announcement>,
    netns: HashMap<PodUid, PathBuf>,
    /// Pods of the own node whose network was taken down.
    withdrawn: HashSet<PodUid>,
    leaving: Leaving,
    /// Pods of the own node as the last view had them. One that has not changed is the same `Arc`
    /// in the next: who compares sees it at a glance.
    locals: HashMap<WorkloadKey, Arc<Workload>>,
}

struct Announcement {
    pod: Announced,
    until: Instant,
}

/// The mesh that follows from a state.
#[derive(Debug, Default)]
pub(super) struct View {
    /// By namespace and name.
    pub(super) workloads: Vec<Arc<Workload>>,
    pub(super) policies: Arc<Policies>,
    pub(super) services: Arc<Services>,
    /// Where pods have their addresses.
    pub(super) pod_ranges: Vec<IpNet>,
    /// Enrolled pods whose namespace is not known.
    pub(super) sought: HashSet<PodUid>,
    /// Pods of the own node, to be compared with what is steered.
    pub(super) marks: Vec<Mark>,
    /// When the view changes without any news.
    pub(super) due: Option<Instant>,
}

/// A pod of the own node and what its annotation should come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) key: WorkloadKey,
    /// The UID at the API server.
    pub(super) api_uid: String,
    /// The UID that its workload bears.
    pub(super) uid: Option<PodUid>,
    /// Whether it should bear the annotation once it is steered.
    pub(super) wanted: bool,
    /// Whether it bears it.
    pub(super) redirected: bool,
}

impl State {
    pub(super) fn new(fixed: Fixed, faults: Faults, policies: PolicyTables) -> Self {
        Self {
            fixed,
            faults,
            pods: Table::default(),
            namespaces: Table::default(),
            nodes: Table::default(),
            directory: Directory::default(),
            policies,
            announced: HashMap::new(),
            netns: HashMap::new(),
            withdrawn: HashSet::new(),
            leaving: Leaving::default(),
            locals: HashMap::new(),
        }
    }

    /// Takes news. Returns whether a view may differ from the last one.
    pub(super) fn take(&mut self, change: Change) -> bool {
        match change {
            Change::Pod(News::Event(event)) => self.pod(event),
            Change::Namespace(News::Event(event)) => {
                let event = self.rows(Kind::Namespaces, event, |_, namespace| {
                    let reading = Reading::of_optional(namespace.metadata.labels.as_ref());
                    let wrong = reading.malformed.into_iter().map(Fault::Label).collect();
                    (Some(reading.wish), wrong)
                });
                let touched = self.namespaces.take(event);
                self.is_news(Kind::Namespaces, &touched)
            }
            Change::Node(News::Event(event)) => self.node(event),
            Change::Service(News::Event(event)) => {
                let event = self.rows(Kind::Services, event, |_, service| {
                    (services::service_row(service), Vec::new())
                });
                let touched = self.directory.take_service(event);
                self.is_news(Kind::Services, &touched)
            }
            Change::Slice(News::Event(event)) => {
                let event = self.rows(Kind::EndpointSlices, event, |fixed, slice| {
                    (services::slice_row(slice, &fixed.node), Vec::new())
                });
                let touched = self.directory.take_slice(event);
                self.is_news(Kind::EndpointSlices, &touched)
            }
            Change::PeerAuthentication(news) => {
                self.policies.take_peer_authentication(news.event())
            }
            Change::AuthorizationPolicy(news) => {
                self.policies.take_authorization_policy(news.event())
            }
            // These kinds are everywhere; a 404 is an API server that is not up yet.
            Change::Pod(News::Absent)
            | Change::Namespace(News::Absent)
            | Change::Node(News::Absent)
            | Change::Service(News::Absent)
            | Change::Slice(News::Absent) => false,
        }
    }

    /// Kinds that were not listed completely yet.
    pub(super) fn missing(&self) -> Vec<Kind> {
        let complete = |kind| match kind {
            Kind::Pods => self.pods.is_complete(),
            Kind::Namespaces => self.namespaces.is_complete(),
            Kind::Nodes => self.nodes.is_complete(),
            Kind::Services => self.directory.services_table().is_complete(),
            Kind::EndpointSlices => self.directory.slices_table().is_complete(),
            Kind::PeerAuthentications => self.policies.peer_authentications().is_complete(),
            Kind::AuthorizationPolicies => self.policies.authorization_policies().is_complete(),
        };
        Kind::ALL.into_iter().filter(|kind| !complete(*kind)).collect()
    }

    /// How many objects of a kind are kept.
    pub(super) fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Pods => self.pods.rows().len(),
            Kind::Namespaces => self.namespaces.rows().len(),
            Kind::Nodes => self.nodes.rows().len(),
            Kind::Services => self.directory.services_table().rows().len(),
            Kind::EndpointSlices => self.directory.slices_table().rows().len(),
            Kind::PeerAuthentications => self.policies.peer_authentications().rows().len(),
            Kind::AuthorizationPolicies => self.policies.authorization_policies().rows().len(),
        }
    }

    fn pod(&mut self, event: Event<Pod>) -> bool {
        let event = self
            .rows(Kind::Pods, event, |fixed, pod| pods::row(pod, &fixed.node, &fixed.trust_domain));
        let touched = self.pods.take(event);
        for key in &touched.keys {
            self.notice_new_network(key);
        }
        self.is_news(Kind::Pods, &touched)
    }

    /// A pod whose addresses are none of those that it had runs in a network that was made anew:
    /// what was known of its namespace is of the one before.
    fn notice_new_network(&mut self, key: &WorkloadKey) {
        let (Some(row), Some(before)) = (self.pods.rows().get(key), self.locals.get(key)) else {
            return;
        };
        let now = &row.workload.addresses;
        let same_pod = row.workload.uid == before.uid;
        let moved = !now.is_empty() && !now.iter().any(|ip| before.addresses.contains(ip));
        if let (true, true, Some(uid)) = (same_pod, moved, &row.workload.uid) {
            self.netns.remove(uid);
            self.announced.remove(uid);
        }
    }

    fn node(&mut self, event: Event<Node>) -> bool {
        let event = self.rows(Kind::Nodes, event, |_, node| {
            let ranges = node.spec.pod_cidrs.iter().chain(&node.spec.pod_cidr);
            let ranges = ranges.filter_map(|range| range.parse().ok()).collect();
            let zone = node.metadata.labels.as_ref().and_then(|labels| labels.get(ZONE));
            (Some((IpNet::aggregate(&ranges), zone.map(|zone| zone.as_str().into()))), Vec::new())
        });
        let touched = self.nodes.take(event);
        let own = self.nodes.rows().get(&WorkloadKey::new("", &self.fixed.node));
        self.directory.set_own_zone(own.and_then(|(_, zone)| zone.as_deref()));
        self.is_news(Kind::Nodes, &touched)
    }

    /// The same event, about a row instead of an object. Notes what is wrong with the object.
    fn rows<K: Resource, R>(
        &mut self,
        kind: Kind,
        event: Event<K>,
        row: impl Fn(&Fixed, &K) -> (Option<R>, Vec<Fault>),
    ) -> Event<(WorkloadKey, Option<R>)> {
        let mut take = |object: &K| {
            let key = pods::key(object.meta());
            let (row, faults) = row(&self.fixed, object);
            self.faults.set(kind, &key, faults);
            (key, row)
        };
        match event {
            Event::Init => Event::Init,
            Event::InitApply(object) => Event::InitApply(take(&object)),
            Event::InitDone => Event::InitDone,
            Event::Apply(object) => Event::Apply(take(&object)),
            Event::Delete(object) => {
                let key = pods::key(object.meta());
                self.faults.set(kind, &key, Vec::new());
                Event::Delete((key, None))
            }
        }
    }

    fn is_news(&mut self, kind: Kind, touched: &Touched) -> bool {
        if let Some(listed) = &touched.listed {
            self.faults.keep(kind, listed);
        }
        !touched.keys.is_empty() || touched.completed
    }

    /// Takes what a search for network namespaces came to.
    pub(super) fn found(&mut self, paths: HashMap<PodUid, PathBuf>) -> bool {
        let before = self.netns.len();
        self.netns.extend(paths);
        self.netns.len() != before
    }

    /// The namespaces that are known of pods of this node.
    pub(super) fn known(&self) -> Vec<(PodUid, PathBuf)> {
        let announced = self.announced.values().map(|Announcement { pod, .. }| pod);
        let announced = announced.map(|pod| (pod.uid.clone(), pod.netns.clone()));
        let found = self.netns.iter().map(|(uid, path)| (uid.clone(), path.clone()));
        found.chain(announced).collect()
    }

    /// Namespaces of these pods are not where they were; they are looked for anew.
    pub(super) fn lost(&mut self, pods: &[(PodUid, PathBuf)]) -> bool {
        let before = self.netns.len() + self.announced.len();
        for (uid, path) in pods {
            if self.netns.get(uid) == Some(path) {
                self.netns.remove(uid);
            }
            if self.announced.get(uid).is_some_and(|announced| announced.pod.netns == *path) {
                self.announced.remove(uid);
            }
        }
        self.netns.len() + self.announced.len() != before
    }

    /// Whether an announced pod is wanted; nothing if the watches have not told of it or of its
    /// namespace. A pod that is wanted is in the next view.
    pub(super) fn announce(&mut self, pod: &Announced, now: Instant) -> Option<bool> {
        let row = self.pods.rows().get(&pod.key())?;
        if row.workload.uid.as_ref() != Some(&pod.uid) {
            return None;
        }
        let namespace = WorkloadKey::new("", &pod.namespace);
        let of_namespace = self.namespaces.rows().get(&namespace)?;
        let wanted = row.is_wanted(*of_namespace);
        self.withdrawn.remove(&pod.uid);
        // Also of a pod that is not wanted now: its label may come later.
        let announcement = Announcement { pod: pod.clone(), until: now + BELIEVE };
        self.announced.insert(pod.uid.clone(), announcement);
        Some(wanted)
    }

    /// The network of a pod is about to go. One that runs on gets another, and is looked for.
    pub(super) fn withdraw(&mut self, uid: &PodUid) -> bool {
        let known = self.announced.remove(uid).is_some() | self.netns.remove(uid).is_some();
        let ends = |row: &PodRow| row.terminating && row.workload.uid.as_ref() == Some(uid);
        known && self.pods.rows().values().any(ends) && self.withdrawn.insert(uid.clone())
    }

    /// The mesh as it is now.
    pub(super) fn view(&mut self, now: Instant) -> View {
        self.tidy(now);
        let mut view = View { pod_ranges: self.pod_ranges(), ..View::default() };
        let mut locals = HashMap::new();
        let mut workloads = Vec::with_capacity(self.pods.rows().len());
        for (key, row) in self.pods.rows() {
            if row.local.is_none() {
                workloads.push((row, Arc::clone(&row.workload)));
                continue;
            }
            let wanted = row.is_wanted(self.of_namespace(&row.workload.namespace));
            view.marks.push(mark(key, row, wanted));
            let mut workload = self.placed(row);
            let withdrawn = workload.uid.as_ref().is_some_and(|u| self.withdrawn.contains(u));
            if withdrawn || workload.addresses.is_empty() {
                continue;
            }
            let before = self.locals.remove(key);
            let was_enrolled = before.as_ref().is_some_and(|before| before.enrolled);
            let stays = was_enrolled && row.redirected && self.leaving.stays(key, now);
            workload.enrolled = wanted || stays;
            if let (true, None, Some(uid)) = (workload.enrolled, &workload.netns, &workload.uid) {
                view.sought.insert(uid.clone());
            }
            if !stays || wanted {
                self.leaving.0.remove(key);
            }
            let workload =
                before.filter(|before| **before == workload).unwrap_or_else(|| Arc::new(workload));
            locals.insert(key.clone(), Arc::clone(&workload));
            workloads.push((row, workload));
        }
        self.leaving.0.retain(|key, _| locals.contains_key(key));
        view.due = self.leaving.0.values().min().copied();
        self.locals = locals;
        let (workloads, conflicts) = conflicts::settle(workloads);
        self.faults.set_conflicts(conflicts);
        view.workloads = workloads;
        view.services = self.directory.services();
        view.policies = self.policies.policies();
        view
    }

    fn pod_ranges(&self) -> Vec<IpNet> {
        let told = self.nodes.rows().values().flat_map(|(ranges, _)| ranges).copied();
        IpNet::aggregate(&told.chain(self.fixed.pod_ranges.iter().copied()).collect())
    }

    /// Forgets pods that are no more.
    fn tidy(&mut self, now: Instant) {
        let live: HashSet<_> =
            self.pods.rows().values().filter_map(|row| row.workload.uid.clone()).collect();
        self.netns.retain(|uid, _| live.contains(uid));
        self.withdrawn.retain(|uid| live.contains(uid));
        self.announced.retain(|uid, announcement| live.contains(uid) || now < announcement.until);
    }

    fn of_namespace(&self, name: &str) -> Option<Wish> {
        self.namespaces.rows().get(&WorkloadKey::new("", name)).copied().flatten()
    }

    /// A local pod with its namespace and, until the API server has them, its addresses.
    fn placed(&self, row: &PodRow) -> Workload {
        let mut workload = Workload::clone(&row.workload);
        let Some(uid) = &workload.uid else { return workload };
        match self.announced.get(uid) {
            Some(Announcement { pod, .. }) => {
                workload.netns = Some(pod.netns.clone());
                if workload.addresses.is_empty() {
                    workload.addresses.clone_from(&pod.addresses);
                }
            }
            None => workload.netns = self.netns.get(uid).cloned(),
        }
        workload
    }
}

/// Until when pods stay that are no longer wanted, so that nobody expects them in the mesh any
/// more once they are out.
#[derive(Default)]
struct Leaving(HashMap<WorkloadKey, Instant>);

impl Leaving {
    fn stays(&mut self, key: &WorkloadKey, now: Instant) -> bool {
        now < *self.0.entry(key.clone()).or_insert(now + LEAVE)
    }
}

fn mark(key: &WorkloadKey, row: &PodRow, wanted: bool) -> Mark {
    Mark {
        key: key.clone(),
        api_uid: row.api_uid.clone(),
        uid: row.workload.uid.clone(),
        wanted,
        redirected: row.redirected,
    }
}
