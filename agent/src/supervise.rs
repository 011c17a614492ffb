//! Owns the agent's long-lived tasks: each has a name, and is joined.
//!
//! A task that ends by error or panic, or ends at all before it was told to, takes the agent down:
//! a data plane that is half there is worse than one that its supervisor starts again.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The long-lived tasks of one process.
pub struct Tasks {
    set: JoinSet<(&'static str, anyhow::Result<()>)>,
    cancel: CancellationToken,
}

impl Tasks {
    /// No tasks; they are to end when `cancel` is cancelled.
    pub fn new(cancel: CancellationToken) -> Self {
        Self { set: JoinSet::new(), cancel }
    }

    /// The token whose cancellation tells all tasks to end.
    pub fn token(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// Starts a task under a name that is fit for a log line.
    pub fn spawn(
        &mut self,
        name: &'static str,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        self.set.spawn(async move { (name, task.await) });
    }

    /// Waits until a task ends that should not have.
    ///
    /// Cancel safe. Never returns while there are no tasks.
    pub async fn failed(&mut self) -> anyhow::Error {
        match self.set.join_next().await {
            Some(Ok((name, Ok(())))) => anyhow::anyhow!("task `{name}` ended early"),
            Some(Ok((name, Err(error)))) => error.context(format!("task `{name}` failed")),
            Some(Err(error)) => anyhow::Error::new(error).context("a task panicked"),
            None => std::future::pending().await,
        }
    }

    /// Tells all tasks to end and waits for them; those that have not ended by the deadline are
    /// aborted and named.
    pub async fn stop(mut self, deadline: Duration) {
        self.cancel.cancel();
        let all = async {
            while let Some(ended) = self.set.join_next().await {
                match ended {
                    Ok((_, Ok(()))) => {}
                    Ok((name, Err(error))) => tracing::warn!(name, ?error, "task ended by error"),
                    Err(error) => tracing::error!(%error, "a task panicked"),
                }
            }
        };
        if tokio::time::timeout(deadline, all).await.is_err() {
            tracing::warn!(left = self.set.len(), "tasks did not end in time and are aborted");
            self.set.shutdown().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_fails_is_named() {
        let mut tasks = Tasks::new(CancellationToken::new());
        tasks.spawn("doomed", async { anyhow::bail!("no disk") });
        assert_eq!(format!("{:#}", tasks.failed().await), "task `doomed` failed: no disk");
    }

    #[tokio::test]
    async fn stopping_waits_for_tasks_that_heed_the_token() {
        let mut tasks = Tasks::new(CancellationToken::new());
        let token = tasks.token();
        tasks.spawn("patient", async move {
            token.cancelled().await;
            Ok(())
        });
        tasks.stop(Duration::from_mins(1)).await;
    }
}
