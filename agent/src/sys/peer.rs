//! Who is at the other end of a unix socket: a process, held so that its number cannot come to
//! mean another one.
//!
//! A process id alone proves nothing: the caller may have ended and its number may be another
//! program's by the time `/proc` is read. The descriptor of the process (pidfd) says whether it
//! still runs; as long as it does, its number is its own. So: read `/proc`, then ask the descriptor.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    task::{Context, Poll},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};
use tokio::io::{Interest, unix::AsyncFd};
use tokio::net::UnixStream;

/// Where an agent that runs on the host itself sees the node's processes.
pub const OWN_PROC: &str = "/proc";

/// Longest text read of `/proc/PID/cgroup`: a page, as the kernel bounds each path.
const MAX_CGROUP_BYTES: u64 = 64 * 1024;

/// A namespace as `stat` shows it: the same for two paths if and only if they are the same
/// namespace, as long as it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NamespaceId {
    device: u64,
    inode: u64,
}

impl NamespaceId {
    /// The namespace at `path` (`/run/netns/…`, `/proc/…/ns/net`).
    ///
    /// # Errors
    /// As `stat(2)`.
    pub fn at(path: &Path) -> io::Result<Self> {
        Ok(Self::of_metadata(&fs::metadata(path)?))
    }

    /// The network namespace of the calling thread.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn own() -> io::Result<Self> {
        Self::at(Path::new("/proc/thread-self/ns/net"))
    }

    fn of_metadata(metadata: &fs::Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// The process that made a connection, by number and by descriptor.
///
/// It is the one that called `connect`: whoever it hands the socket to speaks for it.
#[derive(Debug)]
pub struct PeerProcess {
    pid: Pid,
    pidfd: OwnedFd,
    /// What `/proc` has of it.
    directory: PathBuf,
}

impl PeerProcess {
    /// Takes hold of the process that made `socket`'s other end.
    ///
    /// The kernel hands out the descriptor itself (`SO_PEERPIDFD`, kernel 6.5). Before that it is
    /// opened by number, and the connection must still be open afterwards: the process that made it
    /// has then not merely ended and left its number to another.
    ///
    /// `proc` is where it is looked at. From within a process namespace of its own an agent does not
    /// see the node's processes; given the host's `/proc`, it takes the process by its descriptor
    /// (kernel 6.5) and has that `/proc` tell the number.
    ///
    /// # Errors
    /// `NotFound`: it has ended, or is in no process namespace that `proc` sees into.
    pub fn of(socket: &UnixStream, proc: &Path) -> io::Result<Self> {
        if proc != Path::new(OWN_PROC) {
            let pidfd = peer_pidfd(socket.as_fd())?;
            let pid = number_in(proc, pidfd.as_fd())?;
            return Ok(Self { pid, pidfd, directory: directory(proc, pid) });
        }
        let pid = socket.peer_cred()?.pid().and_then(Pid::from_raw).ok_or_else(gone)?;
        let pidfd = match peer_pidfd(socket.as_fd()) {
            Ok(pidfd) => pidfd,
            Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => {
                let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
                if hung_up(socket.as_fd())? {
                    return Err(gone());
                }
                pidfd
            }
            Err(error) => return Err(error),
        };
        Ok(Self { pid, pidfd, directory: directory(proc, pid) })
    }

    /// Its number, for the log.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Whether it has ended. What was read of it in `/proc` counts only when this is false after.
    ///
    /// # Errors
    /// As `poll(2)`.
    pub fn has_ended(&self) -> io::Result<bool> {
        has(self.pidfd.as_fd(), PollFlags::IN)
    }

    /// Its network namespace, and a descriptor that keeps that namespace alive.
    ///
    /// # Errors
    /// It has ended, or `/proc` is not mounted, or this process may not look (no root rights).
    pub fn network_namespace(&self) -> io::Result<(NamespaceId, File)> {
        let file = File::open(self.directory.join("ns/net"))?;
        let id = NamespaceId::of_metadata(&file.metadata()?);
        Ok((id, file))
    }

    /// Its cgroups, as `/proc/PID/cgroup` tells them.
    ///
    /// # Errors
    /// As [`Self::network_namespace`].
    pub fn cgroups(&self) -> io::Result<String> {
        use io::Read as _;

        let mut text = String::new();
        File::open(self.directory.join("cgroup"))?
            .take(MAX_CGROUP_BYTES)
            .read_to_string(&mut text)?;
        Ok(text)
    }

    /// Watches for its end. To be called on the runtime that waits.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn watch(&self) -> io::Result<ProcessEnd> {
        let pidfd = self.pidfd.try_clone()?;
        // SAFETY: `pidfd` owns its descriptor, which is neither closed nor lent out as long as the
        // registration lives, and `as_raw_fd` of an `OwnedFd` always gives the same one.
        let registered = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
        Ok(ProcessEnd(registered?))
    }
}

/// The end of a process, waited for.
#[derive(Debug)]
pub struct ProcessEnd(AsyncFd<OwnedFd>);

impl ProcessEnd {
    /// Ready once the process has ended, and from then on. Wakes the last one who asked.
    pub fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        // An error says that the runtime stops, which ends the wait as well.
        self.0.poll_read_ready(context).map(drop)
    }
}

fn directory(proc: &Path, pid: Pid) -> PathBuf {
    proc.join(pid.as_raw_nonzero().to_string())
}

/// The number of the process behind `pidfd` in the process namespace of `proc`.
fn number_in(proc: &Path, pidfd: BorrowedFd<'_>) -> io::Result<Pid> {
    let own = proc.join("self/fdinfo").join(pidfd.as_raw_fd().to_string());
    number(&fs::read_to_string(own)?).ok_or_else(gone)
}

/// What the information on a pidfd says; 0 and -1 stand for one that is not seen, or has ended.
fn number(information: &str) -> Option<Pid> {
    let number = information.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    number.trim().parse().ok().filter(|number| *number > 0).and_then(Pid::from_raw)
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the calling process is gone or out of sight")
}

fn hung_up(socket: BorrowedFd<'_>) -> io::Result<bool> {
    has(socket, PollFlags::HUP)
}

fn has(descriptor: BorrowedFd<'_>, what: PollFlags) -> io::Result<bool> {
    let mut polled = [PollFd::from_borrowed_fd(descriptor, what)];
    poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    Ok(polled[0].revents().intersects(what))
}

/// The pidfd of the process that made the socket's other end.
fn peer_pidfd(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut raw: RawFd = -1;
    // A descriptor has four bytes.
    let mut size: libc::socklen_t = 4;
    // SAFETY: the socket is borrowed, so open; `raw` and `size` are live and `size` is the length
    // of `raw`, which the kernel fills with at most that many bytes.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERPIDFD,
            (&raw mut raw).cast(),
            &raw mut size,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so `raw` is a descriptor just made for us (close-on-exec), which
    // nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn peer_of_an_own_socket_is_this_process() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let peer = PeerProcess::of(&ours, Path::new(OWN_PROC)).unwrap();
        assert_eq!(peer.pid().unsigned_abs(), std::process::id());
        assert!(!peer.has_ended().unwrap());
        assert_eq!(peer.network_namespace().unwrap().0, NamespaceId::own().unwrap());
        assert!(peer.cgroups().unwrap().contains(":/"));
    }

    #[tokio::test]
    async fn peer_is_found_through_another_mount_of_proc() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let temp = tempfile::tempdir().unwrap();
        let other = temp.path().join("proc");
        std::os::unix::fs::symlink("/proc", &other).unwrap();
        let peer = match PeerProcess::of(&ours, &other) {
            Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => {
                eprintln!("SKIP: a kernel before 6.5");
                return;
            }
            peer => peer.unwrap(),
        };
        assert_eq!(peer.pid().unsigned_abs(), std::process::id());
        assert_eq!(peer.network_namespace().unwrap().0, NamespaceId::own().unwrap());
    }

    #[test]
    fn number_of_a_process_that_is_not_seen_is_none() {
        assert_eq!(number("pos:\t0\nPid:\t41\nNSpid:\t41\n"), Pid::from_raw(41));
        for none in ["Pid:\t0\n", "Pid:\t-1\n", "pos:\t0\n", "Pid:\tx\n", ""] {
            assert_eq!(number(none), None, "{none:?}");
        }
    }

    #[tokio::test]
    async fn process_that_has_ended_is_known_to_have() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("s");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        // `connect` is called by the child; it lives until its standard input closes.
        let mut child = std::process::Command::new("python3")
            .args([
                "-c",
                "import socket,sys; s=socket.socket(socket.AF_UNIX); \
                   s.connect(sys.argv[1]); sys.stdin.read()",
            ])
            .arg(&path)
            .stdin(std::process::Stdio::piped())
            .spawn();
        let Ok(child) = child.as_mut() else {
            eprintln!("SKIP: no python3 to play the caller");
            return;
        };
        let (socket, _) = listener.accept().await.unwrap();
        let peer = PeerProcess::of(&socket, Path::new(OWN_PROC)).unwrap();
        assert_eq!(peer.pid().unsigned_abs(), child.id());
        assert!(!peer.has_ended().unwrap());
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(peer.has_ended().unwrap());
        assert!(peer.network_namespace().is_err(), "its number is nobody's");
    }
}
