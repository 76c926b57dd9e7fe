//! Lite topics: tiny queues below one parent, of which each client says itself which ones it wants.
//!
//! A lite topic begins with its first message or its first subscriber and ends when nobody has needed it for some time. What a client
//! subscribes is a record, written only when something changes: the repetition that clients send twice a minute is a sign of life and no more.
//! `state/lite.rs` holds what the log says of all this, `waiting` who is to be woken, `deliver` gives messages.

mod deliver;
pub mod waiting;

#[cfg(test)]
mod history_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod offers_tests;

use super::core::{Action, Core, Draft, Entries, Reply, Token};
use super::send::Fate;
use super::state::lite::{MemberKey, is_lite};
use crate::record::{self, Begin, LiteCreate, LiteDrop, LiteSubscriber, Record};
use gantry_model::contract::broker::{LiteChange, LiteError, LiteStart, LiteSync, LiteTopic, SendError};
use gantry_model::group::LiteSharing;
use gantry_model::limits::{LITE_QUOTA, LITE_TOPICS_MAX};
use gantry_model::topic::{QueueState, TopicType};
use gantry_model::{ClientId, Group, GroupId, Offset, QueueId, QueueKey, Topic, TopicId, placement};
use std::collections::{BTreeMap, BTreeSet};

/// A client may be so many lite topics over its quota: it counts them itself, and a list may be older than the last removal.
const LEEWAY: u64 = 300;

/// A client that lost a lite topic to a newer subscriber.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    pub client: ClientId,
    pub group: GroupId,
    pub topic: TopicId,
    pub lite: String,
}

/// What a sync changes for the client that sent it.
#[derive(Default)]
struct Difference {
    /// Names of lite topics that come in, whether they exist or not.
    added: Vec<String>,
    removed: BTreeSet<QueueId>,
}

impl<D: Draft> Core<D> {
    /// The queue of a message for a lite topic, which begins if it is new.
    pub(super) fn lite_fate(&mut self, topic: &Topic, draft: D) -> Fate<D> {
        let Some(name) = draft.class().lite.clone().filter(|_| self.takes_lites(topic)) else {
            return Fate::Answered(Err(SendError::NoWritableQueue));
        };
        match self.lite_number(topic, &name) {
            Ok(queue) => Fate::Queue(queue, draft),
            Err(most) => Fate::Answered(Err(SendError::LiteTopicQuota { most })),
        }
    }

    /// The queue of a message of a lite topic that is sent again.
    pub(super) fn lite_place(&mut self, topic: &Topic, name: &str) -> Option<QueueKey> {
        let takes = topic.kind == TopicType::Lite && self.takes_lites(topic);
        if takes { self.lite_number(topic, name).ok() } else { None }
    }

    /// A group that gets a message back begins with it on a lite topic that began anew.
    pub(super) fn begin_at_end(&mut self, group: GroupId, queue: QueueKey) {
        if is_lite(queue) && self.state.cursor(group, queue).is_none() {
            let end = Offset(self.state.bounds(queue).next);
            self.append(Record::Begin(Begin { group, queues: vec![(queue, end)] }));
        }
    }

    fn takes_lites(&self, topic: &Topic) -> bool {
        let open = topic.queues.iter().any(|queue| queue.shard == self.shard && queue.state == QueueState::Active);
        open && topic.permission.can_write()
    }

    /// The queue of a lite topic, which begins if it is new; else how many there may be.
    fn lite_number(&mut self, topic: &Topic, name: &str) -> Result<QueueKey, u64> {
        if let Some(id) = self.state.lite.number(topic.id, name) {
            return Ok(QueueKey::new(topic.id, id));
        }
        let most = self.most_lites(topic);
        let free = self.state.lite.free_number(topic.id, placement::seat_of(topic, self.shard)).filter(|_| self.state.lite.count(topic.id) < most);
        let (id, start) = free.ok_or(most)?;
        let queue = QueueKey::new(topic.id, id);
        // A log that lost records may know messages of a lite topic that it doesn't know.
        let start = Offset(start.0.max(self.state.bounds(queue).next));
        self.append(Record::LiteCreate(LiteCreate { queue, start, time: self.now, name: name.to_owned() }));
        Ok(queue)
    }

    pub(super) fn sync_lite(&mut self, token: Token, sync: &LiteSync, entries: &dyn Entries) {
        self.flush_acks();
        self.know(sync.group.clone());
        self.polls.lite.heard(&sync.client, (sync.topic.id, sync.group.id), self.now);
        let answer = self.change_lite(sync, entries);
        self.reply(token, Reply::LiteSynced(answer));
    }

    /// All or nothing.
    fn change_lite(&mut self, sync: &LiteSync, entries: &dyn Entries) -> Result<(), LiteError> {
        if sync.group.options.lite.as_ref().is_some_and(|lite| lite.wildcard) {
            // Its members get everything without subscribing.
            return Ok(());
        }
        let difference = self.difference(sync);
        if difference.added.is_empty() && difference.removed.is_empty() {
            return Ok(());
        }
        self.check_quotas(sync, &difference)?;
        let mut added = BTreeSet::new();
        for name in &difference.added {
            added.insert(self.lite_number(&sync.topic, name).map_err(|most| LiteError::TopicQuota { most })?);
        }
        self.begin_on(&added, sync, entries);
        let evicted = self.evicted(&added, sync);
        self.subscribe(sync, &added, difference.removed, evicted);
        Ok(())
    }

    /// What the client's wish changes about what it has.
    fn difference<'a>(&self, sync: &'a LiteSync) -> Difference {
        let key: MemberKey = (sync.topic.id, sync.group.id, sync.client.clone());
        let none = Default::default();
        let member = self.state.lite.member(&key).unwrap_or(&none);
        let numbered = |name: &'a String| (name, self.state.lite.number(sync.topic.id, name));
        let here = sync.elsewhere.iter().map(numbered).filter(|(_, id)| id.is_some());
        let listed: Vec<(&String, Option<QueueId>)> = sync.names.iter().map(numbered).chain(here).collect();
        let listed = || listed.iter().copied();
        let new = |(_, id): &(&String, Option<QueueId>)| id.is_none_or(|id| !member.wanted.contains(&id));
        let numbers: BTreeSet<QueueId> = listed().filter_map(|(_, id)| id).collect();
        let has = || member.wanted.union(&member.lost).copied();
        let mut difference = match sync.change {
            LiteChange::Add => Difference { added: listed().filter(new).map(|(name, _)| name.clone()).collect(), ..Default::default() },
            LiteChange::Remove => Difference { removed: has().filter(|id| numbers.contains(id)).collect(), ..Default::default() },
            LiteChange::Clear => Difference { removed: has().collect(), ..Default::default() },
            LiteChange::Replace => {
                let allowed = |(_, id): &(&String, Option<QueueId>)| id.is_none_or(|id| !member.lost.contains(&id));
                let added = listed().filter(new).filter(allowed).map(|(name, _)| name.clone()).collect();
                Difference { added, removed: has().filter(|id| !numbers.contains(id)).collect() }
            }
        };
        difference.added.sort_unstable();
        difference.added.dedup();
        difference
    }

    fn check_quotas(&self, sync: &LiteSync, difference: &Difference) -> Result<(), LiteError> {
        let key: MemberKey = (sync.topic.id, sync.group.id, sync.client.clone());
        let has = self.state.lite.member(&key).map_or(0, |member| member.wanted.difference(&difference.removed).count() as u64);
        let adds = difference.added.len() as u64;
        let most = sync.group.options.lite.as_ref().map_or(u64::from(LITE_QUOTA), |lite| u64::from(lite.client_quota));
        if adds > 0 && has + adds > most + LEEWAY {
            return Err(LiteError::SubscriptionQuota { most });
        }
        if adds > 0 && self.state.lite.subscriptions() + adds > self.limits.lite_subscriptions {
            return Err(LiteError::SubscriptionQuota { most: self.limits.lite_subscriptions });
        }
        let new = difference.added.iter().filter(|name| self.state.lite.number(sync.topic.id, name).is_none()).count() as u64;
        let most = self.most_lites(&sync.topic);
        if new > 0 && self.state.lite.count(sync.topic.id) + new > most {
            return Err(LiteError::TopicQuota { most });
        }
        Ok(())
    }

    /// The group begins on lite topics that it never read. If it was told where to begin and none of its members reads a lite topic now, it
    /// begins there again.
    fn begin_on(&mut self, added: &BTreeSet<QueueKey>, sync: &LiteSync, entries: &dyn Entries) {
        let mut begin = Begin { group: sync.group.id, queues: Vec::new() };
        for &queue in added {
            let known = self.state.cursor(sync.group.id, queue).is_some();
            let unread = self.state.lite.readers(sync.group.id, queue).is_empty();
            if !known || sync.start != LiteStart::Last && unread {
                begin.queues.push((queue, self.lite_start(queue, sync.start, entries)));
            }
        }
        if begin.queues.is_empty() {
            return;
        }
        for &(queue, _) in &begin.queues {
            let held = self.state.cursor(begin.group, queue).map(|cursor| cursor.leases.keys().copied().collect::<Vec<u64>>());
            held.into_iter().flatten().for_each(|offset| self.disown(queue, begin.group, offset));
        }
        self.append(Record::Begin(begin));
    }

    fn lite_start(&self, queue: QueueKey, start: LiteStart, entries: &dyn Entries) -> Offset {
        let (min, end) = (self.state.bounds(queue).min, self.visible_end(queue));
        let wished = match start {
            LiteStart::Last | LiteStart::Max => end,
            LiteStart::Min => min,
            LiteStart::At(offset) => offset.0,
            LiteStart::Tail(count) => end.saturating_sub(count),
            LiteStart::Time(time) => entries.first_at(queue, time).unwrap_or(end),
        };
        Offset(wished.min(end).max(min))
    }

    /// Who loses what, in a group where only the newest subscriber has a lite topic.
    fn evicted(&self, added: &BTreeSet<QueueKey>, sync: &LiteSync) -> BTreeMap<ClientId, Vec<QueueId>> {
        let mut evicted: BTreeMap<ClientId, Vec<QueueId>> = BTreeMap::new();
        let sharing = sync.group.options.lite.as_ref().map_or(LiteSharing::default(), |lite| lite.sharing);
        if sharing == LiteSharing::Exclusive {
            for &queue in added {
                for client in self.state.lite.readers(sync.group.id, queue) {
                    evicted.entry(client.clone()).or_default().push(queue.queue());
                }
            }
        }
        evicted
    }

    fn subscribe(&mut self, sync: &LiteSync, added: &BTreeSet<QueueKey>, removed: BTreeSet<QueueId>, evicted: BTreeMap<ClientId, Vec<QueueId>>) {
        let (topic, group) = (sync.topic.id, sync.group.id);
        let own = LiteSubscriber {
            client: sync.client.clone(),
            added: added.iter().map(|queue| queue.queue()).collect(),
            removed: removed.into_iter().collect(),
            lost: Vec::new(),
        };
        let others = evicted.into_iter().map(|(client, lost)| LiteSubscriber { client, added: Vec::new(), removed: Vec::new(), lost });
        let clients: Vec<LiteSubscriber> = std::iter::once(own).chain(others).collect();
        for change in &clients {
            if let Some(reader) = self.polls.lite.reader((topic, group), &Some(change.client.clone())) {
                change.removed.iter().chain(&change.lost).for_each(|&id| {
                    reader.ready.remove(&QueueKey::new(topic, id));
                });
            }
            for &id in &change.lost {
                let Some(lite) = self.state.lite.get(QueueKey::new(topic, id)).map(|lite| lite.name.to_string()) else { continue };
                self.out.push(Action::Lost(Lost { client: change.client.clone(), group, topic, lite }));
            }
        }
        self.append(Record::LiteSync(record::LiteSync { topic, group, clients }));
        added.iter().for_each(|&queue| self.polls.lite.arrived(queue));
    }

    /// A client is gone, and with it what it subscribed; where its groups stand is kept.
    pub(super) fn lite_gone(&mut self, client: &ClientId) {
        for (topic, group) in self.state.lite.of_client(client) {
            let member = self.state.lite.member(&(topic, group, client.clone())).cloned().unwrap_or_default();
            let removed: Vec<QueueId> = member.wanted.union(&member.lost).copied().collect();
            let gone = LiteSubscriber { client: client.clone(), added: Vec::new(), removed, lost: Vec::new() };
            self.append(Record::LiteSync(record::LiteSync { topic, group, clients: vec![gone] }));
        }
        self.polls.lite.gone(client);
    }

    /// Clients of lite topics that may be gone: they neither synced nor received for three minutes.
    pub fn silent_clients(&mut self) -> Vec<ClientId> {
        self.polls.lite.silent(self.now)
    }

    /// Everybody counts as heard of when a reign begins.
    pub(super) fn greet_lite(&mut self) {
        for (topic, group, client) in self.state.lite.members() {
            self.polls.lite.heard(client, (*topic, *group), self.now);
        }
    }

    /// Ends lite topics that got no message since `idle_since`, unless somebody subscribes them or has something unfinished there.
    pub(super) fn drop_lites(&mut self, topic: &Topic, queues: Vec<QueueKey>, idle_since: u64, entries: &dyn Entries) {
        self.flush_acks();
        let idle = |queue: &QueueKey| {
            let lite = self.state.lite.get(*queue).filter(|lite| lite.active <= idle_since);
            lite.is_some() && !self.state.lite.is_wanted(*queue) && !self.is_unfinished(topic, *queue, entries)
        };
        let queues: BTreeSet<QueueKey> = queues.into_iter().filter(idle).collect();
        if !queues.is_empty() {
            self.append(Record::LiteDrop(LiteDrop { queues: queues.into_iter().collect() }));
        }
    }

    /// Whether a group has messages of a lite topic before it: one that reads it, or one whose members get everything.
    fn is_unfinished(&self, topic: &Topic, queue: QueueKey, entries: &dyn Entries) -> bool {
        let next = self.state.bounds(queue).next;
        let reads_all = |group: &Group| {
            let lite = group.options.lite.as_ref();
            group.name.namespace == topic.name.namespace && lite.is_some_and(|lite| lite.wildcard && lite.topic == topic.name.name)
        };
        let will_read = |group: &Group| {
            let begins = || self.start_of(group, queue, entries);
            reads_all(group) && self.state.cursor(group.id, queue).is_none() && begins() < next
        };
        self.state.cursors_of(queue).any(|cursor| cursor.base < next) || self.groups.values().any(|group| will_read(group))
    }

    /// Lite topics of a parent for operators, by name behind `after`.
    pub fn lite_topics(&self, topic: &Topic, after: &str, limit: usize) -> Vec<LiteTopic> {
        let found = self.state.lite.by_name(topic.id, after).take(limit);
        let shown = found.map(|(name, queue)| LiteTopic {
            name: name.to_owned(),
            min: Offset(self.state.bounds(queue).min),
            max: Offset(self.visible_end(queue)),
            active_ms: self.state.lite.get(queue).map_or(0, |lite| lite.active),
            subscribers: self.state.lite.readers_of(queue),
        });
        shown.collect()
    }

    /// Retention took messages away, some of them maybe those that locked a lite topic.
    pub(super) fn lites_trimmed(&mut self, queues: &[(QueueKey, u64)]) {
        queues.iter().filter(|(queue, _)| is_lite(*queue)).for_each(|&(queue, _)| self.polls.lite.arrived(queue));
    }

    /// How many lite topics a parent may have on this shard.
    fn most_lites(&self, topic: &Topic) -> u64 {
        placement::share_of(topic, self.shard, topic.options.quota.lite_topics.unwrap_or(LITE_TOPICS_MAX))
    }
}
