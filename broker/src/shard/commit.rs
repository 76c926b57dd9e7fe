//! From written to committed: what was decided in a round is told to the world when the high watermark has passed all of it.
//!
//! A round ends with one write and one sync of the own log. With copies elsewhere that is not yet a commit: the next rounds go on meanwhile, and each
//! is settled in its turn. Alone, what is durable is committed, and a round is settled as soon as it is synced.

use super::core::{Event, Reply, Token};
use super::lite::Lost;
use super::thread::Driver;
use super::upkeep::{Frozen, Job};
use crate::post::{Letter, Post};
use crate::record::Trim;
use crate::replica::leading::Leading;
use gantry_model::Lsn;
use gantry_store::index::SealJob;
use gantry_store::log::AppendError;
use gantry_store::zoo;
use std::collections::VecDeque;
use std::sync::Arc;

/// What can't be taken back, and so waits until it need not be.
pub(super) enum Effect {
    /// The index of a segment is written.
    Seal(SealJob),
    /// The state of a moment is written.
    Checkpoint(Frozen),
    /// What retention gave up is deleted.
    Trim(Trim),
    /// A client is told that it lost a lite topic.
    Lost(Lost),
}

/// What rests on the end of the log at one moment.
struct Round {
    end: Lsn,
    /// The core's number of the last thing appended.
    appended: u64,
    replies: Vec<(Token, Reply)>,
    effects: Vec<Effect>,
}

/// Rounds that are not committed, and the one that is being made.
#[derive(Default)]
pub(super) struct Rounds {
    open: VecDeque<Round>,
    replies: Vec<(Token, Reply)>,
    effects: Vec<Effect>,
    /// The last number that the core was told to be committed.
    told: u64,
}

impl Rounds {
    pub fn reply(&mut self, token: Token, reply: Reply) {
        self.replies.push((token, reply));
    }

    pub fn effect(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    /// Whether something was decided since the last round was closed.
    pub fn is_begun(&self) -> bool {
        !self.replies.is_empty() || !self.effects.is_empty()
    }

    /// Everything decided until now rests on this end.
    fn close(&mut self, end: Lsn, appended: u64) {
        let newest = self.open.back().map_or(self.told, |round| round.appended);
        if self.is_begun() || appended > newest {
            let (replies, effects) = (std::mem::take(&mut self.replies), std::mem::take(&mut self.effects));
            self.open.push_back(Round { end, appended, replies, effects });
        }
    }

    fn next_settled(&mut self, hw: Lsn) -> Option<Round> {
        let settled = self.open.front().is_some_and(|round| round.end <= hw);
        let round = if settled { self.open.pop_front() } else { None }?;
        self.told = round.appended;
        Some(round)
    }
}

impl Driver {
    /// Writes what is staged and makes it durable here; then settles what is committed.
    pub(super) fn commit(&mut self) -> Result<(), AppendError> {
        self.flush()?;
        let (now, end) = (self.core.now(), self.log.end());
        if let Some(frozen) = self.upkeep.checkpoint_if_due(now, &mut self.core.state, &self.index, &self.log, end) {
            if zoo!(CheckpointUncommitted) {
                self.upkeep.give(Job::Checkpoint(frozen));
            } else {
                self.rounds.effect(Effect::Checkpoint(frozen));
            }
        }
        self.rounds.close(end, self.core.appended());
        self.settle()
    }

    /// Writes and syncs what is staged. Followers get it while the own disk syncs.
    pub(crate) fn flush(&mut self) -> Result<(), AppendError> {
        if self.log.staged_bytes() == 0 {
            return Ok(());
        }
        self.log.write()?;
        if let Some(leading) = &mut self.leading {
            leading.written(&self.log, self.written);
        }
        let durable = self.log.sync()?;
        if let Some(leading) = &mut self.leading {
            leading.synced(durable);
        }
        Ok(())
    }

    /// Everything before it is committed. Alone, that is what is durable.
    pub(crate) fn hw(&self) -> Lsn {
        self.leading.as_ref().filter(|_| !zoo!(AnswerWhenDurableHere)).map_or(self.log.durable(), Leading::hw)
    }

    /// Answers what is committed, and makes its messages visible.
    pub(super) fn settle(&mut self) -> Result<(), AppendError> {
        let hw = self.hw();
        let mut replies = Vec::new();
        let mut appended = None;
        while let Some(round) = self.rounds.next_settled(hw) {
            appended = Some(round.appended);
            if replies.is_empty() {
                replies = round.replies;
            } else {
                replies.extend(round.replies);
            }
            round.effects.into_iter().for_each(|effect| self.take_effect(effect));
        }
        self.send_answers(replies);
        match appended {
            Some(appended) => self.step(self.core.now(), Event::Committed { appended }),
            None => Ok(()),
        }
    }

    fn take_effect(&mut self, effect: Effect) {
        match effect {
            Effect::Seal(job) => self.upkeep.give(Job::Seal(job)),
            Effect::Checkpoint(frozen) => self.upkeep.give(Job::Checkpoint(frozen)),
            Effect::Trim(trim) => self.upkeep.trimmed(&trim, &mut self.index, &mut self.log),
            Effect::Lost(lost) => {
                if let Some(clients) = self.reach.get() {
                    clients.lost_lite(&lost.client, lost.group, lost.topic, &lost.lite);
                }
            }
        }
    }

    /// One envelope for each thread that waits.
    pub(super) fn send_answers(&mut self, replies: Vec<(Token, Reply)>) {
        let mut envelopes: Vec<(Arc<Post>, Vec<Letter>)> = Vec::new();
        for (token, reply) in replies {
            let Some(letter) = self.answer(token, reply) else { continue };
            match envelopes.iter_mut().find(|(post, _)| Arc::ptr_eq(post, letter.post())) {
                Some((_, letters)) => letters.push(letter),
                None => envelopes.push((letter.post().clone(), vec![letter])),
            }
        }
        for (post, letters) in envelopes {
            post.send(letters, &self.inbox);
        }
    }
}
