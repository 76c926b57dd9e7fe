//! Long work that tells how far it is. It runs only while its caller reads: dropping the stream ends the work between two steps.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tonic::Status;

/// Work in steps.
pub trait Work: Sized + Send + 'static {
    /// What is told after each step.
    type Report: Send + 'static;

    /// Does a little, and says how far it is; `None` when the end was told before.
    fn step(&mut self) -> impl Future<Output = Result<Option<Self::Report>, Status>> + Send;
}

/// What one step came to, with the work itself to go on with.
type Stepped<W> = (W, Result<Option<<W as Work>::Report>, Status>);

/// The reports of some work, one after the other.
pub struct Progress<W: Work> {
    state: State<W>,
}

enum State<W: Work> {
    Running(Pin<Box<dyn Future<Output = Stepped<W>> + Send>>),
    Ended,
}

impl<W: Work> Progress<W> {
    pub fn of(work: W) -> Progress<W> {
        Progress { state: State::Running(next(work)) }
    }
}

fn next<W: Work>(mut work: W) -> Pin<Box<dyn Future<Output = Stepped<W>> + Send>> {
    Box::pin(async move {
        let outcome = work.step().await;
        (work, outcome)
    })
}

impl<W: Work> fmt::Debug for Progress<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
}

impl<W: Work> tokio_stream::Stream for Progress<W> {
    type Item = Result<W::Report, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let State::Running(step) = &mut self.state else { return Poll::Ready(None) };
        let (work, outcome) = ready!(step.as_mut().poll(cx));
        self.state = match &outcome {
            Ok(Some(_)) => State::Running(next(work)),
            Ok(None) | Err(_) => State::Ended,
        };
        Poll::Ready(outcome.transpose())
    }
}
