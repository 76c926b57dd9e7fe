//! The overseer against brokers that do as they are told: who leads after what, and how fast.

#![allow(clippy::unwrap_used)]

use super::overseer::{Mail, Overseer, Said};
use super::{facts, orders};
use crate::state::State;
use crate::state::event::Event;
use crate::state::nodes::{Health, NodeSpec};
use crate::state::shards::Policy;
use gantry_model::contract::directory::{Recover, Survey, loss_phrase};
use gantry_model::{Epoch, Lsn, NodeId, ShardId};
use gantry_platform::SeededChance;
use gantry_platform::chance::Chance;
use gantry_proto::controller as pb;
use gantry_store::replica::log::Position;
use gantry_store::replica::message::SealOk;
use gantry_store::replica::{Incarnation, Member, StoreId};
use pb::to_broker::Body;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::oneshot;

/// What a broker knows of one of its copies.
#[derive(Clone, Debug, Default)]
struct Held {
    store: [u8; 16],
    promised: u32,
    leads: u32,
    end: u64,
    last_epoch: u32,
}

/// A broker that does what it is told.
struct Broker {
    stream: u64,
    orders: UnboundedReceiver<Body>,
    copies: BTreeMap<u32, Held>,
    incarnation: u64,
    /// Whether learners get what it leads.
    teaches: bool,
    /// Its copies may lack frames that they acknowledged.
    suspect: bool,
}

struct Box {
    now: Duration,
    state: State,
    overseer: Overseer,
    chance: SeededChance,
    brokers: BTreeMap<u64, Broker>,
    streams: u64,
    /// Entries proposed so far.
    entries: usize,
}

const STEP: Duration = Duration::from_millis(10);

impl Box {
    fn new(brokers: u64, shards: u32, policy: Policy) -> Box {
        let mut state = State::default();
        state.apply(&Event::ClusterCreated { id: "0a".repeat(16), name: "gantry".into(), shards, time_ms: 5 });
        let overseer = Overseer::new(Duration::ZERO, policy);
        let mut all = Box { now: Duration::ZERO, state, overseer, chance: SeededChance::new(3), brokers: BTreeMap::new(), streams: 0, entries: 0 };
        for _ in 0..brokers {
            all.join();
        }
        all
    }

    fn of_three(shards: u32) -> Box {
        let mut all = Box::new(3, shards, Policy { copies: 3, min_copies: 2 });
        all.pass(2_000);
        assert!(all.leaders().iter().all(Option::is_some), "{:?}", all.leaders());
        all
    }

    fn spec(incarnation: u64) -> NodeSpec {
        NodeSpec { address: "b:9081".into(), zone: String::new(), capacity: 1_000, incarnation, format: 1 }
    }

    fn join(&mut self) -> u64 {
        let effect = self.state.apply(&Event::NodeJoined { node: Box::spec(1) });
        let crate::state::Effect::Node(node) = effect else { panic!("{effect:?}") };
        self.open(node.id.0, 1, BTreeMap::new());
        node.id.0
    }

    /// A broker opens a session with what it has.
    fn open(&mut self, node: u64, incarnation: u64, copies: BTreeMap<u32, Held>) {
        self.streams += 1;
        let (out, orders) = unbounded_channel();
        let said = Said::Opened { spec: Box::spec(incarnation), out };
        self.overseer.hear(self.now, Mail { node: NodeId(node), stream: self.streams, said });
        self.brokers.insert(node, Broker { stream: self.streams, orders, copies, incarnation, teaches: false, suspect: false });
    }

    fn kill(&mut self, node: u64) -> BTreeMap<u32, Held> {
        let broker = self.brokers.remove(&node).unwrap();
        self.overseer.hear(self.now, Mail { node: NodeId(node), stream: broker.stream, said: Said::Broke });
        broker.copies
    }

    fn say(&mut self, node: u64, said: Said) {
        let stream = self.brokers[&node].stream;
        self.overseer.hear(self.now, Mail { node: NodeId(node), stream, said });
    }

    fn pass(&mut self, ms: u64) {
        for _ in 0..ms / STEP.as_millis() as u64 {
            self.now += STEP;
            let nodes: Vec<u64> = self.brokers.keys().copied().collect();
            nodes.iter().for_each(|node| self.work(*node));
            let chance = &mut self.chance;
            let (events, _) = self.overseer.step(self.now, &self.state, &mut |bytes| chance.fill(bytes));
            self.entries += usize::from(!events.is_empty());
            events.iter().for_each(|event| drop(self.state.apply(event)));
        }
    }

    /// A broker holds the copies that the state names, and no others.
    fn open_copies(&mut self, node: u64) {
        let broker = self.brokers.get_mut(&node).unwrap();
        for shard in self.state.shards_placed().iter() {
            let joining = shard.moving.iter().filter_map(|moving| moving.joining.as_ref());
            for copy in shard.members().into_iter().chain(joining).filter(|copy| copy.node.0 == node) {
                let store = facts::member(copy).unwrap().store.0;
                let held = broker.copies.entry(shard.id.0).or_insert_with(|| Held { store, ..Held::default() });
                if held.store != store {
                    // What another copy had is put aside.
                    *held = Held { store, ..Held::default() };
                }
            }
        }
        broker.copies.retain(|shard, _| self.state.shards_placed().get(ShardId(*shard)).is_some_and(|shard| shard.is_on(NodeId(node))));
    }

    /// A broker opens its copies, obeys, and reports.
    fn work(&mut self, node: u64) {
        let mut said = Vec::new();
        let heard: BTreeMap<u32, (u32, u64)> =
            self.state.shards_placed().iter().filter_map(|shard| Some((shard.id.0, (shard.epoch.0, shard.leader()?.node.0)))).collect();
        let alive: Vec<u64> = self.brokers.keys().copied().collect();
        self.open_copies(node);
        let broker = self.brokers.get_mut(&node).unwrap();
        while let Ok(order) = broker.orders.try_recv() {
            match order {
                Body::Seal(seal) => {
                    let Some(copy) = broker.copies.get_mut(&seal.shard).filter(|copy| copy.store == seal.store.as_ref()) else { continue };
                    copy.promised = copy.promised.max(seal.epoch);
                    copy.leads = 0;
                    let member = Member { node: NodeId(node), store: StoreId(copy.store) };
                    let log = Position { epoch: Epoch(copy.last_epoch), end: Lsn(copy.end) };
                    let (epoch, end) = (Epoch(seal.epoch), Lsn(copy.end));
                    let sealed =
                        SealOk { member, incarnation: Incarnation(broker.incarnation), epoch, log, hw: end, durable: end, suspect: broker.suspect };
                    said.push(Said::Sealed(ShardId(seal.shard), sealed));
                }
                Body::Become(grant) => {
                    let copy = broker.copies.get_mut(&grant.shard).unwrap();
                    (copy.leads, copy.last_epoch, copy.end) = (grant.epoch, grant.epoch, grant.end + 1);
                }
                Body::HandOver(order) => {
                    said.push(Said::HandedOver {
                        shard: ShardId(order.shard),
                        epoch: Epoch(order.epoch),
                        to: facts::read_replica(order.to.as_ref()).ok_or_else(|| "to whom?".to_owned()),
                    });
                }
                Body::Opened(_) => {}
                Body::Refused(refused) => panic!("{refused:?}"),
            }
        }
        // Followers have what their leader has.
        let ends: BTreeMap<u32, (u32, u64)> = heard.iter().map(|(shard, (epoch, _))| (*shard, (*epoch, u64::from(*epoch)))).collect();
        let standing = |(shard, copy): (&u32, &mut Held)| {
            let follows = heard.get(shard).filter(|(epoch, leader)| *leader != node && alive.contains(leader) && *epoch >= copy.promised);
            if let Some((epoch, end)) = follows.and(ends.get(shard)) {
                (copy.last_epoch, copy.end) = (*epoch, *end);
            }
            let learnt = self.state.shards_placed().get(ShardId(*shard)).and_then(|shard| shard.moving.clone()).and_then(|moving| moving.joining);
            let learnt = learnt.filter(|_| broker.teaches && copy.leads > 0);
            let members = self.state.shards_placed().get(ShardId(*shard)).map(|shard| shard.config().clone());
            let enough = members.is_some_and(|config| config.members.iter().filter(|member| alive.contains(&member.node.0)).count() >= config.w);
            let still = follows.is_none() && !(copy.leads > 0 && enough);
            pb::Standing {
                shard: *shard,
                store: copy.store.to_vec().into(),
                leads: copy.leads,
                started: copy.leads > 0,
                serves: copy.leads > 0 && enough,
                last_epoch: if still { copy.last_epoch } else { 0 },
                end: if still { copy.end } else { 0 },
                suspect: broker.suspect,
                hears: follows.map_or(0, |(epoch, _)| *epoch),
                learnt: learnt
                    .iter()
                    .map(|joining| pb::Replica { node: joining.node.0, store: hex::decode(&joining.store).unwrap().into() })
                    .collect(),
                ..pb::Standing::default()
            }
        };
        let copies = broker.copies.iter_mut().map(standing).collect();
        said.push(Said::Report(pb::Report { copies }));
        said.into_iter().for_each(|said| self.say(node, said));
    }

    fn leaders(&self) -> Vec<Option<u64>> {
        let leader = |shard: &std::sync::Arc<crate::state::shards::Shard>| shard.leader().map(|leader| leader.node.0);
        self.state.shards_placed().iter().map(leader).collect()
    }

    /// How long until every shard is led by somebody alive that has begun.
    fn until_led(&mut self) -> Duration {
        let since = self.now;
        for _ in 0..1_000 {
            self.pass(10);
            let led = self.state.shards_placed().iter().all(|shard| {
                let leads = |node: u64| self.brokers.get(&node).and_then(|broker| broker.copies.get(&shard.id.0)).map(|copy| copy.leads);
                shard.leader().is_some_and(|leader| leads(leader.node.0) == Some(shard.epoch.0))
            });
            if led {
                return self.now - since;
            }
        }
        panic!("not led: {:?}", self.leaders());
    }

    fn survey(&self) -> Survey {
        self.overseer.recovery(self.now, &self.state).survey(ShardId(0)).unwrap()
    }

    /// What becomes of an operator's order about shard 0.
    fn recover(&mut self, order: &Recover) -> Result<(), String> {
        let event = self.overseer.recovery(self.now, &self.state).recover(order, 77)?;
        match self.state.apply(&event) {
            crate::state::Effect::Refused(error) => Err(error.to_string()),
            _ => Ok(()),
        }
    }

    fn order(&mut self, shard: u32, to: Option<u64>) -> oneshot::Receiver<Result<String, String>> {
        let (reply, outcome) = oneshot::channel();
        let reply: orders::Reply = reply;
        self.overseer.transfer(self.now, &self.state, ShardId(shard), to.map(NodeId), reply);
        outcome
    }
}

mod recovery;

#[test]
fn shards_wait_for_brokers_and_are_then_spread_and_led() {
    let mut all = Box::new(2, 6, Policy { copies: 3, min_copies: 2 });
    all.pass(2_000);
    assert_eq!(all.state.shards_placed().len(), 0, "three copies need three brokers");
    all.join();
    all.pass(2_000);
    let mut leads = BTreeMap::new();
    all.leaders().into_iter().for_each(|leader| *leads.entry(leader.unwrap()).or_insert(0) += 1);
    assert_eq!(leads.into_values().collect::<Vec<u32>>(), [2, 2, 2]);
}

#[test]
fn a_broker_that_dies_is_followed_by_another_within_a_second_and_a_bit() {
    let mut all = Box::of_three(3);
    let dead = all.leaders()[0].unwrap();
    all.kill(dead);
    let took = all.until_led();
    assert!(took >= Duration::from_secs(1) && took <= Duration::from_millis(1_200), "{took:?}");
    assert_ne!(all.leaders()[0], Some(dead));
    all.pass(6_000);
    let health = all.state.nodes().get(NodeId(dead)).unwrap().health;
    assert_eq!(health, Health::Down);
}

#[test]
fn a_broker_that_comes_back_at_once_keeps_nothing_from_being_led() {
    let mut all = Box::of_three(3);
    let leader = all.leaders()[0].unwrap();
    let epoch = all.state.shards_placed().get(ShardId(0)).unwrap().epoch;
    let mut copies = all.kill(leader);
    copies.values_mut().for_each(|copy| copy.leads = 0);
    // The next run of the process is another incarnation, which may have lost something.
    all.open(leader, 2, copies);
    let took = all.until_led();
    assert!(took <= Duration::from_millis(500), "{took:?}");
    assert!(all.state.shards_placed().get(ShardId(0)).unwrap().epoch > epoch);
}

#[test]
fn a_stream_that_breaks_and_is_opened_again_changes_nothing() {
    let mut all = Box::of_three(3);
    let epochs = |all: &Box| all.state.shards_placed().iter().map(|shard| shard.epoch).collect::<Vec<Epoch>>();
    let (node, before) = (all.leaders()[0].unwrap(), epochs(&all));
    let copies = all.kill(node);
    all.pass(500);
    all.open(node, 1, copies);
    all.pass(5_000);
    assert_eq!(epochs(&all), before);
}

#[test]
fn a_lead_is_handed_to_whom_the_operator_names() {
    let mut all = Box::of_three(1);
    let from = all.leaders()[0].unwrap();
    let to = *all.brokers.keys().find(|node| **node != from).unwrap();
    let mut outcome = all.order(0, Some(to));
    all.pass(500);
    assert_eq!(all.leaders(), [Some(to)]);
    assert!(outcome.try_recv().unwrap().unwrap().contains(&format!("node {to} leads shard 0")));
    let mut again = all.order(0, Some(to));
    assert!(again.try_recv().unwrap().unwrap_err().contains("leads shard 0 already"));
    let mut nobody = all.order(9, None);
    assert_eq!(nobody.try_recv().unwrap(), Err("there is no shard 9".to_owned()));
}

#[test]
fn a_broker_that_drains_leads_nothing_soon_and_gets_its_share_back_later() {
    let mut all = Box::of_three(6);
    let node = all.leaders()[0].unwrap();
    all.say(node, Said::Drains);
    all.pass(2_000);
    assert!(!all.leaders().contains(&Some(node)), "{:?}", all.leaders());
    let mut copies = all.kill(node);
    copies.values_mut().for_each(|copy| copy.leads = 0);
    all.open(node, 2, copies);
    all.pass(60_000);
    assert_eq!(all.leaders().iter().filter(|leader| **leader == Some(node)).count(), 2, "{:?}", all.leaders());
}

#[test]
fn a_copy_on_a_dead_node_is_replaced_by_one_that_learnt() {
    let mut all = Box::of_three(2);
    let spare = all.join();
    let dead = all.leaders()[0].unwrap();
    all.kill(dead);
    all.brokers.values_mut().for_each(|broker| broker.teaches = false);
    all.pass(320_000);
    let moving = all.state.shards_placed().iter().filter(|shard| shard.moving.is_some()).count();
    assert_eq!(moving, 2, "named, but nobody counts who has not learnt");
    all.brokers.values_mut().for_each(|broker| broker.teaches = true);
    all.pass(5_000);
    for shard in all.state.shards_placed().iter() {
        let nodes: Vec<u64> = shard.stable.members.iter().map(|member| member.node.0).collect();
        assert!(nodes.contains(&spare) && !nodes.contains(&dead) && nodes.len() == 3, "{nodes:?}");
        assert!(shard.pending.is_none() && shard.moving.is_none());
    }
}

#[test]
fn without_a_spare_node_a_shard_goes_on_with_fewer_copies_and_grows_again() {
    let mut all = Box::of_three(1);
    let dead = all.leaders()[0].unwrap();
    all.kill(dead);
    all.pass(320_000);
    assert_eq!(all.state.shards_placed().get(ShardId(0)).unwrap().stable.members.len(), 2);
    all.join();
    all.brokers.values_mut().for_each(|broker| broker.teaches = true);
    all.pass(5_000);
    assert_eq!(all.state.shards_placed().get(ShardId(0)).unwrap().stable.members.len(), 3);
}

#[test]
fn three_hundred_shards_are_led_anew_at_once_in_a_handful_of_entries() {
    let mut all = Box::new(3, 900, Policy { copies: 3, min_copies: 2 });
    all.pass(1_000);
    let dead = all.leaders()[0].unwrap();
    let led = all.leaders().iter().filter(|leader| **leader == Some(dead)).count();
    let before = all.entries;
    all.kill(dead);
    let took = all.until_led();
    assert_eq!(led, 300);
    assert!(took <= Duration::from_millis(1_300), "{took:?} of which one second is patience");
    assert!(all.entries - before <= 12, "{} entries", all.entries - before);
}
