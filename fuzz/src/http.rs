//! HTTP seen in passing.
//!
//! An input is a conversation: before each piece one byte, whose highest bit says that the server
//! said it, and whose others how long it is. Read in other pieces, it must tell the same; and
//! nothing may be told of before it was asked.

use crate::Verdict;
use culvert_agent::observe::http::Version;
use culvert_agent::observe::http::{Exchange, GaveUp, MAX_PIPELINED, MAX_STREAMS, Reader, Seen};
use std::sync::LazyLock;
use std::time::Instant;

/// When all of it happens: pieces must make no difference.
static NOW: LazyLock<Instant> = LazyLock::new(Instant::now);

#[derive(Debug, Default, PartialEq)]
struct Told {
    begun: Option<Version>,
    exchanges: Vec<Exchange>,
    gave_up: Option<GaveUp>,
}

impl Seen for Told {
    fn begun(&mut self, version: Version) {
        assert_eq!(self.begun, None, "it begins twice");
        self.begun = Some(version);
    }

    fn exchange(&mut self, exchange: Exchange) {
        assert!(self.begun.is_some() && self.gave_up.is_none(), "told outside of its life");
        assert!(exchange.status.is_none_or(|status| (100..1000).contains(&status)));
        self.exchanges.push(exchange);
    }

    fn gave_up(&mut self, why: GaveUp) {
        assert!(self.begun.is_some() && self.gave_up.is_none(), "given up twice, or too early");
        self.gave_up = Some(why);
    }
}

pub(crate) fn run(input: &[u8]) -> Verdict {
    let whole = read(input, usize::MAX);
    for pieces in [1, 7] {
        assert_eq!(read(input, pieces), whole, "in pieces of {pieces}");
    }
    let asked = input.len().max(MAX_PIPELINED).max(MAX_STREAMS);
    assert!(whole.exchanges.len() <= asked, "more than was asked");
    let answered = whole.exchanges.iter().any(|exchange| exchange.status.is_some());
    if answered { Verdict::Taken } else { Verdict::Refused }
}

fn read(mut input: &[u8], pieces: usize) -> Told {
    let (mut reader, mut told) = (Reader::new(), Told::default());
    while let Some((head, rest)) = input.split_first() {
        let length = usize::from(head & 0x7f).min(rest.len());
        let (said, after) = rest.split_at(length);
        for piece in said.chunks(pieces) {
            if head & 0x80 == 0 {
                reader.request(piece, *NOW, &mut told);
            } else {
                reader.response(piece, *NOW, &mut told);
            }
        }
        input = after;
    }
    reader.end(None, *NOW, &mut told);
    told
}
