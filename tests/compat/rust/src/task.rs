//! Work beside the scenario, and waiting for what it brings.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout, Instant};

use crate::harness::{require, Outcome, Verdict};

const LOOK: Duration = Duration::from_millis(50);
const END: Duration = Duration::from_secs(30);

/// Told to the work of a task: whether it should stop.
pub type Stopping = Arc<AtomicBool>;

/// What fails in a task fails the scenario where it looks at the task.
pub struct Task {
    work: Option<JoinHandle<Outcome>>,
    stopping: Stopping,
}

impl Task {
    pub fn new<F: Future<Output = Outcome> + Send + 'static>(work: impl FnOnce(Stopping) -> F) -> Self {
        let stopping = Stopping::default();
        Task { work: Some(tokio::spawn(work(stopping.clone()))), stopping }
    }

    async fn look(&mut self) -> Outcome {
        match self.work.take() {
            Some(work) if work.is_finished() => ended(work).await,
            work => {
                self.work = work;
                Ok(())
            }
        }
    }

    /// Waits for the task, which must end by itself.
    pub async fn end(&mut self) -> Outcome {
        let Some(work) = self.work.take() else { return Ok(()) };
        timeout(END, ended(work)).await.map_err(|_| Verdict::Failed(format!("a task did not end within {END:?}")))?
    }

    pub async fn stop(&mut self) -> Outcome {
        self.stopping.store(true, Ordering::Relaxed);
        self.end().await
    }
}

async fn ended(work: JoinHandle<Outcome>) -> Outcome {
    work.await.map_err(|panic| Verdict::Failed(format!("the client panicked: {panic}")))?
}

/// Looks often until it holds; fails when the time is over or one of the tasks failed.
pub async fn wait_until(holds: impl Fn() -> bool, what: impl Fn() -> String, within: Duration, tasks: &mut [&mut Task]) -> Outcome {
    let deadline = Instant::now() + within;
    while !holds() {
        for task in &mut *tasks {
            task.look().await?;
        }
        require(Instant::now() < deadline, || format!("not within {within:?}: {}", what()))?;
        sleep(LOOK).await;
    }
    Ok(())
}
