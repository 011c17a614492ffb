//! Network namespaces: opened once, entered for the length of a closure.

use std::{
    cell::OnceCell,
    collections::{HashMap, HashSet},
    fs::{self, File},
    hash::BuildHasher,
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::MetadataExt as _,
    },
    path::Path,
    rc::Rc,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// `NSFS_MAGIC` (include/uapi/linux/magic.h).
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// An open network namespace. It lives as long as this descriptor, even when its pod is gone.
#[derive(Debug)]
pub struct Netns {
    file: File,
    inode: u64,
}

impl Netns {
    /// Opens the namespace mounted at `path` (`/run/netns/…`, `/proc/…/ns/net`).
    ///
    /// # Errors
    /// The path cannot be opened, or is not a namespace (`InvalidInput`).
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // The kernel's own file system of namespaces; a plain file left behind by `ip netns` when
        // its mount is gone would be entered as nothing.
        let kind = rustix::fs::fstatfs(&file)?.f_type;
        if kind != NSFS_MAGIC {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a network namespace"));
        }
        let inode = file.metadata()?.ino();
        Ok(Self { file, inode })
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn current() -> io::Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// The namespace's inode: its name among live namespaces (reused after its end).
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// The namespace's cookie: its name for the kernel programs, never reused (kernel 5.14).
    ///
    /// # Errors
    /// The kernel is older than 5.14, or the namespace could not be entered.
    pub fn cookie(&self) -> io::Result<u64> {
        self.run(|| {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0")
                .or_else(|_| std::net::UdpSocket::bind("0.0.0.0:0"))?;
            super::socket::netns_cookie(socket.as_fd())
        })?
    }

    /// Runs `work` with the calling thread inside the namespace. Sockets made by it stay there.
    /// `work` must not block for long, must not await (the whole thread is away meanwhile) and must
    /// not enter a further namespace: from there it would go home, not back here.
    ///
    /// # Errors
    /// The namespace could not be entered (no `CAP_SYS_ADMIN`).
    ///
    /// Ends the process if the thread cannot return: it would otherwise work for the wrong pod.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        let home = home_of_this_thread()?;
        enter(self.file.as_fd())?;
        let back = Home(home);
        let done = work();
        drop(back);
        Ok(done)
    }
}

/// Where namespaces have names: `ip netns`, containerd and CRI-O keep them there.
const NAMED: &str = "/run/netns";

/// Opens the namespaces that have these inodes, as far as they are found: by name, else by a
/// process of `proc` that is in it.
pub fn find(inodes: &HashSet<u64, impl BuildHasher>, proc: &Path) -> HashMap<u64, Netns> {
    let mut found = HashMap::new();
    let entries = |directory: &Path| fs::read_dir(directory).into_iter().flatten().flatten();
    let named = entries(Path::new(NAMED)).map(|entry| entry.path());
    let processes = entries(proc).map(|entry| entry.path().join("ns/net"));
    for path in named.chain(processes) {
        if found.len() == inodes.len() {
            break;
        }
        // Looked at before it is opened: most are of no interest.
        let wanted = fs::metadata(&path).is_ok_and(|it| inodes.contains(&it.ino()));
        if wanted
            && let Ok(netns) = Netns::open(&path)
            && inodes.contains(&netns.inode())
        {
            found.entry(netns.inode()).or_insert(netns);
        }
    }
    found
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

thread_local! {
    /// The namespace that this thread was started in; opened once, for a delivery enters another.
    static HOME: OnceCell<Rc<File>> = const { OnceCell::new() };
}

/// Brings the thread home, also when the work panics.
struct Home(Rc<File>);

/// To be called at home: the first call of a thread notes where that is.
fn home_of_this_thread() -> io::Result<Rc<File>> {
    HOME.with(|home| {
        if let Some(home) = home.get() {
            return Ok(Rc::clone(home));
        }
        let opened = Rc::new(File::open("/proc/thread-self/ns/net")?);
        Ok(Rc::clone(home.get_or_init(|| opened)))
    })
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Err(error) = enter(self.0.as_fd()) {
            tracing::error!(%error, "cannot return to the node's network namespace");
            std::process::abort();
        }
    }
}

fn enter(namespace: BorrowedFd<'_>) -> io::Result<()> {
    Ok(move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_file_is_no_namespace() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Netns::open(file.path()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn own_namespace_is_found_by_its_inode() {
        let own = Netns::current().unwrap().inode();
        let found = find(&HashSet::from([own, 1]), Path::new("/proc"));
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), [own]);
    }

    #[test]
    fn the_current_namespace_has_an_inode() {
        assert_ne!(Netns::current().unwrap().inode(), 0);
    }
}
