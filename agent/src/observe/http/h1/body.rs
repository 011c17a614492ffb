//! Bodies: counted off, never looked at.

use crate::observe::http::{GaveUp, MAX_HEAD};

/// What is left of a body. The default is none: a head comes next.
#[derive(Default)]
pub(super) struct Body(Left);

#[derive(Default)]
enum Left {
    #[default]
    Nothing,
    Bytes(u64),
    /// Chunks (RFC 9112 section 7.1).
    Chunks(Chunk),
    /// All until the connection ends.
    Endless,
}

/// Where in a chunked body we are.
enum Chunk {
    /// In the line before a chunk.
    Size {
        size: u64,
        digits: u8,
    },
    /// After the size on that line.
    Extension {
        size: u64,
        length: usize,
    },
    Data(u64),
    /// In the line end after the data.
    DataEnd,
    /// In the trailers: `line` bytes of the present line, `length` of all.
    Trailers {
        line: usize,
        length: usize,
    },
}

/// Sixteen digits are what 64 bits hold.
const MAX_DIGITS: u8 = 16;

impl Body {
    pub(super) fn known(length: u64) -> Self {
        Self(if length == 0 { Left::Nothing } else { Left::Bytes(length) })
    }

    pub(super) fn chunked() -> Self {
        Self(Left::Chunks(Chunk::Size { size: 0, digits: 0 }))
    }

    pub(super) fn endless() -> Self {
        Self(Left::Endless)
    }

    /// Whether the next byte belongs to a head.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.0, Left::Nothing)
    }

    pub(super) fn is_endless(&self) -> bool {
        matches!(self.0, Left::Endless)
    }

    /// Counts bytes off; how many of them are the body's. At least one, unless there are none.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> Result<usize, GaveUp> {
        match &mut self.0 {
            Left::Nothing => Ok(0),
            Left::Endless => Ok(bytes.len()),
            Left::Bytes(left) => {
                let passed = pass(left, bytes);
                if *left == 0 {
                    self.0 = Left::Nothing;
                }
                Ok(passed)
            }
            Left::Chunks(chunk) => {
                let mut used = 0;
                while used < bytes.len() {
                    if let Chunk::Data(left) = chunk {
                        used += pass(left, &bytes[used..]);
                        if *left == 0 {
                            *chunk = Chunk::DataEnd;
                        }
                    } else {
                        let byte = bytes[used];
                        used += 1;
                        if chunk.step(byte)? {
                            self.0 = Left::Nothing;
                            break;
                        }
                    }
                }
                Ok(used)
            }
        }
    }
}

/// Takes off `left` what there is of it in `bytes`.
fn pass(left: &mut u64, bytes: &[u8]) -> usize {
    let here = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
    // A `usize` is at most 64 bits wide on every platform that Linux runs on.
    *left -= here as u64;
    here
}

impl Chunk {
    /// One byte that is no data; whether it was the body's last.
    fn step(&mut self, byte: u8) -> Result<bool, GaveUp> {
        match self {
            Self::Size { size, digits } => match hexadecimal(byte) {
                Some(_) if *digits == MAX_DIGITS => return Err(GaveUp::Malformed),
                Some(digit) => {
                    *size = *size << 4 | u64::from(digit);
                    *digits += 1;
                }
                None if *digits == 0 => return Err(GaveUp::Malformed),
                None => match byte {
                    b'\n' => *self = Self::after_size(*size),
                    b'\r' | b';' | b' ' | b'\t' => {
                        *self = Self::Extension { size: *size, length: 0 };
                    }
                    _ => return Err(GaveUp::Malformed),
                },
            },
            Self::Extension { size, length } => {
                *length += 1;
                if *length > MAX_HEAD {
                    return Err(GaveUp::TooLong);
                }
                if byte == b'\n' {
                    *self = Self::after_size(*size);
                }
            }
            // Counted off elsewhere, many bytes at a time.
            Self::Data(_) => {}
            Self::DataEnd => match byte {
                b'\r' => {}
                b'\n' => *self = Self::Size { size: 0, digits: 0 },
                _ => return Err(GaveUp::Malformed),
            },
            Self::Trailers { line, length } => {
                *length += 1;
                if *length > MAX_HEAD {
                    return Err(GaveUp::TooLong);
                }
                match byte {
                    b'\n' if *line == 0 => return Ok(true),
                    b'\n' => *line = 0,
                    b'\r' => {}
                    _ => *line += 1,
                }
            }
        }
        Ok(false)
    }

    fn after_size(size: u64) -> Self {
        if size == 0 { Self::Trailers { line: 0, length: 0 } } else { Self::Data(size) }
    }
}

fn hexadecimal(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}
