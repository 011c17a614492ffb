//! Clients of one connection.

use crate::{Target, pattern, report, socket};
use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// What `talk` does after it has connected.
pub(crate) struct Wish {
    pub(crate) line: bool,
    pub(crate) send: String,
    pub(crate) nonblocking: bool,
    pub(crate) only_connect: bool,
}

/// Connects, tells what the kernel says of both ends, and has one exchange.
pub(crate) fn talk(target: &Target, wish: &Wish) -> io::Result<bool> {
    let started = Instant::now();
    let connected = if wish.nonblocking {
        socket::connect_nonblocking(target)
    } else {
        socket::connect(target)
    };
    let mut stream = match connected {
        Ok(stream) => stream,
        Err(error) => return Ok(failed("connect", &error, started)),
    };
    let connect_us = micros(started);
    let mut said = json!({
        // A socket that was reset meanwhile has none; the exchange then tells the error.
        "peer": stream.peer_addr().ok().map(|peer| peer.to_string()),
        "local": stream.local_addr()?.to_string(),
        "connect_us": connect_us,
    });
    if !wish.only_connect {
        match exchange(&mut stream, wish, target.fast_open, &mut said) {
            Ok(()) => {}
            Err(error) => return Ok(failed("exchange", &error, started)),
        }
    }
    report::line(&said);
    Ok(wish.only_connect || said["echoed"] == json!(true))
}

fn exchange(
    stream: &mut TcpStream,
    wish: &Wish,
    fast_open: bool,
    said: &mut Value,
) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    if wish.line {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        said["saw"] = serde_json::from_str(&line).map_err(io::Error::other)?;
    }
    stream.write_all(wish.send.as_bytes())?;
    let expected = if fast_open { format!("f{}", wish.send) } else { wish.send.clone() };
    let mut back = vec![0; expected.len()];
    reader.read_exact(&mut back)?;
    said["echoed"] = json!(back == expected.as_bytes());
    Ok(())
}

/// Sends and receives at once.
pub(crate) fn transfer(target: &Target, bytes: u64, expect: u64) -> io::Result<bool> {
    let started = Instant::now();
    let mut stream = socket::connect(target)?;
    let mut writing = stream.try_clone()?;
    let (sent, received) = thread::scope(|scope| {
        let writer = scope.spawn(move || {
            pattern::send(&mut writing, bytes)?;
            writing.shutdown(Shutdown::Write)
        });
        let received = pattern::receive(&mut stream, None, None);
        let sent = writer.join().unwrap_or_else(|_| Err(io::Error::other("writer panicked")));
        (sent, received)
    });
    let whole = received.matches && received.bytes == expect && received.end.is_ok();
    report::line(&json!({
        "sent": bytes, "send": report::end(&sent), "received": received.bytes,
        "matches": received.matches, "end": report::end(&received.end),
        "ms": started.elapsed().as_millis(),
    }));
    Ok(whole && sent.is_ok())
}

/// Sends all, closes its side, and only then reads all back.
pub(crate) fn half_close(target: &Target, bytes: u64) -> io::Result<bool> {
    let mut stream = socket::connect(target)?;
    let mut writing = stream.try_clone()?;
    let received = thread::scope(|scope| {
        // An echo server stops reading when nobody takes its answers, so they are taken meanwhile.
        let writer = scope.spawn(move || {
            pattern::send(&mut writing, bytes)?;
            writing.shutdown(Shutdown::Write)
        });
        let received = pattern::receive(&mut stream, None, None);
        writer
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("writer panicked")))
            .map(|()| received)
    })?;
    let whole = received.matches && received.bytes == bytes && received.end.is_ok();
    report::line(&json!({ "received": received.bytes, "matches": received.matches,
                          "end": report::end(&received.end) }));
    Ok(whole)
}

/// Reads to the end of the server's side, then uses its own that is still open.
pub(crate) fn read_then_write(target: &Target, bytes: u64) -> io::Result<bool> {
    let mut stream = socket::connect(target)?;
    let received = pattern::receive(&mut stream, None, None);
    pattern::send(&mut stream, bytes)?;
    stream.shutdown(Shutdown::Write)?;
    report::line(&json!({ "received": received.bytes, "matches": received.matches,
                          "end": report::end(&received.end), "sent": bytes }));
    Ok(received.matches && received.end.is_ok())
}

/// Reads at a pace of its own.
pub(crate) fn read_slowly(target: &Target, rate: u64, bytes: Option<u64>) -> io::Result<bool> {
    let mut stream = socket::connect(target)?;
    let received = pattern::receive(&mut stream, Some(rate), bytes);
    report::line(&json!({ "received": received.bytes, "matches": received.matches,
                          "end": report::end(&received.end) }));
    Ok(received.matches && received.end.is_ok())
}

/// Sends until the other side takes no more.
pub(crate) fn stall(target: &Target, to_the_end: bool) -> io::Result<bool> {
    let mut stream = socket::connect(target)?;
    stream.set_write_timeout(Some(Duration::from_secs(1)))?;
    let chunk = [0x5a; 16 * 1024];
    let mut sent = 0_u64;
    loop {
        match stream.write(&chunk) {
            Ok(length) => sent += length as u64,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                break;
            }
            Err(error) => return Err(error),
        }
    }
    report::line(&json!({ "stalled": sent }));
    if to_the_end {
        let received = pattern::receive(&mut stream, None, None);
        report::line(&json!({ "received": received.bytes, "end": report::end(&received.end) }));
        return Ok(true);
    }
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(true)
}

/// Sends and resets.
pub(crate) fn reset(target: &Target, bytes: u64, answered: bool) -> io::Result<bool> {
    let mut stream = socket::connect(target)?;
    pattern::send(&mut stream, bytes)?;
    if answered {
        pattern::receive(&mut stream, None, Some(bytes)).end?;
    }
    socket::reset(stream)?;
    report::line(&json!({ "reset": true, "sent": bytes }));
    Ok(true)
}

/// Waits for the other side to end and tells how.
pub(crate) fn wait_end(target: &Target, bytes: u64) -> io::Result<bool> {
    let started = Instant::now();
    let mut stream = socket::connect(target)?;
    report::line(&json!({ "connected": true }));
    // A reset may come before all is sent; how it ends is told by reading.
    let _ = pattern::send(&mut stream, bytes);
    let received = pattern::receive(&mut stream, None, None);
    report::line(&json!({ "received": received.bytes, "end": report::end(&received.end),
                          "ms": started.elapsed().as_millis() }));
    Ok(true)
}

fn failed(step: &str, error: &io::Error, started: Instant) -> bool {
    let mut line = report::error(error);
    line["step"] = json!(step);
    line["us"] = json!(micros(started));
    report::line(&line);
    false
}

fn micros(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX)
}
