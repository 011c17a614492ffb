//! HPACK (RFC 7541), as far as heads must be read to learn a request's outcome.
//!
//! The dynamic table keeps of each field its size and what it says to us: eight bytes. No value of
//! a header stays in memory.

use std::collections::VecDeque;

use super::huffman;

/// The table's size until an encoder says otherwise (RFC 9113 section 6.5.2).
const DEFAULT_TABLE: u32 = 4 << 10;
/// The largest that an encoder may say: 2,048 fields, which is more than anybody asks for.
const MAX_TABLE: u32 = 64 << 10;
/// What a field counts besides its two strings (RFC 7541 section 4.1).
const OVERHEAD: u32 = 32;

/// What a head says of a request or an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields {
    /// The method is CONNECT.
    pub(crate) connect: bool,
    /// The content type is gRPC's.
    pub(crate) grpc: bool,
    pub(crate) status: Option<u16>,
    pub(crate) grpc_status: Option<u8>,
}

/// The names that matter.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Name {
    Method,
    Status,
    ContentType,
    GrpcStatus,
    Other,
}

/// A field, as far as it matters.
#[derive(Clone, Copy)]
enum Field {
    Connect,
    Grpc,
    Status(u16),
    GrpcStatus(u8),
    /// One of the names that matter, with a value that does not.
    Unremarkable,
}

#[derive(Clone, Copy)]
struct Entry {
    name: Name,
    name_length: u32,
    field: Field,
    size: u32,
}

/// Reads the heads of one direction.
pub(crate) struct Decoder {
    /// Newest first.
    table: VecDeque<Entry>,
    size: u32,
    limit: u32,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { table: VecDeque::new(), size: 0, limit: DEFAULT_TABLE }
    }
}

impl Decoder {
    /// Reads one whole head. None if it cannot be read; nothing after it can, then.
    pub(crate) fn decode(&mut self, block: &[u8]) -> Option<Fields> {
        let mut fields = Fields::default();
        let mut rest = Rest(block);
        let mut may_resize = true;
        while let Some(&first) = rest.0.first() {
            // RFC 7541 section 6, by the leading bits.
            match first {
                0x80.. => {
                    let index = rest.integer(7)?;
                    fields.note(self.entry(index)?.field)?;
                }
                0x40.. => {
                    let entry = self.literal(&mut rest, 6)?;
                    fields.note(entry.field)?;
                    self.insert(entry);
                }
                0x20.. => {
                    let limit = rest.integer(5)?;
                    // Only before the first field (RFC 7541 section 4.2).
                    if !may_resize || limit > MAX_TABLE {
                        return None;
                    }
                    self.limit = limit;
                    self.evict(limit);
                    continue;
                }
                _ => fields.note(self.literal(&mut rest, 4)?.field)?,
            }
            may_resize = false;
        }
        Some(fields)
    }

    fn literal(&self, rest: &mut Rest<'_>, prefix: u8) -> Option<Entry> {
        let index = rest.integer(prefix)?;
        let (name, name_length) = if index == 0 {
            let text = rest.string()?;
            (Name::of(text.beginning()), text.length)
        } else {
            let entry = self.entry(index)?;
            (entry.name, entry.name_length)
        };
        let value = rest.string()?;
        let size = name_length + value.length + OVERHEAD;
        Some(Entry { name, name_length, field: name.with(&value)?, size })
    }

    fn entry(&self, index: u32) -> Option<Entry> {
        let index = usize::try_from(index).ok()?.checked_sub(1)?;
        match index.checked_sub(STATIC.len()) {
            Some(index) => self.table.get(index).copied(),
            None => Some(fixed(index)),
        }
    }

    fn insert(&mut self, entry: Entry) {
        self.evict(self.limit.saturating_sub(entry.size));
        // One that is larger than the whole table empties it and is not kept.
        if entry.size <= self.limit {
            self.size += entry.size;
            self.table.push_front(entry);
        }
    }

    /// Forgets the oldest until no more than `limit` is left.
    fn evict(&mut self, limit: u32) {
        while self.size > limit {
            // The size is the sum of the entries': there is one while it is above zero.
            let Some(oldest) = self.table.pop_back() else { return };
            self.size -= oldest.size;
        }
    }
}

impl Fields {
    fn note(&mut self, field: Field) -> Option<()> {
        match field {
            Field::Connect => self.connect = true,
            Field::Grpc => self.grpc = true,
            // Two of them mean that somebody reads another than we do.
            Field::Status(status) => {
                if self.status.replace(status).is_some() {
                    return None;
                }
            }
            Field::GrpcStatus(status) => self.grpc_status = Some(status),
            Field::Unremarkable => {}
        }
        Some(())
    }
}

impl Name {
    fn of(text: &[u8]) -> Self {
        match text {
            b":method" => Self::Method,
            b":status" => Self::Status,
            b"content-type" => Self::ContentType,
            b"grpc-status" => Self::GrpcStatus,
            _ => Self::Other,
        }
    }

    /// What the field says; none if that cannot be.
    fn with(self, value: &Text<'_>) -> Option<Field> {
        let text = value.beginning();
        Some(match self {
            Self::Method if text == b"CONNECT" => Field::Connect,
            Self::Status => match *text {
                [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'] => {
                    let digit = |byte| u16::from(byte - b'0');
                    Field::Status(digit(a) * 100 + digit(b) * 10 + digit(c))
                }
                _ => return None,
            },
            // `application/grpc`, also with `+proto` and the like, but not `grpc-web`.
            Self::ContentType => match text.strip_prefix(b"application/grpc") {
                Some([] | [b'+' | b';', ..]) => Field::Grpc,
                _ => Field::Unremarkable,
            },
            Self::GrpcStatus => match *text {
                [a @ b'0'..=b'9'] => Field::GrpcStatus(a - b'0'),
                [b'1', b @ b'0'..=b'6'] => Field::GrpcStatus(10 + (b - b'0')),
                // Codes that nobody defined count as UNKNOWN (grpc/grpc doc/statuscodes.md).
                _ => Field::GrpcStatus(2),
            },
            Self::Method | Self::Other => Field::Unremarkable,
        })
    }
}

/// A string: how long it is, and its beginning, which is all of it that is ever compared.
struct Text<'a> {
    length: u32,
    kept: Kept<'a>,
}

enum Kept<'a> {
    Raw(&'a [u8]),
    Decoded(huffman::Beginning),
}

impl Text<'_> {
    fn beginning(&self) -> &[u8] {
        match &self.kept {
            Kept::Raw(bytes) => bytes,
            // Longer than the beginning, it equals nothing that we look for.
            Kept::Decoded(beginning) => beginning.bytes(),
        }
    }
}

/// What is still to be read of a head.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// An integer that begins in the lowest `prefix` bits (RFC 7541 section 5.1), up to 2²⁸, which
    /// is more than anything here may be.
    fn integer(&mut self, prefix: u8) -> Option<u32> {
        let mask = (1_u32 << prefix) - 1;
        let mut value = u32::from(self.byte()?) & mask;
        if value < mask {
            return Some(value);
        }
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value += u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn string(&mut self) -> Option<Text<'a>> {
        let coded = self.0.first()? & 0x80 != 0;
        let length = self.integer(7)?;
        let bytes = self.0.get(..usize::try_from(length).ok()?)?;
        self.0 = &self.0[bytes.len()..];
        if !coded {
            return Some(Text { length, kept: Kept::Raw(bytes) });
        }
        let decoded = huffman::decode(bytes)?;
        Some(Text { length: decoded.length(), kept: Kept::Decoded(decoded) })
    }
}

/// One of the static table's entries, counted from zero.
fn fixed(index: usize) -> Entry {
    // RFC 7541 appendix A.
    let (name, field) = match index + 1 {
        2 | 3 => (Name::Method, Field::Unremarkable),
        8 => (Name::Status, Field::Status(200)),
        9 => (Name::Status, Field::Status(204)),
        10 => (Name::Status, Field::Status(206)),
        11 => (Name::Status, Field::Status(304)),
        12 => (Name::Status, Field::Status(400)),
        13 => (Name::Status, Field::Status(404)),
        14 => (Name::Status, Field::Status(500)),
        31 => (Name::ContentType, Field::Unremarkable),
        _ => (Name::Other, Field::Unremarkable),
    };
    // Its size is never asked for: only what the dynamic table holds is counted.
    Entry { name, name_length: u32::from(STATIC[index]), field, size: 0 }
}

/// How long the static table's names are (RFC 7541 appendix A).
const STATIC: [u8; 61] = [
    10, 7, 7, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16, 16, 14,
    16, 13, 12, 6, 4, 4, 6, 7, 4, 4, 8, 17, 13, 8, 19, 13, 4, 8, 12, 18, 19, 5, 7, 7, 11, 6, 10,
    25, 17, 10, 4, 3, 16,
];

#[cfg(test)]
mod tests;
