//! Delayed messages in the shard's thread: reads what is due and what must leave a segment, as far as there is room, and lets others go on between.
//!
//! Both kinds are old, so their pages may not be in memory. The thread never waits for one: it asks for the pages of many at once, does other work,
//! and looks again a little later.

use super::core::Event;
use super::thread::{Driver, ROUND_BYTES};
use super::timers::NextMove;
use crate::draft;
use bytes::Bytes;
use gantry_model::Lsn;
use gantry_store::frame::{Frame, padded};
use gantry_store::log::{AppendError, ReadError};

/// Messages released, or moved, in one round; a round also ends when it has staged enough bytes.
const PER_ROUND: usize = 4_096;
/// Messages whose pages are asked for together.
const AHEAD: usize = 1_024;
/// How long the disk is given for them.
const AHEAD_MS: u64 = 2;
/// After so many looks at the same message it is waited for.
const LOOKS: u32 = 50;

/// The segment that pending messages are moved out of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaving {
    pub segment: (Lsn, Lsn),
    /// When to go on.
    pub again: u64,
}

/// What is known of reading old messages.
#[derive(Debug, Default)]
pub(super) struct OldReads {
    /// The message that was not in memory, and how often it was looked for.
    missing: (Lsn, u32),
    /// The file system can't say what is in memory: everything is waited for.
    must_wait: bool,
}

/// The message of an old frame.
enum Old {
    Message(Bytes),
    /// It is damaged or gone: trying again would not help.
    Lost,
    /// It is not in memory, and was not asked for before.
    Missing,
    /// The disk or the log can't do it now.
    NotNow,
}

impl Driver {
    /// Releases what is due.
    pub(super) fn release_due(&mut self, now: u64) -> Result<(), AppendError> {
        for _ in 0..PER_ROUND {
            if self.log.staged_bytes() >= ROUND_BYTES {
                break;
            }
            let Some(timer) = self.core.due_timer() else { break };
            let readable = match self.old_message(timer.due.position)? {
                Old::Missing => {
                    self.core.upcoming(AHEAD).for_each(|position| self.reader.will_need(position));
                    self.core.hold_timers_for(AHEAD_MS);
                    break;
                }
                Old::NotNow => {
                    self.core.hold_timers();
                    break;
                }
                Old::Lost => false,
                Old::Message(message) => self.take_in_hand(timer.due.position, message),
            };
            self.step(now, Event::TimerDue { timer, readable })?;
        }
        Ok(())
    }

    /// Moves pending messages out of the segment that is to be dropped.
    pub(super) fn leave_segment(&mut self, now: u64) -> Result<(), AppendError> {
        let Some(leaving) = self.leaving.filter(|leaving| leaving.again <= now) else { return Ok(()) };
        for _ in 0..PER_ROUND {
            if self.log.staged_bytes() >= ROUND_BYTES {
                return Ok(());
            }
            let NextMove::Timer(timer) = self.core.next_move(leaving.segment, &self.entries()) else {
                // Retention looks again, whether it is empty now or can't be read.
                self.leaving = None;
                return Ok(());
            };
            let readable = match self.old_message(timer.due.position)? {
                Old::Missing => {
                    let upcoming = self.index.timers_of(leaving.segment.0, timer.due, AHEAD).unwrap_or_default();
                    upcoming.iter().chain([&timer]).for_each(|timer| self.reader.will_need(timer.due.position));
                    self.leaving = Some(Leaving { again: now + AHEAD_MS, ..leaving });
                    return Ok(());
                }
                Old::NotNow => {
                    self.leaving = None;
                    return Ok(());
                }
                Old::Lost => false,
                Old::Message(message) => self.take_in_hand(timer.due.position, message),
            };
            self.step(now, Event::TimerMove { timer, end: leaving.segment.1, readable })?;
        }
        Ok(())
    }

    fn take_in_hand(&mut self, position: Lsn, message: Bytes) -> bool {
        self.in_hand = Some((position, message));
        true
    }

    /// Reads a message that is to be appended again, and makes sure that there is room for it.
    fn old_message(&mut self, position: Lsn) -> Result<Old, AppendError> {
        // What was read wrong once may be right the next time; only damage on the disk stays.
        let frame = match self.old_frame(position).or_else(|_| self.reader.frame(position).map(Some)) {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(Old::Missing),
            Err(error @ (ReadError::Damaged { .. } | ReadError::Trimmed { .. })) => {
                tracing::error!(%error, "a delayed message is damaged; it can't be delivered");
                return Ok(Old::Lost);
            }
            Err(error) => {
                tracing::error!(%error, "a delayed message can't be read now; it is tried again");
                return Ok(Old::NotNow);
            }
        };
        let room = self.upkeep.has_room(&mut self.log, padded(frame.header.len as usize))?;
        Ok(if room { Old::Message(draft::message_of(&frame)) } else { Old::NotNow })
    }

    fn old_frame(&mut self, position: Lsn) -> Result<Option<Frame>, ReadError> {
        if !self.old.must_wait {
            if let Some(frame) = self.reader.try_frame(position, 0)? {
                return Ok(Some(frame));
            }
            let looks = if self.old.missing.0 == position { self.old.missing.1 + 1 } else { 1 };
            self.old.missing = (position, looks);
            if looks < LOOKS {
                return Ok(None);
            }
        }
        let frame = self.reader.frame(position)?;
        self.old.must_wait = self.old.must_wait || self.reader.try_frame(position, frame.header.len)?.is_none();
        Ok(Some(frame))
    }
}
