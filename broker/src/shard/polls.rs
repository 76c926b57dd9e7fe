//! Receives that wait: by topic and group, in the order they came, each with the queues that may have something for it.
//!
//! This is soft knowledge of the leader. Losing it costs a client one repeated call.

use super::core::Token;
use super::lite::waiting::LitePolls;
use super::state::lite::is_lite;
use crate::record::Forget;
use gantry_model::contract::broker::LeaseTerm;
use gantry_model::filter::Sql;
use gantry_model::topic::TopicType;
use gantry_model::{ClientId, Filter, Group, GroupId, QueueKey, Topic, TopicId};
use gantry_store::record::tag_hash;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

/// How long a member's filter counts after its last receive. Longer than the longest poll and a pause of the client.
const MEMBER_MS: u64 = 60_000;

/// One receive.
#[derive(Clone, Debug)]
pub struct Poll {
    pub group: Arc<Group>,
    pub topic: Arc<Topic>,
    pub wanted: Wanted,
    pub client: ClientId,
    pub max: u32,
    pub term: LeaseTerm,
    /// When it ends empty, in the shard's time.
    pub deadline: u64,
    pub attempt_id: Option<String>,
    /// Whether the client works on messages of one message group in their order, so that it may get several at once.
    pub ordered_batch: bool,
    /// The client's name as a member of a broadcasting group.
    pub member: String,
    pub seeks: Seeks,
}

/// What a receive came for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Seeks {
    #[default]
    Messages,
    /// Messages that were offered to it under this name.
    Offered(Token),
    /// To be offered what there is: it asks other shards as well.
    Offer,
    /// Only to be known, and to be given what it holds already.
    Nothing,
}

/// A filter ready to be asked about messages.
#[derive(Clone, Debug)]
pub struct Wanted {
    filter: Arc<Filter>,
    test: Test,
}

/// What has to be known of a message to decide.
#[derive(Clone, Debug)]
pub enum Test {
    Nothing,
    /// Its tag hash, which is one of these, sorted.
    Tag(Vec<u32>),
    Properties(Arc<Sql>),
}

impl Wanted {
    pub fn new(filter: Arc<Filter>) -> Wanted {
        let test = match &*filter {
            Filter::All => Test::Nothing,
            Filter::Tags(tags) => {
                let mut hashes: Vec<u32> = tags.iter().map(|tag| tag_hash(tag)).collect();
                hashes.sort_unstable();
                Test::Tag(hashes)
            }
            Filter::Sql(sql) => Test::Properties(sql.clone()),
        };
        Wanted { filter, test }
    }

    pub fn everything(&self) -> bool {
        matches!(self.test, Test::Nothing)
    }

    pub fn test(&self) -> &Test {
        &self.test
    }

    pub fn filter(&self) -> &Arc<Filter> {
        &self.filter
    }
}

/// What the members of one group want from one topic.
#[derive(Debug, Default)]
pub struct Subscription {
    /// In the order they came.
    pub waiting: VecDeque<Token>,
    /// Queues that may have something to deliver.
    pub ready: BTreeSet<QueueKey>,
    /// Where the last delivery stopped, so that no queue starves.
    pub turn: QueueKey,
    /// Deliveries of a topic with priorities, counted to a hundred.
    grants: u32,
    /// The members' filters, with the time of the last receive.
    members: BTreeMap<Arc<Filter>, (Wanted, u64)>,
}

impl Subscription {
    /// Whether a live member wants a message, as `wants` says of its filter.
    pub fn somebody_wants(&self, wants: impl Fn(&Wanted) -> bool) -> bool {
        self.members.values().any(|(wanted, _)| wants(wanted))
    }

    /// Notes a member's filter, and forgets those of members that left.
    pub fn joined(&mut self, wanted: &Wanted, now: u64) {
        self.members.insert(wanted.filter().clone(), (wanted.clone(), now));
        self.members.retain(|_, (_, seen)| *seen + MEMBER_MS > now);
    }

    /// Ready queues in the order in which they are asked.
    pub fn next_queues(&mut self, lowest_in_hundred: Option<u32>) -> Vec<QueueKey> {
        let Some(lowest) = lowest_in_hundred else { return self.in_turn() };
        self.grants = (self.grants + 1) % 100;
        // Spread over the hundred, not in a row.
        let begins_low = self.grants * lowest % 100 < lowest;
        match begins_low {
            true => self.ready.iter().copied().take(256).collect(),
            false => self.ready.iter().rev().copied().take(256).collect(),
        }
    }

    /// Ready queues, beginning behind the one that was served last.
    fn in_turn(&self) -> Vec<QueueKey> {
        let after = (std::ops::Bound::Excluded(self.turn), std::ops::Bound::Unbounded);
        self.ready.range(after).chain(self.ready.range(..=self.turn)).copied().take(256).collect()
    }
}

/// All waiting receives of a shard.
#[derive(Debug, Default)]
pub struct Polls {
    polls: HashMap<Token, Poll>,
    subscriptions: BTreeMap<(TopicId, GroupId), Subscription>,
    deadlines: BTreeSet<(u64, Token)>,
    pub lite: LitePolls,
}

impl Polls {
    /// How many receives wait.
    pub fn count(&self) -> usize {
        self.polls.len()
    }

    pub fn get(&self, token: Token) -> Option<&Poll> {
        self.polls.get(&token)
    }

    pub fn subscription(&mut self, topic: TopicId, group: GroupId) -> Option<&mut Subscription> {
        self.subscriptions.get_mut(&(topic, group))
    }

    /// The subscription of a group on a topic, and whether it was made just now and knows no ready queues yet.
    pub fn subscribe(&mut self, topic: TopicId, group: GroupId) -> (&mut Subscription, bool) {
        let mut fresh = false;
        let subscription = self.subscriptions.entry((topic, group)).or_insert_with(|| {
            fresh = true;
            Subscription::default()
        });
        (subscription, fresh)
    }

    /// Whether a live member of the poll's group wants a message, as `wants` says of its filter.
    pub fn somebody_wants(&self, poll: &Poll, wants: impl Fn(&Wanted) -> bool) -> bool {
        self.subscriptions.get(&(poll.topic.id, poll.group.id)).is_some_and(|subscription| subscription.somebody_wants(wants))
    }

    pub fn groups(&self, topic: TopicId) -> Vec<GroupId> {
        self.subscriptions.range((topic, GroupId(0))..=(topic, GroupId(u32::MAX))).map(|(&(_, group), _)| group).collect()
    }

    /// How many receives of a group wait on a topic.
    pub fn waiting(&self, topic: TopicId, group: GroupId) -> usize {
        self.subscriptions.get(&(topic, group)).map_or(0, |subscription| subscription.waiting.len())
    }

    pub fn park(&mut self, token: Token, poll: Poll) {
        self.deadlines.insert((poll.deadline, token));
        let (subscription, _) = self.subscribe(poll.topic.id, poll.group.id);
        match poll.seeks {
            // What it came for is kept for it.
            Seeks::Offered(_) => subscription.waiting.push_front(token),
            _ => subscription.waiting.push_back(token),
        }
        self.polls.insert(token, poll);
    }

    /// A receive from lite topics, which has its place with its reader.
    pub fn park_lite(&mut self, token: Token, poll: Poll) {
        self.deadlines.insert((poll.deadline, token));
        self.polls.insert(token, poll);
    }

    /// Takes a poll out, to be answered.
    pub fn take(&mut self, token: Token) -> Option<Poll> {
        let poll = self.polls.remove(&token)?;
        self.deadlines.remove(&(poll.deadline, token));
        if poll.topic.kind == TopicType::Lite {
            self.lite.answered((poll.topic.id, poll.group.id), &poll.client, token);
        }
        if let Some(subscription) = self.subscriptions.get_mut(&(poll.topic.id, poll.group.id)) {
            // The answered poll is nearly always the first.
            if subscription.waiting.front() == Some(&token) {
                subscription.waiting.pop_front();
            } else {
                subscription.waiting.retain(|&waiting| waiting != token);
            }
        }
        Some(poll)
    }

    pub fn cancel(&mut self, token: Token) {
        self.take(token);
    }

    /// A message of this queue became visible, or one that waited is due.
    pub fn arrived(&mut self, queue: QueueKey) {
        if is_lite(queue) {
            return self.lite.arrived(queue);
        }
        let topic = queue.topic();
        for (_, subscription) in self.subscriptions.range_mut((topic, GroupId(0))..=(topic, GroupId(u32::MAX))) {
            subscription.ready.insert(queue);
        }
    }

    /// Polls whose time is over at `now`.
    pub fn overdue(&mut self, now: u64) -> Vec<Token> {
        let over: Vec<Token> = self.deadlines.range(..=(now, Token(u64::MAX))).map(|&(_, token)| token).collect();
        over.iter().for_each(|&token| drop(self.take(token)));
        over
    }

    pub fn of_client(&mut self, client: &ClientId) -> Vec<Token> {
        let mut theirs: Vec<Token> = self.polls.iter().filter(|(_, poll)| poll.client == *client).map(|(&token, _)| token).collect();
        theirs.sort_unstable();
        theirs.iter().for_each(|&token| drop(self.take(token)));
        theirs
    }

    /// The polls of a group on a topic, taken out.
    pub fn of_group(&mut self, topic: TopicId, group: GroupId) -> Vec<Token> {
        let waiting: Vec<Token> = self.subscription(topic, group).map(|held| held.waiting.iter().copied().collect()).unwrap_or_default();
        waiting.iter().for_each(|&token| drop(self.take(token)));
        waiting
    }

    pub fn drain(&mut self) -> Vec<Token> {
        self.overdue(u64::MAX)
    }

    /// Drops what concerns a deleted topic or group; answers the polls that end.
    pub fn forget(&mut self, what: Forget) -> Vec<Token> {
        let concerns = |topic: TopicId, group: GroupId| match what {
            Forget::Topic(gone) => topic == gone,
            Forget::Group(gone) => group == gone,
        };
        let mut over: Vec<Token> = self.polls.iter().filter(|(_, poll)| concerns(poll.topic.id, poll.group.id)).map(|(&token, _)| token).collect();
        over.sort_unstable();
        over.iter().for_each(|&token| drop(self.take(token)));
        self.subscriptions.retain(|&(topic, group), _| !concerns(topic, group));
        self.lite.forget(what);
        over
    }

    pub fn next_deadline(&self) -> Option<u64> {
        self.deadlines.first().map(|&(time, _)| time)
    }
}
