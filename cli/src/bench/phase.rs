//! One measured stretch of work: threads, each with a single-threaded runtime and its share of the connections, a board that they share,
//! and the server's CPU time from the end of the warm-up to the last answer.
//!
//! ```text
//!  connect … ready … go │ warm-up │ measured … sends end … everything received │ threads end
//!                       0       sample                                       sample
//! ```

use super::load;
use super::place::Place;
use super::process::{self, Sample};
use super::schedule::{self, Schedule};
use super::stamp::{Confirmed, Ledger};
use super::{Settings, stamp};
use crate::failure::{Exit, Failure};
use crate::terminal::Terminal;
use gantry_platform::{Clock, SystemClock, tasks};
use gantry_proto::v2::AckMessageEntry;
use hdrhistogram::Histogram;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// What one connection does.
#[derive(Debug)]
pub enum Job {
    /// Closed loop: each slot sends, waits for the answer, sends again. With a rate the phase makes it `Paced`.
    Produce,
    /// Open loop: sends are due at the times that come in.
    Paced(mpsc::Receiver<u64>),
    /// Receive and acknowledge.
    Consume,
    /// Receive, and keep the handles.
    Receive,
    /// Acknowledge these.
    Ack(Vec<AckMessageEntry>),
    /// Poll an empty topic.
    Wait,
}

/// What the threads of a phase share.
#[derive(Debug)]
pub struct Board {
    clock: SystemClock,
    /// Sends that may still begin.
    tickets: AtomicU64,
    sends_over: AtomicBool,
    /// No send begins, or is due, at or after this time.
    sends_end_at: AtomicU64,
    /// The end of the warm-up; never, as long as nobody knows it.
    measured_from: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    acked: AtomicU64,
    errors: AtomicU64,
    /// Connections that may still send.
    producing: AtomicU64,
    /// Messages to receive that were sent before this phase.
    expected: u64,
    stop: watch::Sender<bool>,
    ledger: Mutex<Ledger>,
    first_error: Mutex<Option<String>>,
}

impl Board {
    fn new(tickets: Option<u64>, producing: u64, expected: u64, place: &Place) -> Board {
        Board {
            clock: SystemClock::new(),
            tickets: AtomicU64::new(tickets.unwrap_or(u64::MAX)),
            sends_over: AtomicBool::new(false),
            sends_end_at: AtomicU64::new(u64::MAX),
            measured_from: AtomicU64::new(u64::MAX),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            acked: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            producing: AtomicU64::new(producing),
            expected,
            stop: watch::Sender::new(false),
            ledger: Mutex::new(Ledger::new(place.run, place.groups.len())),
            first_error: Mutex::new(None),
        }
    }

    /// Nanoseconds since the phase was prepared: all times of a phase are in this clock.
    pub fn now(&self) -> u64 {
        self.clock.mono().as_nanos() as u64
    }

    /// A time of day, to the millisecond, in this clock.
    pub fn at_wall(&self, wall_ms: u64) -> u64 {
        let ahead = wall_ms as i64 - self.clock.wall_ms() as i64;
        self.now().saturating_add_signed(ahead * 1_000_000)
    }

    /// The right to one send that is due then.
    pub fn take_ticket(&self, due: u64) -> bool {
        let open = !self.sends_over.load(Ordering::Relaxed) && self.is_in_time(due);
        open && self.tickets.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    pub fn sends_are_over(&self) -> bool {
        self.sends_over.load(Ordering::Relaxed) || !self.is_in_time(self.now())
    }

    fn is_in_time(&self, due: u64) -> bool {
        due < self.sends_end_at.load(Ordering::Relaxed)
    }

    /// Whether what happened, or was due, at this time counts: the warm-up was over.
    pub fn measures(&self, time: u64) -> bool {
        time >= self.measured_from.load(Ordering::Relaxed)
    }

    pub fn count_sent(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    pub fn count_acked(&self, messages: u64) {
        self.acked.fetch_add(messages, Ordering::Relaxed);
    }

    /// Counts messages that came, and ends the phase with the last one.
    pub fn count_received(&self, messages: u64) {
        self.received.fetch_add(messages, Ordering::SeqCst);
        self.end_if_complete();
    }

    /// A connection has sent its last message.
    pub fn producer_ends(&self) {
        self.producing.fetch_sub(1, Ordering::SeqCst);
        self.end_if_complete();
    }

    fn end_if_complete(&self) {
        let wanted = self.expected.max(self.sent.load(Ordering::SeqCst));
        // After a failed send nobody knows how many messages there are: then silence ends the phase.
        let known = self.errors.load(Ordering::SeqCst) == 0;
        if known && self.producing.load(Ordering::SeqCst) == 0 && self.received.load(Ordering::SeqCst) >= wanted {
            self.stop();
        }
    }

    /// Whether fewer messages came than were sent. A server without memory, the floor, must be asked only then, or it is asked forever.
    pub fn has_backlog(&self) -> bool {
        self.received.load(Ordering::Relaxed) < self.expected.max(self.sent.load(Ordering::Relaxed))
    }

    /// Ends sends and polls.
    pub fn stop(&self) {
        self.sends_over.store(true, Ordering::SeqCst);
        self.stop.send_replace(true);
    }

    /// Becomes true when polls are to end.
    pub fn stopped(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// Notes a failed call. When calls fail far more often than not, the run is pointless and ends.
    pub fn count_error(&self, error: String) {
        let errors = self.errors.fetch_add(1, Ordering::Relaxed) + 1;
        self.first_error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        let done = self.sent.load(Ordering::Relaxed) + self.received.load(Ordering::Relaxed) + self.acked.load(Ordering::Relaxed);
        if errors > 200 + done / 10 {
            self.stop();
        }
    }

    /// What came so far. Held for a batch at a time, never across an await.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn progress(&self) -> u64 {
        self.sent.load(Ordering::Relaxed) + self.received.load(Ordering::Relaxed) + self.acked.load(Ordering::Relaxed)
    }
}

/// Ends the threads when the phase is abandoned.
struct StopOnDrop(Arc<Board>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Calls of one kind as a thread saw them.
#[derive(Clone, Debug)]
pub struct Timings {
    pub nanos: Histogram<u64>,
    /// Messages that these calls were about.
    pub messages: u64,
    /// When the last of them was answered.
    pub last: u64,
}

impl Timings {
    fn new() -> Timings {
        // Three digits from 1 µs to 10 minutes; longer ones count as that.
        let nanos = Histogram::new_with_bounds(1_000, 600_000_000_000, 3).expect("the bounds of the histogram are legal");
        Timings { nanos, messages: 0, last: 0 }
    }

    /// Records a call about `messages` messages that began, or was due, at `since` and is answered `now`.
    pub fn record(&mut self, since: u64, now: u64, messages: u64) {
        self.nanos.saturating_record(now.saturating_sub(since));
        self.messages += messages;
        self.last = now;
    }

    fn merge(&mut self, other: &Timings) {
        self.nanos.add(&other.nanos).expect("all histograms have the same bounds");
        self.messages += other.messages;
        self.last = self.last.max(other.last);
    }
}

/// What a thread saw.
#[derive(Clone, Debug)]
pub struct Tally {
    pub send: Timings,
    /// How much later than due open-loop sends began: the load generator's own fault.
    pub late: Timings,
    pub receive: Timings,
    pub ack: Timings,
    /// From the time a send was due, or for delayed messages from their delivery time, to the arrival of the message.
    pub end_to_end: Timings,
    /// Messages that came before the time for which they were asked.
    pub early: u64,
    pub empty_polls: u64,
    pub confirmed: Confirmed,
    /// Handles that `Job::Receive` kept.
    pub kept: Vec<AckMessageEntry>,
}

impl Tally {
    pub fn new() -> Tally {
        let [send, late, receive, ack, end_to_end] = std::array::from_fn(|_| Timings::new());
        Tally { send, late, receive, ack, end_to_end, early: 0, empty_polls: 0, confirmed: Confirmed::default(), kept: Vec::new() }
    }

    fn merge(&mut self, other: Tally) {
        self.send.merge(&other.send);
        self.late.merge(&other.late);
        self.receive.merge(&other.receive);
        self.ack.merge(&other.ack);
        self.end_to_end.merge(&other.end_to_end);
        self.early += other.early;
        self.empty_polls += other.empty_polls;
        self.confirmed.merge(other.confirmed);
        self.kept.extend(other.kept);
    }

    fn last(&self) -> u64 {
        self.send.last.max(self.receive.last).max(self.ack.last)
    }
}

/// What a phase gave.
#[derive(Debug)]
pub struct Outcome {
    pub tally: Tally,
    pub ledger: stamp::Ledger,
    pub errors: u64,
    pub first_error: Option<String>,
    /// When measuring began, in nanoseconds of the clock.
    pub since: u64,
    /// From there to the last answer.
    pub seconds: f64,
    /// Samples at both ends, and the most memory in between.
    pub server: Option<(Sample, Sample, u64)>,
    pub client: Option<(Sample, Sample)>,
    /// The server's memory before the connections were made.
    pub unconnected: Option<u64>,
}

/// What to do, before it is done.
#[derive(Debug)]
pub struct Phase<'a> {
    name: &'static str,
    place: &'a Place,
    settings: &'a Settings,
    jobs: Vec<Job>,
    expected: u64,
}

/// The threads of a phase once they are connected.
struct Crew {
    go: watch::Sender<bool>,
    tallies: Vec<oneshot::Receiver<Tally>>,
}

impl<'a> Phase<'a> {
    pub fn new(name: &'static str, place: &'a Place, settings: &'a Settings, jobs: Vec<Job>) -> Phase<'a> {
        Phase { name, place, settings, jobs, expected: 0 }
    }

    /// Messages that wait already.
    pub fn expecting(self, expected: u64) -> Phase<'a> {
        Phase { expected, ..self }
    }

    /// Runs to the end, or to the first connection that cannot be made.
    pub async fn run(mut self, terminal: &mut Terminal) -> Result<Outcome, Failure> {
        let producing = self.jobs.iter().filter(|job| matches!(job, Job::Produce)).count() as u64;
        // A phase without sends and without anything to receive ends with its jobs, or by time.
        let held_open = u64::from(producing == 0 && self.expected == 0);
        let board = Arc::new(Board::new(self.settings.messages, producing + held_open, self.expected, self.place));
        let _guard = StopOnDrop(board.clone());
        let lanes = self.pace_jobs();
        let unconnected = self.sample().await.0.map(|sample| sample.rss_bytes);
        let crew = self.hire(&board).await?;
        let measured = if self.settings.warmup().is_zero() { Some(self.begin_measuring(&board).await) } else { None };
        crew.go.send_replace(true);
        self.start_pacer(lanes, &board)?;
        let began = match measured {
            Some(began) => began,
            None => {
                tokio::time::sleep(self.settings.warmup()).await;
                self.begin_measuring(&board).await
            }
        };
        let outcome = self.watch(&board, began, crew, terminal).await?;
        Ok(Outcome { unconnected, ..outcome })
    }

    /// Gives each producer a lane of due times when there is a rate.
    fn pace_jobs(&mut self) -> Vec<mpsc::Sender<u64>> {
        let mut lanes = Vec::new();
        if self.settings.rate_per_second.is_some() {
            for job in self.jobs.iter_mut().filter(|job| matches!(job, Job::Produce)) {
                let (lane, due) = mpsc::channel(1024);
                lanes.push(lane);
                *job = Job::Paced(due);
            }
        }
        lanes
    }

    fn start_pacer(&self, lanes: Vec<mpsc::Sender<u64>>, board: &Arc<Board>) -> Result<(), Failure> {
        let (Some(rate), false) = (self.settings.rate_per_second, lanes.is_empty()) else { return Ok(()) };
        let board = board.clone();
        // If it fails the lanes close, the producers end, and so does the phase.
        let started = tasks::thread_or("bench-pacer", move || schedule::pace(Schedule::new(rate), &board, &lanes), |_| {});
        started.map(|_| ()).map_err(|error| Failure::new(Exit::Failed, "cannot start a thread").because(error))
    }

    /// Starts the threads and waits until all connections are made.
    async fn hire(&mut self, board: &Arc<Board>) -> Result<Crew, Failure> {
        let threads = (self.settings.threads as usize).min(self.jobs.len()).max(1);
        let mut shares: Vec<Vec<(u32, Job)>> = (0..threads).map(|_| Vec::new()).collect();
        for (number, job) in self.jobs.drain(..).enumerate() {
            shares[number % threads].push((number as u32, job));
        }
        let go = watch::Sender::new(false);
        let (mut tallies, mut ready) = (Vec::new(), Vec::new());
        for (number, share) in shares.into_iter().enumerate() {
            let (tell_ready, is_ready) = oneshot::channel();
            let (tell_tally, tally) = oneshot::channel();
            let start = load::Start { ready: tell_ready, go: go.subscribe(), tally: tell_tally };
            let crew = load::Crew::new(self.place, self.settings, board.clone());
            // A thread that fails drops its channels, which ends the phase with an error.
            let started = tasks::thread_or(format!("bench-{number}"), move || load::run_thread(share, crew, start), |_| {});
            started.map_err(|error| Failure::new(Exit::Failed, "cannot start a thread").because(error))?;
            ready.push(is_ready);
            tallies.push(tally);
        }
        for is_ready in ready {
            is_ready.await.map_err(|_| Failure::new(Exit::Failed, "a thread of the load generator ended early"))??;
        }
        Ok(Crew { go, tallies })
    }

    /// Waits for the end and takes the samples.
    async fn watch(&self, board: &Arc<Board>, began: Began, crew: Crew, terminal: &mut Terminal) -> Result<Outcome, Failure> {
        let Began { since, sample: before } = began;
        let mut monitor = Monitor { since, most: 0, seen: (0, since), shown: 0 };
        let mut tally = Tally::new();
        for part in crew.tallies {
            let mut part = part;
            let part = loop {
                tokio::select! {
                    part = &mut part => break part,
                    () = tokio::time::sleep(Duration::from_millis(100)) => self.look(board, &mut monitor, terminal).await?,
                }
            };
            tally.merge(part.map_err(|_| Failure::new(Exit::Failed, "a thread of the load generator ended early"))?);
        }
        let after = self.sample().await;
        terminal.progress("")?;
        let ledger = board.ledger().clone();
        let first_error = board.first_error.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let errors = board.errors.load(Ordering::Relaxed);
        let end = if tally.last() > since { tally.last() } else { board.now() };
        let server = before.0.zip(after.0).map(|(before, after)| (before, after, monitor.most.max(before.rss_bytes).max(after.rss_bytes)));
        let client = before.1.zip(after.1);
        Ok(Outcome { tally, ledger, errors, first_error, since, seconds: (end - since) as f64 / 1e9, server, client, unconnected: None })
    }

    /// Ten times a second: memory, end by time, end by silence, progress.
    async fn look(&self, board: &Board, monitor: &mut Monitor, terminal: &mut Terminal) -> Result<(), Failure> {
        let now = board.now();
        if let Some(pid) = self.place.pid {
            monitor.most = monitor.most.max(process::sample(pid).await.map_or(0, |sample| sample.rss_bytes));
        }
        if !board.is_in_time(now) {
            // Nothing was sent and nothing is awaited: then time alone ends the phase.
            if board.producing.load(Ordering::Relaxed) > 0 && board.sent.load(Ordering::Relaxed) == 0 && board.expected == 0 {
                board.stop();
            }
        }
        let done = board.progress();
        if done != monitor.seen.0 {
            monitor.seen = (done, now);
        } else if board.producing.load(Ordering::Relaxed) == 0 && now - monitor.seen.1 > self.settings.drain.as_nanos() as u64 {
            board.stop();
        }
        let second = (now - monitor.since) / 1_000_000_000;
        if second > monitor.shown {
            monitor.shown = second;
            let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            let (sent, received, errors) = (count(&board.sent), count(&board.received), count(&board.errors));
            terminal.progress(&format!(
                "{}: {second} s, {sent} sent, {received} received, {} acknowledged, {errors} errors",
                self.name,
                count(&board.acked)
            ))?;
        }
        Ok(())
    }

    /// From here on calls count.
    async fn begin_measuring(&self, board: &Board) -> Began {
        let sample = self.sample().await;
        let since = board.now();
        if let Some(time) = self.settings.duration() {
            board.sends_end_at.store(since + time.as_nanos() as u64, Ordering::Relaxed);
        }
        board.measured_from.store(since, Ordering::Relaxed);
        Began { since, sample }
    }

    /// The server and ourselves.
    async fn sample(&self) -> (Option<Sample>, Option<Sample>) {
        let server = match self.place.pid {
            Some(pid) => process::sample(pid).await,
            None => None,
        };
        (server, process::sample(std::process::id()).await)
    }
}

/// The end of the warm-up.
struct Began {
    since: u64,
    sample: (Option<Sample>, Option<Sample>),
}

/// What `look` remembers.
struct Monitor {
    since: u64,
    most: u64,
    /// Progress, and when it was last new.
    seen: (u64, u64),
    shown: u64,
}
