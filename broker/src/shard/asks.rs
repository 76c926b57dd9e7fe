//! What a shard is asked about positions and dead letters, and what it answers.
//!
//! These calls are rare beside sends and receives, so they share one event and one reply.

use super::core::{Core, Draft, Entries, Event, Reply, Token};
use super::letters::Letter;
use super::pulls::Wait;
use super::thread::{Driver, Waiter};
use crate::post::ReplyTo;
use gantry_model::contract::broker::{LetterError, LetterId, Moved, OffsetError, PullError, SeekRequest, Sent, Standing};
use gantry_model::{Group, GroupId, Offset, QueueId, QueueKey, Topic, TopicId};
use gantry_store::log::AppendError;
use std::sync::Arc;
use std::time::Duration;

/// A question or a wish.
#[derive(Debug)]
pub enum Ask {
    Committed {
        group: Arc<Group>,
        topic: Arc<Topic>,
        queue: QueueId,
    },
    Commit {
        group: Arc<Group>,
        topic: Arc<Topic>,
        queue: QueueId,
        offset: Offset,
    },
    OffsetAt {
        topic: Arc<Topic>,
        queue: QueueId,
        time_ms: u64,
    },
    /// Whether a queue has a message at or behind an offset, waiting for one.
    Arrival {
        topic: Arc<Topic>,
        queue: QueueId,
        offset: Offset,
        wait: Duration,
    },
    Seek(Box<SeekRequest>),
    Skip {
        group: Arc<Group>,
        topic: Arc<Topic>,
        queue: QueueId,
        offsets: Vec<Offset>,
    },
    TopicsOf {
        group: Arc<Group>,
    },
    Standing {
        group: Arc<Group>,
        messages: Vec<(QueueKey, u64)>,
    },
    /// The groups that records name, members of broadcasting ones among them.
    GroupsBehind {
        readers: Vec<GroupId>,
    },
    /// Which of these places hold dead letters that are gone.
    Gone {
        places: Vec<(QueueKey, u64)>,
    },
    /// `bytes` is what they take in the log.
    Redrive {
        group: Arc<Group>,
        letters: Vec<Letter>,
        bytes: usize,
    },
    Purge {
        group: Arc<Group>,
        letters: Vec<LetterId>,
    },
}

/// The answer to an [`Ask`], by the same name.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    Committed(Option<Offset>),
    Commit(Result<(), OffsetError>),
    /// `None`: the topic has no such queue.
    OffsetAt(Option<Offset>),
    /// One past the newest message that can be read. Without a new one, the wait is over.
    Arrival(Result<Offset, PullError>),
    Seek(Result<Vec<Moved>, OffsetError>),
    Skip(Result<u64, OffsetError>),
    TopicsOf(Vec<TopicId>),
    GroupsBehind(Vec<GroupId>),
    Standing(Vec<Standing>),
    Gone(Vec<bool>),
    Redrive(Vec<Result<Sent, LetterError>>),
    Purge(Vec<Result<(), LetterError>>),
}

impl<D: Draft> Core<D> {
    pub(super) fn tell(&mut self, token: Token, ask: Ask, entries: &dyn Entries) {
        self.flush_acks();
        let told = match ask {
            Ask::Committed { group, topic, queue } => Told::Committed(self.committed_offset(&group, &topic, queue)),
            Ask::Commit { group, topic, queue, offset } => Told::Commit(self.commit_offset(&group, &topic, queue, offset)),
            Ask::OffsetAt { topic, queue, time_ms } => {
                Told::OffsetAt(self.readable_queue(&topic, queue).map(|key| Offset(self.offset_at(key, time_ms, entries))))
            }
            Ask::Arrival { topic, queue, offset, wait } => match self.arrival(token, &topic, queue, offset, wait) {
                Some(answer) => Told::Arrival(answer),
                None => return,
            },
            Ask::Seek(request) => Told::Seek(self.seek(&request, entries)),
            Ask::Skip { group, topic, queue, offsets } => Told::Skip(self.skip(&group, &topic, queue, &offsets, entries)),
            Ask::TopicsOf { group } => Told::TopicsOf(self.topics_of(&group)),
            Ask::GroupsBehind { readers } => Told::GroupsBehind(self.groups_behind(&readers)),
            Ask::Standing { group, messages } => {
                Told::Standing(messages.into_iter().map(|(queue, offset)| self.standing(&group, queue, offset, entries)).collect())
            }
            Ask::Gone { places } => Told::Gone(places.into_iter().map(|(queue, offset)| self.is_gone(queue, offset)).collect()),
            Ask::Redrive { group, letters, .. } => Told::Redrive(letters.iter().map(|letter| self.redrive(&group, letter, entries)).collect()),
            Ask::Purge { group, letters } => Told::Purge(self.purge(&group, &letters, entries)),
        };
        self.reply(token, Reply::Told(told));
    }

    /// Answers at once if there is something to read or nothing will come; `None` if the pull waits.
    fn arrival(&mut self, token: Token, topic: &Topic, queue: QueueId, offset: Offset, wait: Duration) -> Option<Result<Offset, PullError>> {
        let Some(key) = self.readable_queue(topic, queue) else { return Some(Err(PullError::NoSuchQueue)) };
        let (min, end) = (self.state.bounds(key).min, self.visible_end(key));
        if offset.0 < min || offset.0 > end {
            return Some(Err(PullError::OutOfRange { next: Offset(offset.0.clamp(min, end.max(min))) }));
        }
        if offset.0 < end || wait.is_zero() || self.draining() {
            return Some(Ok(Offset(end)));
        }
        if self.open_polls() >= self.limits.polls {
            return Some(Err(PullError::TooManyPolls));
        }
        self.pulls.park(token, Wait { queue: key, offset: offset.0, deadline: self.now + wait.as_millis() as u64 });
        None
    }

    /// Messages of a queue became visible.
    pub(super) fn wake_pulls(&mut self, queue: QueueKey) {
        if self.pulls.count() > 0 {
            let end = self.visible_end(queue);
            for token in self.pulls.arrived(queue, end) {
                self.reply(token, Reply::Told(Told::Arrival(Ok(Offset(end)))));
            }
        }
    }

    /// Ends pulls that have waited long enough: they look once more, and find what they find.
    pub(super) fn end_pulls(&mut self, tokens: Vec<Token>) {
        for token in tokens {
            self.reply(token, Reply::Told(Told::Arrival(Ok(Offset(0)))));
        }
    }
}

impl Driver {
    /// Sending dead letters again stores messages, which a full disk refuses.
    pub(super) fn take_ask(&mut self, now: u64, token: Token, ask: Ask, reply: ReplyTo<Told>) -> Result<(), AppendError> {
        if let Ask::Redrive { letters, bytes, .. } = &ask
            && let Some(used_percent) = self.upkeep.full(&mut self.log, *bytes)?
        {
            let _ = reply.send(Told::Redrive(vec![Err(LetterError::DiskFull { used_percent }); letters.len()]));
            return Ok(());
        }
        self.waiters.insert(token, Waiter::Ask(reply));
        self.step(now, Event::Ask { token, ask })
    }
}
