//! Dead letters sent again or removed.

use super::{CONTROL_BYTES, LocalBroker};
use crate::admission::Lane;
use crate::draft::{Draft, RawMessage};
use crate::shard::asks::{Ask, Told};
use crate::shard::core::Draft as _;
use crate::shard::inbox::{Find, Request};
use crate::shard::letters::Letter;
use gantry_model::contract::broker::{LetterError, LetterId, LookupError, Sent};
use gantry_model::message::StoredMessage;
use gantry_model::{Group, QueueKey, Topic};
use std::sync::Arc;

fn failed() -> LetterError {
    LetterError::Failed { why: "the shard has stopped; nothing was changed that was not answered".into() }
}

fn unread(error: LookupError) -> LetterError {
    match error {
        LookupError::Busy => LetterError::Busy,
        other => LetterError::Failed { why: other.to_string() },
    }
}

impl LocalBroker {
    pub(super) async fn send_again(&self, group: &Group, letters: Vec<LetterId>, to: Option<&Arc<Topic>>) -> Vec<Result<Sent, LetterError>> {
        let mut found = Vec::with_capacity(letters.len());
        let mut bytes = 0;
        for &letter in &letters {
            found.push(self.letter(group, letter, to).await.map(|(letter, size)| {
                bytes += size;
                letter
            }));
        }
        let Some(_permit) = self.admission.enter(Lane::Data, bytes) else { return vec![Err(LetterError::Busy); letters.len()] };
        let (mut errors, mut ready) = (Vec::with_capacity(letters.len()), Vec::new());
        for each in found {
            errors.push(each.map(|letter| ready.push(letter)).err());
        }
        let group = Arc::new(group.clone());
        let answers = match ready.is_empty() {
            true => Vec::new(),
            false => match self.inquire(Ask::Redrive { group, letters: ready, bytes }).await {
                Some(Told::Redrive(answers)) => answers,
                _ => Vec::new(),
            },
        };
        let mut answers = answers.into_iter();
        errors.into_iter().map(|error| error.map_or_else(|| answers.next().unwrap_or_else(|| Err(failed())), Err)).collect()
    }

    /// A dead letter as it is to be sent again, and its size in the log.
    async fn letter(&self, group: &Group, id: LetterId, to: Option<&Arc<Topic>>) -> Result<(Letter, usize), LetterError> {
        let dead_queue = QueueKey::new(group.dead_letter, id.queue);
        let find = Find::From { queue: dead_queue, offset: id.offset.0 };
        let found = self.ask(|reply| Request::Find { find, limit: 1, reply }).await.ok_or_else(failed)?;
        let found = found.into_iter().find(|found| found.offset == id.offset.0).ok_or(LetterError::Gone)?;
        let stored = self.messages.read(found).await.map_err(unread)?.and_then(RawMessage::decode).ok_or(LetterError::Gone)?;
        let origin = stored.origin.ok_or(LetterError::Gone)?;
        let topic = match to {
            Some(topic) => topic.clone(),
            None => self.messages.metadata().topic_by_id(origin.topic).ok_or(LetterError::NoWritableQueue)?,
        };
        let draft = Draft::new(topic.id, &stored.message);
        let (size, class) = (draft.size(), draft.class().clone());
        Ok((Letter { id, class, topic }, size))
    }

    /// Takes dead letters that are gone out of what was found by key: the key index still knows them.
    pub(super) async fn hide_gone(&self, messages: &mut Vec<StoredMessage>) -> Result<(), LookupError> {
        let places = messages.iter().map(|message| (QueueKey::new(message.topic, message.queue), message.offset.0)).collect();
        let Some(Told::Gone(gone)) = self.inquire(Ask::Gone { places }).await else {
            return Err(self.unread());
        };
        let mut gone = gone.into_iter();
        messages.retain(|_| !gone.next().unwrap_or(false));
        Ok(())
    }

    pub(super) async fn remove_letters(&self, group: &Group, letters: Vec<LetterId>) -> Vec<Result<(), LetterError>> {
        let count = letters.len();
        let Some(_permit) = self.admission.enter(Lane::Control, CONTROL_BYTES * count) else { return vec![Err(LetterError::Busy); count] };
        match self.inquire(Ask::Purge { group: Arc::new(group.clone()), letters }).await {
            Some(Told::Purge(answers)) => answers,
            _ => vec![Err(failed()); count],
        }
    }
}
