//! Notices that files may have changed: inotify on their directories at once, and a look at each
//! file every second for what inotify does not see.
//!
//! Directories, not files: a file that is replaced by a rename leaves a watch on the old one
//! behind. The look catches a link into another directory, a directory that is itself replaced,
//! and file systems without inotify.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify;
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How long the files must be still before a change is reported: an editor that truncates and
/// writes is not to be met in between.
const STILL: Duration = Duration::from_millis(20);
/// The longest that restless files are waited for.
const RESTLESS: u32 = 25;

/// What tells one state of a file from the next; none while there is no such file.
type Mark = Option<[i64; 5]>;

/// Watches a fixed set of files.
pub(super) struct Watcher {
    paths: Vec<PathBuf>,
    marks: Vec<Mark>,
    inotify: Option<AsyncFd<OwnedFd>>,
}

impl Watcher {
    /// Begins to watch. Must be called within a tokio runtime.
    ///
    /// Without inotify it only looks each second, and says so.
    pub(super) fn new<'a>(paths: impl Iterator<Item = &'a Path>) -> Self {
        let paths: Vec<_> = paths.map(Path::to_owned).collect();
        let inotify = match watch_directories(&paths) {
            Ok(inotify) => Some(inotify),
            Err(error) => {
                tracing::warn!(%error, "no inotify; files are looked at each second only");
                None
            }
        };
        let marks = paths.iter().map(|path| mark(path)).collect();
        Self { paths, marks, inotify }
    }

    /// Waits until something happened to the files and they are still again. May wake for nothing.
    ///
    /// Cancel safe: a change that was not reported is reported by the next call.
    pub(super) async fn changed(&mut self) {
        let mut look = interval_at(Instant::now() + LOOK, LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Order does not matter: either way the files are looked at.
            let told = tokio::select! {
                told = readable(self.inotify.as_ref()) => told,
                _ = look.tick() => false,
            };
            let marks = self.look();
            if told || marks != self.marks {
                break;
            }
        }
        let mut marks = self.look();
        for _ in 0..RESTLESS {
            tokio::time::sleep(STILL).await;
            let next = self.look();
            if std::mem::replace(&mut marks, next) == marks {
                break;
            }
        }
        self.marks = marks;
    }

    fn look(&self) -> Vec<Mark> {
        self.paths.iter().map(|path| mark(path)).collect()
    }
}

fn watch_directories(paths: &[PathBuf]) -> std::io::Result<AsyncFd<OwnedFd>> {
    use inotify::{CreateFlags, WatchFlags};
    let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    let events = WatchFlags::CLOSE_WRITE
        | WatchFlags::MOVED_TO
        | WatchFlags::MOVED_FROM
        | WatchFlags::CREATE
        | WatchFlags::DELETE;
    for path in paths {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        inotify::add_watch(&inotify, directory.unwrap_or(Path::new(".")), events)?;
    }
    #[expect(
        deprecated,
        reason = "its successor is unsafe for types that change their descriptor; OwnedFd does not"
    )]
    AsyncFd::new(inotify)
}

/// Waits for inotify to speak and empties its queue; for ever without inotify.
async fn readable(inotify: Option<&AsyncFd<OwnedFd>>) -> bool {
    let Some(inotify) = inotify else { return std::future::pending().await };
    let Ok(mut ready) = inotify.readable().await else { return std::future::pending().await };
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(inotify.get_ref(), &mut buffer);
    while let Ok(_) | Err(Errno::INTR) = reader.next() {}
    ready.clear_ready();
    true
}

/// Follows links, so that a swapped one shows as another inode.
fn mark(path: &Path) -> Mark {
    let file = std::fs::metadata(path).ok()?;
    let bits = |number: u64| i64::from_ne_bytes(number.to_ne_bytes());
    Some([bits(file.dev()), bits(file.ino()), bits(file.len()), file.mtime(), file.mtime_nsec()])
}
