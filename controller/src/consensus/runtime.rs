//! How openraft reaches tasks, time and chance: through `platform`, as everybody here.

use gantry_platform::clock;
use gantry_platform::tasks::{self, Task, TaskError};
use openraft::async_runtime::{AsyncRuntime, TokioOneShotSender};
use openraft::{OptionalSend, TokioInstant};
use rand::rngs::mock::StepRng;
use std::future::Future;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Sleep, Timeout, error::Elapsed};

/// The runtime of openraft.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Runtime;

impl AsyncRuntime for Runtime {
    type JoinError = TaskError;
    type JoinHandle<T: OptionalSend + 'static> = Task<T>;
    type Sleep = Sleep;
    type Instant = TokioInstant;
    type TimeoutError = Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = Timeout<T>;
    /// openraft draws only its election timeout, and it holds no elections of its own here: see `campaign`.
    type ThreadLocalRng = StepRng;
    type OneshotSender<T: OptionalSend> = TokioOneShotSender<T>;
    type OneshotReceiverError = oneshot::error::RecvError;
    type OneshotReceiver<T: OptionalSend> = oneshot::Receiver<T>;

    fn spawn<T>(future: T) -> Task<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        tasks::spawn("controller raft", future)
    }

    fn sleep(duration: Duration) -> Sleep {
        clock::sleep(duration)
    }

    fn sleep_until(deadline: TokioInstant) -> Sleep {
        tokio::time::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Timeout<F> {
        clock::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: TokioInstant, future: F) -> Timeout<F> {
        tokio::time::timeout_at(deadline, future)
    }

    fn is_panic(error: &TaskError) -> bool {
        matches!(error, TaskError::Panicked { .. })
    }

    fn thread_rng() -> StepRng {
        StepRng::new(0, 1)
    }

    fn oneshot<T: OptionalSend>() -> (TokioOneShotSender<T>, oneshot::Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        (TokioOneShotSender(sender), receiver)
    }
}
