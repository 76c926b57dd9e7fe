//! One history: random sends, receives, acknowledgements, failures, pauses, crashes; then peace, in which everything must come to its end.

use crate::book::{Letter, Page, Rules};
use crate::halves::Fate;
use crate::world::{Item, World};
use gantry_broker::shard::asks::{Ask, Told};
use gantry_broker::shard::core::{After, Event, Given, Reply, Token};
use gantry_broker::shard::parked::is_parked;
use gantry_broker::shard::polls::{Poll, Wanted};
use gantry_broker::shard::send::Class;
use gantry_model::contract::broker::{AttemptCount, LeaseTerm, RecallError, Resolution, Ticket};
use gantry_model::group::{GroupOptions, Order, StartPosition};
use gantry_model::topic::{Permission, Queue, QueueState, Retention, TopicOptions, TopicType};
use gantry_model::{
    ClientId, Filter, Group, GroupId, GroupName, MessageKind, Offset, QueueKey, ReceiptHandle, RetryPolicy, ShardId, Topic, TopicId, TopicName,
};
use gantry_platform::chance::{Chance, SeededChance};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

const TAGS: [&str; 3] = ["red", "green", "blue"];

/// What happened in histories.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    pub sends: u64,
    pub deliveries: u64,
    pub redelivered: u64,
    pub acks: u64,
    pub dead: u64,
    pub skips: u64,
    /// Ends of transactions that producers asked for, and questions that reached one.
    pub ends: u64,
    pub questions: u64,
    pub crashes: u64,
}

impl Outcome {
    pub fn add(&mut self, other: &Outcome) {
        self.sends += other.sends;
        self.deliveries += other.deliveries;
        self.redelivered += other.redelivered;
        self.acks += other.acks;
        self.dead += other.dead;
        self.skips += other.skips;
        self.ends += other.ends;
        self.questions += other.questions;
        self.crashes += other.crashes;
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome { sends, deliveries, redelivered, acks, dead, skips, ends, questions, crashes } = self;
        write!(f, "{sends} sends, {deliveries} deliveries ({redelivered} repeated), {acks} acknowledgements, ")?;
        write!(f, "{dead} dead letters, {skips} skips, {ends} ends of transactions ({questions} questions), {crashes} crashes")
    }
}

/// A consumer group with its notes.
struct Member {
    group: Arc<Group>,
    filter: Arc<Filter>,
    page: Page,
}

/// What a request that waits for its answer was.
pub(crate) enum Asked {
    Send(usize),
    Receive { member: usize, until: u64 },
    Finish { member: usize, handles: Vec<ReceiptHandle> },
    Change,
    Recall(usize),
    End { id: u128, resolution: Resolution },
    Skip { member: usize, place: (QueueKey, u64) },
}

pub struct History {
    seed: u64,
    chance: SeededChance,
    pub(crate) world: World,
    pub(crate) topic: Arc<Topic>,
    pub(crate) letters: Vec<Letter>,
    /// What is known of half messages, by message id.
    pub(crate) fates: BTreeMap<u128, Fate>,
    members: Vec<Member>,
    pub(crate) asked: BTreeMap<Token, Asked>,
    pub(crate) outcome: Outcome,
}

impl History {
    pub fn new(seed: u64) -> History {
        let mut chance = SeededChance::new(seed);
        let kinds = [TopicType::Normal, TopicType::Fifo, TopicType::Mixed, TopicType::Delay, TopicType::Transaction];
        let kind = kinds[chance.below(kinds.len() as u64) as usize];
        let queues = 1 + chance.below(3) as usize;
        let topic = Arc::new(Topic {
            id: TopicId(1),
            name: TopicName { namespace: String::new(), name: "t".into() },
            kind,
            permission: Permission::ReadWrite,
            queues: vec![Queue { shard: ShardId(0), state: QueueState::Active }; queues],
            retention: Retention::default(),
            options: TopicOptions::default(),
            created_ms: 0,
        });
        let members = (0..1 + chance.below(2) as u32).map(|number| member(number, kind, &mut chance)).collect();
        let world = World::new(topic.clone(), ShardId(0));
        History {
            seed,
            chance,
            world,
            topic,
            letters: Vec::new(),
            fates: BTreeMap::new(),
            members,
            asked: BTreeMap::new(),
            outcome: Outcome::default(),
        }
    }

    /// The same, told as it goes.
    pub fn aloud(mut self) -> History {
        self.world.tell = true;
        self
    }

    pub fn run(mut self) -> Outcome {
        let steps = 10 + self.chance.below(50);
        let seed = self.seed;
        let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            for _ in 0..steps {
                self.something();
            }
            self.peace();
            self.outcome
        }));
        told.unwrap_or_else(|cause| {
            eprintln!("the history of seed {seed} breaks an invariant: run `gantry-histories --tell {seed}`");
            std::panic::resume_unwind(cause)
        })
    }

    pub(crate) fn pick(&mut self, count: usize) -> usize {
        self.chance.below(count as u64) as usize
    }

    fn something(&mut self) {
        match self.chance.below(25) {
            0..6 => self.send(),
            6..10 => {
                let (member, max, wait) = (self.pick(self.members.len()), 1 + self.chance.below(5) as u32, self.chance.below(2) * 5_000);
                self.receive(member, max, wait);
            }
            10..13 => self.finish(),
            13..15 => self.change(),
            15 => self.bury(),
            16 => self.client_gone(),
            17 => {
                let ms = [1, 500, 3_000, 11_000][self.pick(4)];
                self.pass(ms);
            }
            18 => self.crash(),
            19 => self.recall(),
            20 => self.skip(),
            21..23 => self.end_one(),
            23 => self.producer_comes(),
            _ => self.settle(),
        }
        if self.chance.below(3) == 0 {
            self.settle();
        }
    }

    fn send(&mut self) {
        let number = self.letters.len();
        let repeat = number > 0 && self.chance.below(8) == 0;
        let letter = if repeat {
            let again = self.pick(number);
            Letter { sent: None, ..self.letters[again].clone() }
        } else {
            let grouped = match self.topic.kind {
                TopicType::Fifo => true,
                TopicType::Mixed => self.chance.below(2) == 0,
                _ => false,
            };
            let lane = if grouped { 10 + self.chance.below(3) as u32 } else { 0 };
            let later = match self.topic.kind {
                TopicType::Delay => true,
                TopicType::Mixed => !grouped && self.chance.below(2) == 0,
                _ => false,
            };
            let deliver_ms = if later { self.world.now + self.chance.below(30_000) } else { 0 };
            let half = match self.topic.kind {
                TopicType::Transaction => true,
                TopicType::Mixed => !grouped && !later && self.chance.below(2) == 0,
                _ => false,
            };
            let kind = match (lane, later, half) {
                (_, _, true) => MessageKind::Transaction,
                (0, false, _) => MessageKind::Normal,
                (0, true, _) => MessageKind::Delay,
                _ => MessageKind::Fifo,
            };
            Letter {
                kind,
                id: 1 + number as u128,
                tag: 1 + self.chance.below(3) as u32,
                lane,
                deliver_ms,
                perhaps_recalled: false,
                recalled: false,
                sent: None,
            }
        };
        let class = Class {
            kind: letter.kind,
            id: letter.id,
            group: (letter.lane != 0).then_some(u64::from(letter.lane)),
            priority: None,
            deliver_ms: (letter.deliver_ms > 0).then_some(letter.deliver_ms),
            lite: None,
            recovery_ms: None,
        };
        let tag_hash = gantry_store::record::tag_hash(TAGS[letter.tag as usize - 1]);
        let item = Item { number, tag_hash, lane: letter.lane, class };
        self.letters.push(letter);
        let token = self.world.token();
        self.asked.insert(token, Asked::Send(number));
        let (topic, client) = (self.topic.clone(), ClientId::new("producer"));
        self.world.step(Event::Send { token, topic, client, drafts: vec![item] });
        self.outcome.sends += 1;
    }

    fn receive(&mut self, member: usize, max: u32, wait: u64) {
        let owned = self.chance.below(3) == 0;
        let Member { group, filter, page } = &self.members[member];
        let term = if owned { LeaseTerm::WhileClientLives } else { LeaseTerm::For(Duration::from_secs(10)) };
        // A delivery that waits for its poll begins later, so this is the earliest end.
        let until = self.world.now + if owned { group.auto_renew_cap_ms } else { 10_000 };
        let poll = Poll {
            group: group.clone(),
            topic: self.topic.clone(),
            wanted: Wanted::new(filter.clone()),
            client: ClientId::new(if owned { "push" } else { "simple" }),
            max,
            term,
            deadline: self.world.now + wait,
            attempt_id: None,
            ordered_batch: page.rules.max_attempts != 2,
            member: String::new(),
            seeks: Default::default(),
        };
        let token = self.world.token();
        self.asked.insert(token, Asked::Receive { member, until });
        self.world.step(Event::Receive { token, poll });
    }

    fn held(&mut self) -> Option<(usize, ReceiptHandle)> {
        let member = self.pick(self.members.len());
        let held = self.members[member].page.held();
        if held.is_empty() {
            return None;
        }
        let at = self.pick(held.len());
        Some((member, held[at]))
    }

    fn finish(&mut self) {
        let Some((member, handle)) = self.held() else { return };
        let mut handles = vec![handle];
        handles.extend(self.members[member].page.held().into_iter().filter(|_| self.chance.below(2) == 0));
        handles.dedup();
        let token = self.world.token();
        handles.iter().for_each(|handle| self.members[member].page.asked_to_finish(handle));
        self.asked.insert(token, Asked::Finish { member, handles: handles.clone() });
        self.world.step(Event::Ack { token, group: self.members[member].group.id, handles });
        self.outcome.acks += 1;
    }

    fn change(&mut self) {
        self.settle();
        let Some((member, handle)) = self.held() else { return };
        let asked_ms = [0, 0, 1_000, 20_000][self.pick(4)];
        let attempt = if self.chance.below(4) == 0 { AttemptCount::Suspended } else { AttemptCount::Counts };
        let token = self.world.token();
        self.members[member].page.given_back(&handle);
        self.loosen(member);
        self.asked.insert(token, Asked::Change);
        let group = self.members[member].group.clone();
        self.world.step(Event::Change { token, group, handle, after: After { asked_ms, failed_ms: 0 }, attempt });
    }

    fn bury(&mut self) {
        let Some((member, handle)) = self.held() else { return };
        let token = self.world.token();
        self.members[member].page.asked_to_finish(&handle);
        self.asked.insert(token, Asked::Finish { member, handles: vec![handle] });
        let group = self.members[member].group.clone();
        self.world.step(Event::Dead { token, group, handle });
    }

    fn client_gone(&mut self) {
        // What it was given a moment ago is known before it goes.
        self.settle();
        for member in 0..self.members.len() {
            for handle in self.members[member].page.held() {
                self.members[member].page.given_back(&handle);
            }
        }
        self.world.step(Event::ClientGone { client: ClientId::new("push") });
    }

    fn recall(&mut self) {
        if self.letters.is_empty() {
            return;
        }
        let number = self.pick(self.letters.len());
        let Some(Ticket::Recall(handle)) = self.letters[number].sent.as_ref().and_then(|sent| sent.ticket.clone()) else { return };
        let token = self.world.token();
        self.asked.insert(token, Asked::Recall(number));
        let id = self.letters[number].id;
        self.letters.iter_mut().filter(|letter| letter.id == id).for_each(|letter| letter.perhaps_recalled = true);
        self.world.step(Event::Recall { token, handle });
    }

    /// Somebody finishes a message for a group by hand, in whatever state it is.
    fn skip(&mut self) {
        let queues: Vec<QueueKey> = self.world.index.queues().filter(|queue| queue.topic() == self.topic.id && !is_parked(*queue)).collect();
        if queues.is_empty() {
            return;
        }
        let queue = queues[self.pick(queues.len())];
        let (member, offset) = (self.pick(self.members.len()), self.pick(self.world.index.queue(queue).count()) as u64);
        if !self.world.is_committed(queue, offset) {
            return;
        }
        let token = self.world.token();
        self.members[member].page.asked_to_skip((queue, offset));
        self.asked.insert(token, Asked::Skip { member, place: (queue, offset) });
        let (group, topic) = (self.members[member].group.clone(), self.topic.clone());
        let ask = Ask::Skip { group, topic, queue: queue.queue(), offsets: vec![Offset(offset)] };
        self.world.step(Event::Ask { token, ask });
        self.outcome.skips += 1;
    }

    fn pass(&mut self, ms: u64) {
        self.settle();
        self.world.now += ms;
        // What lapses now may take back what stands behind it.
        (0..self.members.len()).for_each(|member| self.loosen(member));
        self.settle();
    }

    fn loosen(&mut self, member: usize) {
        let (index, letters) = (&self.world.index, &self.letters);
        let in_lane = |queue, offset| index.number(queue, offset).is_some_and(|number| letters[number].lane != 0);
        self.members[member].page.lanes_are_loose(in_lane);
    }

    fn crash(&mut self) {
        self.world.check();
        let uncommitted = self.world.uncommitted() as u64;
        let kept = self.chance.below(uncommitted + 1) as usize;
        let pause = [0, 100, 5_000, 60_000][self.pick(4)];
        for token in self.world.crash(kept, pause) {
            self.asked.remove(&token);
        }
        // Polls that waited are gone with the leader.
        self.take_answers();
        self.asked.clear();
        if pause > 0 {
            (0..self.members.len()).for_each(|member| self.loosen(member));
        }
        self.members.iter_mut().for_each(|member| member.page.unseen += 1);
        self.outcome.crashes += 1;
    }

    fn settle(&mut self) {
        self.world.settle();
        self.take_answers();
        if self.chance.below(3) > 0 {
            self.answer_questions(false);
        }
    }

    fn take_answers(&mut self) {
        for (token, reply) in std::mem::take(&mut self.world.replies) {
            let Some(asked) = self.asked.remove(&token) else { continue };
            match (asked, reply) {
                (Asked::Send(number), Reply::Sent(answers)) => self.note_sent(number, answers),
                (Asked::Receive { member, until }, Reply::Delivered { lease, .. }) => self.note_delivered(member, until, lease),
                (Asked::Finish { member, handles }, Reply::Acked(answers)) => {
                    for (handle, answer) in handles.iter().zip(answers) {
                        if answer.is_ok() {
                            self.members[member].page.finished(handle);
                        }
                    }
                }
                (Asked::Finish { member, handles }, Reply::Changed(Ok(()))) => self.members[member].page.finished(&handles[0]),
                (Asked::Finish { .. } | Asked::Change, Reply::Changed(_)) => {}
                (Asked::Skip { member, place }, Reply::Told(Told::Skip(Ok(_)))) => self.members[member].page.skipped(place),
                (Asked::End { id, resolution }, Reply::Ended(answer)) => self.note_ended(id, resolution, answer),
                (Asked::Recall(number), Reply::Recalled(answer)) => self.note_recalled(number, answer),
                (_, other) => panic!("an answer to another question: {other:?}"),
            }
        }
    }

    fn note_sent(&mut self, number: usize, answers: Vec<Result<gantry_model::contract::broker::Sent, gantry_model::contract::broker::SendError>>) {
        let sent = answers.into_iter().next().and_then(Result::ok).expect("nothing refuses a send here");
        let stored = self.world.index.number(QueueKey::new(self.topic.id, sent.queue), sent.offset.0).expect("D1: an acknowledged message is there");
        assert_eq!(self.letters[stored].id, self.letters[number].id, "D1: the place holds this message");
        assert_eq!(stored != number, sent.duplicate, "a repeated id is answered as such");
        self.letters[number].sent = Some(sent);
    }

    fn note_recalled(&mut self, number: usize, answer: Result<(), RecallError>) {
        let id = self.letters[number].id;
        let visible = self.copies(id) > 0;
        match answer {
            Ok(()) => {
                assert!(!visible, "S1: message {id} was taken back and is there");
                self.letters.iter_mut().filter(|letter| letter.id == id).for_each(|letter| letter.recalled = true);
            }
            Err(RecallError::Delivered) => {
                assert!(visible, "S1: message {id} is said to be delivered and is not there");
                self.letters.iter_mut().filter(|letter| letter.id == id).for_each(|letter| letter.perhaps_recalled = false);
            }
            Err(error) => panic!("S1: a message that was sent is not known: {error}"),
        }
    }

    /// How often a message is in a queue that consumers see.
    pub(crate) fn copies(&self, id: u128) -> usize {
        let queues = self.world.index.queues().filter(|queue| queue.topic() == self.topic.id && !is_parked(*queue));
        queues.map(|queue| self.world.index.queue(queue).filter(|(_, number, _)| self.letters[*number].id == id).count()).sum()
    }

    fn note_delivered(&mut self, member: usize, until: u64, lease: Vec<Given>) {
        let group = self.members[member].group.clone();
        let given: Vec<(Given, ReceiptHandle)> = lease.into_iter().map(|given| (given, handle(&group, &given))).collect();
        for (one, _) in &given {
            if let Some(number) = self.world.index.number(one.queue, one.offset) {
                self.check_visible(number);
            }
            assert!(self.world.is_committed(one.queue, one.offset), "V1: {:?}/{} is not committed", one.queue, one.offset);
        }
        self.outcome.deliveries += given.len() as u64;
        let page = &mut self.members[member].page;
        let (index, letters, wanted) = (&self.world.index, &self.letters, page.rules.tag);
        let letter = |queue, offset| index.number(queue, offset).map(|number| &letters[number]);
        let dead = QueueKey::new(group.dead_letter, gantry_model::QueueId(0));
        let before = |queue: QueueKey, offset: u64, lane: u32| {
            let earlier = index.queue(queue).take_while(|(earlier, ..)| *earlier < offset).filter(|(_, number, of)| {
                let buried = || index.queue(dead).any(|(_, other, _)| other == *number);
                *of == lane && (wanted == 0 || letters[*number].tag == wanted) && !buried()
            });
            earlier.map(|(earlier, ..)| earlier).collect()
        };
        page.delivered(&given, self.world.now, until, letter, before);
    }

    /// No more faults: every member receives and acknowledges until nothing comes any more. Then nothing may be left.
    fn peace(&mut self) {
        self.settle();
        self.world.check();
        self.world.step(Event::ClientGone { client: ClientId::new("push") });
        for member in 0..self.members.len() {
            for handle in self.members[member].page.held() {
                self.members[member].page.given_back(&handle);
            }
        }
        let mut quiet = 0;
        while quiet < 4 || self.world.core.state.transactions.count() > 0 {
            self.world.now += 41_000;
            (0..self.members.len()).for_each(|member| self.loosen(member));
            self.settle();
            self.answer_questions(true);
            self.settle();
            let before = self.outcome.deliveries;
            for member in 0..self.members.len() {
                self.receive(member, 32, 0);
                self.settle();
                for handle in self.members[member].page.held() {
                    let token = self.world.token();
                    self.members[member].page.asked_to_finish(&handle);
                    self.asked.insert(token, Asked::Finish { member, handles: vec![handle] });
                    self.world.step(Event::Ack { token, group: self.members[member].group.id, handles: vec![handle] });
                }
                self.settle();
            }
            quiet = if self.outcome.deliveries == before { quiet + 1 } else { 0 };
        }
        self.check_end();
    }

    /// Every delayed message is in a queue once, not before its time, or was taken back.
    fn check_delayed(&self, queues: &[QueueKey]) {
        for &queue in queues {
            for (offset, number, _) in self.world.index.queue(queue) {
                let due = self.letters[number].deliver_ms;
                let stored = self.world.index.stored_at(queue, offset).unwrap_or(0);
                assert!(stored >= due, "S1: message {number} was due at {due} and is visible from {stored}");
            }
        }
        for letter in self.letters.iter().filter(|letter| letter.deliver_ms > 0 && letter.sent.is_some()) {
            let copies = self.copies(letter.id);
            let right = if letter.recalled { copies == 0 } else { copies == 1 || copies == 0 && letter.perhaps_recalled };
            assert!(right, "S1: {copies} copies of delayed message {}", letter.id);
        }
    }

    fn check_end(&mut self) {
        let queues: Vec<QueueKey> = self.world.index.queues().filter(|queue| queue.topic() == self.topic.id && !is_parked(*queue)).collect();
        self.check_delayed(&queues);
        self.check_halves();
        for member in &self.members {
            self.outcome.redelivered += member.page.redelivered;
            let letters = self.world.index.queues().filter(|queue| queue.topic() == member.group.dead_letter);
            let dead: Vec<usize> = letters.flat_map(|queue| self.world.index.queue(queue).map(|(_, number, _)| number).collect::<Vec<_>>()).collect();
            self.outcome.dead += dead.len() as u64;
            for &queue in &queues {
                for (offset, number, _) in self.world.index.queue(queue) {
                    let wanted = member.page.rules.tag == 0 || member.page.rules.tag == self.letters[number].tag;
                    let end = member.page.is_finished(queue, offset) || dead.contains(&number);
                    assert!(!wanted || end, "C1: {queue:?}/{offset} never came to its end for {}", member.group.name);
                    assert!(dead.iter().filter(|other| **other == number).count() <= 1, "one dead letter for {queue:?}/{offset}");
                }
                let end = self.world.index.queue(queue).count() as u64;
                let base = self.world.core.state.cursor(member.group.id, queue).map_or(end, |cursor| cursor.base);
                assert_eq!(base, end, "C3: the group is finished with {queue:?}");
            }
        }
        for letter in &self.letters {
            if let Some(sent) = &letter.sent {
                let number = self.world.index.number(QueueKey::new(self.topic.id, sent.queue), sent.offset.0).expect("D1: it is still there");
                assert_eq!(self.letters[number].id, letter.id, "D1");
            }
        }
    }
}

fn member(number: u32, kind: TopicType, chance: &mut SeededChance) -> Member {
    let max_attempts = [2, 3, 16][chance.below(3) as usize];
    let order = if chance.below(4) == 0 { Order::None } else { Order::FollowTopic };
    let tag = chance.below(4) as u32;
    let tag = if tag > 1 { 0 } else { tag };
    let ordered = order == Order::FollowTopic && matches!(kind, TopicType::Fifo | TopicType::Mixed);
    let group = Group {
        id: GroupId(1 + number),
        name: GroupName { namespace: String::new(), name: format!("g{number}") },
        order,
        max_attempts,
        retry: RetryPolicy::Customized { delays_ms: vec![1_000, 20_000] },
        start: StartPosition::Earliest,
        dead_letter: TopicId(100 + number),
        auto_renew_cap_ms: 60_000,
        options: GroupOptions::default(),
        created_ms: 0,
    };
    let filter = if tag == 0 { Filter::All } else { Filter::Tags(vec![TAGS[tag as usize - 1].to_owned()]) };
    Member { group: Arc::new(group), filter: Arc::new(filter), page: Page::new(Rules { ordered, max_attempts, tag }) }
}

fn handle(group: &Group, given: &Given) -> ReceiptHandle {
    ReceiptHandle {
        shard: ShardId(0),
        topic: given.queue.topic(),
        group: group.id,
        queue: given.queue.queue(),
        offset: Offset(given.offset),
        lease: given.lease,
        reset: given.reset,
        attempt: given.attempt,
    }
}
