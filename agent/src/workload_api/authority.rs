//! [`AuthorityFilter`]: lets callers in that send the path of the socket as `:authority`.
//!
//! gRPC's C core (Python, C++, Ruby) percent-encodes that path: `run%2Fapi.sock`. A host may be
//! written so (RFC 3986 section 3.2.2), but our HTTP/2 server takes no '%' and resets the call
//! before it reaches us. As nothing here asks for `:authority`, each '%' of it becomes '-' on the
//! way in. One octet stands for one, so that lengths and tables of both sides stay equal.
//!
//! ```text
//!  preface ─▶ frame header ─▶ padding, priority ─▶ block ──▶ number ─▶ name ─▶ value ─▶ ...
//!                   ▲                                │ HEADERS, CONTINUATION     '%' ▶ '-'
//!                   └──────── all other payload ◀────┘
//! ```
//!
//! It holds no octets, only where it stands. What does not read as HTTP/2 (RFC 9113) and HPACK
//! (RFC 7541) is passed on as it is from there on: the server refuses it itself. Values under a
//! name from the dynamic table, and Huffman-coded ones, are left alone: C core sends neither.

/// RFC 9113 section 3.4.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const NAME: &[u8] = b":authority";
/// Of [`NAME`] in the static table (RFC 7541 Appendix A).
const NAME_INDEX: u32 = 1;

/// Frame types (RFC 9113 section 6).
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
/// Frame flags.
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// Of a HEADERS frame with [`PRIORITY`]: dependency and weight.
const PRIORITY_OCTETS: u32 = 5;

/// Most bits that the octets after a number's first one may bring; as many as our server takes.
const MAX_NUMBER_BITS: u32 = 28;

/// What a client sends, followed from its first octet on.
#[derive(Debug)]
pub struct AuthorityFilter {
    at: At,
    block: Block,
    /// A header block has begun, and its last frame has not.
    block_goes_on: bool,
}

impl Default for AuthorityFilter {
    fn default() -> Self {
        Self { at: At::Preface { seen: 0 }, block: Block::Field, block_goes_on: false }
    }
}

/// Where in the connection.
#[derive(Debug)]
enum At {
    Preface {
        seen: usize,
    },
    Head {
        seen: usize,
        head: [u8; 9],
    },
    Payload(Payload),
    /// In what it does not understand; for good.
    Lost,
}

impl At {
    const HEAD: Self = Self::Head { seen: 0, head: [0; 9] };
}

/// What is left of a frame's payload, in the order in which it comes.
#[derive(Debug, Default)]
struct Payload {
    /// An octet that says how much of `fragment` is padding.
    pad_length: bool,
    skipped: u32,
    fragment: u32,
    padding: u32,
}

impl AuthorityFilter {
    /// Passes on the next octets, however they are cut: changes them where they lie.
    pub fn pass(&mut self, mut octets: &mut [u8]) {
        while let Some((first, _)) = octets.split_first_mut() {
            let Some(taken) = (match &mut self.at {
                At::Preface { .. } | At::Head { .. } => self.pass_one(*first).map(|()| 1),
                At::Payload(_) => self.pass_payload(octets),
                At::Lost => return,
            }) else {
                self.at = At::Lost;
                return;
            };
            octets = octets.split_at_mut(taken).1;
        }
    }

    fn pass_one(&mut self, octet: u8) -> Option<()> {
        match &mut self.at {
            At::Preface { seen } => {
                if PREFACE.get(*seen) != Some(&octet) {
                    return None;
                }
                *seen += 1;
                if *seen == PREFACE.len() {
                    self.at = At::HEAD;
                }
            }
            At::Head { seen, head } => {
                *head.get_mut(*seen)? = octet;
                *seen += 1;
                if *seen == head.len() {
                    let head = *head;
                    let payload = self.begin(head)?;
                    self.at = At::Payload(payload);
                    self.end_if_over()?;
                }
            }
            At::Payload(_) | At::Lost => {}
        }
        Some(())
    }

    /// What a frame header announces; nothing for one that may not stand here.
    fn begin(&mut self, head: [u8; 9]) -> Option<Payload> {
        let [high, middle, low, kind, flags, ..] = head;
        let length = u32::from_be_bytes([0, high, middle, low]);
        let has = |flag| flags & flag != 0;
        let payload = match (kind, self.block_goes_on) {
            (HEADERS, false) => {
                let pad_length = has(PADDED);
                let skipped = if has(PRIORITY) { PRIORITY_OCTETS } else { 0 };
                let fragment = length.checked_sub(skipped + u32::from(pad_length))?;
                Payload { pad_length, skipped, fragment, padding: 0 }
            }
            (CONTINUATION, true) => Payload { fragment: length, ..Payload::default() },
            (CONTINUATION, false) | (_, true) => return None,
            (_, false) => return Some(Payload { skipped: length, ..Payload::default() }),
        };
        self.block_goes_on = !has(END_HEADERS);
        Some(payload)
    }

    /// Takes one part of a payload, or what is there of it; says how much that was.
    fn pass_payload(&mut self, octets: &mut [u8]) -> Option<usize> {
        let At::Payload(payload) = &mut self.at else { return None };
        let taken = if payload.pad_length {
            payload.pad_length = false;
            payload.padding = u32::from(*octets.first()?);
            payload.fragment = payload.fragment.checked_sub(payload.padding)?;
            1
        } else if payload.skipped > 0 {
            take(&mut payload.skipped, octets.len())
        } else if payload.fragment > 0 {
            let taken = take(&mut payload.fragment, octets.len());
            for octet in octets.iter_mut().take(taken) {
                self.block.pass(octet)?;
            }
            taken
        } else {
            take(&mut payload.padding, octets.len())
        };
        self.end_if_over()?;
        Some(taken)
    }

    /// Goes on to the next frame at the end of one. A block must end with a field.
    fn end_if_over(&mut self) -> Option<()> {
        let over = matches!(
            self.at,
            At::Payload(Payload { pad_length: false, skipped: 0, fragment: 0, padding: 0 })
        );
        if over {
            self.at = At::HEAD;
            let whole = self.block_goes_on || matches!(self.block, Block::Field);
            return whole.then_some(());
        }
        Some(())
    }
}

/// Takes as much off `left` as is there; says how much that was.
fn take(left: &mut u32, there: usize) -> usize {
    let taken = (*left).min(u32::try_from(there).unwrap_or(u32::MAX));
    *left -= taken;
    usize::try_from(taken).unwrap_or(there)
}

/// Where in a header block (RFC 7541 section 6).
#[derive(Clone, Copy, Debug)]
enum Block {
    /// Before a field.
    Field,
    Number {
        what: Number,
        value: u32,
        bits: u32,
    },
    /// Before the length of a text.
    Length(Text),
    Text {
        what: Text,
        left: u32,
    },
}

/// What a number says.
#[derive(Clone, Copy, Debug)]
enum Number {
    /// A field of the tables, or their size: nothing comes after it.
    Alone,
    /// The name of a literal field; 0 when it is spelt out.
    Name,
    LengthOf(Text),
}

/// A text of a literal field.
#[derive(Clone, Copy, Debug)]
enum Text {
    /// So many octets of [`NAME`], and no others, were seen; none once it is another name.
    Name {
        seen: Option<usize>,
    },
    Value {
        of_authority: bool,
    },
}

impl Block {
    fn pass(&mut self, octet: &mut u8) -> Option<()> {
        *self = match *self {
            Self::Field => match octet.leading_zeros() {
                0 => Self::number(*octet, 7, Number::Alone),
                1 => Self::number(*octet, 6, Number::Name),
                2 => Self::number(*octet, 5, Number::Alone),
                _ => Self::number(*octet, 4, Number::Name),
            },
            Self::Number { bits: MAX_NUMBER_BITS.., .. } => return None,
            Self::Number { what, value, bits } => {
                let value = value.checked_add(u32::from(*octet & 0x7f) << bits)?;
                if *octet & 0x80 == 0 {
                    Self::after(what, value)
                } else {
                    Self::Number { what, value, bits: bits + 7 }
                }
            }
            Self::Length(what) => {
                let coded = *octet & 0x80 != 0;
                let what = match what {
                    Text::Name { .. } if coded => Text::Name { seen: None },
                    Text::Value { .. } if coded => Text::Value { of_authority: false },
                    plain => plain,
                };
                Self::number(*octet, 7, Number::LengthOf(what))
            }
            Self::Text { what, left } => {
                let what = match what {
                    Text::Name { seen: Some(seen) } => {
                        let same = NAME.get(seen) == Some(&*octet);
                        Text::Name { seen: same.then_some(seen + 1) }
                    }
                    Text::Value { of_authority: true } => {
                        if *octet == b'%' {
                            *octet = b'-';
                        }
                        what
                    }
                    other => other,
                };
                Self::text(what, left - 1)
            }
        };
        Some(())
    }

    /// Begins a number that has the lower `prefix` bits of `octet` (RFC 7541 section 5.1).
    fn number(octet: u8, prefix: u32, what: Number) -> Self {
        let most = (1 << prefix) - 1;
        let value = u32::from(octet) & most;
        if value == most { Self::Number { what, value, bits: 0 } } else { Self::after(what, value) }
    }

    fn after(number: Number, value: u32) -> Self {
        match number {
            Number::Alone => Self::Field,
            Number::Name if value == 0 => Self::Length(Text::Name { seen: Some(0) }),
            Number::Name => Self::Length(Text::Value { of_authority: value == NAME_INDEX }),
            Number::LengthOf(text) => Self::text(text, value),
        }
    }

    /// A text of which `left` octets are to come.
    fn text(what: Text, left: u32) -> Self {
        match what {
            _ if left > 0 => Self::Text { what, left },
            Text::Name { seen } => {
                Self::Length(Text::Value { of_authority: seen == Some(NAME.len()) })
            }
            Text::Value { .. } => Self::Field,
        }
    }
}

#[cfg(test)]
mod tests;
