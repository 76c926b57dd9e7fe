//! Quotas: how much a topic takes and a group gets in a second.
//!
//! A send over the quota of its topic is refused before anything is stored, with the code on which clients back off. A receive over the
//! quota of its group waits: an answer that says no would only make the client ask again at once. A waiting poll stands in line, so members
//! of a group have equal chances, and it takes room for messages before it asks the broker, so that nothing is leased that must be held back.
//!
//! A quota gives one second's worth at once at most. Something larger than that is let through when nothing was used for a second, and
//! then paid off before the next. Topics and groups without a quota cost nothing here. Each proxy counts for itself.

use crate::status::Refusal;
use gantry_model::contract::Metadata;
use gantry_model::contract::broker::{Broker, Delivery, ReceiveError, ReceiveRequest};
use gantry_model::group::GroupQuota;
use gantry_model::{Group, GroupId, GroupName, Topic, TopicId, TopicName, units};
use gantry_platform::clock::{SharedClock, sleep, timeout};
use gantry_proto::v2::Code;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What a quota gives at once, as a time.
const BURST_NS: i64 = 1_000_000_000;
/// A poll in line looks at most this often.
const PAUSE_MIN: Duration = Duration::from_millis(1);
/// Names that are counted one by one; all others are counted together.
const NAMES_MAX: usize = 1_000;
const OTHERS: &str = "others";

/// One limit. It knows until when the past is paid off; each use costs time according to the rate.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    /// In the clock's monotonic time; behind now means that there is room, ahead of it that there is debt.
    paid_ns: i64,
}

impl Bucket {
    fn full(now: Duration) -> Bucket {
        Bucket { paid_ns: ns(now) - BURST_NS }
    }

    fn room_ns(&self, now: Duration) -> i64 {
        (ns(now) - self.paid_ns).min(BURST_NS)
    }

    /// How long until so much can be used.
    fn wait(&self, now: Duration, rate: u64, amount: u64) -> Duration {
        let needed = cost(rate, amount).min(BURST_NS);
        Duration::from_nanos(u64::try_from(needed - self.room_ns(now)).unwrap_or(0))
    }

    /// How much can be used now.
    fn room(&self, now: Duration, rate: u64) -> u64 {
        let room = u128::try_from(self.room_ns(now)).unwrap_or(0);
        (room * u128::from(rate) / BURST_NS as u128) as u64
    }

    /// Uses so much, even into debt.
    fn take(&mut self, now: Duration, rate: u64, amount: u64) {
        self.paid_ns = (ns(now) - self.room_ns(now)).saturating_add(cost(rate, amount));
    }

    fn give_back(&mut self, rate: u64, amount: u64) {
        self.paid_ns = self.paid_ns.saturating_sub(cost(rate, amount));
    }
}

fn ns(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

/// What an amount costs in time, rounded up so that no rate is ever exceeded.
fn cost(rate: u64, amount: u64) -> i64 {
    let cost = (u128::from(amount) * BURST_NS as u128).div_ceil(u128::from(rate.max(1)));
    i64::try_from(cost).unwrap_or(i64::MAX)
}

/// The two limits of one topic or group.
#[derive(Debug)]
struct Pair {
    messages: Bucket,
    bytes: Bucket,
}

impl Pair {
    fn full(now: Duration) -> Pair {
        Pair { messages: Bucket::full(now), bytes: Bucket::full(now) }
    }
}

/// Where the polls of one group pass.
#[derive(Debug)]
struct Gate {
    /// Whoever holds it is the first in line.
    line: tokio::sync::Mutex<()>,
    pair: Mutex<Pair>,
}

impl Gate {
    fn pair(&self) -> MutexGuard<'_, Pair> {
        self.pair.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes room for up to `max` messages, at least one; else the time after which to look again.
    fn enter(&self, now: Duration, quota: &GroupQuota, max: u32) -> Result<u32, Duration> {
        let mut pair = self.pair();
        let debt = quota.receive_bytes_per_s.map_or(Duration::ZERO, |rate| pair.bytes.wait(now, rate, 1));
        if !debt.is_zero() {
            return Err(debt.max(PAUSE_MIN));
        }
        let Some(rate) = quota.receive_messages_per_s else { return Ok(max) };
        let room = u32::try_from(pair.messages.room(now, rate)).unwrap_or(u32::MAX).min(max);
        if room == 0 {
            return Err(pair.messages.wait(now, rate, 1).max(PAUSE_MIN));
        }
        pair.messages.take(now, rate, u64::from(room));
        Ok(room)
    }
}

/// The room that a poll took. What it did not use goes back, also when the poll is withdrawn.
struct Room<'a> {
    gate: &'a Gate,
    quota: GroupQuota,
    unused: u32,
}

impl Room<'_> {
    fn used(mut self, now: Duration, deliveries: &[Delivery]) {
        let bytes: usize = deliveries.iter().map(|delivery| delivery.message.body().len()).sum();
        self.unused = self.unused.saturating_sub(deliveries.len() as u32);
        if let Some(rate) = self.quota.receive_bytes_per_s {
            self.gate.pair().bytes.take(now, rate, bytes as u64);
        }
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        if let Some(rate) = self.quota.receive_messages_per_s {
            self.gate.pair().messages.give_back(rate, u64::from(self.unused));
        }
    }
}

/// What was slowed down: a topic's sends or a group's receives.
pub type Throttled = (&'static str, String);

/// The quotas of this proxy.
#[derive(Debug)]
pub struct Quotas {
    clock: SharedClock,
    topics: Mutex<HashMap<TopicId, Pair>>,
    groups: Mutex<HashMap<GroupId, Arc<Gate>>>,
    throttled: Mutex<BTreeMap<Throttled, u64>>,
}

impl Quotas {
    pub fn new(clock: SharedClock) -> Quotas {
        Quotas { clock, topics: Mutex::default(), groups: Mutex::default(), throttled: Mutex::default() }
    }

    /// Lets a send pass, whole or not at all.
    pub fn send(&self, topic: &Topic, messages: u64, bytes: u64) -> Result<(), Refusal> {
        let quota = &topic.options.quota;
        let (message_rate, byte_rate) = (quota.send_messages_per_s, quota.send_bytes_per_s);
        if message_rate.is_none() && byte_rate.is_none() {
            return Ok(());
        }
        let now = self.clock.mono();
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        let pair = topics.entry(topic.id).or_insert_with(|| Pair::full(now));
        let message_wait = message_rate.map_or(Duration::ZERO, |rate| pair.messages.wait(now, rate, messages));
        let byte_wait = byte_rate.map_or(Duration::ZERO, |rate| pair.bytes.wait(now, rate, bytes));
        let wait = message_wait.max(byte_wait);
        if wait.is_zero() {
            message_rate.into_iter().for_each(|rate| pair.messages.take(now, rate, messages));
            byte_rate.into_iter().for_each(|rate| pair.bytes.take(now, rate, bytes));
            return Ok(());
        }
        drop(topics);
        self.count("topic", topic.name.to_string());
        let what = match message_rate.filter(|_| message_wait >= byte_wait) {
            Some(rate) => format!("{rate} messages a second (setting `quota.send.messages`)"),
            None => format!("{} a second (setting `quota.send.bytes`)", units::show_size(byte_rate.unwrap_or(0))),
        };
        let ms = wait.as_micros().div_ceil(1_000);
        Err(Refusal::new(Code::TooManyRequests, format!("topic `{}` takes {what}: nothing was stored, try again in {ms} ms", topic.name)))
    }

    /// Receives as soon as the quota of the group allows it. The wait for that is a part of the poll's time.
    pub async fn receive(&self, broker: &dyn Broker, mut wish: ReceiveRequest) -> Result<Vec<Delivery>, ReceiveError> {
        let quota = wish.group.options.quota;
        if quota.receive_messages_per_s.is_none() && quota.receive_bytes_per_s.is_none() {
            return broker.receive(wish).await;
        }
        let started = self.clock.mono();
        let gate = self.gate(wish.group.id, started);
        let Ok(max) = timeout(wish.wait, self.stand_in_line(&gate, &wish)).await else { return Ok(Vec::new()) };
        let unused = if quota.receive_messages_per_s.is_some() { max } else { 0 };
        let room = Room { gate: &gate, quota, unused };
        wish.max = max;
        wish.wait = wish.wait.saturating_sub(self.clock.mono().saturating_sub(started));
        let deliveries = broker.receive(wish).await?;
        room.used(self.clock.mono(), &deliveries);
        Ok(deliveries)
    }

    async fn stand_in_line(&self, gate: &Gate, wish: &ReceiveRequest) -> u32 {
        let _first = gate.line.lock().await;
        let mut waited = false;
        loop {
            match gate.enter(self.clock.mono(), &wish.group.options.quota, wish.max) {
                Ok(max) => return max,
                Err(pause) => {
                    if !waited {
                        self.count("group", wish.group.name.to_string());
                    }
                    waited = true;
                    sleep(pause).await;
                }
            }
        }
    }

    fn gate(&self, group: GroupId, now: Duration) -> Arc<Gate> {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let gate = || Arc::new(Gate { line: tokio::sync::Mutex::default(), pair: Mutex::new(Pair::full(now)) });
        groups.entry(group).or_insert_with(gate).clone()
    }

    /// Counts something that was refused or had to wait.
    fn count(&self, scope: &'static str, name: String) {
        let mut throttled = self.throttled.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (scope, name);
        let key = if throttled.len() < NAMES_MAX || throttled.contains_key(&key) { key } else { (scope, OTHERS.to_owned()) };
        *throttled.entry(key).or_default() += 1;
    }

    /// How often each topic and group was slowed down.
    pub fn throttled(&self) -> BTreeMap<Throttled, u64> {
        self.throttled.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets topics and groups that have no quota any more.
    pub fn forget_gone(&self, metadata: &dyn Metadata) {
        let topic_has = |id: TopicId| metadata.topic_by_id(id).is_some_and(|topic: Arc<Topic>| bounds_sends(&topic));
        let group_has = |id: GroupId| metadata.group_by_id(id).is_some_and(|group: Arc<Group>| bounds_receives(&group));
        self.topics.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| topic_has(*id));
        self.groups.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| group_has(*id));
        let exists = |(scope, name): &Throttled| {
            let (namespace, name) = name.split_once('/').unwrap_or(("", name));
            let (namespace, name) = (namespace.to_owned(), name.to_owned());
            name == OTHERS
                || match *scope {
                    "topic" => metadata.topic(&TopicName { namespace, name }).is_some(),
                    _ => metadata.group(&GroupName { namespace, name }).is_some(),
                }
        };
        self.throttled.lock().unwrap_or_else(PoisonError::into_inner).retain(|key, _| exists(key));
    }
}

fn bounds_sends(topic: &Topic) -> bool {
    let quota = &topic.options.quota;
    quota.send_messages_per_s.is_some() || quota.send_bytes_per_s.is_some()
}

fn bounds_receives(group: &Group) -> bool {
    let quota = &group.options.quota;
    quota.receive_messages_per_s.is_some() || quota.receive_bytes_per_s.is_some()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use gantry_model::topic::{Permission, TopicOptions, TopicType};
    use gantry_platform::clock::ManualClock;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_bucket_gives_one_second_at_once_and_then_its_rate() {
        let mut bucket = Bucket::full(at(0));
        assert_eq!((bucket.room(at(0), 10), bucket.wait(at(0), 10, 10)), (10, Duration::ZERO));
        bucket.take(at(0), 10, 10);
        assert_eq!((bucket.room(at(0), 10), bucket.wait(at(0), 10, 1)), (0, at(100)));
        assert_eq!((bucket.room(at(250), 10), bucket.wait(at(250), 10, 3)), (2, at(50)));
        assert_eq!(bucket.room(at(60_000), 10), 10, "what is not used for long is lost");
        bucket.take(at(250), 10, 2);
        bucket.give_back(10, 2);
        assert_eq!(bucket.room(at(250), 10), 2);
    }

    #[test]
    fn more_than_a_second_is_worth_passes_after_a_quiet_second_and_is_paid_off() {
        let mut bucket = Bucket::full(at(0));
        assert_eq!(bucket.wait(at(0), 10, 128), Duration::ZERO);
        bucket.take(at(0), 10, 128);
        assert_eq!(bucket.wait(at(0), 10, 1), at(11_900));
        assert_eq!(bucket.wait(at(11_900), 10, 1), Duration::ZERO);
        assert_eq!(bucket.wait(at(11_900), 10, 128), at(900), "as much again needs a quiet second again");
    }

    #[test]
    fn no_rate_is_exceeded_over_any_time() {
        for rate in [1u64, 3, 7, 1_000, 999_983] {
            let mut bucket = Bucket::full(at(0));
            let mut used = 0;
            for step in 0..1_000u64 {
                let now = Duration::from_micros(step * 9_973);
                let room = bucket.room(now, rate);
                bucket.take(now, rate, room);
                used += room;
                let allowed = u128::from(rate) * (now.as_nanos() + 1_000_000_000) / 1_000_000_000;
                assert!(u128::from(used) <= allowed, "{used} of {allowed} at {rate}/s after {now:?}");
            }
            assert!(used + rate >= rate * 9, "a quota is also given: {used} at {rate}/s");
        }
    }

    fn topic(messages: Option<u64>, bytes: Option<u64>) -> Topic {
        let mut options = TopicOptions::default();
        (options.quota.send_messages_per_s, options.quota.send_bytes_per_s) = (messages, bytes);
        Topic {
            id: TopicId(1),
            name: TopicName::parse("ns", "orders").unwrap(),
            kind: TopicType::Normal,
            permission: Permission::ReadWrite,
            queues: Vec::new(),
            retention: Default::default(),
            options,
            created_ms: 0,
        }
    }

    #[test]
    fn a_send_over_the_quota_is_refused_whole_and_told_when_to_come_back() {
        let clock = ManualClock::new(0);
        let quotas = Quotas::new(Arc::new(clock.clone()));
        let topic = topic(Some(10), Some(1_024));
        assert_eq!(quotas.send(&topic, 8, 512), Ok(()));
        let refusal = quotas.send(&topic, 4, 0).unwrap_err();
        assert_eq!(refusal.code, Code::TooManyRequests);
        assert_eq!(
            refusal.message,
            "topic `ns/orders` takes 10 messages a second (setting `quota.send.messages`): nothing was stored, try again in 200 ms"
        );
        let refusal = quotas.send(&topic, 1, 1_024).unwrap_err();
        assert!(refusal.message.contains("takes 1KiB a second (setting `quota.send.bytes`)"), "{}", refusal.message);
        assert_eq!(quotas.send(&topic, 2, 512), Ok(()), "what was refused has used nothing");
        clock.advance(at(1_000));
        assert_eq!(quotas.send(&topic, 10, 1_024), Ok(()));
        assert_eq!(quotas.throttled(), BTreeMap::from([(("topic", "ns/orders".to_owned()), 2)]));
    }

    #[test]
    fn names_beyond_the_first_thousand_are_counted_together() {
        let quotas = Quotas::new(Arc::new(ManualClock::new(0)));
        for number in 0..NAMES_MAX + 50 {
            quotas.count("topic", format!("t{number}"));
        }
        quotas.count("topic", "t7".to_owned());
        let throttled = quotas.throttled();
        assert_eq!((throttled.len(), throttled[&("topic", OTHERS.to_owned())]), (NAMES_MAX + 1, 50));
        assert_eq!(throttled[&("topic", "t7".to_owned())], 2);
    }
}
