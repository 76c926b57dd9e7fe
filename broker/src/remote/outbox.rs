//! What waits to be written to a proxy. Small answers go first; long ones go in parts, in turn, so that none holds up the others.

use gantry_model::ReceiptHandle;
use gantry_proto::broker::answer::Body;
use gantry_proto::broker::{Answer, Command, ToProxy};
use gantry_proto::shards::{handle, message};
use std::collections::VecDeque;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio_stream::Stream;
use tonic::Status;

/// Bytes of messages that go together; a larger one goes alone.
pub const BATCH_BYTES: usize = 64 * 1024;
/// Small answers that go together.
const BATCH_ANSWERS: usize = 1_024;
/// Bytes that may wait. Beyond, no calls are read or finished until there is room.
const WAITING_MAX: usize = 16 * 1024 * 1024;
/// Deliveries of which it is remembered that they were written, until the proxy says that it has them. Beyond, the oldest count as arrived.
const WRITTEN_MAX: usize = 65_536;

/// One part of an answer, and the bytes of messages in it.
#[derive(Debug)]
pub struct Part {
    pub answer: Answer,
    pub bytes: usize,
}

/// An answer, ready to be written.
#[derive(Debug)]
pub enum Ready {
    Small(Answer),
    Long(VecDeque<Part>),
}

/// Deliveries that were written in a message.
#[derive(Debug)]
struct Written {
    number: u64,
    handles: Vec<ReceiptHandle>,
}

#[derive(Debug, Default)]
struct Inside {
    small: VecDeque<Answer>,
    long: VecDeque<VecDeque<Part>>,
    commands: VecDeque<Command>,
    /// Bytes of all parts that wait.
    bytes: usize,
    /// Messages written so far.
    number: u64,
    written: VecDeque<Written>,
    written_handles: usize,
    writer: Option<Waker>,
    /// Whoever waits for room, or for the end.
    filler: Option<Waker>,
    closed: bool,
}

/// What a stream leaves behind.
#[derive(Debug, Default)]
pub struct Left {
    /// Never written.
    pub unwritten: Vec<ReceiptHandle>,
    /// Written, and perhaps arrived: with the numbers of their messages.
    pub written: Vec<(u64, Vec<ReceiptHandle>)>,
    pub number: u64,
}

/// The waiting answers of one stream.
#[derive(Debug, Default)]
pub struct Outbox {
    inside: Mutex<Inside>,
}

impl Outbox {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on counting where the stream before left off.
    pub fn count_from(&self, number: u64) {
        self.inside().number = number;
    }

    /// Puts answers in. What comes after the end comes back: nobody will get it.
    pub fn put(&self, answers: &mut Vec<Ready>) -> Vec<ReceiptHandle> {
        let mut inside = self.inside();
        if inside.closed {
            return answers.drain(..).flat_map(|ready| ready.handles()).collect();
        }
        for answer in answers.drain(..) {
            match answer {
                Ready::Small(answer) => inside.small.push_back(answer),
                Ready::Long(parts) => {
                    inside.bytes += parts.iter().map(|part| part.bytes).sum::<usize>();
                    inside.long.push_back(parts);
                }
            }
        }
        wake(&mut inside.writer);
        Vec::new()
    }

    /// Has the proxy told something. `false` after the end.
    pub fn command(&self, command: Command) -> bool {
        let mut inside = self.inside();
        if inside.closed {
            return false;
        }
        inside.commands.push_back(command);
        wake(&mut inside.writer);
        true
    }

    /// Ready when more may be put in.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut inside = self.inside();
        if inside.bytes < WAITING_MAX || inside.closed {
            // Whoever fills it is woken by the end as well.
            inside.filler = Some(cx.waker().clone());
            return Poll::Ready(());
        }
        inside.filler = Some(cx.waker().clone());
        Poll::Pending
    }

    pub fn is_closed(&self) -> bool {
        self.inside().closed
    }

    /// The proxy has all messages up to this one.
    pub fn arrived(&self, number: u64) {
        let mut inside = self.inside();
        while inside.written.front().is_some_and(|written| written.number <= number) {
            let written = inside.written.pop_front();
            inside.written_handles -= written.map_or(0, |written| written.handles.len());
        }
    }

    /// Ends the stream, and takes what did not arrive for certain.
    pub fn close(&self) -> Left {
        let mut inside = self.inside();
        inside.closed = true;
        inside.small.clear();
        inside.commands.clear();
        inside.bytes = 0;
        wake(&mut inside.writer);
        wake(&mut inside.filler);
        let unwritten = mem::take(&mut inside.long).into_iter().flatten().flat_map(|part| handles_of(&part.answer)).collect();
        let written = mem::take(&mut inside.written).into_iter().map(|written| (written.number, written.handles)).collect();
        inside.written_handles = 0;
        Left { unwritten, written, number: inside.number }
    }

    fn poll_batch(&self, cx: &mut Context<'_>) -> Poll<Option<ToProxy>> {
        let mut inside = self.inside();
        if inside.closed {
            return Poll::Ready(None);
        }
        let batch = inside.take_batch();
        if batch.answers.is_empty() && batch.commands.is_empty() {
            inside.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Some(batch))
    }
}

impl Inside {
    fn take_batch(&mut self) -> ToProxy {
        let count = self.small.len().min(BATCH_ANSWERS);
        let mut answers: Vec<Answer> = self.small.drain(..count).collect();
        let commands: Vec<Command> = self.commands.drain(..).collect();
        let (mut bytes, mut handles) = (0, Vec::new());
        while bytes < BATCH_BYTES {
            let Some(mut parts) = self.long.pop_front() else { break };
            let next = parts.front().map_or(0, |part| part.bytes);
            if bytes > 0 && bytes + next > BATCH_BYTES {
                self.long.push_front(parts);
                break;
            }
            if let Some(part) = parts.pop_front() {
                bytes += part.bytes;
                handles.extend(handles_of(&part.answer));
                answers.push(part.answer);
            }
            if !parts.is_empty() {
                self.long.push_back(parts);
            }
        }
        self.bytes -= bytes;
        if self.bytes < WAITING_MAX {
            wake(&mut self.filler);
        }
        if !answers.is_empty() || !commands.is_empty() {
            self.number += 1;
        }
        self.remember(handles);
        ToProxy { number: self.number, answers, commands }
    }

    fn remember(&mut self, handles: Vec<ReceiptHandle>) {
        if handles.is_empty() {
            return;
        }
        self.written_handles += handles.len();
        self.written.push_back(Written { number: self.number, handles });
        while self.written_handles > WRITTEN_MAX {
            let Some(oldest) = self.written.pop_front() else { break };
            self.written_handles -= oldest.handles.len();
        }
    }
}

impl Ready {
    /// The deliveries in it.
    pub fn handles(&self) -> Vec<ReceiptHandle> {
        match self {
            Ready::Small(_) => Vec::new(),
            Ready::Long(parts) => parts.iter().flat_map(|part| handles_of(&part.answer)).collect(),
        }
    }
}

fn handles_of(answer: &Answer) -> Vec<ReceiptHandle> {
    match &answer.body {
        Some(Body::Deliveries(deliveries)) => {
            handle::handles_from_wire(deliveries.deliveries.iter().filter_map(|delivery| delivery.handle).collect())
        }
        _ => Vec::new(),
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

/// Cuts things with messages in them into parts.
pub fn cut<T>(call: u64, things: Vec<T>, size: impl Fn(&T) -> usize, body: impl Fn(Vec<T>) -> Body) -> Ready {
    let mut parts: VecDeque<Part> = VecDeque::new();
    let (mut gathered, mut bytes) = (Vec::new(), 0);
    for thing in things {
        let len = size(&thing);
        if !gathered.is_empty() && bytes + len > BATCH_BYTES {
            parts.push_back(Part { answer: Answer { call, more: true, body: Some(body(mem::take(&mut gathered))) }, bytes });
            bytes = 0;
        }
        bytes += len;
        gathered.push(thing);
    }
    parts.push_back(Part { answer: Answer { call, more: false, body: Some(body(gathered)) }, bytes });
    Ready::Long(parts)
}

/// Bytes that a message counts for.
pub fn size_of_message(wire: Option<&gantry_proto::broker::Message>) -> usize {
    wire.map_or(0, message::size)
}

/// The writing end, as the transport reads it.
#[derive(Debug)]
pub struct Lines {
    outbox: Arc<Outbox>,
}

impl Lines {
    pub fn new(outbox: Arc<Outbox>) -> Lines {
        Lines { outbox }
    }
}

impl Stream for Lines {
    type Item = Result<ToProxy, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.outbox.poll_batch(cx).map(|batch| batch.map(Ok))
    }
}

impl Drop for Lines {
    /// The transport gave up: whoever serves the stream learns of it and takes back what is left.
    fn drop(&mut self) {
        let mut inside = self.outbox.inside();
        inside.closed = true;
        wake(&mut inside.filler);
    }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
