//! [`Complaint`]: a fault is logged when it is new, then once a minute, however often it is met.

use std::error::Error;
use std::time::Duration;

use tokio::time::Instant;

/// After so long the same fault is logged again.
const LOG_AGAIN: Duration = Duration::from_mins(1);

/// The last fault of one kind of work.
#[derive(Debug, Default)]
pub(crate) struct Complaint(Option<(Instant, String)>);

impl Complaint {
    /// The error and all that led to it, if it is to be logged now.
    pub(crate) fn say(&mut self, error: &(dyn Error + 'static)) -> Option<String> {
        let text = chain(error);
        let known =
            self.0.as_ref().is_some_and(|(at, before)| *before == text && at.elapsed() < LOG_AGAIN);
        if known {
            return None;
        }
        self.0 = Some((Instant::now(), text.clone()));
        Some(text)
    }

    /// Says that all is well; whether it was not before.
    pub(crate) fn over(&mut self) -> bool {
        self.0.take().is_some()
    }
}

/// An error and all that led to it, in one line.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::KubernetesError;

    #[tokio::test(start_paused = true)]
    async fn same_fault_is_said_once_a_minute_and_another_at_once() {
        let slow = |action| KubernetesError::TooSlow { action, within: Duration::from_secs(5) };
        let mut complaint = Complaint::default();
        let mut said = 0;
        for _ in 0..150 {
            said += usize::from(complaint.say(&slow("read")).is_some());
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(said, 3, "in two and a half minutes");
        assert!(complaint.say(&slow("write")).is_some());
        assert!(complaint.over() && !complaint.over());
        assert!(complaint.say(&slow("write")).is_some(), "it is new again");
    }
}
