//! Keeping the cores awake.
//!
//! A core that sleeps takes tens of microseconds to wake up, more on a virtual machine, and hides
//! what the software costs. A thread on each core that runs only when nobody else wants to
//! (`SCHED_IDLE`, given from outside) keeps it from sleeping.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Spins on every core that it may use until standard input ends.
pub(crate) fn run() -> io::Result<()> {
    let allowed = sched_getaffinity(None)?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for core in (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)) {
            let stop = &stop;
            scope.spawn(move || {
                let mut own = CpuSet::new();
                own.set(core);
                sched_setaffinity(None, &own)?;
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
                io::Result::Ok(())
            });
        }
        println!("spinning");
        // However it ends, there is nobody left to spin for.
        let _ = io::stdin().read_to_end(&mut Vec::new());
        stop.store(true, Ordering::Relaxed);
    });
    Ok(())
}
