//! Bytes that both ends know: each can tell whether a stream is whole, in order and unaltered.

use std::io::{self, ErrorKind, Read, Write};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

/// A prime length, so that no block of a power of two can be lost or doubled unseen.
const LENGTH: usize = 1_048_573;

/// How much is read or written at once.
const CHUNK: usize = 128 * 1024;

fn block() -> &'static [u8] {
    static BLOCK: OnceLock<Vec<u8>> = OnceLock::new();
    BLOCK.get_or_init(|| {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut bytes = Vec::with_capacity(LENGTH + 8);
        while bytes.len() < LENGTH {
            // xorshift64: any sequence does that does not repeat within the block.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend_from_slice(&state.to_le_bytes());
        }
        bytes.truncate(LENGTH);
        bytes
    })
}

/// Sends `bytes` of the pattern.
pub(crate) fn send(stream: &mut impl Write, bytes: u64) -> io::Result<()> {
    let block = block();
    let (mut at, mut left) = (0, bytes);
    while left > 0 {
        let length = CHUNK.min(LENGTH - at).min(usize::try_from(left).unwrap_or(CHUNK));
        stream.write_all(&block[at..at + length])?;
        at = (at + length) % LENGTH;
        left -= length as u64;
    }
    Ok(())
}

/// What was received.
pub(crate) struct Received {
    /// How much came.
    pub(crate) bytes: u64,
    /// Whether every byte was the pattern's.
    pub(crate) matches: bool,
    /// How the stream ended: a FIN, or an error.
    pub(crate) end: io::Result<()>,
}

/// Reads to the end, or to `limit` bytes, at most `rate` bytes a second, and compares.
pub(crate) fn receive(stream: &mut impl Read, rate: Option<u64>, limit: Option<u64>) -> Received {
    let block = block();
    let mut buffer = vec![0; CHUNK];
    let mut received = Received { bytes: 0, matches: true, end: Ok(()) };
    let mut at = 0;
    let started = Instant::now();
    while limit.is_none_or(|limit| received.bytes < limit) {
        let want = rate.map_or(CHUNK, |rate| usize::try_from(rate / 10).unwrap_or(CHUNK));
        match stream.read(&mut buffer[..want.clamp(1, CHUNK)]) {
            Ok(0) => break,
            Ok(length) => {
                let mut rest = &buffer[..length];
                while !rest.is_empty() {
                    let part = rest.len().min(LENGTH - at);
                    received.matches &= rest[..part] == block[at..at + part];
                    at = (at + part) % LENGTH;
                    rest = &rest[part..];
                }
                received.bytes += length as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                received.end = Err(error);
                break;
            }
        }
        if let Some(rate) = rate {
            let due = Duration::from_millis(received.bytes * 1000 / rate.max(1));
            // The pace is what is played here, not a condition that is waited for.
            thread::sleep(due.saturating_sub(started.elapsed()));
        }
    }
    received
}
