//! Dead letters: a group's letters of shard `s` are in queue `s` of its dead letter topic.
//!
//! A letter that goes to a queue of its own shard moves there in one step. One whose message group, priority or topic lies elsewhere is stored
//! there first and removed then, so it is never lost; a crash between the two leaves it in both places.

use super::Routed;
use super::apart::{Numbered, apart, in_order};
use super::race::{Call, all};
use gantry_model::contract::Broker as _;
use gantry_model::contract::broker::{LetterError, LetterId, LookupError, Query, SendError, SendRequest, Sent};
use gantry_model::message::StoredMessage;
use gantry_model::topic::TopicOptions;
use gantry_model::{ClientId, Group, MessageKind, ShardId, Topic};
use std::sync::Arc;
use std::time::Duration;

/// How long a letter waits for the shard that it goes to.
const SEND: Duration = Duration::from_secs(3);
/// Who sends letters again, in the eyes of the shard.
const SENDER: &str = "redrive";

fn shard_of(letter: &LetterId) -> ShardId {
    ShardId(letter.queue.0)
}

/// Fails as a whole only if nothing was asked of a shard; then it may be asked again.
fn unless_leaderless<T>(answers: Vec<Result<T, LetterError>>) -> Result<Vec<Result<T, LetterError>>, LetterError> {
    let none = !answers.is_empty() && answers.iter().all(|answer| matches!(answer, Err(LetterError::NoLeader)));
    if none { Err(LetterError::NoLeader) } else { Ok(answers) }
}

impl Routed {
    pub(super) async fn redrive_apart(&self, group: &Group, letters: Vec<LetterId>, to: Option<Arc<Topic>>) -> Vec<Result<Sent, LetterError>> {
        let (count, to) = (letters.len(), &to);
        let calls = apart(letters, shard_of).into_iter().map(|(shard, letters)| -> Call<'_, Numbered<Result<Sent, LetterError>>> {
            Box::pin(async move { self.redrive_on(group, shard, letters, to.as_ref()).await })
        });
        let calls = calls.collect();
        in_order(count, all(calls).await)
    }

    async fn redrive_on(
        &self,
        group: &Group,
        shard: ShardId,
        letters: Numbered<LetterId>,
        to: Option<&Arc<Topic>>,
    ) -> Numbered<Result<Sent, LetterError>> {
        let ids: Vec<LetterId> = letters.iter().map(|(_, letter)| *letter).collect();
        let moved = self.ask(shard, |broker| {
            let ids = ids.clone();
            async move { unless_leaderless(broker.redrive(group, ids, to.cloned()).await) }
        });
        let answers = moved.await.unwrap_or_else(|error| vec![Err(error); ids.len()]);
        let mut answered = Vec::with_capacity(letters.len());
        for ((number, letter), answer) in letters.into_iter().zip(answers) {
            let answer = match answer {
                Err(LetterError::Elsewhere) => self.redrive_elsewhere(group, letter, to).await,
                answer => answer,
            };
            answered.push((number, answer));
        }
        answered
    }

    /// Stores a letter on the shard where it belongs, and removes it here.
    async fn redrive_elsewhere(&self, group: &Group, letter: LetterId, to: Option<&Arc<Topic>>) -> Result<Sent, LetterError> {
        let stored = self.letter(group, letter).await?;
        let origin = stored.origin.as_ref().ok_or(LetterError::Gone)?;
        let topic = match to {
            Some(topic) => topic.clone(),
            None => self.metadata.topic_by_id(origin.topic).ok_or(LetterError::NoWritableQueue)?,
        };
        // Its id was stored before, and is meant to be stored again.
        let topic = Arc::new(Topic { options: TopicOptions { dedup: false, ..topic.options.clone() }, ..(*topic).clone() });
        let mut message = stored.message;
        if matches!(message.kind, MessageKind::Transaction | MessageKind::Delay) {
            // It was committed, or was due, before it died.
            message.kind = MessageKind::Normal;
        }
        let request = SendRequest { topic, messages: vec![message], client: ClientId::new(SENDER), wait: SEND };
        let sent = self.send_apart(request).await.pop().unwrap_or(Err(SendError::NoLeader)).map_err(unsent)?;
        match self.purge(group, vec![letter]).await.pop() {
            // Somebody else was quicker; both sent it.
            Some(Ok(()) | Err(LetterError::Gone)) | None => Ok(sent),
            Some(Err(error)) => Err(LetterError::Failed {
                why: format!("it was stored in its topic, and is still a dead letter, because it could not be removed: {error}"),
            }),
        }
    }

    async fn letter(&self, group: &Group, letter: LetterId) -> Result<StoredMessage, LetterError> {
        let topic = self.metadata.topic_by_id(group.dead_letter).ok_or(LetterError::Gone)?;
        let query = Query::Offset { queue: letter.queue, offset: letter.offset };
        let found = self.find_on_all(&topic, query, 1).await.map_err(|error| match error {
            LookupError::Busy => LetterError::Busy,
            LookupError::NoLeader => LetterError::NoLeader,
            LookupError::NoSuchQueue => LetterError::Gone,
            LookupError::Failed { why } => LetterError::Failed { why },
        })?;
        found.into_iter().find(|message| message.offset == letter.offset).ok_or(LetterError::Gone)
    }

    pub(super) async fn purge_apart(&self, group: &Group, letters: Vec<LetterId>) -> Vec<Result<(), LetterError>> {
        let count = letters.len();
        let calls = apart(letters, shard_of).into_iter().map(|(shard, letters)| -> Call<'_, Numbered<Result<(), LetterError>>> {
            Box::pin(async move {
                let ids: Vec<LetterId> = letters.iter().map(|(_, letter)| *letter).collect();
                let purged = self.ask(shard, |broker| {
                    let ids = ids.clone();
                    async move { unless_leaderless(broker.purge(group, ids).await) }
                });
                let answers = purged.await.unwrap_or_else(|error| vec![Err(error); ids.len()]);
                letters.into_iter().map(|(number, _)| number).zip(answers).collect()
            })
        });
        let calls = calls.collect();
        in_order(count, all(calls).await)
    }
}

fn unsent(error: SendError) -> LetterError {
    match error {
        SendError::Busy | SendError::Draining => LetterError::Busy,
        SendError::NoLeader => LetterError::NoLeader,
        SendError::DiskFull { used_percent } => LetterError::DiskFull { used_percent },
        SendError::NoWritableQueue => LetterError::NoWritableQueue,
        error @ (SendError::QuotaExceeded { .. } | SendError::LiteTopicQuota { .. } | SendError::Misplaced { .. } | SendError::Unknown { .. }) => {
            LetterError::Failed { why: error.to_string() }
        }
    }
}
