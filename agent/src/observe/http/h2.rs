//! HTTP/2 in clear text (RFC 9113), after the client's preface.

mod frame;
mod hpack;
mod huffman;

use std::collections::BTreeMap;
use std::time::Instant;

use super::{Cut, Exchange, GaveUp, MAX_HEAD, MAX_STREAMS, Protocol, Seen, Side};
use frame::{Frame, Frames, Part, kind};
use hpack::{Decoder, Fields};

/// Both directions of one flow.
#[derive(Default)]
pub(super) struct Connection {
    client: Half,
    server: Half,
    /// Requests that have no whole answer, by the number of their stream. Bounded by
    /// [`MAX_STREAMS`].
    open: BTreeMap<u32, Request>,
    /// The highest stream that the client opened.
    newest: u32,
}

#[derive(Default)]
struct Half {
    frames: Frames,
    heads: Heads,
}

#[derive(Default)]
struct Heads {
    decoder: Decoder,
    /// A head whose last frame is still to come.
    block: Option<Block>,
    /// The stream that ends with the last byte of the frame that is passing.
    ending: Option<u32>,
}

struct Block {
    stream: u32,
    bytes: Vec<u8>,
    ends: bool,
    /// A promise's head is read for what it does to the table alone.
    promised: bool,
}

struct Request {
    protocol: Protocol,
    since: Instant,
    status: Option<u16>,
    grpc_status: Option<u8>,
}

impl Connection {
    pub(super) fn read(
        &mut self,
        from: Side,
        mut bytes: &[u8],
        now: Instant,
        seen: &mut dyn Seen,
    ) -> Result<(), GaveUp> {
        loop {
            let half = match from {
                Side::Client => &mut self.client,
                Side::Server => &mut self.server,
            };
            let Some((used, part)) = half.frames.next(bytes)? else { return Ok(()) };
            let done = match part {
                Part::None => None,
                Part::Begun(frame) => {
                    half.heads.begin(frame)?;
                    (frame.kind == kind::RST_STREAM).then_some(Done::Reset(frame.stream))
                }
                Part::Passed => half.heads.ending.take().map(Done::Stream),
                Part::Payload(frame, payload) => {
                    half.heads.read(frame, payload)?.map(|(head, fields)| Done::Head(head, fields))
                }
            };
            bytes = &bytes[used..];
            match done {
                Some(Done::Reset(stream)) => {
                    let by = if from == Side::Client { Cut::Client } else { Cut::Server };
                    self.close(stream, Some(by), now, seen);
                }
                Some(Done::Stream(stream)) if from == Side::Server => {
                    self.close(stream, None, now, seen);
                }
                None | Some(Done::Stream(_)) => {}
                Some(Done::Head(head, fields)) => match from {
                    Side::Client => self.asked(&head, fields, now)?,
                    Side::Server => self.answered(&head, fields, now, seen),
                },
            }
        }
    }

    pub(super) fn end(&mut self, cut: Option<Cut>, now: Instant, seen: &mut dyn Seen) {
        let cut = Some(cut.unwrap_or(Cut::Server));
        for request in std::mem::take(&mut self.open).into_values() {
            request.tell(cut, now, seen);
        }
    }

    fn asked(&mut self, head: &Head, fields: Fields, now: Instant) -> Result<(), GaveUp> {
        // A head on a stream that was opened before is its trailers.
        if head.stream <= self.newest {
            return Ok(());
        }
        if head.stream.is_multiple_of(2) {
            return Err(GaveUp::Malformed);
        }
        self.newest = head.stream;
        // What is inside a CONNECT is not ours to time.
        if fields.connect {
            return Ok(());
        }
        if self.open.len() == MAX_STREAMS {
            return Err(GaveUp::TooMany);
        }
        let protocol = if fields.grpc { Protocol::Grpc } else { Protocol::Http };
        let request = Request { protocol, since: now, status: None, grpc_status: None };
        self.open.insert(head.stream, request);
        Ok(())
    }

    fn answered(&mut self, head: &Head, fields: Fields, now: Instant, seen: &mut dyn Seen) {
        // One that was reset a moment ago, or a promised one.
        let Some(request) = self.open.get_mut(&head.stream) else { return };
        // 1xx goes before the real one. Trailers have no status.
        if let Some(status) = fields.status.filter(|status| *status >= 200) {
            request.status = Some(status);
        }
        if let Some(status) = fields.grpc_status {
            request.grpc_status = Some(status);
        }
        if head.ends {
            self.close(head.stream, None, now, seen);
        }
    }

    /// Tells of a request and forgets it.
    fn close(&mut self, stream: u32, cut: Option<Cut>, now: Instant, seen: &mut dyn Seen) {
        if let Some(request) = self.open.remove(&stream) {
            request.tell(cut, now, seen);
        }
    }
}

impl Request {
    fn tell(&self, cut: Option<Cut>, now: Instant, seen: &mut dyn Seen) {
        seen.exchange(Exchange {
            protocol: self.protocol,
            status: self.status,
            grpc_status: self.grpc_status,
            cut,
            duration: now.saturating_duration_since(self.since),
        });
    }
}

/// What a frame brought to its end.
enum Done {
    Stream(u32),
    Reset(u32),
    Head(Head, Fields),
}

/// A whole head, or trailers.
struct Head {
    stream: u32,
    ends: bool,
}

impl Heads {
    fn begin(&mut self, frame: Frame) -> Result<(), GaveUp> {
        // Nothing may come between the frames of a head (RFC 9113 section 6.10).
        let awaited = self.block.as_ref().map(|block| block.stream);
        let continues = (frame.kind == kind::CONTINUATION).then_some(frame.stream);
        if awaited != continues {
            return Err(GaveUp::Malformed);
        }
        if frame.kind == kind::DATA && frame.has(frame::END_STREAM) {
            self.ending = Some(frame.stream);
        }
        Ok(())
    }

    /// Reads the payload of a frame that carries a head; the head once it is whole. A promise's is
    /// none of ours.
    fn read(&mut self, frame: Frame, payload: &[u8]) -> Result<Option<(Head, Fields)>, GaveUp> {
        let piece = frame.fragment(payload).ok_or(GaveUp::Malformed)?;
        let whole = frame.has(frame::END_HEADERS);
        let (head, promised, fields) = match self.block.take() {
            // The usual case, without a copy.
            None if whole => {
                let fields = self.decoder.decode(piece).ok_or(GaveUp::Malformed)?;
                (frame.head(), frame.kind == kind::PUSH_PROMISE, fields)
            }
            before => {
                let mut block = before.unwrap_or_else(|| Block {
                    stream: frame.stream,
                    bytes: Vec::new(),
                    ends: frame.has(frame::END_STREAM),
                    promised: frame.kind == kind::PUSH_PROMISE,
                });
                if block.bytes.len() + piece.len() > MAX_HEAD {
                    return Err(GaveUp::TooLong);
                }
                block.bytes.extend_from_slice(piece);
                if !whole {
                    self.block = Some(block);
                    return Ok(None);
                }
                let fields = self.decoder.decode(&block.bytes).ok_or(GaveUp::Malformed)?;
                (Head { stream: block.stream, ends: block.ends }, block.promised, fields)
            }
        };
        Ok((!promised).then_some((head, fields)))
    }
}

impl Frame {
    fn head(self) -> Head {
        Head { stream: self.stream, ends: self.has(frame::END_STREAM) }
    }
}
