//! Streams that send as fast as they can.

use crate::{Work, client};
use serde_json::json;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::Instant;

/// Bytes written at a time.
const CHUNK: usize = 256 << 10;

/// Short streams sent beforehand, so that no measured one waits for a handshake between nodes:
/// several, for each worker of an agent has connections of its own.
const WARM_UP: usize = 16;

/// Sends for the time given, closes its side and waits for the sink's count: what is counted has
/// arrived, and all work that it made lies inside of the measurement.
pub(crate) fn run(to: SocketAddr, streams: usize, work: &Work) -> io::Result<()> {
    for _ in 0..WARM_UP {
        send(client::connect(to)?, Instant::now())?;
    }
    let (sent, span) = client::measured(streams, work, || client::connect(to), send)?;
    span.tell(json!({ "bytes": sent.iter().sum::<u64>() }));
    Ok(())
}

fn send(mut stream: std::net::TcpStream, end: Instant) -> io::Result<u64> {
    let chunk = vec![0x5a; CHUNK];
    let mut sent = 0_u64;
    loop {
        stream.write_all(&chunk)?;
        sent += CHUNK as u64; // a usize is at most 64 bits wide
        if Instant::now() >= end {
            break;
        }
    }
    stream.shutdown(Shutdown::Write)?;
    let mut count = [0; 8];
    stream.read_exact(&mut count)?;
    let taken = u64::from_be_bytes(count);
    if taken != sent {
        return Err(io::Error::other(format!("sent {sent} bytes, {taken} arrived")));
    }
    Ok(sent)
}
