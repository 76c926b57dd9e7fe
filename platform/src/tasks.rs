//! Tasks and threads with names, and groups that end together.
//!
//! Every task answers "what if it fails?": the owner of a [`Task`] learns of a panic from `join`; a panic in a [`TaskGroup`] stops the
//! whole group, which reports it; a panic in a [`Thread`] ends the process, because threads own state (a shard's log) that nobody may
//! use half changed.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinError, JoinHandle};

/// A running task. Dropping this lets the task run on.
#[derive(Debug)]
pub struct Task<T = ()> {
    name: &'static str,
    handle: JoinHandle<T>,
}

/// Starts a task on the present runtime.
pub fn spawn<T: Send + 'static>(name: &'static str, future: impl Future<Output = T> + Send + 'static) -> Task<T> {
    Task { name, handle: tokio::spawn(future) }
}

impl<T> Task<T> {
    /// The name given at the start.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Stops the task at its next await.
    pub fn abort(&self) {
        self.handle.abort();
    }

    /// True when the task has ended, in whatever way.
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }

    /// Waits for the task and returns its result.
    pub async fn join(self) -> Result<T, TaskError> {
        self.await
    }
}

/// A task is a future of its result, as `join` gives it.
impl<T> Future for Task<T> {
    type Output = Result<T, TaskError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let name = self.name;
        Pin::new(&mut self.handle).poll(context).map_err(|error| ended(name, error))
    }
}

fn ended(name: &str, error: JoinError) -> TaskError {
    let name = name.to_owned();
    match error.try_into_panic() {
        Ok(payload) => TaskError::Panicked { name, message: panic_message(&*payload) },
        Err(_) => TaskError::Aborted { name },
    }
}

/// Runs something that may block on the disk, on a thread that may. The caller bounds how many run at once.
pub async fn blocking<T: Send + 'static>(name: &'static str, run: impl FnOnce() -> T + Send + 'static) -> Result<T, TaskError> {
    Task { name, handle: tokio::task::spawn_blocking(run) }.join().await
}

/// Why a task or thread has no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskError {
    /// It panicked.
    Panicked {
        /// The name of the task.
        name: String,
        /// The text of the panic.
        message: String,
    },
    /// It was aborted, or its runtime ended.
    Aborted {
        /// The name of the task.
        name: String,
    },
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TaskError::Panicked { name, message } => write!(f, "task `{name}` panicked: {message}"),
            TaskError::Aborted { name } => write!(f, "task `{name}` was aborted"),
        }
    }
}

impl std::error::Error for TaskError {}

/// A running thread. Dropping this lets the thread run on.
#[derive(Debug)]
pub struct Thread<T = ()> {
    name: String,
    handle: std::thread::JoinHandle<Option<T>>,
}

/// Starts a thread whose panic ends the process, after the panic's own message, with an abort (a core dump where enabled).
pub fn thread<T: Send + 'static>(name: impl Into<String>, run: impl FnOnce() -> T + Send + 'static) -> io::Result<Thread<T>> {
    thread_or(name, run, |error| {
        eprintln!("gantry: {error}; the process stops, because the thread's state may be half changed");
        std::process::abort()
    })
}

/// Starts a thread whose panic is handed to `on_panic`, on that thread.
pub fn thread_or<T: Send + 'static>(
    name: impl Into<String>,
    run: impl FnOnce() -> T + Send + 'static,
    on_panic: impl FnOnce(TaskError) + Send + 'static,
) -> io::Result<Thread<T>> {
    let name = name.into();
    let panicked = name.clone();
    let body = move || match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => Some(result),
        Err(payload) => {
            on_panic(TaskError::Panicked { name: panicked, message: panic_message(&*payload) });
            None
        }
    };
    let handle = std::thread::Builder::new().name(name.clone()).spawn(body)?;
    Ok(Thread { name, handle })
}

impl<T> Thread<T> {
    /// The name given at the start.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// True when the thread has ended.
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }

    /// Blocks until the thread ends and returns its result. Not for async code.
    pub fn join(self) -> Result<T, TaskError> {
        let message = "see the report of the panic".to_owned();
        self.handle.join().ok().flatten().ok_or(TaskError::Panicked { name: self.name, message })
    }
}

fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

/// Tells tasks that it is time to end. Clones hear the same.
#[derive(Clone, Debug)]
pub struct Stop {
    receiver: watch::Receiver<bool>,
}

impl Stop {
    /// True once the group was told to stop.
    pub fn is_stopped(&self) -> bool {
        *self.receiver.borrow()
    }

    /// Waits until the group is told to stop. May be cancelled and called again.
    pub async fn stopped(&self) {
        // A group that is gone has stopped as well, so the error means the same.
        let _ = self.receiver.clone().wait_for(|stop| *stop).await;
    }
}

/// The parent of tasks that end together: told to stop once, waited for until a deadline, then aborted. Clones are the same group.
#[derive(Clone)]
pub struct TaskGroup {
    inner: Arc<Group>,
}

struct Group {
    stop: watch::Sender<bool>,
    state: watch::Sender<usize>,
    members: Mutex<Members>,
}

#[derive(Default)]
struct Members {
    next: u64,
    running: BTreeMap<u64, (&'static str, Option<AbortHandle>)>,
    panicked: Vec<&'static str>,
}

/// What was not right when a group ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShutdownError {
    /// Tasks that panicked at any time.
    pub panicked: Vec<&'static str>,
    /// Tasks that were still running at the deadline, and were aborted.
    pub aborted: Vec<&'static str>,
}

impl fmt::Display for ShutdownError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tasks panicked: {:?}; aborted at the deadline: {:?}", self.panicked, self.aborted)
    }
}

impl std::error::Error for ShutdownError {}

impl TaskGroup {
    /// A group without tasks.
    pub fn new() -> TaskGroup {
        let group = Group { stop: watch::Sender::new(false), state: watch::Sender::new(0), members: Mutex::default() };
        TaskGroup { inner: Arc::new(group) }
    }

    /// The signal that the tasks of the group watch.
    pub fn signal(&self) -> Stop {
        Stop { receiver: self.inner.stop.subscribe() }
    }

    /// Tells all tasks to stop, and returns at once.
    pub fn stop(&self) {
        self.inner.stop.send_replace(true);
    }

    /// How many tasks are running.
    pub fn running(&self) -> usize {
        *self.inner.state.borrow()
    }

    /// Starts a task in the group. If it panics, the group stops.
    pub fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let membership = self.inner.enter(name);
        let id = membership.id;
        let task = tokio::spawn(async move {
            let _membership = membership;
            future.await;
        });
        // The task may have ended already; then there is nothing left to abort.
        if let Some((_, abort)) = self.inner.members().running.get_mut(&id) {
            *abort = Some(task.abort_handle());
        }
    }

    /// Tells all tasks to stop, waits for them up to `deadline`, and aborts those that are left.
    pub async fn shutdown(&self, deadline: Duration) -> Result<(), ShutdownError> {
        self.stop();
        let mut running = self.inner.state.subscribe();
        // Both a timeout and a closed channel end the wait; the members tell what is left.
        let _ = tokio::time::timeout(deadline, running.wait_for(|count| *count == 0)).await;
        let (left, panicked) = {
            let members = self.inner.members();
            (members.running.values().cloned().collect::<Vec<_>>(), members.panicked.clone())
        };
        left.iter().filter_map(|(_, abort)| abort.as_ref()).for_each(AbortHandle::abort);
        if left.is_empty() && panicked.is_empty() {
            return Ok(());
        }
        Err(ShutdownError { panicked, aborted: left.into_iter().map(|(name, _)| name).collect() })
    }
}

impl Default for TaskGroup {
    fn default() -> TaskGroup {
        TaskGroup::new()
    }
}

impl fmt::Debug for TaskGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members = self.inner.members();
        f.debug_list().entries(members.running.values().map(|(name, _)| name)).finish()
    }
}

impl Group {
    fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(self: &Arc<Group>, name: &'static str) -> Membership {
        let mut members = self.members();
        let id = members.next;
        members.next += 1;
        members.running.insert(id, (name, None));
        self.state.send_replace(members.running.len());
        Membership { group: Arc::clone(self), id, name }
    }
}

/// Held by a running task; its drop is the task's end, by return, abort or panic.
struct Membership {
    group: Arc<Group>,
    id: u64,
    name: &'static str,
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut members = self.group.members();
        members.running.remove(&self.id);
        if std::thread::panicking() {
            members.panicked.push(self.name);
            self.group.stop.send_replace(true);
        }
        self.group.state.send_replace(members.running.len());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_task_returns_its_result_or_says_why_not() {
        assert_eq!(spawn("adds", async { 1 + 1 }).join().await, Ok(2));
        let failed = spawn("fails", async { panic!("broken {}", 7) }).join().await;
        assert_eq!(failed.unwrap_err().to_string(), "task `fails` panicked: broken 7");
        let task = spawn("waits", std::future::pending::<()>());
        task.abort();
        assert_eq!(task.join().await.unwrap_err().to_string(), "task `waits` was aborted");
    }

    #[test]
    fn a_thread_has_its_name_and_hands_over_its_panic() {
        let named = thread("shard-3", || std::thread::current().name().map(str::to_owned)).unwrap();
        assert_eq!(named.join().unwrap().as_deref(), Some("shard-3"));
        let (reported, reports) = std::sync::mpsc::channel();
        let broken = thread_or("shard-4", || panic!("bad frame"), move |error| reported.send(error).unwrap()).unwrap();
        assert!(broken.join().is_err());
        assert_eq!(reports.recv().unwrap().to_string(), "task `shard-4` panicked: bad frame");
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_waits_for_tasks_that_stop_and_aborts_the_rest() {
        let group = TaskGroup::new();
        let signal = group.signal();
        group.spawn("polite", async move { signal.stopped().await });
        group.spawn("deaf", std::future::pending());
        assert_eq!(group.running(), 2);
        let error = group.shutdown(Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(error, ShutdownError { panicked: vec![], aborted: vec!["deaf"] });
    }

    #[tokio::test]
    async fn a_panic_stops_the_whole_group() {
        let group = TaskGroup::new();
        let signal = group.signal();
        group.spawn("polite", async move { signal.stopped().await });
        group.spawn("broken", async { panic!("as planned") });
        group.signal().stopped().await;
        let error = group.shutdown(Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(error, ShutdownError { panicked: vec!["broken"], aborted: vec![] });
    }

    #[tokio::test]
    async fn a_group_whose_tasks_end_shuts_down_cleanly() {
        let group = TaskGroup::new();
        for _ in 0..100 {
            group.spawn("short", async {});
        }
        assert_eq!(group.shutdown(Duration::from_secs(5)).await, Ok(()));
        assert!(group.signal().is_stopped());
    }
}
