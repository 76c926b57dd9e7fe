//! Pulls that wait: each for the first message at or behind an offset of one queue. Soft knowledge of the leader, like that of receives.

use super::core::Token;
use gantry_model::{QueueKey, TopicId};
use std::collections::{BTreeSet, HashMap};

/// What one pull waits for.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    pub queue: QueueKey,
    pub offset: u64,
    /// When it ends anyway, in the shard's time.
    pub deadline: u64,
}

/// All waiting pulls of a shard.
#[derive(Debug, Default)]
pub struct Pulls {
    waits: HashMap<Token, Wait>,
    queues: BTreeSet<(QueueKey, u64, Token)>,
    deadlines: BTreeSet<(u64, Token)>,
}

impl Pulls {
    pub fn count(&self) -> usize {
        self.waits.len()
    }

    pub fn contains(&self, token: Token) -> bool {
        self.waits.contains_key(&token)
    }

    pub fn park(&mut self, token: Token, wait: Wait) {
        self.queues.insert((wait.queue, wait.offset, token));
        self.deadlines.insert((wait.deadline, token));
        self.waits.insert(token, wait);
    }

    pub fn cancel(&mut self, token: Token) {
        if let Some(wait) = self.waits.remove(&token) {
            self.queues.remove(&(wait.queue, wait.offset, token));
            self.deadlines.remove(&(wait.deadline, token));
        }
    }

    /// The pulls that waited for something below `end`.
    pub fn arrived(&mut self, queue: QueueKey, end: u64) -> Vec<Token> {
        let woken = self.queues.range((queue, 0, Token(0))..(queue, end, Token(0))).map(|&(.., token)| token).collect();
        self.end(woken)
    }

    /// Pulls whose time is over at `now`.
    pub fn overdue(&mut self, now: u64) -> Vec<Token> {
        let over = self.deadlines.range(..=(now, Token(u64::MAX))).map(|&(_, token)| token).collect();
        self.end(over)
    }

    pub fn of_topic(&mut self, topic: TopicId) -> Vec<Token> {
        let theirs = self.queues.iter().filter(|(queue, ..)| queue.topic() == topic).map(|&(.., token)| token).collect();
        self.end(theirs)
    }

    pub fn next_deadline(&self) -> Option<u64> {
        self.deadlines.first().map(|&(time, _)| time)
    }

    fn end(&mut self, tokens: Vec<Token>) -> Vec<Token> {
        tokens.iter().for_each(|&token| self.cancel(token));
        tokens
    }
}
