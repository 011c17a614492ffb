//! Ctrl-C takes the lab down before a command ends.

use anyhow::{Context, Result};
use culvert_tests::sweep;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// How often the clean-up looks again for what the interrupted command was just making.
const ROUNDS: usize = 3;

/// Tells whether the command was interrupted; the default never is.
#[derive(Default)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Does not return when an interrupt is being dealt with: that ends the process.
    pub(crate) fn wait_if_raised(&self) {
        while self.0.load(Ordering::SeqCst) {
            thread::park();
        }
    }
}

/// From now on SIGINT, SIGTERM and SIGHUP take down the lab of this name and end the process.
pub(crate) fn clean_up(id: &str) -> Result<Interrupt> {
    let id = id.to_owned();
    clean_up_by(move || sweep::remove(&id))
}

/// From now on SIGINT, SIGTERM and SIGHUP take down what `remove` does, and end the process.
pub(crate) fn clean_up_by(remove: impl Fn() -> Result<()> + Send + 'static) -> Result<Interrupt> {
    let mut signals =
        Signals::new([SIGINT, SIGTERM, SIGHUP]).context("could not listen for signals")?;
    let raised = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&raised);
    thread::spawn(move || {
        let Some(signal) = signals.forever().next() else { return };
        seen.store(true, Ordering::SeqCst);
        eprintln!("\n==> interrupted; taking the lab down");
        for _ in 0..ROUNDS {
            if let Err(error) = remove() {
                eprintln!("warning: {error:#}");
            }
        }
        process::exit(128 + signal);
    });
    Ok(Interrupt(raised))
}
