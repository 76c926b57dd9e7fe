//! Delayed messages in the shard's thread: reads what is due and what must leave a segment, as far as there is room, and lets others go on between.

use super::core::Event;
use super::thread::{Driver, ROUND_BYTES};
use super::timers::NextMove;
use crate::draft;
use bytes::Bytes;
use gantry_model::Lsn;
use gantry_store::frame::padded;
use gantry_store::log::{AppendError, ReadError};

/// Messages released, or moved, in one round; a round also ends when it has staged enough bytes.
const PER_ROUND: usize = 4_096;

/// The message of an old frame.
enum Old {
    Message(Bytes),
    /// It is damaged or gone: trying again would not help.
    Lost,
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
            match self.old_message(timer.due.position)? {
                Old::NotNow => {
                    self.core.hold_timers();
                    break;
                }
                Old::Lost => self.step(now, Event::TimerDue { timer, readable: false })?,
                Old::Message(message) => {
                    self.in_hand = Some((timer.due.position, message));
                    self.step(now, Event::TimerDue { timer, readable: true })?;
                }
            }
        }
        Ok(())
    }

    /// Moves pending messages out of the segment that is to be dropped.
    pub(super) fn leave_segment(&mut self, now: u64) -> Result<(), AppendError> {
        let Some(segment) = self.leaving else { return Ok(()) };
        for _ in 0..PER_ROUND {
            if self.log.staged_bytes() >= ROUND_BYTES {
                return Ok(());
            }
            let NextMove::Timer(timer) = self.core.next_move(segment, &self.entries()) else {
                // Retention looks again, whether it is empty now or can't be read.
                self.leaving = None;
                return Ok(());
            };
            let readable = match self.old_message(timer.due.position)? {
                Old::NotNow => {
                    self.leaving = None;
                    return Ok(());
                }
                Old::Lost => false,
                Old::Message(message) => {
                    self.in_hand = Some((timer.due.position, message));
                    true
                }
            };
            self.step(now, Event::TimerMove { timer, end: segment.1, readable })?;
        }
        Ok(())
    }

    /// Reads a message that is to be appended again, and makes sure that there is room for it.
    fn old_message(&mut self, position: Lsn) -> Result<Old, AppendError> {
        let frame = match self.reader.frame(position) {
            Ok(frame) => frame,
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
}
