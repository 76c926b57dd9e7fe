//! What a shard promises to those who use lite topics, each promise a test.

use crate::record::Forget;
use crate::shard::core::{Event, Given, Reply, Token};
use crate::shard::polls::{Poll, Wanted};
use crate::shard::rig::{Note, Rig, group, handle, topic};
use crate::shard::state::lite::{END, FIRST};
use gantry_model::contract::broker::{AttemptCount, LeaseTerm, LiteChange, LiteError, LiteStart, LiteSync, SendError, Sent};
use gantry_model::group::{LiteGroup, LiteSharing};
use gantry_model::topic::TopicType;
use gantry_model::{ClientId, Filter, Group, MessageKind, Offset, QueueKey, Topic, TopicId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub const LEASE: LeaseTerm = LeaseTerm::For(Duration::from_secs(10));

/// A parent of lite topics.
pub fn parent() -> Arc<Topic> {
    Arc::new(Topic { id: TopicId(9), kind: TopicType::Lite, ..(*topic()).clone() })
}

/// A group that reads them.
pub fn readers(id: u32, sharing: LiteSharing, wildcard: bool) -> Arc<Group> {
    let mut readers = (*group(id, 1_000)).clone();
    readers.options.lite = Some(LiteGroup { topic: "t".into(), sharing, client_quota: 5, wildcard });
    Arc::new(readers)
}

fn shared() -> Arc<Group> {
    readers(1, LiteSharing::Shared, false)
}

impl Rig {
    pub fn send_lites(&mut self, parent: &Arc<Topic>, names: &[&str]) -> Vec<Result<Sent, SendError>> {
        let token = self.token();
        let draft = |(at, name): (usize, &&str)| {
            let mut note = Note::plain(u128::from(token.0) * 1_000 + at as u128, None);
            (note.class.kind, note.class.lite) = (MessageKind::Lite, Some((*name).into()));
            note
        };
        let drafts = names.iter().enumerate().map(draft).collect();
        self.step(Event::Send { token, topic: parent.clone(), client: ClientId::new("p"), drafts });
        self.settle();
        let Some(Reply::Sent(answers)) = self.replies.remove(&token) else { panic!("sends are answered") };
        answers
    }

    pub fn send_lite(&mut self, name: &str) -> (QueueKey, Offset) {
        let sent = self.send_lites(&parent(), &[name]).remove(0).expect("stored");
        (QueueKey::new(parent().id, sent.queue), sent.offset)
    }

    pub fn sync_from(&mut self, group: &Arc<Group>, client: &str, change: LiteChange, names: &[&str], start: LiteStart) -> Result<(), LiteError> {
        let token = self.token();
        let names = names.iter().map(|&name| name.to_owned()).collect();
        let sync = LiteSync { group: group.clone(), topic: parent(), client: ClientId::new(client), names, elsewhere: Vec::new(), change, start };
        self.step(Event::SyncLite { token, sync });
        self.settle();
        let Some(Reply::LiteSynced(answer)) = self.replies.remove(&token) else { panic!("a sync is answered") };
        answer
    }

    pub fn sync(&mut self, group: &Arc<Group>, client: &str, change: LiteChange, names: &[&str]) {
        assert_eq!(self.sync_from(group, client, change, names, LiteStart::Last), Ok(()));
    }

    pub fn poll_lite(&mut self, group: &Arc<Group>, client: &str, max: u32, ordered_batch: bool, wait_ms: u64) -> Token {
        let token = self.token();
        let poll = Poll {
            group: group.clone(),
            topic: parent(),
            wanted: Wanted::new(Arc::new(Filter::All)),
            client: ClientId::new(client),
            max,
            member: client.to_owned(),
            seeks: Default::default(),
            term: LEASE,
            deadline: self.now + wait_ms,
            attempt_id: None,
            ordered_batch,
        };
        self.step(Event::Receive { token, poll });
        self.settle();
        token
    }

    /// A receive that doesn't wait.
    pub fn receive_lite(&mut self, group: &Arc<Group>, client: &str) -> Vec<Given> {
        let token = self.poll_lite(group, client, 32, true, 0);
        self.answer(token)
    }

    /// What a client gets now, by lite topic; with every offset.
    fn offsets(&mut self, group: &Arc<Group>, client: &str) -> BTreeMap<String, Vec<u64>> {
        let mut offsets: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for given in self.receive_lite(group, client) {
            let name = self.core.state.lite.get(given.queue).expect("a lite topic").name.to_string();
            offsets.entry(name).or_default().push(given.offset);
        }
        offsets
    }

    pub fn drop_idle(&mut self, names: &[&str], idle_since: u64) {
        let queues =
            names.iter().filter_map(|name| self.core.state.lite.number(parent().id, name)).map(|id| QueueKey::new(parent().id, id)).collect();
        self.step(Event::DropLites { topic: parent(), queues, idle_since });
        self.settle();
    }
}

fn offsets(expected: &[(&str, &[u64])]) -> BTreeMap<String, Vec<u64>> {
    expected.iter().map(|(name, offsets)| ((*name).to_owned(), offsets.to_vec())).collect()
}

#[test]
fn a_client_gets_the_lite_topics_that_it_subscribes_and_no_others() {
    let mut rig = Rig::new();
    rig.sync(&shared(), "c", LiteChange::Add, &["a", "b"]);
    let answers = rig.send_lites(&parent(), &["a", "b", "a", "x"]);
    let places: Vec<(u32, u64)> = answers.into_iter().map(|sent| sent.expect("stored")).map(|sent| (sent.queue.0 - FIRST, sent.offset.0)).collect();
    assert_eq!(places, [(0, 0), (1, 0), (0, 1), (2, 0)], "a batch may go to several");
    assert_eq!(rig.offsets(&shared(), "c"), offsets(&[("a", &[0, 1]), ("b", &[0])]));
    assert!(rig.receive_lite(&shared(), "somebody").is_empty());
}

#[test]
fn a_receive_that_waits_is_woken_by_its_own_lite_topics() {
    let mut rig = Rig::new();
    rig.sync(&shared(), "c", LiteChange::Add, &["a"]);
    rig.sync(&shared(), "d", LiteChange::Add, &["d"]);
    let (c, d) = (rig.poll_lite(&shared(), "c", 32, true, 20_000), rig.poll_lite(&shared(), "d", 32, true, 20_000));
    rig.send_lite("b");
    assert!(!rig.replies.contains_key(&c));
    rig.send_lite("a");
    assert_eq!(rig.answer(c).len(), 1);
    assert!(!rig.replies.contains_key(&d));
    rig.sync(&shared(), "d", LiteChange::Add, &["b"]);
    rig.send_lite("b");
    assert_eq!(rig.answer(d).iter().map(|given| given.offset).collect::<Vec<_>>(), [1], "a new subscription counts for a receive that waits");
}

#[test]
fn a_lite_topic_gives_more_only_when_what_it_gave_is_finished() {
    let mut rig = Rig::new();
    rig.sync(&shared(), "c", LiteChange::Add, &["a", "b"]);
    rig.send_lites(&parent(), &["a", "a"]);
    let given = rig.receive_lite(&shared(), "c");
    rig.send_lites(&parent(), &["a", "b"]);
    assert_eq!(rig.offsets(&shared(), "c"), offsets(&[("b", &[0])]), "others go on");
    rig.ack(&shared(), &given[..1]);
    let waiting = rig.poll_lite(&shared(), "c", 32, true, 5_000);
    assert!(!rig.replies.contains_key(&waiting));
    rig.ack(&shared(), &given[1..]);
    assert_eq!(rig.answer(waiting).iter().map(|given| (given.offset, given.attempt)).collect::<Vec<_>>(), [(2, 1)]);
}

#[test]
fn a_client_that_promises_no_order_gets_one_message_of_each_lite_topic() {
    let mut rig = Rig::new();
    rig.sync(&shared(), "c", LiteChange::Add, &["a", "b"]);
    rig.send_lites(&parent(), &["a", "a", "b"]);
    let token = rig.poll_lite(&shared(), "c", 32, false, 0);
    assert_eq!(rig.answer(token).iter().map(|given| given.offset).collect::<Vec<_>>(), [0, 0]);
}

#[test]
fn a_failed_message_comes_again_before_those_behind_it() {
    let mut rig = Rig::new();
    rig.sync(&shared(), "c", LiteChange::Add, &["a"]);
    rig.send_lites(&parent(), &["a", "a", "a"]);
    let given = rig.receive_lite(&shared(), "c");
    rig.ack(&shared(), &given[1..2]);
    assert_eq!(rig.change(&shared(), &given[0], 3_000, AttemptCount::Suspended), Ok(()));
    rig.ack(&shared(), &given[2..]);
    rig.send_lite("a");
    assert!(rig.receive_lite(&shared(), "c").is_empty(), "the lite topic waits with its first message");
    let waiting = rig.poll_lite(&shared(), "c", 32, true, 10_000);
    rig.sleep(3_000);
    let again = rig.answer(waiting);
    assert_eq!(again.iter().map(|given| (given.offset, given.attempt)).collect::<Vec<_>>(), [(0, 1)], "it comes alone");
    rig.ack(&shared(), &again);
    assert_eq!(rig.offsets(&shared(), "c"), offsets(&[("a", &[3])]), "what is finished is not repeated");
}

#[test]
fn what_ran_out_wakes_the_receive_that_waits() {
    let mut rig = Rig::new();
    rig.sync(&shared(), "c", LiteChange::Add, &["a"]);
    rig.send_lites(&parent(), &["a"]);
    assert_eq!(rig.receive_lite(&shared(), "c").len(), 1);
    let waiting = rig.poll_lite(&shared(), "c", 32, true, 20_000);
    rig.sleep(10_000);
    assert_eq!(rig.answer(waiting)[0].attempt, 2);
}

#[test]
fn a_lite_topic_goes_on_behind_a_dead_letter() {
    let mut rig = Rig::new();
    let mut twice = (*shared()).clone();
    twice.max_attempts = 2;
    let twice = Arc::new(twice);
    rig.sync(&twice, "c", LiteChange::Add, &["a"]);
    rig.send_lites(&parent(), &["a", "a"]);
    let token = rig.poll_lite(&twice, "c", 1, true, 0);
    let first = rig.answer(token);
    let token = rig.token();
    rig.step(Event::Dead { token, group: twice.clone(), handle: handle(&twice, &first[0]) });
    rig.settle();
    for attempt in 1..=2 {
        let given = rig.receive_lite(&twice, "c");
        assert_eq!(given.iter().map(|given| (given.offset, given.attempt)).collect::<Vec<_>>(), [(1, attempt)]);
        rig.sleep(10_000);
    }
    rig.send_lite("a");
    assert_eq!(rig.offsets(&twice, "c"), offsets(&[("a", &[2])]));
    assert_eq!(rig.core.state.head.dead_letters, 2);
}

#[test]
fn a_new_group_begins_at_the_end_and_goes_on_where_it_was() {
    let mut rig = Rig::new();
    rig.send_lites(&parent(), &["a", "a"]);
    rig.sync(&shared(), "c", LiteChange::Add, &["a"]);
    rig.send_lite("a");
    let given = rig.receive_lite(&shared(), "c");
    assert_eq!(given.iter().map(|given| given.offset).collect::<Vec<_>>(), [2]);
    rig.ack(&shared(), &given);
    rig.sync(&shared(), "c", LiteChange::Remove, &["a"]);
    rig.send_lite("a");
    assert!(rig.receive_lite(&shared(), "c").is_empty());
    rig.sync(&shared(), "c", LiteChange::Add, &["a"]);
    assert_eq!(rig.offsets(&shared(), "c"), offsets(&[("a", &[3])]), "nothing that came meanwhile is lost");
}

#[test]
fn a_subscription_says_where_it_begins() {
    for (start, expected) in [
        (LiteStart::Last, vec![]),
        (LiteStart::Max, vec![]),
        (LiteStart::Min, vec![0, 1, 2, 3]),
        (LiteStart::At(Offset(1)), vec![1, 2, 3]),
        (LiteStart::At(Offset(99)), vec![]),
        (LiteStart::Tail(1), vec![3]),
        (LiteStart::Tail(99), vec![0, 1, 2, 3]),
        (LiteStart::Time(1_500), vec![2, 3]),
    ] {
        let mut rig = Rig::new();
        rig.send_lites(&parent(), &["a", "a"]);
        rig.sleep(1_000);
        rig.send_lites(&parent(), &["a", "a"]);
        assert_eq!(rig.sync_from(&shared(), "c", LiteChange::Add, &["a"], start), Ok(()));
        let got: Vec<u64> = rig.receive_lite(&shared(), "c").iter().map(|given| given.offset).collect();
        assert_eq!(got, expected, "{start:?}");
    }
}

#[test]
fn a_start_moves_a_group_that_was_there_only_while_nobody_reads() {
    let mut rig = Rig::new();
    rig.sync(&shared(), "c", LiteChange::Add, &["a"]);
    rig.send_lites(&parent(), &["a", "a"]);
    let held = rig.receive_lite(&shared(), "c");
    assert_eq!(rig.sync_from(&shared(), "d", LiteChange::Add, &["a"], LiteStart::Min), Ok(()));
    assert!(rig.receive_lite(&shared(), "d").is_empty(), "another member reads: its progress counts");
    for client in ["c", "d"] {
        rig.sync(&shared(), client, LiteChange::Clear, &[]);
    }
    assert_eq!(rig.sync_from(&shared(), "d", LiteChange::Add, &["a"], LiteStart::Min), Ok(()));
    assert_eq!(rig.offsets(&shared(), "d"), offsets(&[("a", &[0, 1])]));
    assert!(rig.ack(&shared(), &held)[0].is_err(), "a handle from before is void");
    assert_eq!(rig.sync_from(&shared(), "d", LiteChange::Add, &["a"], LiteStart::Min), Ok(()));
    assert!(rig.receive_lite(&shared(), "d").is_empty(), "a repeated call begins nothing again");
}

#[test]
fn members_that_share_a_lite_topic_get_each_message_once() {
    let mut rig = Rig::new();
    for client in ["c", "d"] {
        rig.sync(&shared(), client, LiteChange::Replace, &["a"]);
    }
    let polls = [rig.poll_lite(&shared(), "d", 32, true, 5_000), rig.poll_lite(&shared(), "c", 32, true, 5_000)];
    rig.send_lite("a");
    assert_eq!(rig.answer(polls[0]).len(), 1, "who waits longest is first");
    rig.send_lite("a");
    assert!(!rig.replies.contains_key(&polls[1]), "the lite topic is locked for all of them");
}

#[test]
fn the_newest_subscriber_of_an_exclusive_group_has_a_lite_topic_alone() {
    let alone = readers(1, LiteSharing::Exclusive, false);
    let mut rig = Rig::new();
    rig.sync(&alone, "old", LiteChange::Add, &["a", "b"]);
    rig.sync(&alone, "new", LiteChange::Add, &["a"]);
    let lost = std::mem::take(&mut rig.lost);
    assert_eq!(lost.iter().map(|lost| (lost.client.as_str(), lost.lite.as_str())).collect::<Vec<_>>(), [("old", "a")]);
    // It has not heard of it, and lists both.
    rig.sync(&alone, "old", LiteChange::Replace, &["a", "b"]);
    rig.send_lites(&parent(), &["a", "b"]);
    assert_eq!(rig.offsets(&alone, "old"), offsets(&[("b", &[0])]));
    let mut rig = rig.restart();
    assert_eq!(rig.offsets(&alone, "new"), offsets(&[("a", &[0])]));
    // Now it has heard of it; later it wants it again.
    rig.sync(&alone, "old", LiteChange::Replace, &["b"]);
    rig.sync(&alone, "old", LiteChange::Replace, &["a", "b"]);
    let lost = std::mem::take(&mut rig.lost);
    assert_eq!(lost.iter().map(|lost| (lost.client.as_str(), lost.lite.as_str())).collect::<Vec<_>>(), [("new", "a")]);
}

#[test]
fn a_lost_lite_topic_that_is_added_by_name_is_taken_back() {
    let alone = readers(1, LiteSharing::Exclusive, false);
    let mut rig = Rig::new();
    for client in ["old", "new", "old"] {
        rig.sync(&alone, client, LiteChange::Add, &["a"]);
    }
    assert_eq!(rig.lost.iter().map(|lost| lost.client.as_str()).collect::<Vec<_>>(), ["old", "new"]);
    rig.send_lite("a");
    assert_eq!(rig.receive_lite(&alone, "old").len(), 1);
}

#[test]
fn a_wildcard_group_gets_every_lite_topic_old_or_new() {
    let all = readers(1, LiteSharing::Shared, true);
    let mut rig = Rig::new();
    rig.send_lites(&parent(), &["a", "b"]);
    rig.sync(&all, "c", LiteChange::Replace, &[]);
    assert_eq!(rig.offsets(&all, "c"), offsets(&[("a", &[0]), ("b", &[0])]));
    let waiting = rig.poll_lite(&all, "d", 32, true, 5_000);
    rig.send_lite("later");
    assert_eq!(rig.answer(waiting).len(), 1);
    let mut rig = rig.restart();
    rig.sleep(10_000);
    assert_eq!(rig.receive_lite(&all, "e").len(), 3, "a new leader finds all of them");
}

#[test]
fn a_repeated_sync_writes_nothing() {
    let mut rig = Rig::new();
    rig.sync(&shared(), "c", LiteChange::Add, &["a", "b"]);
    let written = rig.log.len();
    for change in [LiteChange::Add, LiteChange::Replace] {
        rig.sync(&shared(), "c", change, &["a", "b", "b"]);
    }
    rig.sync(&shared(), "c", LiteChange::Remove, &["unknown"]);
    rig.sync(&shared(), "never", LiteChange::Clear, &[]);
    assert_eq!(rig.log.len(), written);
}

#[test]
fn a_complete_list_replaces_what_was_subscribed() {
    let mut rig = Rig::new();
    rig.sync(&shared(), "c", LiteChange::Add, &["a", "b"]);
    rig.sync(&shared(), "c", LiteChange::Replace, &["b", "d"]);
    rig.send_lites(&parent(), &["a", "b", "d"]);
    assert_eq!(rig.offsets(&shared(), "c"), offsets(&[("b", &[0]), ("d", &[0])]));
    rig.sync(&shared(), "c", LiteChange::Replace, &[]);
    assert_eq!(rig.core.state.lite.subscriptions(), 0);
}

#[test]
fn quotas_refuse_the_whole_call() {
    let mut rig = Rig::new();
    let names: Vec<String> = (0..306).map(|n| format!("n{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let written = rig.log.len();
    let refused = rig.sync_from(&shared(), "c", LiteChange::Add, &names, LiteStart::Last);
    assert_eq!(refused, Err(LiteError::SubscriptionQuota { most: 5 }));
    assert_eq!(rig.log.len(), written, "nothing was made");
    rig.sync(&shared(), "c", LiteChange::Add, &names[1..]);
    rig.core.limits.lite_subscriptions = 306;
    rig.sync(&shared(), "d", LiteChange::Add, &names[..1]);
    assert_eq!(rig.sync_from(&shared(), "e", LiteChange::Add, &names[..1], LiteStart::Last), Err(LiteError::SubscriptionQuota { most: 306 }));
    let mut small = (*parent()).clone();
    small.options.quota.lite_topics = Some(307);
    let answers = rig.send_lites(&Arc::new(small), &["n1", "one", "two"]);
    assert!(answers[0].is_ok() && answers[1].is_ok());
    assert_eq!(answers[2], Err(SendError::LiteTopicQuota { most: 307 }));
}

#[test]
fn a_client_that_is_gone_subscribes_nothing_and_its_messages_wait() {
    let mut rig = Rig::new();
    rig.sync(&shared(), "c", LiteChange::Add, &["a"]);
    rig.step(Event::ClientGone { client: ClientId::new("c") });
    rig.settle();
    assert_eq!(rig.core.state.lite.subscriptions(), 0);
    rig.send_lite("a");
    assert!(rig.receive_lite(&shared(), "c").is_empty());
    rig.sync(&shared(), "c", LiteChange::Replace, &["a"]);
    assert_eq!(rig.offsets(&shared(), "c"), offsets(&[("a", &[0])]));
}

#[test]
fn only_clients_that_are_silent_for_three_minutes_are_asked_about() {
    let mut rig = Rig::new();
    rig.sync(&shared(), "c", LiteChange::Add, &["a"]);
    rig.sync(&shared(), "d", LiteChange::Add, &["a"]);
    let mut rig = rig.restart();
    rig.sleep(100_000);
    rig.sync(&shared(), "d", LiteChange::Replace, &["a"]);
    rig.sleep(79_999);
    assert_eq!(rig.core.silent_clients(), []);
    rig.sleep(1);
    assert_eq!(rig.core.silent_clients(), [ClientId::new("c")]);
    assert_eq!(rig.core.silent_clients(), []);
    rig.sleep(10_000);
    assert_eq!(rig.core.silent_clients(), [ClientId::new("c")], "it may live by other calls: it is asked about again");
    rig.step(Event::ClientGone { client: ClientId::new("c") });
    rig.sleep(10_000);
    assert_eq!(rig.core.silent_clients(), []);
}

#[test]
fn a_lite_topic_ends_when_nobody_has_needed_it() {
    let mut rig = Rig::new();
    rig.sync(&shared(), "c", LiteChange::Add, &["behind", "read", "subscribed"]);
    rig.sleep(10);
    rig.send_lites(&parent(), &["behind", "read", "plain", "subscribed"]);
    let given = rig.receive_lite(&shared(), "c");
    let queue = |rig: &Rig, name: &str| QueueKey::new(parent().id, rig.core.state.lite.number(parent().id, name).expect("it is there"));
    let behind = queue(&rig, "behind");
    let read: Vec<Given> = given.into_iter().filter(|given| given.queue != behind).collect();
    rig.ack(&shared(), &read);
    rig.sync(&shared(), "c", LiteChange::Replace, &["subscribed"]);
    let all = ["behind", "read", "plain", "subscribed"];
    let now = rig.now;
    rig.drop_idle(&all, now - 1);
    assert_eq!(rig.core.state.lite.count(parent().id), 4, "all of them are too young");
    rig.drop_idle(&all, now);
    let left: Vec<&str> = rig.core.state.lite.by_name(parent().id, "").map(|(name, _)| name).collect();
    assert_eq!(left, ["behind", "subscribed"], "unfinished messages and subscribers keep a lite topic");
    let mut rig = rig.restart();
    // Retention takes the message that nobody came for.
    rig.step(Event::Trim { start: Default::default(), queues: vec![(behind, 1)] });
    rig.drop_idle(&all, now);
    assert_eq!(rig.core.state.lite.count(parent().id), 1);
    assert!(rig.core.state.cursor(shared().id, behind).is_none());
    assert_eq!(rig.send_lite("read").1, Offset(0), "it begins anew");
    rig.restart();
}

#[test]
fn a_wildcard_group_keeps_what_it_has_not_read() {
    let all = readers(1, LiteSharing::Shared, true);
    let mut rig = Rig::new();
    rig.send_lite("a");
    rig.step(Event::GroupKnown { group: all.clone() });
    let now = rig.now;
    rig.drop_idle(&["a"], now);
    assert_eq!(rig.core.state.lite.count(parent().id), 1);
    let given = rig.receive_lite(&all, "c");
    rig.ack(&all, &given);
    rig.drop_idle(&["a"], now);
    assert_eq!(rig.core.state.lite.count(parent().id), 0);
}

#[test]
fn retention_unlocks_a_lite_topic() {
    let mut rig = Rig::new();
    rig.sync(&shared(), "c", LiteChange::Add, &["a"]);
    rig.send_lite("a");
    let given = rig.receive_lite(&shared(), "c");
    rig.send_lite("a");
    let waiting = rig.poll_lite(&shared(), "c", 32, true, 5_000);
    rig.step(Event::Trim { start: Default::default(), queues: vec![(given[0].queue, 1)] });
    rig.settle();
    assert_eq!(rig.answer(waiting).iter().map(|given| given.offset).collect::<Vec<_>>(), [1]);
}

#[test]
fn numbers_come_round_and_offsets_never_come_twice() {
    let mut rig = Rig::new();
    let high = QueueKey::new(parent().id, gantry_model::QueueId(END - 1));
    rig.log.push(crate::shard::rig::Logged::Record(crate::record::Record::LiteCreate(crate::record::LiteCreate {
        queue: high,
        start: Offset(0),
        time: rig.now,
        name: "last".into(),
    })));
    let state = crate::shard::rig::replay(&rig.log);
    let mut rig = Rig::over(state, rig.notes, rig.log, rig.now);
    let (first, _) = rig.send_lite("first");
    assert_eq!(first.queue().0, FIRST, "behind the last number comes the first");
    rig.send_lite("first");
    let now = rig.now;
    rig.drop_idle(&["last", "first"], now);
    assert_eq!(rig.core.state.lite.count(parent().id), 0);
    let names: Vec<(QueueKey, Offset)> = ["x", "y"].map(|name| rig.send_lite(name)).into();
    assert_eq!(names.iter().map(|(queue, _)| queue.queue().0 - FIRST).collect::<Vec<_>>(), [1, 2]);
    assert!(names.iter().all(|(_, offset)| *offset == Offset(2)), "numbers that may have been used begin above what ended: {names:?}");
    rig.sync(&shared(), "c", LiteChange::Add, &["x"]);
    rig.send_lite("x");
    assert_eq!(rig.offsets(&shared(), "c"), offsets(&[("x", &[3])]));
    rig.restart();
}

#[test]
fn a_deleted_group_or_topic_takes_its_subscriptions_along() {
    let mut rig = Rig::new();
    let other = readers(2, LiteSharing::Shared, false);
    rig.sync(&shared(), "c", LiteChange::Add, &["a"]);
    rig.sync(&other, "c", LiteChange::Add, &["a", "b"]);
    let waiting = rig.poll_lite(&shared(), "c", 32, true, 5_000);
    rig.step(Event::Forget { what: Forget::Group(shared().id) });
    rig.settle();
    assert!(rig.answer(waiting).is_empty());
    assert_eq!((rig.core.state.lite.subscriptions(), rig.core.state.lite.count(parent().id)), (2, 2));
    rig.send_lite("a");
    assert_eq!(rig.receive_lite(&other, "c").len(), 1);
    let mut rig = rig.restart();
    rig.step(Event::Forget { what: Forget::Topic(parent().id) });
    rig.settle();
    assert_eq!((rig.core.state.lite.subscriptions(), rig.core.state.lite.count(parent().id)), (0, 0));
    rig.restart();
}

#[test]
fn operators_see_lite_topics_page_by_page() {
    let mut rig = Rig::new();
    rig.sync(&shared(), "c", LiteChange::Add, &["b", "c"]);
    rig.sync(&readers(2, LiteSharing::Shared, false), "d", LiteChange::Add, &["b"]);
    rig.sleep(500);
    rig.send_lites(&parent(), &["a", "b"]);
    let page = rig.core.lite_topics(&parent(), "a", 1);
    assert_eq!(page.len(), 1);
    let shown = &page[0];
    assert_eq!((shown.name.as_str(), shown.min, shown.max, shown.active_ms, shown.subscribers), ("b", Offset(0), Offset(1), rig.now, 2));
    assert_eq!(rig.core.lite_topics(&parent(), "b", 9).iter().map(|lite| lite.name.as_str()).collect::<Vec<_>>(), ["c"]);
}
