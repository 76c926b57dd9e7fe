//! Who waits for messages of lite topics, and which lite topics may have some for them.
//!
//! Every reader has its own set of lite topics to look at. A lite topic comes into the set when a message of it becomes visible or when the one
//! that locked it is finished, and leaves it when it is looked at: either it gives something, and then it is locked until that is finished, or
//! it has nothing, and then it comes back with the next event. So nothing is lost, and nobody looks at idle lite topics. This is soft
//! knowledge of the leader; a reader that it doesn't know looks at all it subscribes once.

use crate::record::Forget;
use crate::shard::core::Token;
use gantry_model::{ClientId, GroupId, QueueKey, TopicId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

/// A client without a sync and without a receive for this long may be gone.
const SILENCE_MS: u64 = 180_000;
/// A silent client is asked about again after this time.
const ASK_AGAIN_MS: u64 = 10_000;

/// A group that reads a parent.
pub type Place = (TopicId, GroupId);

/// Who looks for messages: one client, or `None` for all members together where every member gets every lite topic.
pub type Who = Option<ClientId>;

/// What one reader waits with, and what there may be for it.
#[derive(Debug, Default)]
pub struct Reader {
    /// Its receives, the oldest first.
    pub waiting: VecDeque<Token>,
    pub ready: BTreeSet<QueueKey>,
    /// Where the last delivery stopped, so that no lite topic starves.
    turn: QueueKey,
}

impl Reader {
    /// Takes out the next lite topic to look at.
    pub fn next_ready(&mut self) -> Option<QueueKey> {
        let behind = (Bound::Excluded(self.turn), Bound::Unbounded);
        let queue = self.ready.range(behind).next().or(self.ready.first()).copied()?;
        self.ready.remove(&queue);
        self.turn = queue;
        Some(queue)
    }
}

/// All readers of lite topics.
#[derive(Debug, Default)]
pub struct LitePolls {
    readers: BTreeMap<Place, BTreeMap<Who, Reader>>,
    /// Lite topics that may have something since the last look.
    arrived: BTreeSet<QueueKey>,
    /// When each client last synced or received.
    heard: BTreeMap<(ClientId, Place), u64>,
    /// When each client is asked about next; may be early.
    silent: BTreeSet<(u64, ClientId, Place)>,
}

impl LitePolls {
    pub fn reader(&mut self, place: Place, who: &Who) -> Option<&mut Reader> {
        self.readers.get_mut(&place)?.get_mut(who)
    }

    /// The reader, and whether it was made just now and knows of nothing yet.
    pub fn reader_or_new(&mut self, place: Place, who: &Who) -> (&mut Reader, bool) {
        let mut fresh = false;
        let reader = self.readers.entry(place).or_default().entry(who.clone()).or_insert_with(|| {
            fresh = true;
            Reader::default()
        });
        (reader, fresh)
    }

    pub fn answered(&mut self, place: Place, client: &ClientId, token: Token) {
        for who in [Some(client.clone()), None] {
            if let Some(reader) = self.reader(place, &who) {
                reader.waiting.retain(|&waiting| waiting != token);
            }
        }
    }

    /// A lite topic may have something.
    pub fn arrived(&mut self, queue: QueueKey) {
        self.arrived.insert(queue);
    }

    pub fn take_arrived(&mut self) -> BTreeSet<QueueKey> {
        std::mem::take(&mut self.arrived)
    }

    /// Groups of which somebody reads a parent.
    pub fn groups(&self, topic: TopicId) -> Vec<GroupId> {
        self.readers.range((topic, GroupId(0))..=(topic, GroupId(u32::MAX))).map(|(&(_, group), _)| group).collect()
    }

    pub fn heard(&mut self, client: &ClientId, place: Place, now: u64) {
        if self.heard.insert((client.clone(), place), now).is_none() {
            self.silent.insert((now + SILENCE_MS, client.clone(), place));
        }
    }

    /// Clients that were not heard of for long.
    pub fn silent(&mut self, now: u64) -> Vec<ClientId> {
        let mut clients = Vec::new();
        while self.silent.first().is_some_and(|(due, ..)| *due <= now) {
            let Some((_, client, place)) = self.silent.pop_first() else { break };
            match self.heard.get(&(client.clone(), place)) {
                Some(&heard) if heard + SILENCE_MS > now => drop(self.silent.insert((heard + SILENCE_MS, client, place))),
                Some(_) => {
                    clients.push(client.clone());
                    self.silent.insert((now + ASK_AGAIN_MS, client, place));
                }
                None => {}
            }
        }
        clients
    }

    /// A client is gone. Its receives were answered before.
    pub fn gone(&mut self, client: &ClientId) {
        let (first, last) = ((TopicId(0), GroupId(0)), (TopicId(u32::MAX), GroupId(u32::MAX)));
        let range = (client.clone(), first)..=(client.clone(), last);
        let places: Vec<Place> = self.heard.range(range).map(|((_, place), _)| *place).collect();
        for place in places {
            self.heard.remove(&(client.clone(), place));
            if let Some(readers) = self.readers.get_mut(&place) {
                readers.remove(&Some(client.clone()));
            }
        }
    }

    pub fn forget(&mut self, what: Forget) {
        let goes = |(topic, group): Place| match what {
            Forget::Topic(gone) => topic == gone,
            Forget::Group(gone) => group == gone,
        };
        self.readers.retain(|place, _| !goes(*place));
        self.heard.retain(|(_, place), _| !goes(*place));
    }
}
