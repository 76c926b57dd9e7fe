//! The log of a replica: frames taken over byte for byte from a leader's log, and what the leader's lacks cut off again.
//!
//! The rules which frames may be taken and how far may be cut are in `replica`; here is how. A frame proves itself (`frame`), so what comes from a peer
//! is checked exactly as what comes from the disk.

use super::chain::{END_FRAME, END_PAYLOAD};
use super::recovery::{BARRIER, zero};
use super::scan::position_at;
use super::segment::{FRAMES, Header, Segment};
use super::spares::Spare;
use super::{AppendError, CommitLog};
use crate::frame::{self, FrameHeader, HEADER, Invalid, Kind};
use crate::replica::log::{EpochTable, Link, Log, Tail};
use gantry_model::{Lsn, ShardId};
use std::fmt;
use std::sync::Arc;

/// Why frames were not taken. None of them was, unless a segment ended among them.
#[derive(Clone, Debug)]
pub enum TakeError {
    /// The frame at this address is not one, or does not follow.
    Invalid {
        lsn: Lsn,
        why: Invalid,
    },
    /// This replica's file is smaller than the leader's and holds frames already. The log must be installed anew.
    NoRoom {
        lsn: Lsn,
    },
    Append(AppendError),
}

impl fmt::Display for TakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TakeError::Invalid { lsn, why } => write!(f, "the frame that was sent for {lsn} can't be taken: {why}"),
            TakeError::NoRoom { lsn } => write!(f, "the frame at {lsn} does not fit into the segment it belongs to"),
            TakeError::Append(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for TakeError {}

impl From<AppendError> for TakeError {
    fn from(error: AppendError) -> TakeError {
        TakeError::Append(error)
    }
}

/// The frames in `bytes`, which begin at `from`, each of them checked; the last one is whole.
pub fn links(bytes: &[u8], from: Lsn, shard: ShardId) -> Result<Vec<Link>, (Lsn, Invalid)> {
    let mut links = Vec::new();
    let mut at = from;
    while at.0 - from.0 < bytes.len() as u64 {
        let (header, _) = next_frame(&bytes[(at.0 - from.0) as usize..], at, shard).map_err(|why| (at, why))?;
        let link = Link::from(&header);
        at = link.tail.end;
        links.push(link);
    }
    Ok(links)
}

/// As `links`, of frames that this process just read from its own log: what they say of themselves is believed.
pub fn own_links(bytes: &[u8], from: Lsn) -> Vec<Link> {
    let mut links = Vec::new();
    let mut at = 0;
    while let Some(head) = bytes.get(at..).and_then(|rest| rest.first_chunk::<HEADER>()) {
        let link = Link::from(&frame::claims(head));
        at = (link.tail.end.0 - from.0) as usize;
        links.push(link);
    }
    links
}

/// The first frame of `rest`, and its bytes with the zeros behind.
fn next_frame(rest: &[u8], at: Lsn, shard: ShardId) -> Result<(FrameHeader, &[u8]), Invalid> {
    let header = frame::check(rest, at, shard)?;
    let len = header.len as usize;
    let whole = rest.get(..frame::padded(len)).ok_or(Invalid::Length(header.len))?;
    // They are not under the checksum, and replicas are to be equal.
    if whole[len..].iter().any(|byte| *byte != 0) {
        return Err(Invalid::Checksum);
    }
    Ok((header, whole))
}

impl CommitLog {
    /// Stages frames that follow the end, whole batches, as a leader's log has them. `size` is the length of the file that they are in there: the same
    /// frames must fit here. When a segment ends among them, what came before is written and synced.
    pub fn take(&mut self, frames: &[u8], size: u64) -> Result<Lsn, TakeError> {
        self.usable()?;
        assert!(self.batch.is_none(), "a follower stages nothing of its own");
        self.fit(size)?;
        let (mut staged, mut len) = (self.staged, self.staging.len());
        let mut rest = frames;
        let mut in_batch = false;
        while !rest.is_empty() || in_batch {
            match self.take_one(rest, &mut in_batch) {
                Ok((taken, None)) => rest = &rest[taken..],
                Ok((taken, Some(next))) => {
                    rest = &rest[taken..];
                    self.begin_next(next)?;
                    (staged, len) = (self.staged, self.staging.len());
                }
                Err(error) => {
                    self.staged = staged;
                    self.epochs.cut(staged.at);
                    self.staging.truncate(len);
                    return Err(error);
                }
            }
        }
        Ok(self.staged.at)
    }

    /// Stages one frame. Answers how long it is, and the file that the log goes on in if it was the last one of its segment.
    fn take_one(&mut self, rest: &[u8], in_batch: &mut bool) -> Result<(usize, Option<Spare>), TakeError> {
        let lsn = self.staged.at;
        let invalid = |why| TakeError::Invalid { lsn, why };
        let (header, whole) = next_frame(rest, lsn, self.options.shard).map_err(invalid)?;
        let payload = &whole[HEADER..header.len as usize];
        *in_batch = self.staged.may_follow(&header, &payload[..payload.len().min(END_PAYLOAD)], *in_batch).map_err(invalid)?;
        let closes = matches!(header.kind, Kind::End | Kind::Gap);
        if lsn.0 + whole.len() as u64 + if closes { 0 } else { END_FRAME } > self.active.limit().0 {
            return Err(TakeError::NoRoom { lsn });
        }
        // The next file first: without room for one, the segment stays open and its end is sent again.
        let next = if header.kind == Kind::End { Some(self.obtain(false)?) } else { None };
        self.staging.extend_from_slice(whole);
        self.pass(&header);
        Ok((whole.len(), next))
    }

    /// Makes the active file as long as the leader's, as long as it is empty. Not longer either: frames that this replica writes there when it leads must
    /// fit into the files of all others.
    fn fit(&mut self, size: u64) -> Result<(), AppendError> {
        if self.active.header.size == size || size <= FRAMES || self.staged.at > self.active.base() {
            return Ok(());
        }
        let made = self.spares.create(&*self.disk, size);
        let spare = self.check("making a log segment as long as the leader's", made)?;
        let header = Header { size, generation: spare.uses, ..self.active.header };
        let begun = Segment::begin(&*self.disk, &spare.path, spare.file, &self.dir, header);
        let segment = Arc::new(self.check("beginning a log segment", begun)?);
        self.shared.replace_last(Arc::clone(&segment));
        self.active = segment;
        (self.marked, self.mark_number) = (self.active.base(), 0);
        Ok(())
    }

    /// Cuts the log at the end of one of its frames, durably. The caller makes sure that nothing of what goes was committed, and that no checkpoint or
    /// index run says anything of it. A crash in between leaves a sound log that ends somewhere between there and the old end.
    pub fn cut(&mut self, end: Lsn) -> Result<(), AppendError> {
        self.usable()?;
        assert!(self.start() <= end && end <= self.written, "the log is cut within itself");
        self.staging.clear();
        (self.batch, self.reserved) = (None, 0);
        let old_end = self.written;
        let segment = self.shared.holding(end);
        let found = self.check("reading the log to cut it", position_at(&segment, end))?;
        let position = found.expect("the log is cut behind one of its frames");
        // Nobody reads any more what is about to go.
        self.shared.publish(end);
        while let Some(newer) = self.shared.drop_newest(segment.base()) {
            let removed = self.disk.remove(&newer.path);
            self.check("removing a segment of another history", removed)?;
        }
        let marked = segment.newest_mark();
        (self.marked, self.mark_number) = self.check("reading a durable mark", marked)?;
        (self.active, self.staged, self.written, self.last) = (segment, position, end, position.chain);
        self.sync()?;
        // While the mark says that more was durable, a cut that stays half done would be taken for damage.
        if self.marked > end {
            self.mark()?;
            self.sync()?;
        }
        let last = Lsn(old_end.0.saturating_add(BARRIER).min(self.active.limit().0));
        let zeroed = zero(&self.active, end, last.max(end));
        self.check("cutting the log", zeroed)?;
        self.sync()?;
        self.idle_end = end;
        self.epochs.cut(end);
        self.spares.want_size(super::next_size(&self.options, Some(&self.active)));
        Ok(())
    }

    /// Bytes of the file that holds the frame at an address, for [`take`](CommitLog::take).
    pub fn file_size(&self, lsn: Lsn) -> u64 {
        self.shared.holding(lsn).header.size
    }

    /// The epoch of the frame that ends at `end`.
    fn epoch_before(&self, end: Lsn) -> gantry_model::Epoch {
        let before = || self.shared.holding(self.start()).header.before.epoch;
        self.epochs.epoch_before(end).unwrap_or_else(before)
    }
}

/// What is staged and not written is not in the log yet.
impl Log for CommitLog {
    fn start(&self) -> Lsn {
        CommitLog::start(self)
    }

    fn tail(&self) -> Tail {
        Tail { end: self.written, epoch: self.last.epoch, crc: self.last.crc }
    }

    fn tail_at(&self, lsn: Lsn) -> Option<Tail> {
        if lsn == self.written {
            return Some(self.tail());
        }
        if lsn < self.start() || lsn > self.written {
            return None;
        }
        if lsn == self.start() {
            let before = self.shared.holding(lsn).header.before;
            return Some(Tail { end: lsn, epoch: before.epoch, crc: before.crc });
        }
        let header = self.reader().frame(lsn).ok()?.header;
        Some(Tail { end: lsn, epoch: self.epoch_before(lsn), crc: header.prev_crc })
    }

    fn epochs(&self) -> EpochTable {
        let mut epochs = self.epochs.clone();
        epochs.cut(self.written);
        epochs
    }
}
