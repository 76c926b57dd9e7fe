//! Lite topics and who subscribes them.
//!
//! A lite topic is a queue of its parent: what is known of any queue is known of it in the same place, and here is only its name, when it last
//! got a message, and who wants it. All lies in slices behind `Arc`, of which a checkpoint writes the changed ones; the maps that find things
//! by name or by number are made from the slices.
//!
//! # Numbers
//! Lite topics have the upper half of a parent's queue numbers, given out in turn; each shard of the parent has every n-th. A number whose lite topic ended is used again only when all
//! others were, and then its offsets begin above all that any ended lite topic of the parent had: a place in the log that is long gone is
//! never mistaken for a new one.

use super::cursor::Cursor;
use super::{Bounds, State};
use crate::codec::{Reader, Writer};
use crate::record::{Begin, LiteCreate, LiteDrop, LiteSubscriber, LiteSync};
use gantry_model::{ClientId, GroupId, Offset, QueueId, QueueKey, TopicId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// The first number of a lite topic.
pub const FIRST: u32 = 1 << 23;
/// One past the last; what lies above belongs to queues that nobody sees.
pub const END: u32 = QueueKey::MAX_QUEUE - 15;
/// How many slices there are.
pub const SLICES: u16 = 64;

/// Whether a queue is a lite topic.
pub fn is_lite(queue: QueueKey) -> bool {
    (FIRST..END).contains(&queue.queue().0)
}

/// One lite topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lite {
    pub name: Arc<str>,
    /// When it got its newest message, or else when it began.
    pub active: u64,
}

/// Which numbers of a parent are free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Numbers {
    /// Given out next, if it is free.
    next: u32,
    /// No number from here on was ever used.
    fresh: u32,
    /// Above every offset of a lite topic that ended.
    above: u64,
}

impl Default for Numbers {
    fn default() -> Numbers {
        Numbers { next: FIRST, fresh: FIRST, above: 0 }
    }
}

/// A client, in what it subscribes as a member of a group of a parent.
pub type MemberKey = (TopicId, GroupId, ClientId);

/// What one client subscribes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    pub wanted: BTreeSet<QueueId>,
    /// Taken by newer subscribers. Asked for in a complete list they are left out, until a list came without them.
    pub lost: BTreeSet<QueueId>,
}

/// A part of it all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    numbers: BTreeMap<TopicId, Numbers>,
    lites: BTreeMap<QueueKey, Lite>,
    members: BTreeMap<MemberKey, Member>,
}

/// The clients that subscribe one lite topic; nearly always one.
#[derive(Clone, Debug)]
enum Readers {
    One(ClientId),
    Many(Vec<ClientId>),
}

/// All lite topics of a shard.
#[derive(Clone, Debug)]
pub struct Lites {
    slices: Vec<Arc<Slice>>,
    dirty: BTreeSet<u16>,
    names: BTreeMap<TopicId, BTreeMap<Arc<str>, QueueId>>,
    readers: BTreeMap<(TopicId, GroupId), BTreeMap<QueueId, Readers>>,
    lost: BTreeMap<QueueKey, BTreeSet<(GroupId, ClientId)>>,
    of_client: BTreeMap<ClientId, BTreeSet<(TopicId, GroupId)>>,
    subscriptions: u64,
}

impl Default for Lites {
    fn default() -> Lites {
        let empty = Arc::new(Slice::default());
        Lites {
            slices: vec![empty; usize::from(SLICES)],
            dirty: BTreeSet::new(),
            names: BTreeMap::new(),
            readers: BTreeMap::new(),
            lost: BTreeMap::new(),
            of_client: BTreeMap::new(),
            subscriptions: 0,
        }
    }
}

impl PartialEq for Lites {
    fn eq(&self, other: &Lites) -> bool {
        self.slices == other.slices
    }
}

/// Looking.
impl Lites {
    pub fn number(&self, topic: TopicId, name: &str) -> Option<QueueId> {
        self.names.get(&topic)?.get(name).copied()
    }

    pub fn get(&self, queue: QueueKey) -> Option<&Lite> {
        self.slices[slice_of_queue(queue)].lites.get(&queue)
    }

    /// How many lite topics a parent has.
    pub fn count(&self, topic: TopicId) -> u64 {
        self.names.get(&topic).map_or(0, |names| names.len() as u64)
    }

    /// Lite topics of a parent by name, behind `after`.
    pub fn by_name<'a>(&'a self, topic: TopicId, after: &'a str) -> impl Iterator<Item = (&'a str, QueueKey)> + 'a {
        let behind = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
        let names = self.names.get(&topic).into_iter().flat_map(move |names| names.range::<str, _>(behind));
        names.map(move |(name, &id)| (&**name, QueueKey::new(topic, id)))
    }

    /// The lite topics of one slice, in a fixed order.
    pub fn of_slice(&self, slice: u16) -> impl Iterator<Item = (QueueKey, &Lite)> + '_ {
        self.slices[usize::from(slice % SLICES)].lites.iter().map(|(&queue, lite)| (queue, lite))
    }

    /// A free number for one more lite topic, and the offset at which it begins. Of the numbers of the parent, these are those of one of its
    /// shards: `(seat, seats)`.
    pub fn free_number(&self, topic: TopicId, (seat, seats): (u32, u32)) -> Option<(QueueId, Offset)> {
        if self.count(topic) >= u64::from(END - FIRST) {
            return None;
        }
        let numbers = self.numbers(topic);
        let mut own = (numbers.next..END).chain(FIRST..numbers.next).filter(|number| number % seats == seat);
        let free = own.find(|&number| self.get(QueueKey::new(topic, QueueId(number))).is_none())?;
        let start = if free >= numbers.fresh { 0 } else { numbers.above };
        Some((QueueId(free), Offset(start)))
    }

    pub fn member(&self, key: &MemberKey) -> Option<&Member> {
        self.slices[slice_of_member(key)].members.get(key)
    }

    pub fn members(&self) -> impl Iterator<Item = &MemberKey> + '_ {
        self.slices.iter().flat_map(|slice| slice.members.keys())
    }

    /// Where a client subscribes anything.
    pub fn of_client(&self, client: &ClientId) -> Vec<(TopicId, GroupId)> {
        self.of_client.get(client).into_iter().flatten().copied().collect()
    }

    /// The members of a group that subscribe a lite topic.
    pub fn readers(&self, group: GroupId, queue: QueueKey) -> &[ClientId] {
        match self.readers.get(&(queue.topic(), group)).and_then(|readers| readers.get(&queue.queue())) {
            Some(Readers::One(client)) => std::slice::from_ref(client),
            Some(Readers::Many(clients)) => clients,
            None => &[],
        }
    }

    /// How many clients subscribe a lite topic, over all groups.
    pub fn readers_of(&self, queue: QueueKey) -> u64 {
        let topic = queue.topic();
        let groups = self.readers.range((topic, GroupId(0))..=(topic, GroupId(u32::MAX))).map(|(&(_, group), _)| group);
        groups.map(|group| self.readers(group, queue).len() as u64).sum()
    }

    /// Whether anybody subscribes a lite topic, or is remembered as having lost it.
    pub fn is_wanted(&self, queue: QueueKey) -> bool {
        self.lost.contains_key(&queue) || self.readers_of(queue) > 0
    }

    /// Lite topics subscribed, counted once for each client.
    pub fn subscriptions(&self) -> u64 {
        self.subscriptions
    }

    fn numbers(&self, topic: TopicId) -> Numbers {
        self.slices[slice_of_topic(topic)].numbers.get(&topic).copied().unwrap_or_default()
    }
}

/// Changing, by what records say.
impl Lites {
    /// A lite topic got a message.
    pub fn touched(&mut self, queue: QueueKey, time: u64) {
        if is_lite(queue)
            && let Some(lite) = self.slice_mut(slice_of_queue(queue)).lites.get_mut(&queue)
        {
            lite.active = lite.active.max(time);
        }
    }

    fn created(&mut self, create: &LiteCreate) {
        let (topic, id) = (create.queue.topic(), create.queue.queue());
        // Only a log that lost records gives a name or a number twice.
        let twins = [self.number(topic, &create.name).map(|id| QueueKey::new(topic, id)), Some(create.queue)];
        twins.into_iter().flatten().for_each(|twin| self.unname(twin));
        let name: Arc<str> = Arc::from(create.name.as_str());
        self.names.entry(topic).or_default().insert(name.clone(), id);
        self.slice_mut(slice_of_queue(create.queue)).lites.insert(create.queue, Lite { name, active: create.time });
        let numbers = self.numbers_mut(topic);
        numbers.next = if id.0 + 1 < END { id.0 + 1 } else { FIRST };
        numbers.fresh = numbers.fresh.max(id.0 + 1);
    }

    /// A lite topic ended; `next` is one past its last offset.
    fn dropped(&mut self, queue: QueueKey, next: u64) {
        let topic = queue.topic();
        self.unname(queue);
        let numbers = self.numbers_mut(topic);
        numbers.above = numbers.above.max(next);
        let groups: Vec<GroupId> = self.readers.range((topic, GroupId(0))..=(topic, GroupId(u32::MAX))).map(|(&(_, group), _)| group).collect();
        let readers = groups.into_iter().flat_map(|group| self.readers(group, queue).iter().map(move |client| (group, client.clone())));
        let mut members: BTreeSet<(GroupId, ClientId)> = readers.collect();
        members.extend(self.lost.get(&queue).into_iter().flatten().cloned());
        for (group, client) in members {
            self.take_out(&(topic, group, client), queue.queue());
        }
    }

    fn unname(&mut self, queue: QueueKey) {
        let Some(lite) = self.slice_mut(slice_of_queue(queue)).lites.remove(&queue) else { return };
        if let Some(names) = self.names.get_mut(&queue.topic()) {
            names.remove(&lite.name);
            if names.is_empty() {
                self.names.remove(&queue.topic());
            }
        }
    }

    fn synced(&mut self, sync: &LiteSync) {
        for LiteSubscriber { client, added, removed, lost } in &sync.clients {
            let key = (sync.topic, sync.group, client.clone());
            removed.iter().chain(lost).chain(added).for_each(|&id| self.take_out(&key, id));
            for &id in lost {
                self.lost.entry(QueueKey::new(sync.topic, id)).or_default().insert((sync.group, client.clone()));
                self.slice_mut(slice_of_member(&key)).members.entry(key.clone()).or_default().lost.insert(id);
            }
            for &id in added {
                self.put_in(&key, id);
            }
            if !added.is_empty() || !lost.is_empty() {
                self.of_client.entry(client.clone()).or_default().insert((sync.topic, sync.group));
            }
        }
    }

    fn put_in(&mut self, key: &MemberKey, id: QueueId) {
        self.slice_mut(slice_of_member(key)).members.entry(key.clone()).or_default().wanted.insert(id);
        self.reads(key, id);
    }

    fn reads(&mut self, key: &MemberKey, id: QueueId) {
        self.subscriptions += 1;
        let readers = self.readers.entry((key.0, key.1)).or_default();
        match readers.get_mut(&id) {
            None => drop(readers.insert(id, Readers::One(key.2.clone()))),
            Some(Readers::Many(clients)) => clients.push(key.2.clone()),
            Some(one) => {
                if let Readers::One(first) = one {
                    *one = Readers::Many(vec![first.clone(), key.2.clone()]);
                }
            }
        }
    }

    /// A client neither subscribes a lite topic nor is remembered as having lost it.
    fn take_out(&mut self, key: &MemberKey, id: QueueId) {
        let (wanted, lost, empty) = {
            let slice = self.slice_mut(slice_of_member(key));
            let Some(member) = slice.members.get_mut(key) else { return };
            let taken = (member.wanted.remove(&id), member.lost.remove(&id));
            let empty = member.wanted.is_empty() && member.lost.is_empty();
            if empty {
                slice.members.remove(key);
            }
            (taken.0, taken.1, empty)
        };
        if wanted {
            self.stops_reading(key, id);
        }
        if lost {
            let queue = QueueKey::new(key.0, id);
            if let Some(losers) = self.lost.get_mut(&queue) {
                losers.remove(&(key.1, key.2.clone()));
                if losers.is_empty() {
                    self.lost.remove(&queue);
                }
            }
        }
        if empty && let Some(places) = self.of_client.get_mut(&key.2) {
            places.remove(&(key.0, key.1));
            if places.is_empty() {
                self.of_client.remove(&key.2);
            }
        }
    }

    fn stops_reading(&mut self, key: &MemberKey, id: QueueId) {
        self.subscriptions -= 1;
        let Some(readers) = self.readers.get_mut(&(key.0, key.1)) else { return };
        if let Some(Readers::Many(clients)) = readers.get_mut(&id) {
            clients.retain(|client| *client != key.2);
            if !clients.is_empty() {
                return;
            }
        }
        readers.remove(&id);
        if readers.is_empty() {
            self.readers.remove(&(key.0, key.1));
        }
    }

    /// Drops what concerns a deleted topic.
    pub(super) fn forget_topic(&mut self, topic: TopicId) {
        self.retain(|slice| {
            slice.numbers.remove(&topic);
            slice.lites.retain(|queue, _| queue.topic() != topic);
            slice.members.retain(|key, _| key.0 != topic);
        });
    }

    /// Drops what concerns a deleted group.
    pub(super) fn forget_group(&mut self, group: GroupId) {
        self.retain(|slice| slice.members.retain(|key, _| key.1 != group));
    }

    /// Takes things out of every slice; rare, so that what is derived is made anew.
    fn retain(&mut self, take_out: impl Fn(&mut Slice)) {
        let mut changed = false;
        for index in 0..usize::from(SLICES) {
            let mut slice = (*self.slices[index]).clone();
            take_out(&mut slice);
            if slice != *self.slices[index] {
                self.slices[index] = Arc::new(slice);
                self.dirty.insert(index as u16);
                changed = true;
            }
        }
        if changed {
            let (slices, dirty) = (std::mem::take(&mut self.slices), std::mem::take(&mut self.dirty));
            *self = Lites { slices, dirty, ..Lites::default() };
            self.derive();
        }
    }

    fn slice_mut(&mut self, index: usize) -> &mut Slice {
        self.dirty.insert(index as u16);
        Arc::make_mut(&mut self.slices[index])
    }

    fn numbers_mut(&mut self, topic: TopicId) -> &mut Numbers {
        self.slice_mut(slice_of_topic(topic)).numbers.entry(topic).or_default()
    }

    /// Makes the maps that the slices imply.
    fn derive(&mut self) {
        for slice in self.slices.clone() {
            for (queue, lite) in &slice.lites {
                self.names.entry(queue.topic()).or_default().insert(lite.name.clone(), queue.queue());
            }
            for (key, member) in &slice.members {
                self.of_client.entry(key.2.clone()).or_default().insert((key.0, key.1));
                member.wanted.iter().for_each(|&id| self.reads(key, id));
                for &id in &member.lost {
                    self.lost.entry(QueueKey::new(key.0, id)).or_default().insert((key.1, key.2.clone()));
                }
            }
        }
    }
}

/// Checkpoints.
impl Lites {
    pub(super) fn freeze(&mut self) -> Vec<(u16, Option<Arc<Slice>>)> {
        let dirty = std::mem::take(&mut self.dirty);
        let kept = (0..SLICES).filter(|&index| dirty.contains(&index) || *self.slices[usize::from(index)] != Slice::default());
        kept.map(|index| (index, dirty.contains(&index).then(|| self.slices[usize::from(index)].clone()))).collect()
    }

    pub(super) fn touch_all(&mut self) {
        self.dirty = (0..SLICES).filter(|&index| *self.slices[usize::from(index)] != Slice::default()).collect();
    }

    pub(super) fn changed(&self) -> bool {
        !self.dirty.is_empty()
    }

    pub(super) fn restore(slices: Vec<(u16, Slice)>) -> Lites {
        let mut lites = Lites::default();
        for (index, slice) in slices {
            lites.slices[usize::from(index % SLICES)] = Arc::new(slice);
        }
        lites.derive();
        lites
    }
}

pub(super) fn encode_slice(slice: &Slice, out: &mut Writer) {
    out.varint(slice.numbers.len() as u64);
    for (topic, numbers) in &slice.numbers {
        out.varints([u64::from(topic.0), u64::from(numbers.next), u64::from(numbers.fresh), numbers.above]);
    }
    out.varint(slice.lites.len() as u64);
    for (queue, lite) in &slice.lites {
        out.varints([queue.0, lite.active]);
        out.text(&lite.name);
    }
    out.varint(slice.members.len() as u64);
    for ((topic, group, client), member) in &slice.members {
        out.varints([u64::from(topic.0), u64::from(group.0)]);
        out.text(client.as_str());
        for numbers in [&member.wanted, &member.lost] {
            out.ascending(numbers.iter().map(|id| u64::from(id.0)));
        }
    }
}

pub(super) fn decode_slice(input: &mut Reader<'_>) -> Option<Slice> {
    let mut slice = Slice::default();
    for _ in 0..input.varint()? {
        let topic = TopicId(input.varint32()?);
        slice.numbers.insert(topic, Numbers { next: input.varint32()?, fresh: input.varint32()?, above: input.varint()? });
    }
    for _ in 0..input.varint()? {
        let (queue, active) = (QueueKey(input.varint()?), input.varint()?);
        slice.lites.insert(queue, Lite { name: Arc::from(input.text()?), active });
    }
    for _ in 0..input.varint()? {
        let key = (TopicId(input.varint32()?), GroupId(input.varint32()?), ClientId::new(input.text()?));
        let member = Member { wanted: numbers(input)?, lost: numbers(input)? };
        slice.members.insert(key, member);
    }
    input.is_empty().then_some(slice)
}

fn numbers(input: &mut Reader<'_>) -> Option<BTreeSet<QueueId>> {
    let legal = |number: u64| u32::try_from(number).ok().filter(|number| *number <= QueueKey::MAX_QUEUE).map(QueueId);
    input.ascending()?.into_iter().map(legal).collect()
}

impl State {
    pub(super) fn apply_lite_create(&mut self, create: &LiteCreate) {
        let start = create.start.0;
        if start > 0 {
            let bounds = self.bucket_mut(create.queue).queues.entry(create.queue).or_default();
            (bounds.min, bounds.next) = (start, start);
        }
        self.lite.created(create);
    }

    pub(super) fn apply_lite_drop(&mut self, drop: &LiteDrop) {
        for &queue in &drop.queues {
            let bucket = self.bucket_mut(queue);
            let Bounds { next, bytes, .. } = bucket.queues.remove(&queue).unwrap_or_default();
            bucket.cursors.retain(|(held, _), _| *held != queue);
            if bucket.modes.keys().any(|(held, _)| *held == queue) {
                bucket.modes.retain(|(held, _), _| *held != queue);
                self.pulling.retain(|(.., held)| *held != queue);
            }
            self.freed(queue.topic(), bytes);
            self.lite.dropped(queue, next);
        }
    }

    pub(super) fn apply_lite_sync(&mut self, sync: &LiteSync) {
        self.lite.synced(sync);
    }

    /// A cursor that is there begins anew, and handles from before are void.
    pub(super) fn apply_begin(&mut self, begin: &Begin) {
        for &(queue, start) in &begin.queues {
            self.groups_of.entry(queue.topic()).or_default().insert(begin.group);
            let cursors = &mut self.bucket_mut(queue).cursors;
            let reset = cursors.get(&(queue, begin.group)).map_or(0, |cursor| cursor.reset + 1);
            cursors.insert((queue, begin.group), Box::new(Cursor::between(start.0, start.0, reset)));
        }
    }
}

/// Spreads numbers that follow each other over the slices.
fn slice_of(hash: u64) -> usize {
    (hash.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 58) as usize
}

fn slice_of_queue(queue: QueueKey) -> usize {
    slice_of(queue.0)
}

fn slice_of_topic(topic: TopicId) -> usize {
    slice_of(u64::from(topic.0))
}

fn slice_of_member(key: &MemberKey) -> usize {
    slice_of(xxh3_64(key.2.as_str().as_bytes()) ^ u64::from(key.0.0) << 32 ^ u64::from(key.1.0))
}
