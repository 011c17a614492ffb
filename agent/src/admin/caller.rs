//! [`Caller`]: the process at the other end, as the kernel knows it.

use std::fmt;
use std::io;

use rustix::process::geteuid;
use tokio::net::UnixStream;

/// Who connected, at the moment of the connect.
///
/// The process may have ended since, and its number may be another's: for the log only. The user
/// cannot change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The process; none where it lives in a process namespace that we do not see.
    pub pid: Option<i32>,
    /// Its user.
    pub uid: u32,
}

impl Caller {
    /// Asks the kernel who is at the other end.
    pub(crate) fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let pid = credentials.pid().filter(|pid| *pid > 0);
        Ok(Self { pid, uid: credentials.uid() })
    }

    /// Whether it is root or our own user. The mode of the socket says the same; this holds also
    /// for a descriptor that was handed on, and while the socket is being made.
    pub(crate) fn may_ask(self) -> bool {
        self.uid == 0 || self.uid == geteuid().as_raw()
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "process {pid} of user {}", self.uid),
            None => write!(f, "a process of user {}", self.uid),
        }
    }
}
