//! Several calls at the same time, in the task that waits for them: nothing is spawned, and dropping the wait drops the calls.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

/// A call on its way.
pub type Call<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Waits for all, and answers in their order.
pub async fn all<T: Send>(mut calls: Vec<Call<'_, T>>) -> Vec<T> {
    let mut done: Vec<Option<T>> = calls.iter().map(|_| None).collect();
    poll_fn(|context| {
        for (call, done) in calls.iter_mut().zip(&mut done).filter(|(_, done)| done.is_none()) {
            if let Poll::Ready(answer) = call.as_mut().poll(context) {
                *done = Some(answer);
            }
        }
        if done.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}

/// Waits for the first that has something; the others are dropped. Those that end with nothing leave the race; `None` when all have.
pub async fn first<T: Send>(mut calls: Vec<Call<'_, Option<T>>>) -> Option<T> {
    poll_fn(|context| {
        let mut at = 0;
        while at < calls.len() {
            match calls[at].as_mut().poll(context) {
                Poll::Ready(Some(answer)) => return Poll::Ready(Some(answer)),
                Poll::Ready(None) => drop(calls.remove(at)),
                Poll::Pending => at += 1,
            }
        }
        if calls.is_empty() { Poll::Ready(None) } else { Poll::Pending }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_platform::clock::sleep;
    use std::time::Duration;

    async fn after<T>(ms: u64, value: T) -> T {
        sleep(Duration::from_millis(ms)).await;
        value
    }

    #[tokio::test(start_paused = true)]
    async fn all_answers_come_in_the_order_of_the_calls() {
        let calls: Vec<Call<'_, u32>> = vec![Box::pin(after(30, 1)), Box::pin(after(10, 2)), Box::pin(after(20, 3))];
        assert_eq!(all(calls).await, [1, 2, 3]);
        assert!(all::<u32>(Vec::new()).await.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_that_has_something_wins_and_empty_ones_leave() {
        let calls: Vec<Call<'_, Option<u32>>> = vec![Box::pin(after(30, Some(1))), Box::pin(after(10, None)), Box::pin(after(20, Some(3)))];
        assert_eq!(first(calls).await, Some(3));
        let calls: Vec<Call<'_, Option<u32>>> = vec![Box::pin(after(30, None)), Box::pin(after(10, None))];
        assert_eq!(first(calls).await, None);
    }
}
