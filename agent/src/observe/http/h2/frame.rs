//! Frames, walked over; only those that carry a head are held.

use crate::observe::http::{GaveUp, MAX_HEAD};

/// Types of frames (RFC 9113 section 6) that say something of a request.
pub(super) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const PUSH_PROMISE: u8 = 5;
    pub(crate) const CONTINUATION: u8 = 9;
}

/// Flags of frames.
pub(super) const END_STREAM: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// Bytes of a frame's own head.
const HEADER: usize = 9;

/// A frame's own head.
#[derive(Clone, Copy)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) stream: u32,
    flags: u8,
}

/// The frames of one direction.
#[derive(Default)]
pub(super) struct Frames {
    /// A frame's head while it is unfinished.
    header: [u8; HEADER],
    have: usize,
    /// What is left of the present frame's payload.
    left: usize,
    /// The present frame, if its payload is to be read whole.
    holding: Option<Frame>,
    held: Vec<u8>,
    /// The present frame's head has been told, its end not yet.
    inside: bool,
}

/// What is next.
pub(super) enum Part<'a> {
    /// A piece of something.
    None,
    /// A frame begins.
    Begun(Frame),
    /// Its payload has gone by.
    Passed,
    /// The payload of one that carries a head.
    Payload(Frame, &'a [u8]),
}

impl Frames {
    /// Reads on: how many bytes were used and what they are; nothing when there is no more to tell
    /// from these.
    pub(super) fn next<'a>(
        &'a mut self,
        bytes: &'a [u8],
    ) -> Result<Option<(usize, Part<'a>)>, GaveUp> {
        if self.inside {
            return Ok(self.payload(bytes));
        }
        if bytes.is_empty() {
            return Ok(None);
        }
        // Of the frame before, if it had one.
        self.held = Vec::new();
        let used = bytes.len().min(HEADER - self.have);
        self.header[self.have..self.have + used].copy_from_slice(&bytes[..used]);
        self.have += used;
        if self.have < HEADER {
            return Ok(Some((used, Part::None)));
        }
        self.have = 0;
        let [high, middle, low, kind, flags, stream @ ..] = self.header;
        // Three bytes fit into a usize on every platform that Linux runs on.
        self.left = u32::from_be_bytes([0, high, middle, low]) as usize;
        // The highest bit is reserved, to be ignored.
        let stream = u32::from_be_bytes(stream) & (u32::MAX >> 1);
        let frame = Frame { kind, stream, flags };
        self.inside = true;
        self.holding = matches!(kind, kind::HEADERS | kind::PUSH_PROMISE | kind::CONTINUATION)
            .then_some(frame);
        if self.holding.is_some() && self.left > MAX_HEAD {
            return Err(GaveUp::TooLong);
        }
        Ok(Some((used, Part::Begun(frame))))
    }

    fn payload<'a>(&'a mut self, bytes: &'a [u8]) -> Option<(usize, Part<'a>)> {
        let used = bytes.len().min(self.left);
        if used < self.left {
            if used == 0 {
                return None;
            }
            if self.holding.is_some() {
                self.held.extend_from_slice(&bytes[..used]);
            }
            self.left -= used;
            return Some((used, Part::None));
        }
        self.left = 0;
        self.inside = false;
        let part = match self.holding.take() {
            None => Part::Passed,
            Some(frame) if self.held.is_empty() => Part::Payload(frame, &bytes[..used]),
            Some(frame) => {
                self.held.extend_from_slice(&bytes[..used]);
                Part::Payload(frame, &self.held)
            }
        };
        Some((used, part))
    }
}

impl Frame {
    pub(super) const fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The piece of a head that this frame's payload carries. None if the payload contradicts
    /// itself.
    pub(super) fn fragment(self, payload: &[u8]) -> Option<&[u8]> {
        if self.kind == kind::CONTINUATION {
            return Some(payload);
        }
        let (padding, rest) = if self.has(PADDED) {
            let (length, rest) = payload.split_first()?;
            (usize::from(*length), rest)
        } else {
            (0, payload)
        };
        let skipped = match self.kind {
            kind::PUSH_PROMISE => 4,
            _ if self.has(PRIORITY) => 5,
            _ => 0,
        };
        let rest = rest.get(skipped..)?;
        rest.get(..rest.len().checked_sub(padding)?)
    }
}
