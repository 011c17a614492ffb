//! `/debug/pprof/profile` and `/memory`: what the process does with its time and memory.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use pprof::{ProfilerGuard, ProfilerGuardBuilder};
use tokio::sync::Semaphore;

use super::answer::refuse;
use crate::serve::{Reply, text};

/// Samples a second of processor time; no divisor of what else happens each second.
const FREQUENCY: i32 = 99;
/// How long a profile is where nothing is said.
const USUAL: u64 = 10;
/// The longest profile.
const MOST: u64 = 60;
/// Libraries in whose midst the stack is not looked at: they hold locks that doing so takes.
const APART: [&str; 4] = ["libc", "libgcc", "pthread", "vdso"];
/// What of `/proc/self/status` tells of memory and size.
const OF_STATUS: [&str; 8] =
    ["VmPeak", "VmSize", "VmHWM", "VmRSS", "RssAnon", "RssFile", "VmSwap", "Threads"];

/// Takes one profile at a time.
#[derive(Clone)]
pub(super) struct Profiler(Arc<Semaphore>);

impl Default for Profiler {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl Profiler {
    /// Looks where the processor's time goes for `seconds` and answers in folded stacks: a line a
    /// stack, from the thread inwards, with how often it was seen.
    ///
    /// Ends when dropped.
    pub(super) async fn profile(&self, seconds: Option<&str>) -> Reply {
        let seconds = match seconds.map_or(Ok(USUAL), str::parse) {
            Ok(seconds) if (1..=MOST).contains(&seconds) => seconds,
            _ => {
                let text = format!("`seconds` is a whole number from 1 to {MOST}");
                return refuse(StatusCode::BAD_REQUEST, &text);
            }
        };
        let Ok(_only) = self.0.try_acquire() else {
            let text = "a profile is being taken already; ask again when it is done";
            return refuse(StatusCode::CONFLICT, text);
        };
        tracing::info!(seconds, "profile begins");
        let guard = ProfilerGuardBuilder::default().frequency(FREQUENCY).blocklist(&APART).build();
        let Ok(guard) = guard.inspect_err(|error| tracing::warn!(%error, "no profile")) else {
            let text = "the kernel gives no profiling timer; use perf(1) on the node instead";
            return refuse(StatusCode::INTERNAL_SERVER_ERROR, text);
        };
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        // Names of functions are looked up now, which takes a while.
        match tokio::task::spawn_blocking(move || folded(&guard)).await {
            Ok(Ok(stacks)) => text(StatusCode::OK, stacks),
            Ok(Err(error)) => {
                tracing::warn!(%error, "profile not made");
                refuse(StatusCode::INTERNAL_SERVER_ERROR, &format!("no profile: {error}"))
            }
            Err(error) => {
                refuse(StatusCode::INTERNAL_SERVER_ERROR, &format!("no profile: {error}"))
            }
        }
    }
}

fn folded(guard: &ProfilerGuard<'_>) -> pprof::Result<String> {
    let mut stacks: BTreeMap<String, isize> = BTreeMap::new();
    for (frames, count) in guard.report().build()?.data {
        let mut stack = frames.thread_name.clone();
        for symbol in frames.frames.iter().rev().flatten() {
            stack.push(';');
            // The two characters that mean something in this form.
            stack.extend(
                symbol.name().chars().map(|c| if matches!(c, ';' | '\n') { ':' } else { c }),
            );
        }
        *stacks.entry(stack).or_default() += count;
    }
    let mut text = String::new();
    for (stack, count) in stacks {
        // Writing into a string does not fail.
        let _ = writeln!(text, "{stack} {count}");
    }
    Ok(text)
}

/// The memory of the process as the kernel counts it.
///
/// What of the heap belongs to which function is not told: the system's allocator keeps no account
/// of that, and one that does costs every flow.
pub(super) fn memory() -> Reply {
    let status = match std::fs::read_to_string("/proc/self/status") {
        Ok(status) => status,
        Err(error) => {
            let text = format!("cannot read /proc/self/status: {error}");
            return refuse(StatusCode::INTERNAL_SERVER_ERROR, &text);
        }
    };
    let wanted =
        |line: &&str| line.split_once(':').is_some_and(|(name, _)| OF_STATUS.contains(&name));
    let mut body: String = status.lines().filter(wanted).fold(String::new(), |mut body, line| {
        body.push_str(line);
        body.push('\n');
        body
    });
    let descriptors = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    // Writing into a string does not fail.
    let _ = writeln!(body, "Descriptors:\t{descriptors}");
    text(StatusCode::OK, body)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use http_body_util::BodyExt as _;

    use super::*;

    async fn body(reply: Reply) -> String {
        String::from_utf8(reply.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn profile_names_what_burns_and_is_taken_once_at_a_time() {
        let profiler = Profiler::default();
        for seconds in ["0", "61", "-1", "x", ""] {
            assert_eq!(profiler.profile(Some(seconds)).await.status(), StatusCode::BAD_REQUEST);
        }
        let done = Arc::new(AtomicBool::new(false));
        let burns = tokio::task::spawn_blocking({
            let done = Arc::clone(&done);
            move || {
                let mut sum = 0_u64;
                while !done.load(Ordering::Relaxed) {
                    sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(7));
                }
                sum
            }
        });
        let (first, second) =
            tokio::join!(profiler.profile(Some("1")), profiler.profile(Some("1")));
        done.store(true, Ordering::Relaxed);
        burns.await.unwrap();
        assert_eq!((first.status(), second.status()), (StatusCode::OK, StatusCode::CONFLICT));
        let stacks = body(first).await;
        let all = stacks.lines().all(|line| {
            line.rsplit_once(' ').is_some_and(|(_, count)| count.parse::<u32>().is_ok())
        });
        assert!(all && stacks.contains("profile_names_what_burns"), "{stacks}");
        assert_eq!(profiler.0.available_permits(), 1);
    }

    #[tokio::test]
    async fn memory_is_that_of_the_process() {
        let text = body(memory()).await;
        let value = |name: &str| -> u64 {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        assert!(value("VmRSS") > 1000 && value("VmHWM") >= value("VmRSS"), "{text}");
        assert!(value("Threads") >= 1 && value("Descriptors") >= 3, "{text}");
    }
}
