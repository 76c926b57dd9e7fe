//! Changes on their way: leads that are handed over, copies that move.
//!
//! A lead is handed over by its leader, which first brings the next one up to date and lets requests wait: that takes milliseconds. A copy moves in
//! steps that the state keeps (`state::shards`): a learner is named, it catches up, it becomes a member in a new epoch, the old one goes.
//! What is seen to be wrong (a dead node's copy, a cordoned node's lead, one node that leads much more than another) is set right without being asked.

use super::facts;
use super::overseer::new_store;
use super::sessions::Sessions;
use crate::placement::{Picture, Step};
use crate::state::State;
use crate::state::event::Event;
use crate::state::nodes::{Admission, Health};
use crate::state::shards::{COPIES, EpochBegun, Move, Reason, Replica, Shard, ShardConfig};
use gantry_model::{Epoch, NodeId, ShardId};
use gantry_store::replica::Member;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::oneshot;

/// A leader has so much time to make ready for the next one.
const READY_WITHIN: Duration = Duration::from_secs(3);
/// The next leader has so much time to begin.
const LED_WITHIN: Duration = Duration::from_secs(10);
/// A lost proposal is made again.
const RETRY: Duration = Duration::from_millis(200);
/// A node that is down for so long gets substitutes for its copies.
const REPLACE_AFTER: Duration = Duration::from_secs(300);
/// Leads are made even this often, one at a time.
const BALANCE: Duration = Duration::from_secs(10);
/// Leads that are handed over at the same time.
const TRANSFERS: usize = 8;
/// Copies that move at the same time.
const MOVES: usize = 4;

/// What became of an order, for people.
pub type Reply = oneshot::Sender<Result<String, String>>;

/// One lead on its way.
#[derive(Debug)]
struct Transfer {
    /// The epoch that is to end.
    epoch: Epoch,
    from: Member,
    since: Duration,
    ready: Option<Member>,
    propose_at: Duration,
    failed: Option<String>,
    reply: Option<Reply>,
}

/// All changes on their way.
#[derive(Debug, Default)]
pub struct Orders {
    transfers: BTreeMap<ShardId, Transfer>,
    /// Since when nodes are down, as far as this leader knows.
    down: BTreeMap<NodeId, Duration>,
    balance_at: Option<Duration>,
}

/// Leads.
impl Orders {
    pub fn is_busy(&self) -> bool {
        !self.transfers.is_empty()
    }

    /// Has another copy lead the shard: the one on this node, or the one that its leader thinks best.
    pub fn transfer(&mut self, now: Duration, state: &State, sessions: &Sessions, shard: ShardId, to: Option<NodeId>, reply: Option<Reply>) {
        match self.begin_transfer(now, state, sessions, shard, to) {
            Ok(()) => self.transfers.get_mut(&shard).into_iter().for_each(|transfer| transfer.reply = None),
            Err(why) => return answer(reply, Err(why)),
        }
        if let Some(transfer) = self.transfers.get_mut(&shard) {
            transfer.reply = reply;
        }
    }

    fn begin_transfer(&mut self, now: Duration, state: &State, sessions: &Sessions, shard: ShardId, to: Option<NodeId>) -> Result<(), String> {
        let known = state.shards_placed().get(shard).ok_or_else(|| format!("there is no shard {shard}"))?;
        let leader = known.leader().and_then(facts::member).ok_or_else(|| format!("shard {shard} has no leader now; try again"))?;
        if self.transfers.contains_key(&shard) {
            return Err(format!("the lead of shard {shard} is being handed over already"));
        }
        let to = match to {
            None => None,
            Some(node) if node == leader.node => return Err(format!("node {node} leads shard {shard} already")),
            Some(node) => {
                let on_node = known.config().members.iter().find(|replica| replica.node == node).and_then(facts::member);
                Some(on_node.ok_or_else(|| format!("node {node} holds no copy of shard {shard}"))?)
            }
        };
        sessions.tell(leader.node, facts::tell_hand_over(shard, known.epoch, to));
        let epoch = known.epoch;
        self.transfers.insert(shard, Transfer { epoch, from: leader, since: now, ready: None, propose_at: now, failed: None, reply: None });
        Ok(())
    }

    /// The leader is ready, or says why it can't be.
    pub fn handed_over(&mut self, shard: ShardId, epoch: Epoch, to: Result<Member, String>) {
        if let Some(transfer) = self.transfers.get_mut(&shard).filter(|transfer| transfer.epoch == epoch) {
            match to {
                Ok(to) => transfer.ready = Some(to),
                Err(why) => transfer.failed = Some(why),
            }
        }
    }

    /// Ends epochs whose leader is ready, and says what became of transfers.
    pub fn go_on(&mut self, now: Duration, state: &State, events: &mut Vec<Event>) {
        self.transfers.retain(|id, transfer| {
            let outcome = match state.shards_placed().get(*id) {
                None => Some(Err(format!("shard {id} is gone"))),
                Some(shard) => transfer.step(now, shard, events),
            };
            let goes_on = outcome.is_none();
            if let Some(outcome) = outcome {
                answer(transfer.reply.take(), outcome);
            }
            goes_on
        });
    }
}

impl Transfer {
    /// What became of it, if it ended.
    fn step(&mut self, now: Duration, shard: &Shard, events: &mut Vec<Event>) -> Option<Result<String, String>> {
        let id = shard.id;
        if shard.epoch != self.epoch {
            let leader = shard.leader().and_then(facts::member);
            return match leader {
                Some(leader) if leader == self.from => Some(Err(format!("node {} leads shard {id} again, in epoch {}", leader.node, shard.epoch))),
                Some(leader) => Some(Ok(format!("node {} leads shard {id} since epoch {}", leader.node, shard.epoch))),
                None if now >= self.since + LED_WITHIN => Some(Err(format!("nobody leads shard {id} yet; look at it again"))),
                None => None,
            };
        }
        if let Some(why) = self.failed.take() {
            return Some(Err(why));
        }
        match self.ready {
            Some(to) if now >= self.propose_at => {
                self.propose_at = now + RETRY;
                let begin = EpochBegun { expect: self.epoch, reason: Reason::Transfer, prefer: Some(facts::replica(to)), config: None };
                events.push(Event::EpochBegun { shard: id, begin });
                None
            }
            None if now >= self.since + READY_WITHIN => Some(Err(format!("the leader of shard {id} did not make ready in time; it goes on"))),
            _ if now >= self.since + LED_WITHIN => Some(Err(format!("the lead of shard {id} could not be handed over; its leader goes on"))),
            _ => None,
        }
    }
}

fn answer(reply: Option<Reply>, outcome: Result<String, String>) {
    match reply {
        // Who asked may have gone.
        Some(reply) => _ = reply.send(outcome),
        None => match outcome {
            Ok(done) => tracing::info!("{done}"),
            Err(why) => tracing::warn!("{why}"),
        },
    }
}

/// What is set right unasked.
impl Orders {
    pub fn look(&mut self, now: Duration, state: &State, sessions: &Sessions, draw: &mut dyn FnMut(&mut [u8]), events: &mut Vec<Event>) {
        self.note_down(now, state);
        self.move_leads(now, state, sessions);
        let mut picture = Picture::of(state);
        let mut moves = state.shards_placed().iter().filter(|shard| shard.moving.is_some()).count();
        for shard in state.shards_placed().iter() {
            if shard.moving.is_some() {
                events.extend(go_on_moving(shard, sessions));
            } else if moves < MOVES
                && let Some(moving) = self.wanted_move(now, state, shard, &picture, draw)
            {
                moves += 1;
                let held = picture.shards.get_mut(&shard.id).expect("the picture has every shard");
                held.nodes.extend(moving.joining.iter().map(|joining| joining.node));
                events.push(Event::MovePlanned { shard: shard.id, expect: shard.revision, moving });
            }
        }
    }

    fn note_down(&mut self, now: Duration, state: &State) {
        let is_down = |id: &NodeId| state.nodes().get(*id).is_some_and(|node| node.health == Health::Down);
        self.down.retain(|id, _| is_down(id));
        let down = state.nodes().iter().filter(|node| node.health == Health::Down);
        down.for_each(|node| _ = self.down.entry(node.id).or_insert(now));
    }

    /// Cordoned nodes lead nothing if others can; else the leads are made even, one after the other.
    fn move_leads(&mut self, now: Duration, state: &State, sessions: &Sessions) {
        let mut picture = Picture::of(state);
        // Nothing is put on a broker that is about to end, and nothing on one that can't be reached.
        let draining: BTreeSet<NodeId> = sessions.draining().collect();
        picture.places.values_mut().for_each(|place| place.open &= !draining.contains(&place.node) && sessions.spec(place.node).is_some());
        let cordoned = state.nodes().iter().filter(|node| node.admission == Admission::Cordoned && node.health == Health::Up);
        let leaving: BTreeSet<NodeId> = cordoned.map(|node| node.id).chain(draining).collect();
        let mut steps: Vec<Step> = Vec::new();
        for node in leaving {
            steps.extend(picture.drain(node, usize::MAX).into_iter().filter(|step| matches!(step, Step::Lead { .. })));
        }
        if steps.is_empty() && now >= *self.balance_at.get_or_insert(now + BALANCE) && is_calm(state, sessions) {
            self.balance_at = Some(now + BALANCE);
            steps = picture.balance_leads(1);
        }
        for step in steps {
            if let Step::Lead { shard, to, .. } = step
                && self.transfers.len() < TRANSFERS
                && !self.transfers.contains_key(&shard)
            {
                self.transfer(now, state, sessions, shard, Some(to), None);
            }
        }
    }

    /// A copy that should be elsewhere, or is missing.
    fn wanted_move(&self, now: Duration, state: &State, shard: &Shard, picture: &Picture, draw: &mut dyn FnMut(&mut [u8])) -> Option<Move> {
        if shard.pending.is_some() || shard.leader().is_none() {
            return None;
        }
        let dead = |replica: &&Replica| match state.nodes().get(replica.node) {
            None => true,
            Some(_) => self.down.get(&replica.node).is_some_and(|since| now >= *since + REPLACE_AFTER),
        };
        let mut joining = |node: NodeId| Some(Replica { node, store: new_store(draw) });
        if let Some(leaving) = shard.stable.members.iter().find(dead) {
            if let Some(node) = picture.substitute(shard.id, leaving.node) {
                return Some(Move { joining: joining(node), leaving: Some(leaving.clone()) });
            }
            let fewer = shard.stable.members.len() - 1;
            let may_shrink = fewer >= shard.policy.min_copies && COPIES.contains(&fewer);
            return may_shrink.then(|| Move { joining: None, leaving: Some(leaving.clone()) });
        }
        let more = shard.stable.members.len() + 1;
        if more <= shard.policy.copies && COPIES.contains(&more) {
            return picture.another(shard.id).map(|node| Move { joining: joining(node), leaving: None });
        }
        None
    }
}

/// Whether every shard is led and every copy hears its leader.
fn is_calm(state: &State, sessions: &Sessions) -> bool {
    state.shards_placed().iter().all(|shard| {
        let hears = |replica: &Replica| {
            let copy = facts::member(replica).and_then(|member| sessions.copy(shard.id, member));
            copy.is_some_and(|copy| copy.hears == shard.epoch.0 || copy.leads == shard.epoch.0 && copy.serves)
        };
        shard.leader().is_some() && shard.moving.is_none() && shard.stable.members.iter().all(hears)
    })
}

/// The learner becomes a member when it has nearly everything.
fn go_on_moving(shard: &Shard, sessions: &Sessions) -> Option<Event> {
    let moving = shard.moving.as_ref().filter(|_| shard.pending.is_none())?;
    let leader = shard.leader()?;
    if let Some(joining) = &moving.joining {
        let joining = facts::member(joining)?;
        let led = sessions.copy(shard.id, facts::member(leader)?).filter(|copy| copy.leads == shard.epoch.0)?;
        if !led.learnt.iter().any(|learnt| facts::read_replica(Some(learnt)) == Some(joining)) {
            return None;
        }
    }
    let stays = |replica: &&Replica| Some(*replica) != moving.leaving.as_ref();
    let members: Vec<Replica> = shard.stable.members.iter().filter(stays).chain(&moving.joining).cloned().collect();
    let prefer = Some(leader).filter(|leader| members.contains(leader)).or_else(|| members.first()).cloned();
    let config = ShardConfig { generation: shard.stable.generation + 1, w: members.len() / 2 + 1, members };
    let begin = EpochBegun { expect: shard.epoch, reason: Reason::Reconfigure, prefer, config: Some(config) };
    Some(Event::EpochBegun { shard: shard.id, begin })
}
