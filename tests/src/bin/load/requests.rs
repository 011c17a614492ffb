//! Requests in a closed loop: the next one when the answer is there.

use crate::latency::Latencies;
use crate::{Work, client};
use serde_json::json;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Requests that are made before the measurement, on each connection or by each client.
const WARM_UP: Duration = Duration::from_millis(100);

/// On connections that are made beforehand and kept.
pub(crate) fn on_kept_connections(
    to: SocketAddr,
    connections: usize,
    request: &[u8],
    answer: usize,
    work: &Work,
) -> io::Result<()> {
    let ready = || {
        let mut stream = client::connect(to)?;
        let mut buffer = vec![0; answer];
        until(Instant::now() + WARM_UP, || client::exchange(&mut stream, request, &mut buffer))?;
        Ok((stream, buffer))
    };
    let run = |(mut stream, mut buffer): (_, Vec<u8>), end| {
        until(end, || client::exchange(&mut stream, request, &mut buffer))
    };
    let (all, span) = client::measured(connections, work, ready, run)?;
    tell(all, &span);
    Ok(())
}

/// Each on a connection of its own; its time is that from `connect` to the answer.
pub(crate) fn on_new_connections(
    to: SocketAddr,
    clients: usize,
    size: usize,
    work: &Work,
) -> io::Result<()> {
    let request = vec![0x5a; size];
    let ready = || {
        let mut buffer = vec![0; size];
        until(Instant::now() + WARM_UP, || once(to, &request, &mut buffer).map(drop))?;
        Ok(buffer)
    };
    let run = |mut buffer: Vec<u8>, end| {
        let mut latencies = Latencies::default();
        while Instant::now() < end {
            latencies.add(once(to, &request, &mut buffer)?);
        }
        Ok(latencies)
    };
    let (all, span) = client::measured(clients, work, ready, run)?;
    tell(all, &span);
    Ok(())
}

/// Time to the answer; the close that follows is not part of it.
fn once(to: SocketAddr, request: &[u8], buffer: &mut [u8]) -> io::Result<Duration> {
    let started = Instant::now();
    let mut stream = client::connect(to)?;
    client::exchange(&mut stream, request, buffer)?;
    Ok(started.elapsed())
}

fn until(end: Instant, mut exchange: impl FnMut() -> io::Result<()>) -> io::Result<Latencies> {
    let mut latencies = Latencies::default();
    let mut started = Instant::now();
    while started < end {
        exchange()?;
        let now = Instant::now();
        latencies.add(now - started);
        started = now;
    }
    Ok(latencies)
}

fn tell(all: Vec<Latencies>, span: &client::Span) {
    let all = Latencies::joined(all).sorted();
    span.tell(json!({
        "requests": all.count(),
        "p50_us": all.microseconds(500),
        "p99_us": all.microseconds(990),
        "p999_us": all.microseconds(999),
    }));
}
