//! Peers that stop: in the middle of a request, of a flow, or of everything.

use super::http2::{self, Answer, Peer, Setting, frame, kind};
use super::stage::Stage;
use anyhow::{Context, Result, ensure};
use culvert_tests::{Process, SOON, scenario};
use std::net::Shutdown;
use std::time::Duration;

/// Port of the second application, which reads or writes without end.
const STUBBORN: u16 = 81;

/// PINGs go out every 10 s and may take 20 s; and what a busy machine adds.
const KEEPALIVE: Duration = Duration::from_secs(45);

/// Bytes of an application that has more to send than anything between can hold.
const MUCH: &str = "1000000000";

fn stubborn(stage: &Stage, words: &[&str]) -> Result<Process> {
    let listen = format!("[::]:{STUBBORN}");
    let all = [&words[..1], &["--listen", &listen], &words[1..]].concat();
    let application = stage.lab.pod("b1").app(&all)?;
    application.wait_for("listening", SOON)?;
    Ok(application)
}

/// A peer with an open flow to the second application.
fn flow(stage: &Stage, settings: &[Setting]) -> Result<Peer> {
    let mut peer = Peer::open_with(stage, settings)?;
    peer.send(&http2::connect(1, &stage.lab.pod("b1").at(STUBBORN).to_string()))?;
    let answer = peer.answer(1, SOON)?;
    ensure!(answer == Answer::Status(200), "the flow was answered with {answer:?}");
    Ok(peer)
}

/// Waits for the application's own word that its connection from the attacker failed.
fn application_was_reset(stage: &Stage, application: &Process, limit: Duration) -> Result<()> {
    let line = application.wait_for_line("the application's end", limit, |line| {
        line.contains("\"errno\"") && stage.mentions_attacker(line)
    })?;
    ensure!(line.contains("ConnectionReset") || line.contains("BrokenPipe"), "it ended by {line}");
    Ok(())
}

#[test]
fn zero_window_holds_its_own_flow_only() {
    scenario(|| {
        let stage = Stage::build()?;
        let source = stubborn(&stage, &["source", "--bytes", MUCH])?;
        let peer = flow(&stage, &[(http2::INITIAL_WINDOW_SIZE, 0)])?;
        stage.honest()?;
        stage.memory_is_bounded()?;
        // The peer goes; the application that waits for room must hear of it.
        drop(peer);
        application_was_reset(&stage, &source, SOON)?;
        stage.counted("peer_reset", 1, "the far end reset the flow")?;
        stage.application_is_let_go(STUBBORN, SOON)?;
        drop(source);
        stage.unharmed()
    });
}

#[test]
fn window_without_end_is_a_fault() {
    scenario(|| {
        let stage = Stage::build()?;
        let mut peer = Peer::open(&stage)?;
        // Twice the most that a window may be (RFC 9113 section 6.9.1).
        let more = frame(kind::WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes());
        peer.send(&more.repeat(2))?;
        let flow_control_error = 3;
        let answer = peer.answer(1, SOON)?;
        ensure!(answer == Answer::GoAway(flow_control_error), "answered with {answer:?}");
        stage.counted("h2_protocol", 1, "misuses HTTP/2")?;
        drop(peer);
        stage.unharmed()
    });
}

#[test]
fn reader_that_never_reads_is_given_up() {
    scenario(|| {
        let stage = Stage::build()?;
        let source = stubborn(&stage, &["source", "--bytes", MUCH])?;
        let largest = 0x7fff_ffff;
        let mut peer = flow(&stage, &[(http2::INITIAL_WINDOW_SIZE, largest)])?;
        // Room for all of it in the window, none in the socket: PINGs go unanswered.
        peer.send(&frame(kind::WINDOW_UPDATE, 0, 0, &(largest - 65_535).to_be_bytes()))?;
        stage.honest()?;
        application_was_reset(&stage, &source, KEEPALIVE)?;
        stage.memory_is_bounded()?;
        stage.counted("peer_gone", 1, "answered no PING in time")?;
        stage.application_is_let_go(STUBBORN, SOON)?;
        drop((peer, source));
        stage.unharmed()
    });
}

/// A client that sends until nothing goes any more to an application that reads nothing, then
/// ends in this way.
fn gone(end: fn(Peer) -> Result<Option<Peer>>) {
    scenario(move || {
        let stage = Stage::build()?;
        let never = stubborn(&stage, &["never-read"])?;
        let mut peer = flow(&stage, &[])?;
        // More than the application's socket takes: the rest stays in the agent.
        peer.stall(1, 100_000)?;
        stage.honest()?;
        let left = end(peer)?;
        stage.application_is_let_go(STUBBORN, SOON)?;
        stage.counted("peer_reset", 1, "the far end reset the flow")?;
        drop((left, never));
        stage.unharmed()
    });
}

#[test]
fn client_that_closes_while_the_application_does_not_read_is_let_go() {
    gone(|peer| {
        drop(peer);
        Ok(None)
    });
}

#[test]
fn client_that_resets_its_stream_while_the_application_does_not_read_is_let_go() {
    gone(|mut peer| {
        peer.send(&http2::reset(1))?;
        // The connection stays, as one does that carries other flows.
        Ok(Some(peer))
    });
}

#[test]
fn client_that_half_closes_and_goes_while_the_application_does_not_read_is_let_go() {
    gone(|mut peer| {
        peer.send(&frame(kind::DATA, http2::flag::END_STREAM, 1, b"the end"))?;
        peer.tls.socket.shutdown(Shutdown::Both).context("could not shut down")?;
        Ok(None)
    });
}

#[test]
fn peer_that_vanishes_is_noticed() {
    scenario(|| {
        let stage = Stage::build()?;
        let never = stubborn(&stage, &["never-read"])?;
        let peer = flow(&stage, &[])?;
        // No packet of the attacker's pod leaves it any more: neither FIN nor RST.
        stage.lab.pod("x1").netns().ip("link set eth0 down\n")?;
        stage.honest()?;
        stage.application_is_let_go(STUBBORN, KEEPALIVE)?;
        stage.counted("peer_gone", 1, "answered no PING in time")?;
        drop((peer, never));
        stage.unharmed()
    });
}

#[test]
fn connections_without_a_request_end_by_themselves() {
    scenario(|| {
        let stage = Stage::build_with(|lab| lab.set("tunnel", "drainTimeout", "2s"))?;
        // One that says nothing inside of TLS, one that begins a request and never ends it.
        let mut silent = stage.believed()?;
        let mut begun = Peer::open(&stage)?;
        let authority = stage.authority();
        let block = http2::fields(&[(":method", "CONNECT"), (":authority", &authority)]);
        begun.send(&frame(kind::HEADERS, 0, 1, &block))?;
        stage.honest()?;
        silent.socket.set_read_timeout(Some(KEEPALIVE))?;
        let (_, end) = silent.last_word();
        ensure!(end.is_over(), "a connection without HTTP/2 outlives its deadline");
        stage.counted("h2_handshake", 1, "does not speak HTTP/2 inside of TLS")?;
        while begun.next(KEEPALIVE)?.is_some() {}
        drop((silent, begun));
        stage.unharmed()
    });
}
