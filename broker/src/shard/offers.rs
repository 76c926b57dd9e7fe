//! Offers: how a receive that asks several shards gets the right to lease from one of them.
//!
//! Such a receive waits here like any other, and in the same line. When its turn comes and there is something for it, it is not given messages
//! but an offer, and then it either comes back and leases, or declines. A shard keeps what it offered: no more offers are out for a group than
//! receives could get something, and other receives get only what is left beside them.
//!
//! # The life of an offer
//! - *made*: the receive left the line, and knows.
//! - *taken*: a receive came with its number, and goes before all that wait.
//! - *declined*, or *void* because nobody took it in time, or because its client is gone: the next in line gets it.
//!
//! All of it is soft knowledge of the leader. An offer that it doesn't know is worth nothing, and whoever takes it gets what a receive without
//! a wait gets.

use super::core::{Core, Draft, Entries, Reply, Token};
use super::deliver::Share;
use super::lite::waiting::{Place, Who};
use super::polls::{Poll, Seeks};
use crate::record::Forget;
use gantry_model::contract::broker::Offer;
use gantry_model::{ClientId, Filter, GroupId, QueueKey, TopicId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Offers that may be out for one group on one topic.
const OFFERS_MAX: usize = 256;

/// One offer.
#[derive(Clone, Debug)]
struct Made {
    place: Place,
    /// Which reader of lite topics; `None` on other topics.
    lite: Option<Who>,
    client: ClientId,
    until: u64,
}

/// All offers that are out.
#[derive(Debug, Default)]
pub struct Offers {
    made: HashMap<Token, Made>,
    deadlines: BTreeSet<(u64, Token)>,
    out: BTreeMap<(Place, Option<Who>), usize>,
}

impl Offers {
    /// How many are out for a group, or for one of its readers of lite topics.
    pub fn out(&self, place: Place, lite: Option<&Who>) -> usize {
        if self.out.is_empty() {
            return 0;
        }
        self.out.get(&(place, lite.cloned())).copied().unwrap_or(0)
    }

    pub fn next_deadline(&self) -> Option<u64> {
        self.deadlines.first().map(|&(time, _)| time)
    }

    fn add(&mut self, token: Token, made: Made) {
        self.deadlines.insert((made.until, token));
        *self.out.entry((made.place, made.lite.clone())).or_insert(0) += 1;
        self.made.insert(token, made);
    }

    fn remove(&mut self, token: Token) -> Option<Made> {
        let made = self.made.remove(&token)?;
        self.deadlines.remove(&(made.until, token));
        let key = (made.place, made.lite.clone());
        if let Some(out) = self.out.get_mut(&key) {
            *out -= 1;
            if *out == 0 {
                self.out.remove(&key);
            }
        }
        Some(made)
    }

    fn remove_where(&mut self, goes: impl Fn(&Made) -> bool) {
        let mut tokens: Vec<Token> = self.made.iter().filter(|(_, made)| goes(made)).map(|(&token, _)| token).collect();
        tokens.sort_unstable();
        tokens.into_iter().for_each(|token| drop(self.remove(token)));
    }

    /// Drops what concerns a deleted topic or group.
    pub fn forget(&mut self, what: Forget) {
        self.remove_where(|made| match what {
            Forget::Topic(gone) => made.place.0 == gone,
            Forget::Group(gone) => made.place.1 == gone,
        });
    }
}

/// What was found while one line is served: for how many receives with a filter there is something.
#[derive(Default)]
pub(super) struct Rooms(Vec<(Arc<Filter>, usize)>);

impl Rooms {
    fn of(&self, poll: &Poll) -> Option<usize> {
        self.0.iter().find(|(filter, _)| filter == poll.wanted.filter()).map(|&(_, there)| there)
    }

    /// Something was leased: what was found before is old.
    pub(super) fn changed(&mut self) {
        self.0.clear();
    }
}

impl<D: Draft> Core<D> {
    /// Whether there is more for a receive than what is offered to others. A receive that has nothing to gain from looking at these queues
    /// leaves the line untouched.
    pub(super) fn beyond_offers(&self, poll: &Poll, queues: &[QueueKey], rooms: &mut Rooms, entries: &dyn Entries) -> Beyond {
        let out = self.offers.out((poll.topic.id, poll.group.id), None);
        if out == 0 && poll.seeks == Seeks::Messages {
            return Beyond::Everything;
        }
        let there = rooms.of(poll).unwrap_or_else(|| {
            let waiting = self.polls.waiting(poll.topic.id, poll.group.id);
            let there = self.deliverable(poll, queues, (out + waiting).min(OFFERS_MAX).max(out + poll.max as usize), entries);
            rooms.0.push((poll.wanted.filter().clone(), there));
            there
        });
        match there {
            0 => Beyond::NothingAtAll,
            there if there <= out || out >= OFFERS_MAX => Beyond::Nothing,
            there => Beyond::Some(there - out),
        }
    }

    /// How many receives like this one could get something now, as far as `most`. Messages that stand behind one of their message group don't count.
    fn deliverable(&self, poll: &Poll, queues: &[QueueKey], most: usize, entries: &dyn Entries) -> usize {
        let alone = Poll { ordered_batch: false, ..poll.clone() };
        let mut there = 0;
        for &queue in queues {
            if there >= most {
                break;
            }
            there += self.pick(&alone, queue, Share::all(most - there), entries).part.leased.len();
        }
        there
    }

    /// Takes a receive out of its line and lets it know that there is something for it.
    pub(super) fn offer(&mut self, token: Token, lite: Option<Who>) {
        let Some(poll) = self.polls.take(token) else { return };
        let until = self.now + Offer::LIFE.as_millis() as u64;
        self.offers.add(token, Made { place: (poll.topic.id, poll.group.id), lite, client: poll.client, until });
        self.reply(token, Reply::Offered);
    }

    /// A receive comes to lease what was offered: it goes before all that wait. Nothing is offered anew before it was served.
    pub(super) fn take_offer(&mut self, offer: Token) -> bool {
        self.offers.remove(offer).is_some()
    }

    /// An offer is declined, or who asked for one went away.
    pub(super) fn decline(&mut self, token: Token, entries: &dyn Entries) {
        if let Some(made) = self.offers.remove(token) {
            self.serve_next(made, entries);
        }
    }

    /// Offers that nobody took in time go to the next in line.
    pub(super) fn void_offers(&mut self, entries: &dyn Entries) {
        while let Some(&(_, token)) = self.offers.deadlines.first().filter(|(until, _)| *until <= self.now) {
            self.decline(token, entries);
        }
    }

    /// Offers to a client that is gone go to the next in line.
    pub(super) fn void_offers_of(&mut self, client: &ClientId, entries: &dyn Entries) {
        let mut theirs: Vec<Token> = self.offers.made.iter().filter(|(_, made)| made.client == *client).map(|(&token, _)| token).collect();
        theirs.sort_unstable();
        theirs.into_iter().for_each(|token| self.decline(token, entries));
    }

    /// The group consumes in another way now; what was offered to it is void.
    pub(super) fn void_offers_to(&mut self, topic: TopicId, group: GroupId) {
        self.offers.remove_where(|made| made.place == (topic, group));
    }

    fn serve_next(&mut self, made: Made, entries: &dyn Entries) {
        match made.lite {
            None => self.serve(made.place.0, made.place.1, entries),
            Some(who) => self.serve_reader(made.place, &who, entries),
        }
    }
}

/// What a receive may get beside what is offered to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beyond {
    /// Nothing is offered to anybody.
    Everything,
    /// Enough for so many receives.
    Some(usize),
    /// All there is, is offered.
    Nothing,
    /// There is nothing for it, offered or not.
    NothingAtAll,
}
