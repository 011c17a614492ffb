//! What all clients share: their connections, and the frame of a measurement.

use crate::Work;
use culvert_tests::usage::{self, Usage};
use serde_json::{Value, json};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

/// Without progress for so long, a measurement has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Connects as all clients do.
pub(crate) fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// One request and its answer, which is as long as the buffer.
pub(crate) fn exchange(
    stream: &mut TcpStream,
    request: &[u8],
    buffer: &mut [u8],
) -> io::Result<()> {
    stream.write_all(request)?;
    stream.read_exact(buffer)
}

/// Runs `count` threads at once. Each first makes ready, then all start at one moment, which is
/// when the measurement begins; it ends when the last one has.
///
/// # Errors
/// The first one's that failed; all others are still waited for.
pub(crate) fn measured<S, T: Send>(
    count: usize,
    work: &Work,
    ready: impl Fn() -> io::Result<S> + Sync,
    run: impl Fn(S, Instant) -> io::Result<T> + Sync,
) -> io::Result<(Vec<T>, Span)> {
    let (all_ready, go) = (Barrier::new(count + 1), Barrier::new(count + 1));
    let time = work.time();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|_| {
                let (ready, run, all_ready, go) = (&ready, &run, &all_ready, &go);
                scope.spawn(move || {
                    let made = ready();
                    all_ready.wait();
                    go.wait();
                    run(made?, Instant::now() + time)
                })
            })
            .collect();
        all_ready.wait();
        let before = usage::read(&work.watch);
        let start = Instant::now();
        go.wait();
        let ended: Vec<_> = threads
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|_| Err(io::Error::other("a client's thread panicked")))
            })
            .collect();
        let seconds = start.elapsed().as_secs_f64();
        let used = usage::read(&work.watch)?.since(&before?);
        Ok((ended.into_iter().collect::<io::Result<_>>()?, Span { seconds, used }))
    })
}

/// How long a measurement took, and the CPU time spent in it.
pub(crate) struct Span {
    seconds: f64,
    used: Usage,
}

impl Span {
    /// Prints the line, with the caller's own fields.
    pub(crate) fn tell(&self, mut fields: Value) {
        fields["seconds"] = json!(self.seconds);
        self.used.tell(&mut fields);
        println!("{fields}");
    }
}

/// Sleeps, and tells what the system did meanwhile.
pub(crate) fn rest(work: &Work) -> io::Result<()> {
    let (_, span) = measured(
        1,
        work,
        || Ok(()),
        |(), end| {
            // The time itself is what is measured here.
            thread::sleep(end.saturating_duration_since(Instant::now()));
            Ok(())
        },
    )?;
    span.tell(json!({}));
    Ok(())
}
