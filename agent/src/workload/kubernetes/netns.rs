//! [`Finder`]: from a pod's UID to its network namespace, whatever made it.
//!
//! ```text
//!  /proc/PID/cgroup ─ pod UID? ─▶ first process of the pod ─▶ /proc/PID/ns/net ─ inode ─┐
//!  /run/netns/*  ──────────────── inode ─────────────────────▶ the same one by name ◀───┘
//! ```
//!
//! No container runtime is asked. A pod's first process is its sandbox's, which nobody in the pod
//! can replace; a later one may have moved to a namespace of its own. Where the runtime keeps
//! namespaces under names, the name is taken: it outlives the process.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::workload::{PodUid, cgroup};

/// Looks for namespaces of pods. It reads a few files of each process; not for an event loop.
#[derive(Clone, Debug)]
pub(super) struct Finder {
    /// The host's `/proc`.
    pub(super) proc: PathBuf,
    /// Where the container runtime keeps namespaces by name.
    pub(super) named: PathBuf,
}

/// What a search came to.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Paths of namespaces.
    pub(super) paths: HashMap<PodUid, PathBuf>,
    /// Pods that run and whose namespace may not be looked at.
    pub(super) denied: HashSet<PodUid>,
}

/// Device and inode: what a namespace is, whichever path leads to it.
type Identity = (u64, u64);

/// A process of a pod that is looked for.
struct Process {
    started: u64,
    netns: Identity,
    path: PathBuf,
}

impl Finder {
    /// Looks for the namespaces of these pods. What is not found has no process yet, or none any
    /// more.
    ///
    /// # Errors
    ///
    /// `/proc` cannot be listed.
    pub(super) fn find(&self, wanted: &HashSet<PodUid>) -> io::Result<Found> {
        let mut found = Found::default();
        let mut first: HashMap<PodUid, Process> = HashMap::new();
        let host = identity(&self.proc.join("1/ns/net")).ok();
        for entry in std::fs::read_dir(&self.proc)?.flatten() {
            let is_process = entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit);
            let Some(uid) = is_process.then(|| pod_of(&entry.path(), wanted)).flatten() else {
                continue;
            };
            match process(&entry.path()) {
                Ok(process) if Some(process.netns) == host => {}
                Ok(process) => {
                    let earlier = first.get(&uid).is_none_or(|f| process.started < f.started);
                    if earlier {
                        first.insert(uid, process);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    found.denied.insert(uid);
                }
                // It ended while it was looked at.
                Err(_) => {}
            }
        }
        let names = self.names();
        for (uid, process) in first {
            found.denied.remove(&uid);
            let path = names.get(&process.netns).cloned().unwrap_or(process.path);
            found.paths.insert(uid, path);
        }
        Ok(found)
    }

    /// The named namespaces. Not every runtime has any.
    fn names(&self) -> HashMap<Identity, PathBuf> {
        let entries = std::fs::read_dir(&self.named).into_iter().flatten().flatten();
        entries.filter_map(|entry| Some((identity(&entry.path()).ok()?, entry.path()))).collect()
    }
}

/// Which of the pods a process belongs to. One that is in two at once belongs to none.
fn pod_of(process: &Path, wanted: &HashSet<PodUid>) -> Option<PodUid> {
    let text = std::fs::read_to_string(process.join("cgroup")).ok()?;
    let mut pods = cgroup::pods(&text);
    let only = pods.pop().filter(|_| pods.is_empty())?;
    wanted.contains(&only).then_some(only)
}

fn process(directory: &Path) -> io::Result<Process> {
    let path = directory.join("ns/net");
    let netns = identity(&path)?;
    let stat = std::fs::read_to_string(directory.join("stat"))?;
    let started = started(&stat).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Process { started, netns, path })
}

/// Field 22 of `/proc/PID/stat`, `proc_pid_stat(5)`. The name before it may hold anything, so it is
/// counted from the last parenthesis, behind which stands field 3.
fn started(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

fn identity(path: &Path) -> io::Result<Identity> {
    std::fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "0f7c2a5e-1b3d-4c6f-8a9b-0123456789ab";

    /// A `/proc` and a folder of names, in which a namespace is a plain file: a name of it is a
    /// hard link.
    struct Host(tempfile::TempDir);

    impl Host {
        fn new() -> Self {
            let host = Self(tempfile::tempdir().unwrap());
            std::fs::create_dir(host.0.path().join("names")).unwrap();
            for namespace in ["host", "pod", "other"] {
                std::fs::write(host.0.path().join(namespace), "").unwrap();
            }
            host.process(1, "/", "host", 1);
            host
        }

        fn process(&self, pid: u32, cgroup: &str, netns: &str, started: u64) {
            let directory = self.0.path().join("proc").join(pid.to_string());
            std::fs::create_dir_all(directory.join("ns")).unwrap();
            std::fs::write(directory.join("cgroup"), format!("0::{cgroup}\n")).unwrap();
            let fields = "0 ".repeat(18);
            let stat = format!("{pid} (a) b) 7) S {fields}{started} 0\n");
            std::fs::write(directory.join("stat"), stat).unwrap();
            std::fs::hard_link(self.0.path().join(netns), directory.join("ns/net")).unwrap();
        }

        fn name(&self, name: &str, netns: &str) {
            let name = self.0.path().join("names").join(name);
            std::fs::hard_link(self.0.path().join(netns), name).unwrap();
        }

        fn find(&self) -> Option<PathBuf> {
            let finder =
                Finder { proc: self.0.path().join("proc"), named: self.0.path().join("names") };
            let uid: PodUid = POD.parse().unwrap();
            let mut found = finder.find(&HashSet::from([uid.clone()])).unwrap();
            let path = found.paths.remove(&uid)?;
            Some(path.strip_prefix(self.0.path()).unwrap().to_owned())
        }
    }

    #[test]
    fn a_named_namespace_is_found_by_its_name() {
        let host = Host::new();
        host.name("cni-1", "other");
        host.name("cni-2", "pod");
        host.process(20, &format!("/kubepods/pod{POD}/c"), "pod", 100);
        assert_eq!(host.find().unwrap(), Path::new("names/cni-2"));
    }

    #[test]
    fn without_a_name_the_process_leads_there() {
        let host = Host::new();
        host.process(20, &format!("/kubepods/pod{POD}/c"), "pod", 100);
        assert_eq!(host.find().unwrap(), Path::new("proc/20/ns/net"));
    }

    #[test]
    fn the_first_process_counts_whatever_later_ones_moved_to() {
        let host = Host::new();
        host.name("cni-1", "other");
        host.name("cni-2", "pod");
        // As a container runtime inside the pod has it, and a privileged one that went elsewhere.
        host.process(19, &format!("/kubepods/pod{POD}/c/nested"), "other", 200);
        host.process(20, &format!("/kubepods/pod{POD}/c"), "pod", 100);
        host.process(21, &format!("/kubepods/pod{POD}/c"), "host", 50);
        assert_eq!(host.find().unwrap(), Path::new("names/cni-2"));
    }

    #[test]
    fn other_pods_and_contradictions_are_not_taken() {
        let host = Host::new();
        let other = "ffffffff-ffff-ffff-ffff-ffffffffffff";
        host.process(20, &format!("/kubepods/pod{other}/c"), "pod", 100);
        host.process(21, &format!("/kubepods/pod{POD}/c\n1:x:/kubepods/pod{other}"), "pod", 100);
        host.process(22, "/system.slice/kubelet.service", "pod", 1);
        assert_eq!(host.find(), None);
    }

    #[test]
    fn this_very_process_is_read() {
        let path = Path::new("/proc/self");
        let process = process(path).unwrap();
        assert!(process.started > 0);
        assert_eq!(process.netns, identity(Path::new("/proc/thread-self/ns/net")).unwrap());
    }
}
