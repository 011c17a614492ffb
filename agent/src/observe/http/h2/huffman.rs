//! HPACK's Huffman code (RFC 7541 appendix B).
//!
//! The code is canonical: codes of one length follow each other in the order of their symbols, and
//! shorter ones come first. So its lengths say all of it, and the tables below are made of them.

/// Bytes of a string that are kept: more than the longest that is compared.
const KEPT: usize = 24;
/// Codes up to this long are looked up at once; all letters and digits have such.
const QUICK: u32 = 8;
/// The longest code.
const LONGEST: usize = 30;
/// Symbols of a byte; one more, which ends nothing but its own string, must not occur.
const SYMBOLS: usize = 256;

/// How long each symbol's code is.
#[rustfmt::skip]
const LENGTHS: [u8; SYMBOLS + 1] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

/// The beginning of a decoded string.
pub(super) struct Beginning {
    kept: [u8; KEPT],
    length: u32,
}

impl Beginning {
    /// The string, or as much of it as is kept.
    pub(super) fn bytes(&self) -> &[u8] {
        let length = usize::try_from(self.length).unwrap_or(KEPT);
        &self.kept[..length.min(KEPT)]
    }

    /// How long all of it is.
    pub(super) const fn length(&self) -> u32 {
        self.length
    }
}

/// Decodes a string. None if it is not one.
pub(super) fn decode(coded: &[u8]) -> Option<Beginning> {
    let mut decoded = Beginning { kept: [0; KEPT], length: 0 };
    // Bits that wait, the first of them highest, and how many.
    let (mut bits, mut have) = (0_u64, 0_u32);
    let mut coded = coded.iter();
    loop {
        while have <= u64::BITS - 8
            && let Some(byte) = coded.next()
        {
            bits |= u64::from(*byte) << (u64::BITS - 8 - have);
            have += 8;
        }
        let Some((symbol, length)) = first(bits, have) else {
            // Padding: fewer than eight bits, all ones.
            return (have < 8 && bits.count_ones() == have).then_some(decoded);
        };
        let symbol = u8::try_from(symbol).ok()?;
        if let Some(place) =
            usize::try_from(decoded.length).ok().and_then(|at| decoded.kept.get_mut(at))
        {
            *place = symbol;
        }
        decoded.length += 1;
        bits <<= length;
        have -= length;
    }
}

/// The first code among the bits: its symbol and how many bits it takes. None if they are too few.
fn first(bits: u64, have: u32) -> Option<(u16, u32)> {
    // Eight bits fit into a usize.
    let (symbol, length) = TABLES.quick[(bits >> (u64::BITS - QUICK)) as usize];
    if length > 0 {
        let length = u32::from(length);
        return (length <= have).then_some((u16::from(symbol), length));
    }
    for length in QUICK as usize + 1..=LONGEST {
        // At most 30 bits, and indices below 257.
        let code = u32::try_from(bits >> (u64::BITS as usize - length)).ok()?;
        let row = &TABLES.rows[length];
        if code < row.end {
            let symbol = TABLES.sorted[row.offset + (code - row.first) as usize];
            let length = u32::try_from(length).ok()?;
            return (length <= have).then_some((symbol, length));
        }
    }
    None
}

/// The codes of one length.
#[derive(Clone, Copy)]
struct Row {
    first: u32,
    end: u32,
    /// Where its symbols begin among all.
    offset: usize,
}

struct Tables {
    /// By the first bits: symbol and length, or length zero if the code is longer.
    quick: [(u8, u8); 1 << QUICK],
    rows: [Row; LONGEST + 1],
    /// Symbols in the order of their codes.
    sorted: [u16; SYMBOLS + 1],
}

static TABLES: Tables = tables();

#[expect(
    clippy::cast_possible_truncation,
    reason = "symbols of at most 256 and lengths of at most 30; no conversion that checks is const"
)]
const fn tables() -> Tables {
    let mut tables = Tables {
        quick: [(0, 0); 1 << QUICK],
        rows: [Row { first: 0, end: 0, offset: 0 }; LONGEST + 1],
        sorted: [0; SYMBOLS + 1],
    };
    let (mut code, mut place, mut length) = (0_u32, 0, 1);
    while length <= LONGEST {
        code <<= 1;
        tables.rows[length] = Row { first: code, end: code, offset: place };
        let mut symbol = 0;
        while symbol <= SYMBOLS {
            if LENGTHS[symbol] as usize == length {
                tables.sorted[place] = symbol as u16;
                if length <= QUICK as usize {
                    let spare = QUICK as usize - length;
                    let mut tail = 0;
                    while tail < 1 << spare {
                        // Codes as short as these are those of bytes.
                        tables.quick[((code as usize) << spare) + tail] =
                            (symbol as u8, length as u8);
                        tail += 1;
                    }
                }
                place += 1;
                code += 1;
            }
            symbol += 1;
        }
        tables.rows[length].end = code;
        length += 1;
    }
    tables
}

#[cfg(test)]
pub(super) mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::*;

    /// The code of each symbol, bit by bit, from the lengths alone.
    pub(in super::super) fn encode(text: &[u8]) -> Vec<u8> {
        let mut bits = String::new();
        for byte in text {
            let at = TABLES.sorted.iter().position(|symbol| *symbol == u16::from(*byte)).unwrap();
            let length = usize::from(LENGTHS[usize::from(*byte)]);
            let row = &TABLES.rows[length];
            let code = row.first as usize + at - row.offset;
            write!(bits, "{code:0length$b}").unwrap();
        }
        while !bits.len().is_multiple_of(8) {
            bits.push('1');
        }
        let byte = |at| u8::from_str_radix(&bits[at..at + 8], 2).unwrap();
        (0..bits.len()).step_by(8).map(byte).collect()
    }

    fn library(coded: &[u8]) -> Option<Vec<u8>> {
        loona_hpack::huffman::HuffmanDecoder::new().decode(coded).ok()
    }

    #[test]
    fn every_symbol_is_the_librarys() {
        for byte in 0..=255 {
            let coded = encode(&[byte; 3]);
            assert_eq!(library(&coded).as_deref(), Some(&[byte; 3][..]));
            assert_eq!(decode(&coded).unwrap().bytes(), [byte; 3]);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_as_by_the_library(
            coded in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..40),
                "[ -~]{0,60}".prop_map(|text| encode(text.as_bytes())),
            ],
        ) {
            match (decode(&coded), library(&coded)) {
                (Some(ours), Some(theirs)) => {
                    prop_assert_eq!(usize::try_from(ours.length()).unwrap(), theirs.len());
                    prop_assert_eq!(ours.bytes(), &theirs[..theirs.len().min(KEPT)]);
                }
                (ours, theirs) => prop_assert_eq!(ours.is_some(), theirs.is_some()),
            }
        }
    }
}
