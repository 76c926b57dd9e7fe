//! The leader of the controllers at work: it has every shard led, notes which nodes are up, and gives new shards their copies.
//!
//! It is told what brokers say and looks at the state; it answers what to propose, and tells brokers what to do. Nothing here is kept: what it
//! wants and does not see in the state it proposes again. What makes a shard be led is in `gantry_store::replica::elector`.

use super::facts;
use super::orders::{Orders, Reply};
use super::recovery;
use super::sessions::{Outlet, Sessions};
use crate::placement::{Held, Picture};
use crate::state::State;
use crate::state::event::Event;
use crate::state::nodes::{Health, NodeSpec};
use crate::state::shards::{Policy, Replica, Shard, ShardConfig};
use gantry_model::{Epoch, NodeId, ShardId};
use gantry_proto::controller as pb;
use gantry_store::replica::elector::{self, Action, Elector, Times};
use gantry_store::replica::message::{Refused, SealOk};
use gantry_store::replica::reign::Entry;
use gantry_store::replica::{Member, Reign};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// A node without a session for so long is down.
const DOWN_AFTER: Duration = Duration::from_secs(5);
/// What nodes and placement need is looked at this often.
const LOOK: Duration = Duration::from_millis(500);
/// How often to step while somebody is being elected, and otherwise.
const SOON: Duration = Duration::from_millis(20);
const LATER: Duration = Duration::from_millis(200);

/// What a broker said, on its stream of this number.
#[derive(Debug)]
pub struct Mail {
    pub node: NodeId,
    pub stream: u64,
    pub said: Said,
}

#[derive(Debug)]
pub enum Said {
    Opened { spec: NodeSpec, out: Outlet },
    Report(pb::Report),
    Sealed(ShardId, SealOk),
    Promised(ShardId, Refused),
    NotBegun { shard: ShardId, epoch: Epoch, why: String },
    HandedOver { shard: ShardId, epoch: Epoch, to: Result<Member, String> },
    Drains,
    Left,
    Broke,
}

/// One shard under election or watch.
#[derive(Debug)]
struct Watched {
    elector: Elector,
    shard: Arc<Shard>,
    reign: Reign,
    events: Vec<elector::Event>,
    /// The sessions of its members, as they were after so many changes of sessions.
    sessions: elector::Sessions,
    seen: Option<u64>,
}

/// The leader's view of the cluster.
#[derive(Debug)]
pub struct Overseer {
    policy: Policy,
    times: Times,
    /// When it began to lead.
    since: Duration,
    sessions: Sessions,
    shards: BTreeMap<ShardId, Watched>,
    orders: Orders,
    /// When each node without a session was seen last.
    missed: BTreeMap<NodeId, Duration>,
    look_at: Duration,
    /// Nodes that were too few for a new shard, as last told.
    told_no_place: Option<usize>,
}

impl Overseer {
    /// Begins at `now`, with the copies that a new shard gets.
    pub fn new(now: Duration, policy: Policy) -> Overseer {
        Overseer {
            policy,
            times: Times::default(),
            since: now,
            sessions: Sessions::default(),
            shards: BTreeMap::new(),
            orders: Orders::default(),
            missed: BTreeMap::new(),
            look_at: now,
            told_no_place: None,
        }
    }

    /// A broker spoke.
    pub fn hear(&mut self, now: Duration, mail: Mail) {
        let Mail { node, stream, said } = mail;
        match said {
            Said::Opened { spec, out } => {
                if self.sessions.open(now, node, stream, spec, out.clone()) {
                    let silence_ms = super::sessions::SILENCE.as_millis() as u32;
                    // A stream that broke meanwhile is opened again.
                    _ = out.send(pb::to_broker::Body::Opened(pb::Opened { silence_ms }));
                    self.look_at = now;
                }
            }
            Said::Report(report) => self.sessions.report(now, node, stream, report),
            Said::Left => {
                self.sessions.left(node, stream);
                self.look_at = now;
            }
            Said::Drains => {
                self.sessions.drains(node, stream);
                self.look_at = now;
            }
            Said::Broke => self.sessions.broke(now, node, stream),
            _ if !self.sessions.is_current(node, stream) => {}
            Said::Sealed(shard, sealed) => self.note(shard, elector::Event::SealOk(sealed)),
            Said::Promised(shard, refused) => self.note(shard, elector::Event::Refused(refused)),
            Said::NotBegun { shard, epoch, why } => {
                tracing::warn!(%shard, %epoch, %node, %why, "a copy did not begin to lead");
                self.note(shard, elector::Event::StartRefused(epoch));
            }
            Said::HandedOver { shard, epoch, to } => self.orders.handed_over(shard, epoch, to),
        }
    }

    fn note(&mut self, shard: ShardId, event: elector::Event) {
        if let Some(watched) = self.shards.get_mut(&shard) {
            watched.events.push(event);
        }
    }

    /// Does what time, mail and the state make necessary. Answers what to propose, and when to come again.
    pub fn step(&mut self, now: Duration, state: &State, draw: &mut dyn FnMut(&mut [u8])) -> (Vec<Event>, Duration) {
        self.sessions.expire(now);
        let mut events = Vec::new();
        if now >= self.look_at {
            self.look_at = now + LOOK;
            self.mark_nodes(now, state, &mut events);
            self.place_shards(state, draw, &mut events);
            self.orders.look(now, state, &self.sessions, draw, &mut events);
        }
        self.meet_shards(state);
        let electing = self.lead_shards(now, state, &mut events);
        self.orders.go_on(now, state, &mut events);
        (events, if electing || self.orders.is_busy() { SOON } else { LATER })
    }

    /// Which nodes are up, and with what incarnation.
    fn mark_nodes(&mut self, now: Duration, state: &State, events: &mut Vec<Event>) {
        for node in state.nodes().iter() {
            match self.sessions.spec(node.id) {
                Some(spec) => {
                    self.missed.remove(&node.id);
                    if *spec != node.spec {
                        events.push(Event::NodeStarted { id: node.id, node: spec.clone() });
                    } else if node.health == Health::Down {
                        events.push(Event::NodeUp { id: node.id, incarnation: spec.incarnation });
                    }
                }
                // A node that holds nothing is a controller; raft knows how it is.
                None if node.spec.capacity == 0 => {}
                None => {
                    let since = *self.missed.entry(node.id).or_insert(now);
                    if node.health == Health::Up && now >= since + DOWN_AFTER {
                        events.push(Event::NodeDown { id: node.id, incarnation: node.spec.incarnation });
                    }
                }
            }
        }
    }

    /// Gives copies to the shards of the cluster that have none.
    fn place_shards(&mut self, state: &State, draw: &mut dyn FnMut(&mut [u8]), events: &mut Vec<Event>) {
        let Some(cluster) = state.cluster() else { return };
        let missing: Vec<ShardId> = (0..cluster.shards).map(ShardId).filter(|shard| state.shards_placed().get(*shard).is_none()).collect();
        if missing.is_empty() {
            return;
        }
        let mut picture = Picture::of(state);
        for shard in missing {
            let nodes = match picture.place(self.policy.copies) {
                Ok(nodes) => nodes,
                Err(no_place) => {
                    if self.told_no_place.replace(no_place.open) != Some(no_place.open) {
                        tracing::info!(%shard, "a shard waits for brokers: {no_place}");
                    }
                    return;
                }
            };
            let members: Vec<Replica> = nodes.iter().map(|node| Replica { node: *node, store: new_store(draw) }).collect();
            let held = Held { shard, nodes: nodes.iter().copied().collect::<BTreeSet<_>>(), leader: nodes.first().copied() };
            picture.shards.insert(shard, held);
            let config = ShardConfig { generation: 1, w: members.len() / 2 + 1, members };
            events.push(Event::ShardCreated { shard, config, policy: self.policy });
        }
    }

    /// Takes note of shards that are new, changed or gone.
    fn meet_shards(&mut self, state: &State) {
        self.shards.retain(|shard, _| state.shards_placed().get(*shard).is_some());
        for shard in state.shards_placed().iter() {
            if self.shards.get(&shard.id).is_some_and(|watched| Arc::ptr_eq(&watched.shard, shard)) {
                continue;
            }
            let Some(reign) = facts::reign(shard) else {
                tracing::error!(shard = %shard.id, "what is known of a shard makes no sense; nobody is chosen to lead it");
                continue;
            };
            let times = self.times;
            let watched = self.shards.entry(shard.id).or_insert_with(|| Watched {
                elector: Elector::new(times),
                shard: shard.clone(),
                reign: reign.clone(),
                events: Vec::new(),
                sessions: elector::Sessions::new(),
                seen: None,
            });
            watched.reign = reign;
            watched.seen = None;
            watched.shard = shard.clone();
        }
    }

    /// Has the rules look at every shard. Answers whether somebody is being elected.
    fn lead_shards(&mut self, now: Duration, state: &State, events: &mut Vec<Event>) -> bool {
        // What nodes lead, once somebody asks: in most steps nobody does.
        let mut leads: Option<BTreeMap<NodeId, u32>> = None;
        let mut electing = false;
        for (id, watched) in &mut self.shards {
            let Watched { elector, reign, events: noted, sessions, seen, .. } = watched;
            let nobody = reign.led_by().is_none();
            // What a node leads matters only while somebody is chosen.
            if nobody || *seen != Some(self.sessions.changes()) {
                let leads = leads.get_or_insert_with(|| Picture::of(state).leads());
                *sessions = self.sessions.of(*id, reign, state, leads);
                *seen = Some(self.sessions.changes());
            }
            let leader = reign.led_by().and_then(|grant| self.sessions.copy(*id, grant.leader));
            if let Some(copy) = leader.filter(|copy| copy.started) {
                noted.push(elector::Event::Started(Epoch(copy.leads)));
            }
            noted.push(elector::Event::Tick);
            electing |= nobody || leader.is_none_or(|copy| !copy.started || copy.leads != reign.epoch().0);
            for event in noted.drain(..) {
                for action in elector.step(now, reign, sessions, event) {
                    if let Action::Propose(Entry::Grant(grant)) = &action {
                        // The next shard of this step knows.
                        let leads = leads.get_or_insert_with(|| Picture::of(state).leads());
                        *leads.entry(grant.leader.node).or_default() += 1;
                    }
                    perform(*id, reign, &self.sessions, action, events);
                }
            }
        }
        electing
    }

    /// What an operator is shown of a shard, and may order about it, when copies are lost.
    pub fn recovery<'a>(&'a self, now: Duration, state: &'a State) -> recovery::View<'a> {
        recovery::View { state, sessions: &self.sessions, led_for: now.saturating_sub(self.since) }
    }

    /// Has another copy lead a shard; `None` leaves it to the leader to whom.
    pub fn transfer(&mut self, now: Duration, state: &State, shard: ShardId, to: Option<NodeId>, reply: Reply) {
        self.orders.transfer(now, state, &self.sessions, shard, to, Some(reply));
    }
}

/// Does what the rules want done.
fn perform(id: ShardId, reign: &Reign, sessions: &Sessions, action: Action, events: &mut Vec<Event>) {
    match action {
        Action::Propose(entry) => events.push(facts::event(id, &entry)),
        Action::Seal(member, seal) => sessions.tell(member.node, facts::tell_seal(id, member, &seal)),
        Action::Become(grant) => sessions.tell(grant.leader.node, facts::tell_grant(id, &grant)),
        Action::FromTheFuture(refused) => tracing::error!(
            shard = %id, replica = %refused.member, promised = %refused.promised, epoch = %reign.epoch(),
            "a copy promised an epoch that never was: it belongs to another cluster, or the controllers lost their state; it is left alone"
        ),
    }
}

/// The name of a copy's folder.
pub(super) fn new_store(draw: &mut dyn FnMut(&mut [u8])) -> String {
    let mut store = [0; 16];
    draw(&mut store);
    hex::encode(store)
}
