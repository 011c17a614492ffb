//! How a scenario runs: guarded, within a time, and with the agents' words when it fails.

use crate::guard;
use crate::process::tail;
use crate::sweep;
use anyhow::Result;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// How long a scenario may take, unless it says otherwise.
const LIMIT: Duration = Duration::from_mins(3);

/// Lines of each agent's log that a failure shows.
const LINES: usize = 60;

/// Runs the body of a scenario test within the usual time.
///
/// Where a lab cannot be built it prints `SKIP` and why; with `CULVERT_TEST_STRICT=1` that is a
/// failure.
///
/// # Panics
/// The scenario failed: the test fails with its text.
pub fn scenario(body: impl FnOnce() -> Result<()> + Send + 'static) {
    scenario_within(LIMIT, body);
}

/// Runs the body of a scenario test within a time of its own.
///
/// # Panics
/// As [`scenario`].
#[expect(clippy::panic, reason = "this is how a test fails")]
pub fn scenario_within(limit: Duration, body: impl FnOnce() -> Result<()> + Send + 'static) {
    if let Err(missing) = guard::check() {
        assert!(
            std::env::var_os("CULVERT_TEST_STRICT").is_none_or(|strict| strict != "1"),
            "no lab can be built here: {missing}"
        );
        // Not `eprintln!`: the test runner would hide it.
        let _ = writeln!(std::io::stderr(), "SKIP: {missing}"); // nobody there to hear is fine
        return;
    }
    let (sender, receiver) = mpsc::channel();
    let name = thread::current().name().unwrap_or("scenario").to_owned();
    let worker = thread::spawn(move || {
        let outcome = body();
        let _ = sender.send(()); // the one who waits has given up
        outcome
    });
    let late = matches!(receiver.recv_timeout(limit), Err(mpsc::RecvTimeoutError::Timeout));
    if late {
        let said = words();
        // Ends the programs that the body waits for; it then ends by itself or with the process.
        end_own_labs();
        panic!("{name}: no end after {} s\n{said}", limit.as_secs());
    }
    match worker.join() {
        Ok(Ok(())) => sweep::forget_own_logs(),
        Ok(Err(error)) => panic!("{name}: {error:?}\n{}", words()),
        Err(payload) => {
            let _ = writeln!(std::io::stderr(), "{}", words()); // nobody there to hear is fine
            std::panic::resume_unwind(payload)
        }
    }
}

/// Says why a scenario is not run that needs what no lab does, such as another language's tools.
///
/// No failure under `CULVERT_TEST_STRICT=1` either: whether Culvert works does not rest on them.
pub fn skip(missing: &str) {
    // Not `eprintln!`: the test runner would hide it.
    let _ = writeln!(std::io::stderr(), "SKIP: {missing}"); // nobody there to hear is fine
}

fn end_own_labs() {
    for id in sweep::own_labs() {
        if let Err(error) = sweep::remove(&id) {
            eprintln!("warning: lab {id}: {error:#}");
        }
    }
}

/// The last lines of what agents and CA of this process's labs said.
fn words() -> String {
    let standing = sweep::own_labs().into_iter().map(|id| sweep::directory(&id).join("logs"));
    let mut text = String::new();
    for logs in standing.chain(sweep::own_logs()) {
        text += &words_in(&logs);
    }
    text
}

fn words_in(logs: &Path) -> String {
    let mut paths: Vec<_> =
        fs::read_dir(logs).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let mut text = format!("logs: {}\n", logs.display());
    for path in paths {
        let ours =
            path.file_name().is_some_and(|name| name.to_string_lossy().contains(".culvert."));
        let said = fs::read(&path).unwrap_or_default();
        if ours && !said.is_empty() {
            let said = String::from_utf8_lossy(&said).into_owned();
            let _ = writeln!(text, "--- {}\n{}", path.display(), tail(&said, LINES)); // never fails
        }
    }
    text
}
