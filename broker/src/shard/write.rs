//! What the core decided, on its way into the log and the index.

use super::commit::Effect;
use super::core::{Action, BatchPart, Reply};
use super::thread::Driver;
use crate::draft::{self, Draft};
use crate::record::{CheckStep, Record, TxnCheck};
use bytes::Bytes;
use gantry_model::{Lsn, Offset, QueueKey};
use gantry_store::frame::{Flags, Kind};
use gantry_store::index::{self, Due};
use gantry_store::log::AppendError;
use gantry_store::record::{FIXED, Fixed, MessageView};
use gantry_store::zoo;

impl Driver {
    /// Performs what the core decided, in its order.
    pub(super) fn perform(&mut self) -> Result<(), AppendError> {
        let mut actions = std::mem::take(&mut self.actions);
        for action in actions.drain(..) {
            match action {
                Action::Store { queue, offset, batch, head, draft } => self.store(queue, offset, batch, head.as_ref(), &draft)?,
                Action::Append { record } => self.append(&record)?,
                Action::Copy { record, from } => self.append_copy(&record, from)?,
                Action::Check { handle, sender, at } => self.put_question(handle, sender, at),
                Action::Lost(lost) => self.rounds.effect(Effect::Lost(lost)),
                Action::Reply { token, reply: reply @ Reply::Acked(_) } if zoo!(AnswerAcksEarly) => self.send_answers(vec![(token, reply)]),
                Action::Reply { token, reply } => self.rounds.reply(token, reply),
            }
        }
        self.actions = actions;
        Ok(())
    }

    fn store(&mut self, queue: QueueKey, offset: Offset, batch: BatchPart, head: Option<&Record>, draft: &Draft) -> Result<(), AppendError> {
        let time = self.core.now();
        let fixed = draft.fixed(queue, offset);
        let (kind, bytes) = head.map_or((Kind::Message, Vec::new()), |record| (record.kind(), record.encode()));
        let parts: [&[u8]; 4] = [&bytes, &fixed, &draft.properties, &draft.body];
        let flags = match batch {
            BatchPart::Alone => Flags::default(),
            BatchPart::First => Flags::FIRST,
            BatchPart::Inner => Flags::CONT,
            BatchPart::Last => Flags::LAST,
        };
        let lsn = self.stage(kind, flags, time, &parts)?;
        let len = Draft::frame_len(&parts);
        self.index.append(index::Entry { queue, offset, position: lsn, len, tag_hash: draft.tag_hash, lane: draft.lane, time }, &draft.keys);
        self.core.state.hold(queue, len);
        self.note_timer(head, lsn);
        Ok(())
    }

    fn append(&mut self, record: &Record) -> Result<(), AppendError> {
        self.stage(record.kind(), Flags::default(), self.core.now(), &[&record.encode()])?;
        match record {
            Record::Trim(trim) => self.rounds.effect(Effect::Trim(trim.clone())),
            Record::LiteDrop(drop) => drop.queues.iter().for_each(|&queue| self.index.drop_queue(queue)),
            Record::Forget(forget) => self.upkeep.forgotten(*forget, &mut self.index, &self.core.state),
            Record::TxnCheck(TxnCheck { topic, id, step: CheckStep::GivenUp, .. }) => {
                tracing::warn!(topic = topic.0, transaction = id, "nobody said what became of a transaction: it is given up; an operator can end it");
            }
            _ => {}
        }
        Ok(())
    }

    /// Appends a record together with a copy of the message in an older frame. The copy is kept as long as its new place wants, whatever
    /// becomes of the original.
    fn append_copy(&mut self, record: &Record, from: Lsn) -> Result<(), AppendError> {
        let time = self.core.now();
        let message = match self.in_hand.take().filter(|(position, _)| *position == from) {
            Some((_, message)) => message,
            None => self.reader.frame(from).map(|frame| draft::message_of(&frame)).unwrap_or_default(),
        };
        let Some((queue, offset)) = record.placed() else { return self.append(record) };
        let message = if keeps_origin(record) { message } else { moved(&message, queue, offset) };
        let head = record.encode();
        let parts: [&[u8]; 2] = [&head, &message];
        let lsn = self.stage(record.kind(), Flags::default(), time, &parts)?;
        let len = Draft::frame_len(&parts);
        let (tag_hash, lane) = MessageView::parse(&message).map_or((0, 0), |view| draft::marks_of(&view));
        self.index.append(index::Entry { queue, offset, position: lsn, len, tag_hash, lane, time }, &draft::keys_of(queue.topic(), &message));
        self.core.state.hold(queue, len);
        self.note_timer(Some(record), lsn);
        Ok(())
    }

    /// Has the index remember a delayed message.
    fn note_timer(&mut self, record: Option<&Record>, position: Lsn) {
        if let Some(Record::Delayed(delayed)) = record {
            self.index.append_timer(Due { time: delayed.deliver_ms, position }, delayed.queue);
        }
    }

    /// Stages a frame; when a new segment began, the index of the old one is sealed first.
    pub(super) fn stage(&mut self, kind: Kind, flags: Flags, time: u64, parts: &[&[u8]]) -> Result<Lsn, AppendError> {
        let lsn = self.log.stage(kind, flags, time, parts)?;
        self.written = time;
        let active = self.log.active_base();
        if active != self.indexed {
            let job = self.index.seal(self.indexed, active);
            self.rounds.effect(Effect::Seal(job));
            self.indexed = active;
        }
        Ok(lsn)
    }
}

/// Whether the copy says where the message was, and not where it is now: a dead letter's does.
fn keeps_origin(record: &Record) -> bool {
    matches!(record, Record::Dead(_))
}

/// A message payload at another place.
fn moved(message: &Bytes, queue: QueueKey, offset: Offset) -> Bytes {
    let Some(view) = MessageView::parse(message) else { return message.clone() };
    let fixed = Fixed { queue, offset, ..view.fixed }.encode();
    [&fixed[..], &message[FIXED..]].concat().into()
}
