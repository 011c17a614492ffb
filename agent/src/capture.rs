//! Stage one: takes the TCP of enrolled workloads out of the kernel's hands, and hands connections
//! back to it.
//!
//! ```text
//!  programs  loads, attaches and pins the kernel programs
//!  tables    the maps they share with us, each as a typed value
//!  enrol     one workload in: listeners, delivery routes, sk_lookup link, table entries; and out
//!  pod       an enrolled workload as the later stages see it: a place to dial from
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

pub use accept::{Acceptor, Captured, Lost, close_in_order, reset};
pub use enrol::Enrolled;
pub use error::{AttachError, EnrolError};
pub use listeners::{Kind, Listener};
pub use pod::{Pod, Via};
pub use programs::KernelLog;
pub use tables::SharedTables;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    sys::netns::Netns,
    workload::{Snapshot, WorkloadKey},
};

use self::{
    enrol::{Fence, Held},
    programs::{Pins, Programs},
    tables::PodTables,
};

/// What capture needs to know; the agent's configuration, as far as it matters here.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A directory of the cgroup v2 tree; its processes, and those below, are seen.
    pub cgroup: PathBuf,
    /// Where maps and links are pinned; on a BPF file system.
    pub pin_directory: PathBuf,
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
/// refused, not let out in plaintext. [`detach`] takes everything out.
pub struct Capture {
    settings: Settings,
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
        let host = Netns::current().map_err(AttachError::HostNetns)?;
        let cookie = host.cookie().map_err(AttachError::HostNetns)?;
        let pins = Pins::create(&settings.pin_directory)?;
        let mut programs = Programs::load(pins, cookie, settings.workers)?;
        programs.attach_to_cgroup(&settings.cgroup)?;
        let (object, pins) = programs.parts();
        let (pods, shared) = tables::open(object, pins)?;
        self_test::run(&shared, &settings.cgroup)?;
        let (held, fenced) = (HashMap::new(), HashMap::new());
        Ok(Self { settings, programs, pods, shared: Arc::new(shared), held, fenced })
    }

    /// Copies what the kernel programs log into `tracing` until it is dropped; `None` if that was
    /// taken before.
    pub fn take_log(&mut self) -> Option<KernelLog> {
        self.programs.take_log()
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

    /// Removes what an earlier agent left of pods that are not enrolled now: table entries, links,
    /// and the links of namespaces that are gone. To be called once all that should be in are: until
    /// then those remains keep a workload refused.
    ///
    /// # Errors
    /// The kernel refused to list a table.
    pub fn sweep(&mut self) -> Result<usize, EnrolError> {
        enrol::sweep(&self.programs, &mut self.pods, self.held.values())
    }
}

/// Takes every program and pin of an agent out of the kernel. Enrolled pods go on without the
/// mesh; their listeners end with the agent's process.
///
/// # Errors
/// A pin could not be removed.
pub fn detach(pin_directory: &Path) -> Result<(), AttachError> {
    Pins::detach(pin_directory)
}
