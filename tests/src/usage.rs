//! CPU time, of the whole system and of single processes.
//!
//! Kernel programs run in whoever's context they are called in, so only the system's own count
//! tells what a thing costs.

use serde_json::{Value, json};
use std::{fs, io};

/// CPU time in the kernel's ticks.
pub struct Usage {
    busy: u64,
    stolen: u64,
    watched: Vec<u64>,
}

/// CPU time that was spent until now.
///
/// # Errors
/// A process that has ended, or a kernel that tells it in another form.
pub fn read(processes: &[u32]) -> io::Result<Usage> {
    let (busy, stolen) = system(&fs::read_to_string("/proc/stat")?)
        .ok_or_else(|| io::Error::other("/proc/stat has another form than known"))?;
    let watched = processes
        .iter()
        .map(|pid| {
            let path = format!("/proc/{pid}/stat");
            process(&fs::read_to_string(&path)?)
                .ok_or_else(|| io::Error::other(format!("{path} has another form than known")))
        })
        .collect::<io::Result<_>>()?;
    Ok(Usage { busy, stolen, watched })
}

/// Busy and stolen ticks of all cores together (`proc_stat(5)`).
fn system(text: &str) -> Option<(u64, u64)> {
    let fields: Vec<u64> = text
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_whitespace()
        .map_while(|field| field.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal; guests count in user already.
    let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = fields[..] else {
        return None;
    };
    Some((user + nice + system + irq + softirq, steal))
}

/// Ticks in user space and in the kernel (`proc_pid_stat(5)`, fields 14 and 15).
fn process(text: &str) -> Option<u64> {
    // The name in brackets may hold anything; fields are counted from behind it.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

impl Usage {
    /// What came on top of `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let pairs = self.watched.iter().zip(&before.watched);
        Self {
            busy: self.busy.saturating_sub(before.busy),
            stolen: self.stolen.saturating_sub(before.stolen),
            watched: pairs.map(|(now, before)| now.saturating_sub(*before)).collect(),
        }
    }

    /// Adds it to a line, in seconds.
    pub fn tell(&self, fields: &mut Value) {
        fields["system_cpu_s"] = json!(seconds(self.busy));
        fields["stolen_cpu_s"] = json!(seconds(self.stolen));
        fields["watched_cpu_s"] =
            self.watched.iter().map(|ticks| seconds(*ticks)).collect::<Vec<_>>().into();
    }
}

#[expect(clippy::cast_precision_loss, reason = "ticks of a few seconds are small numbers")]
fn seconds(ticks: u64) -> f64 {
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

#[cfg(test)]
mod tests {
    use super::{process, system};

    #[test]
    fn system_counts_all_but_idle_and_steal() {
        let text = "cpu  10 20 30 4000 500 6 7 8 9 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n";
        assert_eq!(system(text), Some((73, 8)));
        assert_eq!(system("cpu  1 2 3\n"), None);
    }

    #[test]
    fn name_of_a_process_may_hold_anything() {
        let text = "42 (a) b (c) S 1 42 42 0 -1 4194560 1 2 3 4 150 50 7 8 20 0 5 0 100\n";
        assert_eq!(process(text), Some(200));
        assert_eq!(process("42 (cut"), None);
    }
}
