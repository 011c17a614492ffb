//! Stage one: takes the TCP of enrolled workloads out of the kernel's hands, and hands connections
//! back to it.
//!
//! ```text
//!  programs  loads, attaches and pins the kernel programs
//!  tables    the maps they share with us, each as a typed value
//!  enrol     one workload in: listeners, delivery routes, sk_lookup link, table entries; and out
//!  pod       an enrolled workload as the later stages see it: a place to dial from
//!  turn      which of two agents acts, while one takes over from the other
//!  usage     how full the tables are
//!  accept    accepted connections with their original source and destination
//! ```
//!
//! Knows nothing of policy or TLS.

mod accept;
mod destinations;
mod enrol;
mod error;
mod listeners;
mod pod;
mod programs;
mod routes;
mod self_test;
mod tables;
mod turn;
mod usage;

pub use accept::{Acceptor, Captured, Lost, close_in_order, reset};
pub use enrol::Enrolled;
pub use error::{AttachError, EnrolError};
pub use listeners::{Kind, Listener};
pub use pod::{Pod, Via};
pub use programs::KernelLog;
pub use tables::SharedTables;
pub use turn::Turn;
pub use usage::{TableUse, table_use};

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    sys::{
        mounts,
        netns::{self, Netns},
        peer::OWN_PROC,
    },
    workload::{Snapshot, WorkloadKey},
};

use self::{
    enrol::{Fence, Held},
    programs::{Pins, Programs},
    routes::Routes,
    tables::PodTables,
};

/// What capture needs to know; the agent's configuration, as far as it matters here.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A directory of the cgroup v2 tree; its processes, and those below, are seen.
    pub cgroup: PathBuf,
    /// Where maps and links are pinned; on a BPF file system.
    pub pin_directory: PathBuf,
    /// The host's `/proc`, where the agent runs in a container; none where it runs on the host.
    pub host_proc: Option<PathBuf>,
    /// While no agent runs, let enrolled pods' connections pass instead of refusing them.
    pub pass_when_down: bool,
    /// How many workers accept connections; at least one.
    pub workers: u16,
    /// Destinations that may be in the mesh; others are never steered.
    pub ranges: Vec<IpNet>,
}

/// The kernel side of this node, attached.
///
/// Dropping it leaves programs, maps and links pinned: an enrolled pod without an agent is
/// refused, not let out in plaintext. [`release`] takes everything out.
pub struct Capture {
    settings: Settings,
    /// Namespaces that are no workload's: the node's, and the agent's own.
    taboo: [Netns; 2],
    programs: Programs,
    pods: PodTables,
    shared: Arc<SharedTables>,
    held: HashMap<WorkloadKey, Held>,
    fenced: HashMap<WorkloadKey, Fence>,
}

impl Capture {
    /// Loads the programs, attaches them or takes over what an earlier agent left attached, and
    /// opens their maps.
    ///
    /// # Errors
    /// [`AttachError`] says what the kernel or the machine lacks.
    pub fn attach(settings: Settings) -> Result<Self, AttachError> {
        let host = host_netns(settings.host_proc.as_deref())?;
        let cookie = host.cookie().map_err(AttachError::HostNetns)?;
        let own = Netns::current().map_err(AttachError::HostNetns)?;
        if settings.host_proc.is_some() && mounts::is_own_cgroup(&settings.cgroup) {
            return Err(AttachError::OwnCgroup { cgroup: settings.cgroup });
        }
        let pins = Pins::create(&settings.pin_directory)?;
        let mut programs = Programs::load(pins, cookie, settings.workers)?;
        programs.attach_to_cgroup(&settings.cgroup)?;
        let (object, pins) = programs.parts();
        let (pods, shared) = tables::open(object, pins)?;
        self_test::run(&shared, &settings.cgroup)?;
        let (held, fenced) = (HashMap::new(), HashMap::new());
        let taboo = [host, own];
        Ok(Self { settings, taboo, programs, pods, shared: Arc::new(shared), held, fenced })
    }

    /// Copies what the kernel programs log into `tracing` until it is dropped; `None` if that was
    /// taken before.
    pub fn take_log(&mut self) -> Option<KernelLog> {
        self.programs.take_log()
    }

    /// The programs that are loaded: name, the kernel's number, and the cgroup that they hang on;
    /// none for those that hang on each workload's namespace.
    pub fn programs(&self) -> Vec<(String, u32, Option<&Path>)> {
        let cgroup = self.settings.cgroup.as_path();
        let place = |name: &str| (name != culvert_common::maps::SK_LOOKUP).then_some(cgroup);
        let mut loaded = self.programs.loaded();
        loaded.sort_unstable();
        loaded
            .into_iter()
            .map(|(name, id)| {
                let place = place(&name);
                (name, id, place)
            })
            .collect()
    }

    /// The tables that the data path reads.
    pub fn shared(&self) -> Arc<SharedTables> {
        Arc::clone(&self.shared)
    }

    /// Brings the kernel's view of which destinations are in the mesh up to date.
    ///
    /// # Errors
    /// The table is full, or the kernel refused an update; what was written stays.
    pub fn set_destinations(&mut self, snapshot: &Snapshot) -> Result<(), EnrolError> {
        destinations::update(&mut self.pods, &self.settings.ranges, snapshot)
    }

    /// Puts this agent's programs back into the links, after another agent had put in its own.
    ///
    /// # Errors
    /// [`AttachError`]
    pub fn resume(&mut self) -> Result<(), AttachError> {
        self.programs.hang_on_cgroup(&self.settings.cgroup)
    }

    /// Removes what an earlier agent left of pods that are not enrolled now: table entries, links,
    /// and the links of namespaces that are gone. To be called once all that should be in are: until
    /// then those remains keep a workload refused.
    ///
    /// # Errors
    /// The kernel refused to list a table.
    pub async fn sweep(&mut self) -> Result<usize, EnrolError> {
        let mut strangers = self.programs.pins().netns_inodes();
        for held in self.held.values() {
            strangers.remove(&held.pod.netns().inode());
        }
        let removed = enrol::sweep(&self.programs, &mut self.pods, self.held.values())?;
        clear_routes(&strangers, self.proc()).await;
        Ok(removed)
    }

    /// Where the node's processes are seen.
    fn proc(&self) -> &Path {
        self.settings.host_proc.as_deref().unwrap_or(Path::new(OWN_PROC))
    }
}

/// The namespace that the node's own programs, the kubelet among them, connect from.
fn host_netns(host_proc: Option<&Path>) -> Result<Netns, AttachError> {
    let Some(proc) = host_proc else {
        return Netns::current().map_err(AttachError::HostNetns);
    };
    let path = proc.join("1/ns/net");
    Netns::open(&path).map_err(|source| AttachError::HostProc { path, source })
}

/// Takes all that an agent has put into the kernel out again: programs, links, maps, and the routes
/// in the namespaces of pods. Enrolled pods go on without the mesh; their listeners end with the
/// agent's process. `proc` is the host's, to find namespaces that have no name.
///
/// Connections that an agent carries lose their way to the application; [`Leaving`] spares them.
///
/// # Errors
/// A pin could not be removed.
pub async fn release(pin_directory: &Path, proc: &Path) -> Result<(), AttachError> {
    Leaving::begin(pin_directory, proc)?.finish().await;
    Ok(())
}

/// Removes the routes in these namespaces.
async fn clear_routes(inodes: &HashSet<u64>, proc: &Path) {
    if inodes.is_empty() {
        return;
    }
    for netns in netns::find(inodes, proc).values() {
        match Routes::open(netns) {
            Ok(routes) => routes.clear().await,
            Err((step, error)) => {
                tracing::warn!(inode = netns.inode(), step, %error, "delivery routes stay behind");
            }
        }
    }
}

/// A way out of the kernel in two steps, for an agent that is to leave nothing behind.
pub struct Leaving {
    inodes: HashSet<u64>,
    proc: PathBuf,
}

impl Leaving {
    /// Takes the programs out: from now on the node's connections go their own way. Those that the
    /// agent carries go on.
    ///
    /// # Errors
    /// A pin could not be removed.
    pub fn begin(pin_directory: &Path, proc: &Path) -> Result<Self, AttachError> {
        let inodes = Pins::at(pin_directory).netns_inodes();
        Pins::detach(pin_directory)?;
        Ok(Self { inodes, proc: proc.to_owned() })
    }

    /// Removes the routes; what the agent still delivers ends.
    pub async fn finish(self) {
        clear_routes(&self.inodes, &self.proc).await;
    }
}
