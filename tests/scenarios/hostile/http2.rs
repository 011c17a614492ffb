//! HTTP/2 frame by frame (RFC 9113), so that every rule can be broken.

use super::stage::Stage;
use super::tls::{End, Tls};
use anyhow::{Result, bail, ensure};
use std::io::ErrorKind;
use std::time::{Duration, Instant};

/// Frame types.
pub(super) mod kind {
    pub(in super::super) const DATA: u8 = 0;
    pub(in super::super) const HEADERS: u8 = 1;
    pub(in super::super) const RST_STREAM: u8 = 3;
    pub(in super::super) const SETTINGS: u8 = 4;
    pub(in super::super) const PING: u8 = 6;
    pub(in super::super) const GOAWAY: u8 = 7;
    pub(in super::super) const WINDOW_UPDATE: u8 = 8;
    pub(in super::super) const CONTINUATION: u8 = 9;
}

/// Flags.
pub(super) mod flag {
    pub(in super::super) const END_STREAM: u8 = 1;
    pub(in super::super) const ACK: u8 = 1;
    pub(in super::super) const END_HEADERS: u8 = 4;
    pub(in super::super) const PADDED: u8 = 8;
}

/// Error codes (section 7).
pub(super) mod code {
    pub(in super::super) const PROTOCOL_ERROR: u32 = 1;
    pub(in super::super) const CANCEL: u32 = 8;
    pub(in super::super) const ENHANCE_YOUR_CALM: u32 = 11;
}

/// A setting: its number and value.
pub(super) type Setting = (u16, u32);
/// Bytes that the victim may send on a stream before it is allowed more.
pub(super) const INITIAL_WINDOW_SIZE: u16 = 4;

/// A frame as it is on the wire.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    // Three bytes hold more than any test sends.
    let [.., high, middle, low] = payload.len().to_be_bytes();
    let mut frame = vec![high, middle, low];
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A SETTINGS frame.
pub(super) fn settings(values: &[Setting]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (number, value) in values {
        payload.extend(number.to_be_bytes());
        payload.extend(value.to_be_bytes());
    }
    frame(kind::SETTINGS, 0, 0, &payload)
}

/// Header fields, each a literal that is not indexed (RFC 7541 section 6.2.2).
pub(super) fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            integer(&mut block, text.len());
            block.extend(text.as_bytes());
        }
    }
    block
}

/// An integer with a prefix of seven bits (RFC 7541 section 5.1).
fn integer(block: &mut Vec<u8>, value: usize) {
    if value < 127 {
        block.push(value.to_le_bytes()[0]);
        return;
    }
    block.push(127);
    let mut rest = value - 127;
    while rest >= 128 {
        block.push((rest % 128).to_le_bytes()[0] | 128);
        rest /= 128;
    }
    block.push(rest.to_le_bytes()[0]);
}

/// The HEADERS frame of an HBONE request.
pub(super) fn connect(stream: u32, authority: &str) -> Vec<u8> {
    request(stream, &[(":method", "CONNECT"), (":authority", authority)])
}

/// A HEADERS frame of any fields; more of the stream may follow.
pub(super) fn request(stream: u32, list: &[(&str, &str)]) -> Vec<u8> {
    frame(kind::HEADERS, flag::END_HEADERS, stream, &fields(list))
}

/// A `RST_STREAM` frame.
pub(super) fn reset(stream: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &code::CANCEL.to_be_bytes())
}

/// What came from the victim.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

/// How a request was answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// With a status.
    Status(u16),
    /// The stream was reset with this code.
    Reset(u32),
    /// The whole connection was given up with this code.
    GoAway(u32),
    /// The connection ended without a word of HTTP/2.
    Ended,
}

/// A peer that the victim believes, on an HTTP/2 connection.
pub(super) struct Peer {
    pub(super) tls: Tls,
    received: Vec<u8>,
}

impl Peer {
    /// Opens the connection.
    pub(super) fn open(stage: &Stage) -> Result<Self> {
        Self::open_with(stage, &[])
    }

    /// The same with settings of the peer's own.
    pub(super) fn open_with(stage: &Stage, values: &[Setting]) -> Result<Self> {
        let mut peer = Self { tls: stage.believed()?, received: Vec::new() };
        peer.send(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), settings(values)].concat())?;
        Ok(peer)
    }

    /// Sends bytes that the victim must take.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        match self.tls.send(bytes) {
            Ok(()) => Ok(()),
            Err(end) => bail!("the victim ended the connection: {end:?}"),
        }
    }

    /// The next frame within a time; none when the connection has ended.
    pub(super) fn next(&mut self, limit: Duration) -> Result<Option<Frame>> {
        let begun = Instant::now();
        loop {
            if let Some(frame) = self.parsed() {
                return Ok(Some(frame));
            }
            let left = limit.saturating_sub(begun.elapsed());
            ensure!(!left.is_zero(), "the victim says nothing for {limit:?}");
            self.tls.socket.set_read_timeout(Some(left))?;
            let mut piece = [0; 16 << 10];
            match self.tls.read(&mut piece) {
                Ok(0) => return Ok(None),
                Ok(length) => self.received.extend_from_slice(&piece[..length]),
                Err(error) if End::of(&error).is_over() => return Ok(None),
                Err(_) => {}
            }
        }
    }

    fn parsed(&mut self) -> Option<Frame> {
        let head: [u8; 9] = self.received.get(..9)?.try_into().ok()?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let payload = self.received.get(9..9 + length)?.to_vec();
        self.received.drain(..9 + length);
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// Waits for the answer to a stream's request, or the end of the connection.
    pub(super) fn answer(&mut self, stream: u32, limit: Duration) -> Result<Answer> {
        loop {
            let Some(frame) = self.next(limit)? else { return Ok(Answer::Ended) };
            match frame.kind {
                kind::HEADERS if frame.stream == stream => {
                    return Ok(Answer::Status(status(&frame.payload)?));
                }
                kind::RST_STREAM if frame.stream == stream => {
                    return Ok(Answer::Reset(number(&frame.payload, 0)?));
                }
                kind::GOAWAY if number(&frame.payload, 4)? != 0 => {
                    return Ok(Answer::GoAway(number(&frame.payload, 4)?));
                }
                kind::PING if frame.flags & flag::ACK == 0 => {
                    self.send(&super::http2::frame(kind::PING, flag::ACK, 0, &frame.payload))?;
                }
                _ => {}
            }
        }
    }

    /// Sends pieces until the victim has had enough, reading all that it says meanwhile; gives its
    /// verdict. None when it took them all.
    pub(super) fn flood(
        &mut self,
        pieces: impl Iterator<Item = Vec<u8>>,
    ) -> Result<Option<Answer>> {
        for piece in pieces {
            if self.tls.send(&piece).is_err() {
                // What it said before it closed may have been lost to its reset.
                return Ok(Some(self.verdict()?.unwrap_or(Answer::Ended)));
            }
            self.take_what_is_there()?;
            if let Some(answer) = self.verdict()? {
                return Ok(Some(answer));
            }
        }
        Ok(None)
    }

    /// Sends DATA on a stream until its reader no longer makes room; `left` bytes of the window,
    /// which the victim opens with a mebibyte, stay unused.
    ///
    /// The victim announces room once it is half a window, so `left` is to be less than that.
    pub(super) fn stall(&mut self, stream: u32, left: usize) -> Result<()> {
        const PIECE: usize = 16_000;
        let mut window = 1 << 20;
        loop {
            while window >= left + PIECE {
                self.send(&frame(kind::DATA, 0, stream, &[0x55; PIECE]))?;
                window -= PIECE;
            }
            // A reader that goes on makes room in far less than this.
            let Ok(next) = self.next(Duration::from_millis(500)) else { return Ok(()) };
            let Some(frame) = next else { bail!("the victim ended the connection") };
            if frame.kind == kind::WINDOW_UPDATE && frame.stream == stream {
                window += usize::try_from(number(&frame.payload, 0)?)?;
            }
        }
    }

    /// Reads without waiting.
    fn take_what_is_there(&mut self) -> Result<()> {
        self.tls.socket.set_nonblocking(true)?;
        let mut piece = [0; 16 << 10];
        loop {
            match self.tls.read(&mut piece) {
                Ok(0) => break,
                Ok(length) => self.received.extend_from_slice(&piece[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // The next write finds it out.
                Err(_) => break,
            }
        }
        self.tls.socket.set_nonblocking(false)?;
        Ok(())
    }

    /// The GOAWAY among what was received, if there is one with an error.
    fn verdict(&mut self) -> Result<Option<Answer>> {
        while let Some(frame) = self.parsed() {
            if frame.kind == kind::GOAWAY && number(&frame.payload, 4)? != 0 {
                return Ok(Some(Answer::GoAway(number(&frame.payload, 4)?)));
            }
        }
        Ok(None)
    }
}

fn number(payload: &[u8], at: usize) -> Result<u32> {
    match payload.get(at..at + 4).map(TryInto::try_into) {
        Some(Ok(bytes)) => Ok(u32::from_be_bytes(bytes)),
        _ => bail!("a frame of the victim is too short: {payload:?}"),
    }
}

/// The status, which is the first field of an answer.
fn status(block: &[u8]) -> Result<u16> {
    // RFC 7541 appendix A: some statuses have an index of their own; others name index 8.
    match block {
        [0x88, ..] => Ok(200),
        [0x8c, ..] => Ok(400),
        [0x8d, ..] => Ok(404),
        [0x8e, ..] => Ok(500),
        [0x08 | 0x18 | 0x48, length, rest @ ..] => {
            let text = &rest[..usize::from(length & 0x7f).min(rest.len())];
            let digits = if length & 0x80 == 0 { text.to_vec() } else { unhuffman(text)? };
            Ok(String::from_utf8(digits)?.parse()?)
        }
        _ => bail!("an answer with other fields first: {block:?}"),
    }
}

/// Three digits in the Huffman code of RFC 7541 appendix B.
fn unhuffman(text: &[u8]) -> Result<Vec<u8>> {
    let bit = |byte: &u8, at: u8| if byte >> (7 - at) & 1 == 1 { '1' } else { '0' };
    let bits: String = text.iter().flat_map(|byte| (0..8).map(move |at| bit(byte, at))).collect();
    let (mut rest, mut digits) = (bits.as_str(), Vec::new());
    while digits.len() < 3 {
        let five = ["00000", "00001", "00010"].iter().position(|code| rest.starts_with(code));
        let six = ["011001", "011010", "011011", "011100", "011101", "011110", "011111"]
            .iter()
            .position(|code| rest.starts_with(code));
        let (digit, length) = match (five, six) {
            (Some(digit), _) => (digit, 5),
            (None, Some(digit)) => (digit + 3, 6),
            (None, None) => bail!("a status that is no number: {text:?}"),
        };
        digits.push(b'0' + digit.to_le_bytes()[0]);
        rest = &rest[length..];
    }
    Ok(digits)
}
