//! What the node's supervisor asks: has it started, is it ready, is it alive.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::{Histogram, HistogramOpts, HistogramVec};
use tokio::sync::watch;

use super::metrics::{Metrics, RegisterError};

/// How long an event loop may stand still before the agent counts as hung. Long, because to be
/// restarted costs every connection that the agent carries.
const STILL: Duration = Duration::from_secs(30);
/// How often each event loop is to beat. Each beat also tells how late it came, so a stall that is
/// longer than this is always seen and a shorter one in proportion.
const BEAT: Duration = Duration::from_millis(250);
/// Seconds that a beat came late: from the timer's own grain to a loop that hangs.
const LAG_BUCKETS: [f64; 9] = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0];
/// What stands for an event loop that has ended.
const ENDED: u64 = u64::MAX;

/// Whether the agent can do its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Its kernel programs are not in place yet.
    Starting(Cow<'static, str>),
    /// It cannot, and why, in one line.
    NotReady(Cow<'static, str>),
    /// It can.
    Ready,
}

/// What `/healthz/` is answered from.
#[derive(Clone)]
pub struct Health {
    /// Whether it has started, and is ready.
    pub readiness: watch::Receiver<Readiness>,
    /// Whether its event loops move.
    pub pulses: Pulses,
}

impl Health {
    /// Whether the kernel programs are in place, or were once; else what is being done.
    pub(super) fn started(&self) -> Result<(), String> {
        match &*self.readiness.borrow() {
            Readiness::Starting(why) => Err(format!("not started: {why}")),
            Readiness::NotReady(_) | Readiness::Ready => Ok(()),
        }
    }

    /// Whether the agent can do its work; else why not.
    pub(super) fn ready(&self) -> Result<(), String> {
        match &*self.readiness.borrow() {
            Readiness::Ready => Ok(()),
            Readiness::Starting(why) | Readiness::NotReady(why) => Err(format!("not ready: {why}")),
        }
    }

    /// Whether every event loop moves; else which does not.
    pub(super) fn alive(&self) -> Result<(), String> {
        match self.pulses.longest_still(Instant::now()) {
            Some((name, still)) if still > STILL => {
                Err(format!("{name} has not moved for {} s", still.as_secs()))
            }
            _ => Ok(()),
        }
    }
}

/// An event loop's name, and when it moved last.
type Loop = (String, Arc<AtomicU64>);

/// The event loops of the process, and when each moved last. Cloning shares them.
#[derive(Clone)]
pub struct Pulses {
    since: Instant,
    /// Guards the list; held to add one or to look at all.
    loops: Arc<Mutex<Vec<Loop>>>,
    /// How late beats came, by the loop's name.
    lag: HistogramVec,
}

impl Default for Pulses {
    fn default() -> Self {
        Self { since: Instant::now(), loops: Arc::default(), lag: lag() }
    }
}

fn lag() -> HistogramVec {
    let options = HistogramOpts::new(
        "culvert_observe_loop_lag_seconds",
        "How late the beats of event loops came, by the loop: what work that blocks costs flows.",
    );
    HistogramVec::new(options.buckets(LAG_BUCKETS.to_vec()), &["loop"]).expect("well-formed")
}

impl Pulses {
    /// No event loop yet; how late they are is among `metrics`.
    ///
    /// # Errors
    ///
    /// [`RegisterError`] when that was asked for before.
    pub fn register(metrics: &Metrics) -> Result<Self, RegisterError> {
        let pulses = Self::default();
        metrics.register(pulses.lag.clone())?;
        Ok(pulses)
    }

    /// A further event loop, under a name for people. It is to beat each [`BEAT`] from now on,
    /// and is looked at until the pulse is dropped.
    pub fn add(&self, name: impl Into<String>) -> Pulse {
        let name = name.into();
        let lag = self.lag.with_label_values(&[&name]);
        let pulse = Pulse { since: self.since, last: Arc::default(), lag };
        pulse.beat();
        let mut loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
        loops.retain(|(_, last)| last.load(Ordering::Relaxed) != ENDED);
        loops.push((name, Arc::clone(&pulse.last)));
        pulse
    }

    /// The event loop that has stood still for longest, and for how long.
    fn longest_still(&self, now: Instant) -> Option<(String, Duration)> {
        let now = millis(now.saturating_duration_since(self.since));
        let loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
        let beats = loops.iter().map(|(name, last)| (name, last.load(Ordering::Relaxed)));
        let oldest = beats.filter(|(_, last)| *last != ENDED).min_by_key(|(_, last)| *last);
        oldest.map(|(name, last)| (name.clone(), Duration::from_millis(now.saturating_sub(last))))
    }
}

/// The pulse of one event loop.
pub struct Pulse {
    since: Instant,
    last: Arc<AtomicU64>,
    lag: Histogram,
}

impl Pulse {
    /// Says that the event loop moves.
    pub fn beat(&self) {
        self.last.store(millis(self.since.elapsed()), Ordering::Relaxed);
    }

    /// Beats for ever, on the event loop that runs this.
    ///
    /// Cancel safe.
    pub async fn run(self) {
        loop {
            self.beat();
            let due = tokio::time::Instant::now() + BEAT;
            tokio::time::sleep_until(due).await;
            self.lag.observe(due.elapsed().as_secs_f64());
        }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.last.store(ENDED, Ordering::Relaxed);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(ENDED - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(readiness: Readiness) -> (watch::Sender<Readiness>, Health) {
        let (sender, readiness) = watch::channel(readiness);
        (sender, Health { readiness, pulses: Pulses::default() })
    }

    #[test]
    fn started_is_before_ready() {
        let (sender, health) = health(Readiness::Starting("loading".into()));
        assert_eq!(health.started(), Err("not started: loading".to_owned()));
        assert_eq!(health.ready(), Err("not ready: loading".to_owned()));
        sender.send_replace(Readiness::NotReady("enrolling".into()));
        assert_eq!(health.started(), Ok(()));
        assert_eq!(health.ready(), Err("not ready: enrolling".to_owned()));
        sender.send_replace(Readiness::Ready);
        assert_eq!(health.ready(), Ok(()));
    }

    #[test]
    fn loop_that_stands_still_is_named_and_one_that_ended_is_not() {
        let pulses = Pulses::default();
        let (hung, moves) = (pulses.add("worker-1"), pulses.add("worker-0"));
        let later = pulses.since + STILL * 2;
        moves.last.store(millis(STILL * 2), Ordering::Relaxed);
        let (name, still) = pulses.longest_still(later).unwrap();
        assert_eq!((name.as_str(), still.as_secs()), ("worker-1", STILL.as_secs() * 2));
        drop(hung);
        let (name, still) = pulses.longest_still(later).unwrap();
        assert_eq!((name.as_str(), still.as_secs()), ("worker-0", 0));
        drop(moves);
        assert_eq!(pulses.longest_still(later), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_is_kept_busy_shows_in_its_lag() {
        let metrics = Metrics::new().unwrap();
        let pulses = Pulses::register(&metrics).unwrap();
        let beating = pulses.add("worker-7").run();
        let busy = async {
            tokio::time::sleep(BEAT / 2).await;
            // What blocks: time passes, and no other task runs.
            tokio::time::advance(Duration::from_millis(1500)).await;
            tokio::time::sleep(BEAT * 3).await;
        };
        tokio::select! { () = beating => unreachable!(), () = busy => {} }
        let text = metrics.encode().unwrap();
        let of = "culvert_observe_loop_lag_seconds_bucket{loop=\"worker-7\",le=";
        let at = |le: &str| {
            let line = text.lines().find(|line| line.starts_with(&format!("{of}\"{le}\"}}")));
            line.unwrap().rsplit(' ').next().unwrap().parse::<u64>().unwrap()
        };
        assert_eq!(at("+Inf") - at("1"), 1, "{text}");
        assert!(at("0.005") >= 2, "{text}");
    }
}
