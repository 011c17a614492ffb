//! Streams that are opened to be given up.

use super::http2::{self, Answer, Peer, code};
use super::stage::Stage;
use anyhow::{bail, ensure};
use culvert_tests::{SOON, scenario};

/// The ids of a client's streams, in order.
fn streams(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|number| 2 * number + 1)
}

#[test]
fn rapid_reset_ends_the_connection() {
    scenario(|| {
        let stage = Stage::build()?;
        let answer = stage.while_honest(|| {
            let mut peer = Peer::open(&stage)?;
            let authority = stage.authority();
            // Opened and reset in one write, a hundred at a time (CVE-2023-44487).
            let ids: Vec<_> = streams(10_000).collect();
            peer.flood(ids.chunks(100).map(|ids| {
                ids.iter()
                    .flat_map(|&id| [http2::connect(id, &authority), http2::reset(id)].concat())
                    .collect()
            }))
        })?;
        match answer {
            Some(Answer::GoAway(code::ENHANCE_YOUR_CALM) | Answer::Ended) => {}
            other => bail!("ten thousand resets were answered with {other:?}"),
        }
        stage.counted("limit_reached", 1, "")?;
        stage.still_serves()
    });
}

#[test]
fn resets_after_the_answer_leave_nothing_behind() {
    scenario(|| {
        let stage = Stage::build()?;
        stage.while_honest(|| {
            let mut peer = Peer::open(&stage)?;
            let authority = stage.authority();
            for id in streams(1000) {
                peer.send(&http2::connect(id, &authority))?;
                let answer = peer.answer(id, SOON)?;
                ensure!(answer == Answer::Status(200), "stream {id} was answered with {answer:?}");
                peer.send(&http2::reset(id))?;
            }
            Ok(())
        })?;
        stage.counted("peer_reset", 1000, "the far end reset the flow")?;
        stage.still_serves()
    });
}

#[test]
fn more_streams_than_allowed_are_refused() {
    scenario(|| {
        let stage = Stage::build()?;
        let mut peer = Peer::open(&stage)?;
        let authority = stage.authority();
        for id in streams(101) {
            peer.send(&http2::connect(id, &authority))?;
        }
        // The hundred and first, by REFUSED_STREAM, or the connection for a peer that knew better.
        let refused_stream = 7;
        let answer = peer.answer(201, SOON)?;
        ensure!(
            answer == Answer::Reset(refused_stream)
                || answer == Answer::GoAway(code::PROTOCOL_ERROR),
            "the hundred and first stream was answered with {answer:?}"
        );
        drop(peer);
        stage.still_serves()
    });
}
