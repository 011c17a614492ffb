//! Frames that cost the sender nothing. What the library bounds ends the connection; what it
//! answers one by one must neither hold up others nor grow.

use super::http2::{self, Answer, Peer, code, flag, frame, kind};
use super::stage::Stage;
use anyhow::{Result, bail, ensure};
use culvert_tests::{SOON, scenario};
use std::time::{Duration, Instant};

/// How long a flood that nothing forbids goes on.
const LONG_ENOUGH: Duration = Duration::from_secs(2);

/// A flood that may go on: honest flows get through, memory stays, and the connection is usable.
fn bearable(piece: Vec<u8>) {
    scenario(move || {
        let stage = Stage::build()?;
        stage.while_honest(|| {
            let mut peer = Peer::open(&stage)?;
            let begun = Instant::now();
            let pieces =
                std::iter::from_fn(|| (begun.elapsed() < LONG_ENOUGH).then(|| piece.clone()));
            match peer.flood(pieces)? {
                None => {}
                Some(Answer::GoAway(code::ENHANCE_YOUR_CALM)) => {
                    return stage.counted("limit_reached", 1, "misuses HTTP/2");
                }
                Some(other) => bail!("the flood was answered with {other:?}"),
            }
            stage.memory_is_bounded()?;
            peer.send(&http2::connect(1, "192.0.2.1:80"))?;
            let answer = peer.answer(1, SOON)?;
            ensure!(answer == Answer::Status(400), "then a request was answered with {answer:?}");
            stage.counted("wrong_destination", 1, "")
        })?;
        stage.unharmed()
    });
}

#[test]
fn ping_flood_harms_nobody() {
    bearable(frame(kind::PING, 0, 0, b"hostile!").repeat(1000));
}

#[test]
fn settings_flood_harms_nobody() {
    let all = http2::settings(&[(1, 4096), (http2::INITIAL_WINDOW_SIZE, 65_535), (5, 16_384)]);
    bearable(all.repeat(1000));
}

#[test]
fn flood_of_frames_of_unknown_kind_harms_nobody() {
    bearable(frame(0xbb, 0xff, 0, &[0; 16]).repeat(1000));
}

/// DATA frames on a stream whose application reads nothing: what the victim keeps of each must be
/// bounded although the frames use up little or nothing of the window.
fn data_flood(flags: u8, payload: &'static [u8]) {
    scenario(move || {
        let stage = Stage::build()?;
        let pod = stage.lab.pod("b1");
        let never = pod.app(&["never-read", "--listen", "[::]:81"])?;
        never.wait_for("listening", SOON)?;
        let to = pod.at(81).to_string();
        let answer = stage.while_honest(|| flood_stream(&stage, &to, flags, payload))?;
        match answer {
            Some(Answer::GoAway(code::ENHANCE_YOUR_CALM) | Answer::Ended) => {
                stage.counted("limit_reached", 1, "misuses HTTP/2")?;
            }
            // All of the stream's window was taken and held.
            None if !payload.is_empty() => {}
            other => bail!("the flood was answered with {other:?}"),
        }
        stage.application_is_let_go(81, SOON)?;
        drop(never);
        stage.unharmed()
    });
}

fn flood_stream(stage: &Stage, to: &str, flags: u8, payload: &[u8]) -> Result<Option<Answer>> {
    let mut peer = Peer::open(stage)?;
    peer.send(&http2::connect(1, to))?;
    let answer = peer.answer(1, SOON)?;
    ensure!(answer == Answer::Status(200), "the stream was answered with {answer:?}");
    // First all that the application's socket takes, so that the rest waits in the agent.
    peer.stall(1, 400_000)?;
    let piece = frame(kind::DATA, flags, 1, payload).repeat(1000);
    let ended = peer.flood((0..380).map(|_| piece.clone()))?;
    stage.memory_is_bounded()?;
    Ok(ended)
}

#[test]
fn flood_of_empty_data_frames_ends_the_connection() {
    data_flood(0, &[]);
}

#[test]
fn flood_of_padding_only_data_frames_ends_the_connection() {
    data_flood(flag::PADDED, &[0]);
}

#[test]
fn flood_of_one_byte_data_frames_is_bounded() {
    data_flood(0, b"x");
}
