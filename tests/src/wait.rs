//! Waiting for a condition, never for a time.

use anyhow::{Result, bail};
use std::thread;
use std::time::{Duration, Instant};

/// Enough for anything that is ready in a moment, on a machine that is busy building.
pub const SOON: Duration = Duration::from_secs(20);

/// Enough for a gigabyte through the tunnel on two busy cores.
pub const LONG: Duration = Duration::from_mins(2);

/// How often a condition is looked at.
const STEP: Duration = Duration::from_millis(10);

/// Looks at a condition until it gives a value; fails when `limit` is over.
///
/// # Errors
/// The time is over; the text says what was waited for.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Option<T>,
) -> Result<T> {
    let started = Instant::now();
    loop {
        if let Some(value) = condition() {
            return Ok(value);
        }
        if started.elapsed() >= limit {
            bail!("waited {} s in vain for {what}", limit.as_secs());
        }
        thread::sleep(STEP);
    }
}
