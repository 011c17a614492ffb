//! Network namespaces: opened once, entered for the length of a closure.

use std::{
    cell::OnceCell,
    fs::File,
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
        let home = Home::of_this_thread()?;
        enter(self.file.as_fd())?;
        let done = work();
        drop(home);
        Ok(done)
    }
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

impl Home {
    /// To be made at home: the first call of a thread notes where that is.
    fn of_this_thread() -> io::Result<Self> {
        HOME.with(|home| {
            if let Some(home) = home.get() {
                return Ok(Self(Rc::clone(home)));
            }
            let opened = Rc::new(File::open("/proc/thread-self/ns/net")?);
            Ok(Self(Rc::clone(home.get_or_init(|| opened))))
        })
    }
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
    fn the_current_namespace_has_an_inode() {
        assert_ne!(Netns::current().unwrap().inode(), 0);
    }
}
