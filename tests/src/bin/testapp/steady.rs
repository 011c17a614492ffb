//! A client that goes on whatever happens, and tells each second how it went so far: what runs in
//! a pod while nobody can talk to it.

use crate::{Target, report, socket};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

/// How often it tells.
const TELL: Duration = Duration::from_secs(1);

/// What is done each time.
pub(crate) struct Work {
    /// Connections that are kept and asked something each time; a broken one is opened anew.
    pub(crate) kept: usize,
    /// Time from one round to the next.
    pub(crate) every: Duration,
    /// After how many rounds it ends; never without.
    pub(crate) rounds: Option<u64>,
}

/// All that happened.
#[derive(Default)]
struct Told {
    ok: u64,
    failed: u64,
    kept_ok: u64,
    kept_broken: u64,
    longest: Duration,
    errors: BTreeMap<String, u64>,
    first: Option<String>,
}

impl Told {
    fn new_connection(&mut self, outcome: io::Result<()>, took: Duration) {
        let (label, failed) = match outcome {
            Ok(()) => ("ok".to_owned(), false),
            Err(error) => (format!("{:?}", error.kind()), true),
        };
        self.first.get_or_insert_with(|| label.clone());
        self.longest = self.longest.max(took);
        if failed {
            self.failed += 1;
            *self.errors.entry(label).or_default() += 1;
        } else {
            self.ok += 1;
        }
    }

    fn tell(&self) {
        report::line(&json!({
            "ok": self.ok, "failed": self.failed, "errors": self.errors, "first": self.first,
            "kept_ok": self.kept_ok, "kept_broken": self.kept_broken,
            "longest_ms": self.longest.as_millis(),
        }));
    }
}

/// Runs it. The first connection is opened at once, before anything else is done.
pub(crate) fn run(target: &Target, work: &Work) -> bool {
    let mut told = Told::default();
    let mut kept: Vec<Option<TcpStream>> = (0..work.kept).map(|_| None).collect();
    let mut next_tell = Instant::now();
    let mut round = 0;
    while work.rounds.is_none_or(|rounds| round < rounds) {
        let started = Instant::now();
        let outcome = socket::connect(target).and_then(|mut stream| ask(&mut stream, round));
        told.new_connection(outcome, started.elapsed());
        for place in &mut kept {
            ask_kept(place, target, round, &mut told);
        }
        round += 1;
        if Instant::now() >= next_tell {
            told.tell();
            next_tell = Instant::now() + TELL;
        }
        // The pace is what is played here, not a condition that is waited for.
        thread::sleep(work.every.saturating_sub(started.elapsed()));
    }
    told.tell();
    told.failed == 0 && told.kept_broken == 0
}

/// Asks on a kept connection; opens it when there is none, which is not counted.
fn ask_kept(place: &mut Option<TcpStream>, target: &Target, round: u64, told: &mut Told) {
    let Some(stream) = place else {
        *place = socket::connect(target).ok();
        return;
    };
    if let Err(error) = ask(stream, round) {
        told.kept_broken += 1;
        *told.errors.entry(format!("kept: {:?}", error.kind())).or_default() += 1;
        *place = None;
    } else {
        told.kept_ok += 1;
    }
}

fn ask(stream: &mut TcpStream, round: u64) -> io::Result<()> {
    let request = format!("round {round:016}");
    stream.write_all(request.as_bytes())?;
    let mut answer = vec![0; request.len()];
    stream.read_exact(&mut answer)?;
    if answer == request.as_bytes() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "another answer than asked for"))
}
