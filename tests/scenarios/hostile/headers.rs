//! Header blocks that are too much.

use super::http2::{self, Answer, Peer, code, flag, frame, kind};
use super::stage::Stage;
use anyhow::{bail, ensure};
use culvert_tests::{SOON, scenario};

/// Bytes of a header block in one frame; a frame of 16 KiB is what every peer takes.
const PIECE: usize = 16_000;

/// A request with so many more fields, cut into HEADERS and CONTINUATION.
fn large_request(stage: &Stage, stream: u32, more: &[(&str, &str)]) -> Vec<u8> {
    let authority = stage.authority();
    let mut list = vec![(":method", "CONNECT"), (":authority", authority.as_str())];
    list.extend(more);
    let block = http2::fields(&list);
    let pieces: Vec<_> = block.chunks(PIECE).collect();
    let mut bytes = Vec::new();
    for (at, piece) in pieces.iter().enumerate() {
        let kind = if at == 0 { kind::HEADERS } else { kind::CONTINUATION };
        let flags = if at + 1 == pieces.len() { flag::END_HEADERS } else { 0 };
        bytes.extend(frame(kind, flags, stream, piece));
    }
    bytes
}

fn too_large(more: Vec<(&'static str, String)>, over: &'static [Answer]) {
    scenario(move || {
        let stage = Stage::build()?;
        let mut peer = Peer::open(&stage)?;
        let more: Vec<_> = more.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let sent = peer.send(&large_request(&stage, 1, &more));
        let answer = match sent {
            Ok(()) => peer.answer(1, SOON)?,
            Err(_) => Answer::Ended,
        };
        ensure!(over.contains(&answer), "answered with {answer:?}");
        if answer != Answer::Status(431) {
            stage.counted("limit_reached", 1, "misuses HTTP/2")?;
        }
        drop(peer);
        stage.unharmed()
    });
}

#[test]
fn list_of_fields_over_the_limit_is_answered_with_431() {
    let more = vec![("x-long", "y".repeat(20_000))];
    too_large(more, &[Answer::Status(431)]);
}

#[test]
fn ten_thousand_fields_end_the_connection() {
    let more = (0..10_000).map(|_| ("x", "y".to_owned())).collect();
    too_large(more, &[Answer::GoAway(code::ENHANCE_YOUR_CALM), Answer::Ended]);
}

#[test]
fn field_of_a_megabyte_ends_the_connection() {
    let more = vec![("x-long", "y".repeat(1 << 20))];
    too_large(more, &[Answer::GoAway(code::ENHANCE_YOUR_CALM), Answer::Ended]);
}

#[test]
fn continuation_flood_ends_the_connection() {
    scenario(|| {
        let stage = Stage::build()?;
        let answer = stage.while_honest(|| {
            let mut peer = Peer::open(&stage)?;
            let authority = stage.authority();
            let block = http2::fields(&[(":method", "CONNECT"), (":authority", &authority)]);
            peer.send(&frame(kind::HEADERS, 0, 1, &block))?;
            // Never the last one (CVE-2024-27316): empty ones, and small fields without end.
            let field = http2::fields(&[("x", "y")]);
            let pieces = (0..100_000).map(|at| {
                let payload = if at % 2 == 0 { &field[..] } else { &[] };
                frame(kind::CONTINUATION, 0, 1, payload)
            });
            peer.flood(pieces)
        })?;
        match answer {
            Some(Answer::GoAway(code::ENHANCE_YOUR_CALM) | Answer::Ended) => {}
            other => bail!("the flood was answered with {other:?}"),
        }
        stage.counted("limit_reached", 1, "misuses HTTP/2")?;
        stage.unharmed()
    });
}

#[test]
fn compression_table_is_bounded() {
    scenario(|| {
        let stage = Stage::build()?;
        let mut peer = Peer::open(&stage)?;
        // A table of a gigabyte: more than was ever offered (RFC 7541 section 6.3).
        let mut block = vec![0x3f, 0xe1, 0xff, 0xff, 0xff, 0x03];
        let authority = stage.authority();
        block.extend(http2::fields(&[(":method", "CONNECT"), (":authority", &authority)]));
        peer.send(&frame(kind::HEADERS, flag::END_HEADERS, 1, &block))?;
        let answer = peer.answer(1, SOON)?;
        let compression_error = 9;
        ensure!(
            matches!(answer, Answer::GoAway(code) if code == compression_error || code == code::PROTOCOL_ERROR),
            "answered with {answer:?}"
        );
        stage.counted("h2_protocol", 1, "misuses HTTP/2")?;
        drop(peer);
        stage.unharmed()
    });
}
