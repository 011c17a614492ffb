//! Which of a node's agents acts: while one takes over from another there are two, and only one of
//! them may change what is in the kernel.
//!
//! ```text
//!  the old one                      the new one
//!  acts ◀── is_wanted() ─────────── take(): "I want to"
//!  step_back() ───────────────────▶ acts
//!  stands by, serves what it has
//!  try_resume() ◀────────────────── ended, without an agent after it
//! ```
//!
//! The two say so with advisory locks (`flock(2)`) on the two directories of pins: on `maps` who
//! acts, on `links` who wants to. Nothing else has to be agreed on, no file is left, and the kernel
//! lets go of the locks of an agent that has died. Asking is done with a shared lock, so that two
//! who ask do not take each other for one who wants.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use tokio::time::{Instant, sleep};

use super::{AttachError, programs::Pins};

/// How often a lock is tried that another has.
const TRY: Duration = Duration::from_millis(20);
/// How long the agent that acts may take to step back. One that hangs must not keep its successor
/// from replacing it.
const PATIENCE: Duration = Duration::from_secs(10);

/// The right to change what is in the kernel.
pub struct Turn {
    pins: PathBuf,
    acting: File,
    wanting: File,
    /// Another description of the same directory: locks belong to descriptions.
    asking: File,
    state: State,
}

/// Acting ──▶ Back ──▶ Acting; begins as Acting, or as Forced where nobody stepped back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Both were had in order.
    Acting,
    /// The one before does not step back: this agent acts without its lock, and goes on wanting it.
    Forced,
    /// Another agent acts.
    Back,
}

impl Turn {
    /// Waits until this agent may act; the one that acts is given some seconds to step back.
    ///
    /// Cancel safe: what was locked is let go.
    ///
    /// # Errors
    /// The directories of pins cannot be made or locked.
    pub async fn take(pin_directory: &Path) -> Result<Self, AttachError> {
        let mut turn = Self::open(pin_directory)?;
        let until = Instant::now() + PATIENCE;
        let locked = |error| AttachError::Turn { path: pin_directory.to_owned(), source: error };
        while !try_lock(&turn.wanting, FlockOperation::NonBlockingLockExclusive).map_err(locked)? {
            sleep(TRY).await; // another new agent wants to, or somebody asks at this very moment
        }
        while !try_lock(&turn.acting, FlockOperation::NonBlockingLockExclusive).map_err(locked)? {
            if Instant::now() > until {
                tracing::warn!(
                    seconds = PATIENCE.as_secs(),
                    "the agent before this one does not step back; taking over all the same"
                );
                turn.state = State::Forced;
                return Ok(turn);
            }
            sleep(TRY).await;
        }
        unlock(&turn.wanting);
        Ok(turn)
    }

    /// Whether some agent acts on these pins now.
    pub fn is_taken(pin_directory: &Path) -> bool {
        let Ok(acting) = File::open(Pins::at(pin_directory).maps()) else { return false };
        matches!(try_lock(&acting, FlockOperation::NonBlockingLockShared), Ok(false))
    }

    fn open(pin_directory: &Path) -> Result<Self, AttachError> {
        let pins = Pins::create(pin_directory)?;
        let open = |path: &Path| {
            File::open(path).map_err(|source| AttachError::Pin { path: path.to_owned(), source })
        };
        Ok(Self {
            pins: pin_directory.to_owned(),
            acting: open(&pins.maps())?,
            wanting: open(&pins.links())?,
            asking: open(&pins.links())?,
            state: State::Acting,
        })
    }

    /// Whether another agent wants to act; then [`Self::step_back`] is what this one owes it.
    pub fn is_wanted(&mut self) -> bool {
        if self.state == State::Forced {
            // As long as we want it ourselves, nobody else can.
            if matches!(try_lock(&self.acting, FlockOperation::NonBlockingLockExclusive), Ok(true))
            {
                unlock(&self.wanting);
                self.state = State::Acting;
            }
            return false;
        }
        match try_lock(&self.asking, FlockOperation::NonBlockingLockShared) {
            Ok(free) => {
                unlock(&self.asking);
                !free
            }
            Err(_) => false, // a signal, or no memory: the next look will tell
        }
    }

    /// Lets the other agent act. From now on this one must not touch what is in the kernel.
    pub fn step_back(&mut self) {
        self.state = State::Back;
        unlock(&self.acting);
    }

    /// Acts again if nobody does or wants to, which is so when the successor has failed. Not where
    /// the pins are gone: then it has taken everything out on purpose.
    pub fn try_resume(&mut self) -> bool {
        if self.state != State::Back {
            return true;
        }
        let shared = FlockOperation::NonBlockingLockShared;
        // Held while the other lock is tried: an agent that wants to act comes first.
        let resumed = matches!(try_lock(&self.asking, shared), Ok(true))
            && self.is_in_place()
            && matches!(try_lock(&self.acting, FlockOperation::NonBlockingLockExclusive), Ok(true));
        unlock(&self.asking);
        if resumed {
            self.state = State::Acting;
        }
        resumed
    }

    fn is_in_place(&self) -> bool {
        use std::os::unix::fs::MetadataExt as _;

        let there = std::fs::metadata(Pins::at(&self.pins).maps());
        let ours = self.acting.metadata();
        matches!((there, ours), (Ok(a), Ok(b)) if (a.dev(), a.ino()) == (b.dev(), b.ino()))
    }
}

/// Whether the lock was had; `false`: somebody else has it.
fn try_lock(directory: &File, how: FlockOperation) -> io::Result<bool> {
    match flock(directory, how) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn unlock(directory: &File) {
    let _ = flock(directory, FlockOperation::Unlock); // fails on no open file
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On any file system: the locks are the kernel's own.
    fn pins() -> tempfile::TempDir {
        let pins = tempfile::tempdir().unwrap();
        for directory in ["maps", "links"] {
            std::fs::create_dir(pins.path().join(directory)).unwrap();
        }
        pins
    }

    fn open(pins: &Path) -> Turn {
        let open = |name: &str| File::open(pins.join(name)).unwrap();
        Turn {
            pins: pins.to_owned(),
            acting: open("maps"),
            wanting: open("links"),
            asking: open("links"),
            state: State::Back,
        }
    }

    fn acting(pins: &Path) -> Turn {
        let mut turn = open(pins);
        assert!(turn.try_resume());
        turn
    }

    fn want(pins: &Path) -> Turn {
        let turn = open(pins);
        assert!(try_lock(&turn.wanting, FlockOperation::NonBlockingLockExclusive).unwrap());
        turn
    }

    #[test]
    fn one_acts_until_another_wants_to() {
        let pins = pins();
        let pins = pins.path();
        assert!(!Turn::is_taken(pins));
        let mut old = acting(pins);
        assert!(Turn::is_taken(pins));
        assert!(!old.is_wanted());
        assert!(!open(pins).try_resume(), "two would act");
        let mut new = want(pins);
        assert!(old.is_wanted());
        old.step_back();
        assert!(!old.try_resume(), "the one that wants to comes first");
        assert!(try_lock(&new.acting, FlockOperation::NonBlockingLockExclusive).unwrap());
        unlock(&new.wanting);
        new.state = State::Acting;
        assert!(!old.try_resume());
        assert!(!new.is_wanted());
        drop(new);
        assert!(old.try_resume(), "its successor has died");
        assert!(!old.is_wanted());
    }

    #[test]
    fn two_that_ask_are_no_one_that_wants() {
        let pins = pins();
        let mut turn = acting(pins.path());
        let other = open(pins.path());
        assert!(try_lock(&other.asking, FlockOperation::NonBlockingLockShared).unwrap());
        assert!(!turn.is_wanted());
    }

    #[test]
    fn one_that_hung_steps_back_once_it_is_awake() {
        let pins = pins();
        let pins = pins.path();
        let mut old = acting(pins);
        let mut new = want(pins);
        new.state = State::Forced;
        assert!(!new.is_wanted());
        assert_eq!(new.state, State::Forced);
        assert!(old.is_wanted());
        old.step_back();
        assert!(!new.is_wanted());
        assert_eq!(new.state, State::Acting);
        assert!(!old.try_resume());
    }

    #[test]
    fn nothing_is_resumed_where_the_pins_were_removed() {
        let pins = pins();
        let pins = pins.path();
        let mut turn = acting(pins);
        turn.step_back();
        std::fs::remove_dir(pins.join("maps")).unwrap();
        assert!(!turn.try_resume());
    }
}
