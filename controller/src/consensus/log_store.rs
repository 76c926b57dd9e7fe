//! The log as openraft wants it: every call becomes a job for the thread that owns the books, in the order of the calls.
//!
//! A simulation runs the jobs where they are asked for instead, because its clock moves while a thread works.

use super::books::{Books, BooksError, Extent, encode_entry};
use super::kinds::{Entry, Kinds, LogId, StorageError, StorageIOError, Vote};
use gantry_platform::tasks::{self, Thread};
use openraft::storage::{LogFlushed, LogState, RaftLogStorage};
use openraft::{AnyError, OptionalSend, RaftLogReader};
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{oneshot, watch};

/// Jobs that wait; openraft asks for few at a time.
const JOBS: usize = 1_024;

/// Where the books are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Desk {
    /// On a thread of their own.
    #[default]
    Thread,
    /// Where the call is made.
    Caller,
}

type Job = Box<dyn FnOnce(&mut Books) + Send>;

/// What the thread is told.
enum Word {
    Do(Job),
    /// Close the file; nothing is done any more.
    End,
}

#[derive(Clone)]
enum Clerk {
    Thread(SyncSender<Word>),
    /// `None` once it is closed.
    Caller(Arc<Mutex<Option<Books>>>),
}

/// The log of this node. Clones share it.
#[derive(Clone)]
pub struct LogStore {
    clerk: Clerk,
    ending: watch::Sender<bool>,
}

/// The end of the file's life.
#[derive(Debug)]
pub struct Closing(Option<Thread>);

impl Closing {
    /// Waits until the file is closed. Blocks.
    pub fn wait(self) {
        if let Some(thread) = self.0 {
            // A panic in it would have ended the process.
            _ = thread.join();
        }
    }
}

impl LogStore {
    /// `full` tells whether a change waits for room.
    pub fn start(mut books: Books, desk: Desk, full: watch::Sender<bool>) -> io::Result<(LogStore, Closing)> {
        let ending = watch::Sender::new(false);
        if desk == Desk::Caller {
            return Ok((LogStore { clerk: Clerk::Caller(Arc::new(Mutex::new(Some(books)))), ending }, Closing(None)));
        }
        books.wait_for_room(full, ending.subscribe());
        let (sender, work) = sync_channel(JOBS);
        let thread = tasks::thread("controller-log", move || keep(books, &work))?;
        Ok((LogStore { clerk: Clerk::Thread(sender), ending }, Closing(Some(thread))))
    }

    /// Whoever waits for room on the disk waits no longer: it is an error now.
    pub fn give_up_waiting(&self) {
        self.ending.send_replace(true);
    }

    /// Told when nobody is to wait any longer.
    pub fn ending(&self) -> watch::Receiver<bool> {
        self.ending.subscribe()
    }

    /// Closes the file after what was asked for so far. Later jobs fail.
    pub fn close(&self) {
        match &self.clerk {
            Clerk::Caller(books) => *books.lock().unwrap_or_else(PoisonError::into_inner) = None,
            // Who is gone has closed it already.
            Clerk::Thread(sender) => _ = sender.send(Word::End),
        }
    }

    /// The beginning and the end of the log.
    pub async fn extent(&self) -> Result<Extent, BooksError> {
        self.ask(|books| books.extent()).await?
    }

    /// Hands a job over without waiting for it.
    fn give(&self, job: Job) -> Result<(), BooksError> {
        match &self.clerk {
            Clerk::Caller(books) => job(books.lock().unwrap_or_else(PoisonError::into_inner).as_mut().ok_or_else(closed)?),
            Clerk::Thread(sender) => sender.send(Word::Do(job)).map_err(|_| closed())?,
        }
        Ok(())
    }

    async fn ask<T: Send + 'static>(&self, job: impl FnOnce(&mut Books) -> T + Send + 'static) -> Result<T, BooksError> {
        let (reply, answer) = oneshot::channel();
        self.give(Box::new(move |books| _ = reply.send(job(books))))?;
        answer.await.map_err(|_| closed())
    }
}

fn closed() -> BooksError {
    BooksError::Io(io::Error::other("the log is closed"))
}

/// The life of the thread.
fn keep(mut books: Books, work: &Receiver<Word>) {
    while let Ok(Word::Do(job)) = work.recv() {
        job(&mut books);
    }
}

fn io_error(error: BooksError) -> io::Error {
    match error {
        BooksError::Io(error) => error,
        damaged => io::Error::other(damaged),
    }
}

fn storage(make: impl FnOnce(AnyError) -> StorageIOError) -> impl FnOnce(BooksError) -> StorageError {
    move |error| make(AnyError::new(&error)).into()
}

impl RaftLogReader<Kinds> for LogStore {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(&mut self, range: R) -> Result<Vec<Entry>, StorageError> {
        let range = (range.start_bound().cloned(), range.end_bound().cloned());
        let entries = self.ask(move |books| books.entries(range)).await;
        entries.and_then(|entries| entries).map_err(storage(StorageIOError::read_logs))
    }
}

impl RaftLogStorage<Kinds> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<Kinds>, StorageError> {
        let extent = self.extent().await.map_err(storage(StorageIOError::read_logs))?;
        Ok(LogState { last_purged_log_id: extent.purged, last_log_id: extent.last })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let vote = *vote;
        let saved = self.ask(move |books| books.save_vote(&vote)).await;
        saved.and_then(|saved| saved).map_err(storage(StorageIOError::write_vote))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        self.ask(|books| books.vote()).await.and_then(|vote| vote).map_err(storage(StorageIOError::read_vote))
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        let saved = self.ask(move |books| books.save_committed(committed)).await;
        saved.and_then(|saved| saved).map_err(storage(StorageIOError::write))
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        self.ask(|books| books.committed()).await.and_then(|committed| committed).map_err(storage(StorageIOError::read))
    }

    async fn append<I>(&mut self, entries: I, done: LogFlushed<Kinds>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().map(|entry| encode_entry(&entry)).collect();
        let job = Box::new(move |books: &mut Books| done.log_io_completed(books.append(&entries).map_err(io_error)));
        self.give(job).map_err(storage(StorageIOError::write_logs))
    }

    async fn truncate(&mut self, from: LogId) -> Result<(), StorageError> {
        let done = self.ask(move |books| books.truncate(from.index)).await;
        done.and_then(|done| done).map_err(storage(StorageIOError::write_logs))
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), StorageError> {
        let done = self.ask(move |books| books.purge(upto)).await;
        done.and_then(|done| done).map_err(storage(StorageIOError::write_logs))
    }
}
