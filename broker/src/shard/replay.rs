//! From frames to what they mean: the state and the index of a shard, brought forward along its log.
//!
//! A replica that starts goes through this from its newest checkpoint, one that follows goes on with it for ever, and a leader that was one before has
//! them from it. The result is a function of the log alone.

use super::state::State;
use super::state::seen::Row;
use crate::draft;
use crate::record::{Forget, Record, Trim};
use gantry_model::placement::id_hash;
use gantry_model::{Lsn, Offset};
use gantry_store::frame::{Frame, Kind};
use gantry_store::index::{Entry, Index, Memtable, SealJob};
use gantry_store::log::{CommitLog, LogReader};
use gantry_store::record::MessageView;
use gantry_store::zoo;
use std::fmt;

/// Why a log can't be understood.
#[derive(Clone, Debug)]
pub struct ReplayError(pub String);

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ReplayError {}

fn failed(error: impl fmt::Display) -> ReplayError {
    ReplayError(error.to_string())
}

/// State and index as the log says up to one address.
pub struct Applied {
    pub state: State,
    pub index: Index,
    /// The state has everything before this.
    at: Lsn,
    /// The index has everything before this; it may lag behind the state at first.
    indexed: Lsn,
    /// Where the segment begins that the index is being filled for.
    segment: Lsn,
}

/// What follows from frames that were applied.
#[derive(Default)]
pub struct Passed {
    /// Indexes of segments that ended, to be written.
    pub seals: Vec<SealJob>,
    /// What retention gave up, to be deleted.
    pub trims: Vec<Trim>,
}

impl Applied {
    /// A state of `at`, with an index that has all segments before `segment`, in which `at` is.
    pub fn new(state: State, index: Index, at: Lsn, segment: Lsn) -> Applied {
        Applied { state, index, at, indexed: segment, segment }
    }

    /// Everything before it is applied.
    pub fn at(&self) -> Lsn {
        self.at
    }

    /// Goes on to an address that begins a frame or ends the log.
    pub fn advance(&mut self, log: &CommitLog, to: Lsn) -> Result<Passed, ReplayError> {
        let segments = log.segments();
        let behind = self.segment;
        let mut begins = segments.iter().map(|segment| segment.base).filter(|base| *base > behind && *base <= to).peekable();
        let mut passed = Passed::default();
        let reader = log.reader();
        for frame in reader.frames(self.indexed.min(self.at), to) {
            let (lsn, frame) = frame.map_err(failed)?;
            while let Some(base) = begins.next_if(|base| *base <= lsn) {
                passed.seals.push(self.seal(base));
            }
            self.pass(lsn, &frame, &mut passed)?;
        }
        begins.for_each(|base| passed.seals.push(self.seal(base)));
        (self.at, self.indexed) = (to, to);
        Ok(passed)
    }

    fn seal(&mut self, next: Lsn) -> SealJob {
        self.index.seal(std::mem::replace(&mut self.segment, next), next)
    }

    fn pass(&mut self, lsn: Lsn, frame: &Frame, passed: &mut Passed) -> Result<(), ReplayError> {
        let placed = draft::entry_of(lsn, frame);
        if lsn >= self.indexed {
            self.index_frame(lsn, frame, placed.as_ref());
        }
        if lsn >= self.at {
            self.apply(lsn, frame, placed.as_ref(), passed)?;
            if let Some((Entry { queue, len, .. }, _)) = placed {
                self.state.hold(queue, len);
            }
        }
        Ok(())
    }

    fn index_frame(&mut self, lsn: Lsn, frame: &Frame, placed: Option<&(Entry, Vec<u64>)>) {
        if let Some((entry, keys)) = placed {
            self.index.append(*entry, keys);
        }
        if let Some(timer) = draft::timer_of(lsn, frame) {
            self.index.append_timer(timer.due, timer.queue);
        }
    }

    /// Notes the id of a message that a client sent; copies of it are not sends.
    fn remember(&mut self, frame: &Frame) {
        if !draft::is_sent(frame) || zoo!(ForgetIds) {
            return;
        }
        let message = draft::message_of(frame);
        if let Some(view) = MessageView::parse(&message)
            && let Some(id) = view.message_id()
        {
            let (queue, offset) = (view.fixed.queue, view.fixed.offset.0);
            self.state.seen.remember(Row { id: id_hash(queue.topic(), id), queue, offset, time: frame.header.time });
        }
    }

    fn apply(&mut self, lsn: Lsn, frame: &Frame, placed: Option<&(Entry, Vec<u64>)>, passed: &mut Passed) -> Result<(), ReplayError> {
        if frame.header.kind == Kind::Gap {
            self.state.expect_holes();
        }
        self.remember(frame);
        if frame.header.kind == Kind::Message {
            let Some(&(Entry { queue, offset, .. }, _)) = placed else {
                return Err(ReplayError(format!("the message at {lsn} can't be read by this version; run the version that wrote it")));
            };
            let given = self.state.apply_message_at(queue, offset);
            self.state.lite.touched(queue, frame.header.time);
            return if given == offset {
                Ok(())
            } else {
                Err(ReplayError(format!(
                    "queue {queue:?} has offset {offset} at {lsn} where {given} was expected; please report this with the data folder"
                )))
            };
        }
        let record = Record::decode(frame.header.kind, &frame.payload)
            .map_err(|error| ReplayError(format!("at {lsn}: {error}; run the version that wrote it")))?;
        let Some(record) = record else { return Ok(()) };
        let forgotten = match record {
            Record::Lease(_) => zoo!(ForgetLeases),
            Record::Ack(_) => zoo!(ForgetAcks),
            _ => false,
        };
        if forgotten {
            return Ok(());
        }
        self.state.apply(&record);
        match record {
            Record::Trim(trim) => {
                trim.queues.iter().for_each(|&(queue, min)| self.index.trim_queue(queue, Offset(min)));
                passed.trims.push(trim);
            }
            Record::LiteDrop(drop) => drop.queues.iter().for_each(|&queue| self.index.drop_queue(queue)),
            Record::Forget(Forget::Topic(topic)) => self.index.drop_topic(topic),
            _ => {}
        }
        Ok(())
    }
}

/// The index of one segment, made from its frames.
pub fn table_of(reader: &LogReader, base: Lsn, end: Lsn) -> Result<Memtable, ReplayError> {
    let mut table = Memtable::new(base);
    for frame in reader.frames(base, end) {
        let (lsn, frame) = frame.map_err(failed)?;
        if let Some((entry, keys)) = draft::entry_of(lsn, &frame) {
            table.insert(entry);
            keys.iter().for_each(|&hash| table.insert_key(hash, lsn));
        }
        if let Some(timer) = draft::timer_of(lsn, &frame) {
            table.insert_timer(timer.due, timer.queue);
        }
    }
    Ok(table)
}
