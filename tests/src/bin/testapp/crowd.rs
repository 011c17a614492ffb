//! Clients of many connections, one after the other or at once.

use crate::{Target, report, socket};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Opens many connections, checks each, and checks them again when told.
pub(crate) fn hold(target: &Target, count: usize, parallel: usize) -> io::Result<bool> {
    let held = Mutex::new(Vec::with_capacity(count));
    let errors = Errors::default();
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..parallel.max(1) {
            scope.spawn(|| {
                while let Some(number) = take(&next, Some(count)) {
                    let opened = socket::connect(target).and_then(|mut stream| {
                        check(&mut stream, number)?;
                        Ok((number, stream))
                    });
                    match opened {
                        Ok(pair) => {
                            held.lock().unwrap_or_else(PoisonError::into_inner).push(pair);
                        }
                        Err(error) => errors.add(&error),
                    }
                }
            });
        }
    });
    let mut held = held.into_inner().unwrap_or_else(PoisonError::into_inner);
    report::line(&json!({ "held": held.len(), "failed": errors.count(), "errors": errors.map() }));
    io::stdin().read_to_end(&mut Vec::new())?;
    let mut whole = 0;
    for (number, stream) in &mut held {
        match check(stream, number.wrapping_add(count)) {
            Ok(()) => whole += 1,
            Err(error) => errors.add(&error),
        }
    }
    report::line(&json!({ "held": whole, "failed": errors.count(), "errors": errors.map() }));
    Ok(errors.count() == 0)
}

/// Many short connections.
pub(crate) fn short(target: &Target, count: Option<usize>, parallel: usize) -> bool {
    let errors = Errors::default();
    let (next, ok) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let stop = AtomicBool::new(false);
    let started = Instant::now();
    thread::scope(|scope| {
        if count.is_none() {
            scope.spawn(|| {
                // An error of reading ends it as the end of the input does.
                let _ = io::stdin().read_to_end(&mut Vec::new());
                stop.store(true, Ordering::Relaxed);
            });
        }
        for _ in 0..parallel.max(1) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let Some(number) = take(&next, count) else { break };
                    let done =
                        socket::connect(target).and_then(|mut stream| check(&mut stream, number));
                    match done {
                        Ok(()) => _ = ok.fetch_add(1, Ordering::Relaxed),
                        Err(error) => errors.add(&error),
                    }
                }
            });
        }
    });
    report::line(&json!({
        "ok": ok.into_inner(), "failed": errors.count(), "errors": errors.map(),
        "ms": started.elapsed().as_millis(),
    }));
    errors.count() == 0
}

/// Requests on one connection.
pub(crate) fn ping(target: &Target, count: Option<u64>, every_ms: u64) -> io::Result<bool> {
    let mut stream = socket::connect(target)?;
    report::line(&json!({ "connected": true }));
    let stop = AtomicBool::new(false);
    let (mut ok, mut longest) = (0_u64, Duration::ZERO);
    let outcome = thread::scope(|scope| {
        if count.is_none() {
            scope.spawn(|| {
                // As above.
                let _ = io::stdin().read_to_end(&mut Vec::new());
                stop.store(true, Ordering::Relaxed);
            });
        }
        while !stop.load(Ordering::Relaxed) && count.is_none_or(|count| ok < count) {
            let started = Instant::now();
            if let Err(error) = check(&mut stream, usize::try_from(ok).unwrap_or_default()) {
                report::line(&json!({ "ok": ok, "failed": 1, "error": report::error(&error) }));
                // The thread that waits for the input must not keep a failed client alive.
                std::process::exit(1);
            }
            longest = longest.max(started.elapsed());
            ok += 1;
            // The pace is what is played here, not a condition that is waited for.
            thread::sleep(Duration::from_millis(every_ms));
        }
        true
    });
    report::line(&json!({ "ok": ok, "failed": 0, "longest_ms": longest.as_millis() }));
    Ok(outcome)
}

/// One request and its answer; each request is another.
fn check(stream: &mut TcpStream, number: usize) -> io::Result<()> {
    let request = format!("request {number:012}");
    stream.write_all(request.as_bytes())?;
    let mut answer = vec![0; request.len()];
    stream.read_exact(&mut answer)?;
    if answer != request.as_bytes() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "another answer than asked for"));
    }
    Ok(())
}

fn take(next: &AtomicUsize, count: Option<usize>) -> Option<usize> {
    let number = next.fetch_add(1, Ordering::Relaxed);
    count.is_none_or(|count| number < count).then_some(number)
}

/// Failures by their name.
#[derive(Default)]
struct Errors(Mutex<BTreeMap<String, usize>>);

impl Errors {
    fn add(&self, error: &io::Error) {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *map.entry(format!("{:?}", error.kind())).or_default() += 1;
    }

    fn count(&self) -> usize {
        self.map().values().sum()
    }

    fn map(&self) -> BTreeMap<String, usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
