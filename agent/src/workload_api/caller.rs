//! [`Caller`]: who made a connection, attached to every call on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::sys::peer::PeerProcess;

/// The process behind a connection. Cheap to clone.
#[derive(Clone)]
pub(super) struct Caller(Arc<Inner>);

struct Inner {
    /// None where the kernel does not tell: it has ended, or is out of this process' sight.
    process: Option<PeerProcess>,
    /// Whether a call has come: who only connects is cut off.
    called: AtomicBool,
}

impl Caller {
    pub(super) fn new(process: Option<PeerProcess>) -> Self {
        Self(Arc::new(Inner { process, called: AtomicBool::new(false) }))
    }

    /// The process, held by the kernel's own descriptor.
    pub(super) fn process(&self) -> Option<&PeerProcess> {
        self.0.process.as_ref()
    }

    /// Notes that it speaks the protocol.
    pub(super) fn has_called(&self) {
        self.0.called.store(true, Ordering::Relaxed);
    }

    /// Whether it ever spoke the protocol.
    pub(super) fn is_proven(&self) -> bool {
        self.0.called.load(Ordering::Relaxed)
    }
}
