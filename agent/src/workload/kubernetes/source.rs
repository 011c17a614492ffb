//! [`Source`]: keeps the published snapshot equal to what the watches tell.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use culvert_spiffe::TrustDomain;
use ipnet::IpNet;
use kube::Client;
use prometheus::{Histogram, IntGauge, IntGaugeVec};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::annotate::Annotator;
use super::announce::{Announcer, Request};
use super::events::Events;
use super::fault::Faults;
use super::kind::Kind;
use super::netns::{Finder, Found};
use super::objects::Object;
use super::policies::PolicyTables;
use super::state::{Change, Fixed, Mark, State, View};
use super::watch::{Health, News, To, follow_always, follow_policies};
use crate::config::Config;
use crate::observe::{Metrics, RegisterError};
use crate::workload::{Decision, PodUid, Snapshot, SnapshotError};

/// News that wait; a full queue makes the watches wait.
const QUEUE: usize = 1024;
/// Announcements that wait.
const REQUESTS: usize = 256;
/// How long news are gathered before a snapshot is made of them.
const GATHER: Duration = Duration::from_millis(10);
/// At most one part in so many of the time goes into making snapshots.
const SHARE: u32 = 5;
/// How soon a namespace that was not found is looked for again. It doubles up to [`SEEK_MOST`].
const SEEK: Duration = Duration::from_millis(100);
const SEEK_MOST: Duration = Duration::from_secs(5);
/// How often it is looked whether namespaces are still where they were found.
const VERIFY: Duration = Duration::from_secs(5);
/// How often it is said what the start waits for.
const WAITING: Duration = Duration::from_secs(10);

/// What a source must know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The agent's own node, as Kubernetes names it.
    pub node: String,
    /// Trust domain of every identity.
    pub trust_domain: TrustDomain,
    /// The namespace whose policies hold for the mesh.
    pub root_namespace: String,
    /// Where pods have their addresses, besides the ranges that nodes tell.
    pub pod_ranges: Vec<IpNet>,
    /// The host's `/proc`.
    pub proc: PathBuf,
    /// Where the container runtime keeps network namespaces by name.
    pub netns_directory: PathBuf,
}

/// Why the cluster is not followed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KubernetesError {
    /// A metric's name was taken.
    #[error(transparent)]
    Metrics(#[from] RegisterError),
    /// What was listed contradicts itself, which the state has seen to that it does not.
    #[error("the cluster contradicts itself")]
    Contradiction(#[from] SnapshotError),
    /// A watch has ended, which none does.
    #[error("the watch of {kind} has ended; start the agent again")]
    WatchEnded {
        /// Of which objects.
        kind: &'static str,
    },
    /// A watch has panicked.
    #[error("a watch has panicked; start the agent again")]
    WatchPanicked(#[source] JoinError),
}

/// Publishes the mesh as the API server has it.
pub struct Source {
    settings: Settings,
    state: State,
    finder: Finder,
    publish: watch::Sender<Arc<Snapshot>>,
    marks: watch::Sender<Vec<Mark>>,
    watches: JoinSet<Kind>,
    changes: mpsc::Receiver<Change>,
    requests: mpsc::Receiver<Request>,
    client: Client,
    announcer: Announcer,
    search: Search,
    /// How long the last snapshot took to make.
    took: Duration,
    meters: Meters,
}

/// The search for network namespaces.
#[derive(Default)]
struct Search {
    sought: HashSet<PodUid>,
    running: JoinSet<std::io::Result<Found>>,
    at: Option<Instant>,
    pause: Duration,
    told: HashSet<PodUid>,
    /// The look whether what was found is still there.
    checking: JoinSet<Vec<(PodUid, PathBuf)>>,
}

struct Meters {
    objects: IntGaugeVec,
    entries: IntGauge,
    making: Histogram,
}

impl Settings {
    /// As the configuration has them, if it names a cluster.
    pub fn of(config: &Config) -> Option<Self> {
        let kubernetes = config.kubernetes.as_ref()?;
        Some(Self {
            node: config.node.clone(),
            trust_domain: config.trust_domain.clone(),
            root_namespace: config.mesh.root_namespace.clone(),
            pod_ranges: kubernetes.pod_ranges.clone(),
            proc: config.capture.host_proc.clone().unwrap_or_else(|| PathBuf::from("/proc")),
            netns_directory: kubernetes.netns_directory.clone(),
        })
    }
}

impl Source {
    /// Lists everything once. The receiver holds the first snapshot, of generation 1.
    ///
    /// Waits for the API server as long as it takes, for a mesh that is half known would let
    /// through in plaintext what it should not; the log says what is waited for.
    ///
    /// Cancel safe: dropped, it only stops.
    ///
    /// # Errors
    ///
    /// [`KubernetesError`] when a metric's name is taken or a watch breaks.
    pub async fn open(
        settings: Settings,
        client: Client,
        metrics: &Metrics,
    ) -> Result<(Self, watch::Receiver<Arc<Snapshot>>), KubernetesError> {
        let meters = Meters::new(metrics)?;
        let policies = PolicyTables::new(&settings.root_namespace, metrics)?;
        let (sender, changes) = mpsc::channel(QUEUE);
        let watches = watches(&client, &sender, &Health::new(metrics)?);
        let fixed = Fixed {
            node: settings.node.clone(),
            trust_domain: settings.trust_domain.clone(),
            pod_ranges: settings.pod_ranges.clone(),
        };
        let finder =
            Finder { proc: settings.proc.clone(), named: settings.netns_directory.clone() };
        let (requester, requests) = mpsc::channel(REQUESTS);
        let empty = snapshot(&settings, 0, &View::default())?;
        let (publish, receiver) = watch::channel(Arc::new(empty));
        let mut source = Self {
            state: State::new(fixed, Faults::new(metrics)?, policies),
            settings,
            finder,
            publish,
            marks: watch::Sender::default(),
            watches,
            changes,
            requests,
            announcer: Announcer::new(client.clone(), requester),
            client,
            search: Search::default(),
            took: Duration::ZERO,
            meters,
        };
        source.listed().await?;
        source.search_first().await;
        source.make();
        Ok((source, receiver))
    }

    /// Takes announcements of pods for this source.
    pub fn announcer(&self) -> Announcer {
        self.announcer.clone()
    }

    /// Tells the cluster what is steered; made once.
    ///
    /// # Errors
    ///
    /// [`RegisterError`] when it was made before.
    pub fn annotator(&self, metrics: &Metrics) -> Result<Annotator, RegisterError> {
        Annotator::new(self.client.clone(), self.marks.subscribe(), metrics)
    }

    /// Writes Events on this node's pods; made once.
    ///
    /// # Errors
    ///
    /// [`RegisterError`] when it was made before.
    pub fn events(&self, metrics: &Metrics) -> Result<Events, RegisterError> {
        Events::new(self.client.clone(), &self.settings.node, self.marks.subscribe(), metrics)
    }

    /// Follows the cluster until `stop` is cancelled.
    ///
    /// Cancel safe: dropped, it only stops following.
    ///
    /// # Errors
    ///
    /// [`KubernetesError`] when a watch breaks in a way that none should.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), KubernetesError> {
        let mut news = Vec::new();
        // When a snapshot is to be made.
        let mut due = self.make();
        let mut verify = Instant::now() + VERIFY;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                Some(request) = self.requests.recv() => {
                    if self.answer(request) {
                        due = self.make();
                    }
                }
                () = until(due) => due = self.make(),
                Some(found) = self.search.running.join_next() => {
                    if self.found(found) {
                        due = self.make();
                    }
                }
                Some(lost) = self.search.checking.join_next() => {
                    if lost.is_ok_and(|lost| self.state.lost(&lost)) {
                        due = self.make();
                    }
                }
                () = until(self.search.at) => self.search(),
                () = tokio::time::sleep_until(verify) => {
                    verify = Instant::now() + VERIFY;
                    self.search.check(self.state.known());
                }
                Some(ended) = self.watches.join_next() => return Err(broken(ended)),
                1.. = self.changes.recv_many(&mut news, QUEUE) => {
                    if self.take(&mut news) {
                        due = Some(sooner(due, self.next_making()));
                    }
                }
            }
        }
    }

    /// Waits until everything was listed once.
    async fn listed(&mut self) -> Result<(), KubernetesError> {
        let mut news = Vec::new();
        let mut tell = Instant::now() + WAITING;
        loop {
            let missing = self.state.missing();
            if missing.is_empty() {
                return Ok(());
            }
            tokio::select! {
                biased;
                Some(ended) = self.watches.join_next() => return Err(broken(ended)),
                1.. = self.changes.recv_many(&mut news, QUEUE) => {
                    self.take(&mut news);
                }
                () = tokio::time::sleep_until(tell) => {
                    let missing: Vec<_> = missing.iter().map(|kind| kind.label()).collect();
                    let missing = missing.join(", ");
                    tracing::warn!(missing, "waiting for the API server to list everything");
                    tell = Instant::now() + WAITING;
                }
            }
        }
    }

    fn take(&mut self, news: &mut Vec<Change>) -> bool {
        // Each is taken; `any` would stop at the first.
        news.drain(..).map(|change| self.state.take(change)).fold(false, |any, one| any | one)
    }

    /// Returns whether a snapshot must be made now.
    fn answer(&mut self, request: Request) -> bool {
        match request {
            Request::Announce(pod, answer) => {
                let decision = self.state.announce(&pod, Instant::now());
                let decision =
                    decision.map(|wanted| if wanted { Decision::Enrol } else { Decision::Leave });
                let news = decision == Some(Decision::Enrol);
                if news {
                    self.make();
                }
                // Nobody waits any more: the runtime has given up, and will announce it again.
                let _ = answer.send(decision); // reason: see above
                news
            }
            Request::Withdraw(uid) => self.state.withdraw(&uid),
            Request::Learn(change) => self.state.take(*change),
        }
    }

    /// When the next snapshot may be made: soon, unless making them takes long.
    fn next_making(&self) -> Instant {
        Instant::now() + GATHER.max(self.took * SHARE)
    }

    /// Publishes what has changed. Returns when to look again without any news.
    fn make(&mut self) -> Option<Instant> {
        let began = Instant::now();
        let view = self.state.view(began);
        self.search.want(&view.sought, began);
        self.marks.send_if_modified(|marks| {
            let changed = *marks != view.marks;
            if changed {
                marks.clone_from(&view.marks);
            }
            changed
        });
        for kind in Kind::ALL {
            let count = i64::try_from(self.state.count(kind)).unwrap_or(i64::MAX);
            self.meters.objects.with_label_values(&[kind.label()]).set(count);
        }
        let generation = self.publish.borrow().generation + 1;
        let snapshot = match snapshot(&self.settings, generation, &view) {
            Ok(snapshot) => snapshot,
            Err(error) => {
                tracing::error!(%error, "cluster contradicts itself; the last good state stays");
                return view.due;
            }
        };
        let workloads = snapshot.workloads().len();
        self.meters.entries.set(i64::try_from(workloads).unwrap_or(i64::MAX));
        let changed = self.publish.send_if_modified(|current| {
            let changed = current.generation == 0 || !current.same_content(&snapshot);
            if changed {
                *current = Arc::new(snapshot);
            }
            changed
        });
        if changed {
            tracing::debug!(generation, workloads, "mesh changed");
        }
        self.took = began.elapsed();
        self.meters.making.observe(self.took.as_secs_f64());
        view.due
    }

    /// The first search, before anything is published: what runs here already is found at once.
    async fn search_first(&mut self) {
        let view = self.state.view(Instant::now());
        self.search.want(&view.sought, Instant::now());
        self.search();
        if let Some(found) = self.search.running.join_next().await {
            self.found(found);
        }
    }

    fn search(&mut self) {
        self.search.at = None;
        if self.search.sought.is_empty() || !self.search.running.is_empty() {
            return;
        }
        let (finder, sought) = (self.finder.clone(), self.search.sought.clone());
        self.search.running.spawn_blocking(move || finder.find(&sought));
    }

    /// Returns whether anything was found.
    fn found(&mut self, found: Result<std::io::Result<Found>, JoinError>) -> bool {
        let found = match found {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                let proc = self.finder.proc.display();
                tracing::error!(%proc, %error, "cannot look for the pods' network namespaces");
                Found::default()
            }
            Err(error) => {
                tracing::error!(%error, "the search for network namespaces panicked");
                Found::default()
            }
        };
        self.search.ended(&found);
        self.state.found(found.paths)
    }
}

impl Search {
    /// These pods' namespaces are wanted.
    fn want(&mut self, sought: &HashSet<PodUid>, now: Instant) {
        let news = sought.iter().any(|uid| !self.sought.contains(uid));
        self.sought.clone_from(sought);
        self.told.retain(|uid| sought.contains(uid));
        if news {
            self.pause = SEEK;
            self.at = Some(now);
        }
    }

    /// Looks which of these paths lead nowhere any more.
    fn check(&mut self, known: Vec<(PodUid, PathBuf)>) {
        if self.checking.is_empty() && !known.is_empty() {
            let lost = |(_, path): &(PodUid, PathBuf)| !path.exists();
            self.checking.spawn_blocking(move || known.into_iter().filter(lost).collect());
        }
    }

    /// A search has ended; the next one comes if it left something.
    fn ended(&mut self, found: &Found) {
        self.sought.retain(|uid| !found.paths.contains_key(uid));
        for uid in &found.denied {
            if self.told.insert(uid.clone()) {
                tracing::error!(%uid, "cannot see the pod's network namespace; needs CAP_SYS_PTRACE");
            }
        }
        if !self.sought.is_empty() {
            self.at.get_or_insert(Instant::now() + self.pause);
            self.pause = (self.pause * 2).min(SEEK_MOST);
        }
    }
}

impl Meters {
    fn new(metrics: &Metrics) -> Result<Self, RegisterError> {
        let objects = metrics.gauges(
            "culvert_workload_objects",
            "Objects of the API server that are kept.",
            &["resource"],
        )?;
        let entries = metrics.gauge("culvert_workload_entries", "Workloads in force.")?;
        let making = metrics.histogram(
            "culvert_workload_snapshot_seconds",
            "Time to make a snapshot of the mesh.",
            &[0.0001, 0.001, 0.01, 0.1, 1.0],
        )?;
        Ok(Self { objects, entries, making })
    }
}

fn watches(client: &Client, changes: &mpsc::Sender<Change>, health: &Health) -> JoinSet<Kind> {
    let mut watches = JoinSet::new();
    let to = || (changes.clone(), health.clone());
    always(&mut watches, client, Kind::Pods, Change::Pod, to());
    always(&mut watches, client, Kind::Namespaces, Change::Namespace, to());
    always(&mut watches, client, Kind::Nodes, Change::Node, to());
    always(&mut watches, client, Kind::Services, Change::Service, to());
    always(&mut watches, client, Kind::EndpointSlices, Change::Slice, to());
    let policies = [
        (Kind::PeerAuthentications, "PeerAuthentication", Change::PeerAuthentication as fn(_) -> _),
        (Kind::AuthorizationPolicies, "AuthorizationPolicy", Change::AuthorizationPolicy),
    ];
    for (kind, name, wrap) in policies {
        let watch = follow_policies(client.clone(), kind, name, wrap, to());
        watches.spawn(async move {
            watch.await;
            kind
        });
    }
    watches
}

fn always<K: Object>(
    watches: &mut JoinSet<Kind>,
    client: &Client,
    kind: Kind,
    wrap: fn(News<K>) -> Change,
    to: To<Change>,
) {
    let watch = follow_always(client.clone(), kind, wrap, to);
    watches.spawn(async move {
        watch.await;
        kind
    });
}

fn snapshot(settings: &Settings, generation: u64, view: &View) -> Result<Snapshot, SnapshotError> {
    Snapshot::new(
        generation,
        settings.trust_domain.clone(),
        &settings.root_namespace,
        view.workloads.clone(),
        Arc::clone(&view.policies),
    )
    .map(|snapshot| {
        snapshot.with_services(Arc::clone(&view.services)).with_pod_ranges(&view.pod_ranges)
    })
}

fn broken(ended: Result<Kind, JoinError>) -> KubernetesError {
    match ended {
        Ok(kind) => KubernetesError::WatchEnded { kind: kind.label() },
        Err(error) => KubernetesError::WatchPanicked(error),
    }
}

pub(super) async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn sooner(one: Option<Instant>, other: Instant) -> Instant {
    one.map_or(other, |one| one.min(other))
}
