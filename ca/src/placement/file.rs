//! [`PlacementFile`]: a placement that follows its file.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use culvert_spiffe::{SpiffeId, TrustDomain};
use tracing::{error, info, warn};

use super::{Placement, PlacementError};
use crate::attest::{Caller, Residents};
use crate::audit::Rule;

/// How long after a change a file is compared by its bytes: time stamps are only so fine.
const COARSE: Duration = Duration::from_secs(1);
/// Largest file read: some half a million workloads.
const MAX_FILE_BYTES: u64 = 256 * 1024 * 1024;

/// A placement that follows its file. A bad edit is logged and changes nothing. Cloning shares it.
#[derive(Clone)]
pub struct PlacementFile {
    followed: Arc<Followed>,
}

struct Followed {
    path: PathBuf,
    trust_domain: TrustDomain,
    current: ArcSwap<Placement>,
    /// Guards what was read last, by which a change is told; held while a new one is parsed.
    last: Mutex<Option<Seen>>,
}

/// A file as it was read.
struct Seen {
    inode: u64,
    bytes: u64,
    /// Seconds and nanoseconds of its last change.
    changed: (i64, i64),
    /// Whether its time stamps were old enough when it was read to show any later change.
    settled: bool,
    sha256: [u8; 32],
}

impl PlacementFile {
    /// Reads the file, which must be good at the start.
    pub fn open(path: &Path, trust_domain: TrustDomain) -> Result<Self, PlacementError> {
        let (bytes, seen) = read(path, SystemTime::now())
            .map_err(|source| PlacementError::Read { path: path.to_owned(), source })?;
        let placement = Placement::parse(path, &String::from_utf8_lossy(&bytes), &trust_domain)?;
        let followed = Followed {
            path: path.to_owned(),
            trust_domain,
            current: ArcSwap::from_pointee(placement),
            last: Mutex::new(Some(seen)),
        };
        Ok(Self { followed: Arc::new(followed) })
    }

    /// What the file said when it was last good.
    pub fn current(&self) -> Arc<Placement> {
        self.followed.current.load_full()
    }

    /// Looks whether the file has changed, and reads it again if so. Blocks.
    pub fn refresh(&self) {
        self.followed.refresh();
    }

    /// The same, on a thread that may block.
    async fn refreshed(&self) {
        let followed = self.followed.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || followed.refresh()).await {
            error!(%error, "look at the workloads file failed");
        }
    }
}

impl Followed {
    fn refresh(&self) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(last), Ok(now)) = (last.as_ref(), std::fs::metadata(&self.path))
            && last.is(&now)
        {
            return;
        }
        let (bytes, seen) = match read(&self.path, SystemTime::now()) {
            Ok(read) => read,
            Err(error) => {
                // Said once, then again only after a change.
                if last.take().is_some() {
                    warn!(path = %self.path.display(), %error, "workloads unreadable; keeping the last");
                }
                return;
            }
        };
        let same = last.as_ref().is_some_and(|last| last.sha256 == seen.sha256);
        *last = Some(seen);
        if same {
            return;
        }
        match Placement::parse(&self.path, &String::from_utf8_lossy(&bytes), &self.trust_domain) {
            Ok(placement) => {
                info!(path = %self.path.display(), nodes = placement.nodes.len(), "workloads read");
                self.current.store(Arc::new(placement));
            }
            Err(error) => {
                let why = std::error::Error::source(&error).map(ToString::to_string);
                warn!(%error, why, "workloads refused; keeping the last good ones");
            }
        }
    }
}

impl Seen {
    /// Whether `now` is surely the file that was read.
    fn is(&self, now: &Metadata) -> bool {
        self.settled
            && (self.inode, self.bytes, self.changed)
                == (now.ino(), now.len(), (now.ctime(), now.ctime_nsec()))
    }
}

/// Reads the file; its time stamps are those from before the reading, so that a change meanwhile is
/// seen the next time.
fn read(path: &Path, now: SystemTime) -> io::Result<(Vec<u8>, Seen)> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.len() > MAX_FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "over 256 MiB"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
    let since_1970 = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let changed = Duration::from_secs(u64::try_from(metadata.ctime()).unwrap_or(u64::MAX));
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(digest(&SHA256, &bytes).as_ref());
    let seen = Seen {
        inode: metadata.ino(),
        bytes: metadata.len(),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
        settled: since_1970.saturating_sub(changed) > COARSE * 2,
        sha256,
    };
    Ok((bytes, seen))
}

#[tonic::async_trait]
impl Residents for PlacementFile {
    /// A miss looks at the file again, so that a new pod is not refused.
    async fn beside(&self, caller: &Caller, id: &SpiffeId) -> Result<(), Rule> {
        let Caller::Node { node } = caller else { return Err(Rule::NotOwnIdentity) };
        if self.current().runs_on(node, id) {
            return Ok(());
        }
        self.refreshed().await;
        if self.current().runs_on(node, id) { Ok(()) } else { Err(Rule::NotOnNode) }
    }

    async fn node_of(&self, caller: &Caller) -> Option<String> {
        match caller {
            Caller::Node { node } => Some(node.clone()),
            Caller::Pod(_) | Caller::Holder { .. } => None,
        }
    }

    async fn anywhere(&self, id: &SpiffeId) -> Result<(), Rule> {
        if self.current().runs_anywhere(id) {
            return Ok(());
        }
        self.refreshed().await;
        if self.current().runs_anywhere(id) { Ok(()) } else { Err(Rule::NotPlaced) }
    }

    fn look(&self) {
        self.refresh();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
workloads:
  - {name: a1, namespace: default, serviceAccount: web, node: node1}
";

    fn web() -> SpiffeId {
        "spiffe://td/ns/default/sa/web".parse().unwrap()
    }

    #[test]
    fn change_is_followed_and_a_bad_edit_keeps_the_last_good_one() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("workloads.yaml");
        std::fs::write(&path, GOOD).unwrap();
        let file = PlacementFile::open(&path, "td".parse().unwrap()).unwrap();

        std::fs::write(&path, "workloads: 7").unwrap();
        file.refresh();
        assert!(file.current().runs_on("node1", &web()));

        // Of one length, one time stamp, and in the same file: seen nevertheless.
        for node in ["node8", "node9"] {
            std::fs::write(&path, GOOD.replace("node1", node)).unwrap();
            file.refresh();
            assert!(file.current().runs_on(node, &web()), "{node}");
        }
        assert!(!file.current().runs_on("node1", &web()));

        std::fs::remove_file(&path).unwrap();
        file.refresh();
        assert!(file.current().runs_on("node9", &web()));
        std::fs::write(&path, GOOD).unwrap();
        file.refresh();
        assert!(file.current().runs_on("node1", &web()));
    }

    #[test]
    fn an_old_file_that_did_not_change_is_not_read_again() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("workloads.yaml");
        std::fs::write(&path, GOOD).unwrap();
        let metadata = || std::fs::metadata(&path).unwrap();
        let (_, young) = read(&path, SystemTime::now()).unwrap();
        assert!(!young.is(&metadata()), "a change within one tick of the clock would not show");
        let later = SystemTime::now() + Duration::from_mins(1);
        let (_, seen) = read(&path, later).unwrap();
        assert!(seen.is(&metadata()));
        std::fs::write(&path, GOOD).unwrap();
        assert!(!seen.is(&metadata()), "written again");
    }
}
