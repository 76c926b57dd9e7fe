//! Runs an [`Overseer`] while this node leads the controllers.

use super::orders::Reply;
use super::overseer::{Mail, Overseer, Said};
use crate::controller::Controller;
use crate::metadata::Source;
use crate::state::Effect;
use crate::state::event::{BATCH_MAX, Event};
use crate::state::shards::{Policy, Shard};
use gantry_model::contract::directory::{Recover, Survey};
use gantry_model::{NodeId, ShardId};
use gantry_platform::clock::{Clock, RuntimeClock, timeout};
use gantry_platform::tasks::{self, Stop};
use gantry_proto::controller as pb;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

/// How often a node that does not lead looks whether it does.
const IDLE: Duration = Duration::from_millis(50);
const NOT_LEADING: &str = "this controller does not lead; try again";
/// Letters that are read in one go.
const LETTERS: usize = 1_024;

/// What comes to the leader.
#[derive(Debug)]
pub enum Letter {
    Mail(Mail),
    /// Has another copy lead a shard.
    Transfer {
        shard: ShardId,
        to: Option<NodeId>,
        reply: Reply,
    },
    /// Says what is known of the copies of a shard.
    Survey {
        shard: ShardId,
        reply: oneshot::Sender<Result<Survey, String>>,
    },
    /// Has one copy of a shard go on alone.
    Recover {
        order: Recover,
        reply: oneshot::Sender<Result<Arc<Shard>, String>>,
    },
}

/// Where letters go. One that reaches a node which does not lead is refused.
#[derive(Clone, Debug)]
pub struct Mailbox(UnboundedSender<Letter>);

impl Mailbox {
    pub fn put(&self, letter: Letter) {
        // Without a helm the process is ending.
        _ = self.0.send(letter);
    }
}

/// The place from which the cluster is steered.
#[derive(Debug)]
pub struct Helm {
    controller: Arc<Controller>,
    policy: Policy,
    letters: UnboundedReceiver<Letter>,
    clock: RuntimeClock,
}

impl Helm {
    /// A helm for this controller; new shards get their copies by `policy`.
    pub fn new(controller: Arc<Controller>, policy: Policy) -> (Helm, Mailbox) {
        let (out, letters) = unbounded_channel();
        (Helm { controller, policy, letters, clock: RuntimeClock::new(0) }, Mailbox(out))
    }

    /// Steers whenever this node leads, until it is told to stop.
    pub async fn run(mut self, stop: Stop) {
        while !stop.is_stopped() {
            match self.controller.consensus().leads() {
                true => self.lead(&stop).await,
                false => self.wait(&stop).await,
            }
        }
    }

    /// Refuses what comes, until this node may lead.
    async fn wait(&mut self, stop: &Stop) {
        let letter = tokio::select! {
            biased;
            () = stop.stopped() => return,
            letter = timeout(IDLE, self.letters.recv()) => letter,
        };
        match letter {
            Ok(Some(Letter::Mail(Mail { said: Said::Opened { out, .. }, .. }))) => {
                // Whoever is gone needs no refusal.
                _ = out.send(pb::to_broker::Body::Refused(self.controller.consensus().not_leader()));
            }
            Ok(Some(Letter::Transfer { reply, .. })) => _ = reply.send(Err(NOT_LEADING.to_owned())),
            Ok(Some(Letter::Survey { reply, .. })) => _ = reply.send(Err(NOT_LEADING.to_owned())),
            Ok(Some(Letter::Recover { reply, .. })) => _ = reply.send(Err(NOT_LEADING.to_owned())),
            Ok(Some(Letter::Mail(_)) | None) | Err(_) => {}
        }
    }

    async fn lead(&mut self, stop: &Stop) {
        let consensus = self.controller.consensus();
        // What an earlier leader decided has to be known before anything is decided.
        if consensus.barrier().await.is_err() {
            return;
        }
        tracing::info!("this controller leads: brokers open their sessions here");
        let mut overseer = Overseer::new(self.clock.mono(), self.policy);
        let mut versions = consensus.watch();
        let mut wait = Duration::ZERO;
        while consensus.leads() && !stop.is_stopped() {
            let letter = tokio::select! {
                biased;
                () = stop.stopped() => return,
                letter = timeout(wait, self.letters.recv()) => letter.ok().flatten(),
                _ = versions.changed() => None,
            };
            let now = self.clock.mono();
            let mut next = letter;
            for _ in 0..LETTERS {
                let Some(letter) = next.take().or_else(|| self.letters.try_recv().ok()) else { break };
                match letter {
                    Letter::Mail(mail) => overseer.hear(now, mail),
                    Letter::Transfer { shard, to, reply } => consensus.read(|state| overseer.transfer(now, state, shard, to, reply)),
                    // Who asked may have gone.
                    Letter::Survey { shard, reply } => _ = reply.send(consensus.read(|state| overseer.recovery(now, state).survey(shard))),
                    Letter::Recover { order, reply } => {
                        let time_ms = self.controller.now_ms();
                        match consensus.read(|state| overseer.recovery(now, state).recover(&order, time_ms)) {
                            Ok(event) => recover(&self.controller, order, event, reply),
                            Err(why) => _ = reply.send(Err(why)),
                        }
                    }
                }
            }
            versions.mark_unchanged();
            let (events, again) = consensus.read(|state| overseer.step(now, state, &mut |bytes| consensus.draw(bytes)));
            wait = again;
            propose(&self.controller, events);
        }
        tracing::info!("this controller leads no longer");
    }
}

/// Proposes what an operator ordered, and says what became of it.
fn recover(controller: &Arc<Controller>, order: Recover, event: Event, reply: oneshot::Sender<Result<Arc<Shard>, String>>) {
    let controller = controller.clone();
    // Ends with the proposal, which has its own patience.
    tasks::spawn("unclean recovery", async move {
        let Recover { shard, epoch, node, by, .. } = order;
        let outcome = match controller.decide(event).await {
            Ok(Effect::Shard(shard)) => Ok(shard),
            Ok(effect) => unreachable!("an event about a shard answers a shard, not {effect:?}"),
            Err(error) => Err(error.to_string()),
        };
        match &outcome {
            Ok(now) => tracing::warn!(
                %shard, ended = %epoch, epoch = %now.epoch, kept = %node, by,
                "an operator gives up what the other copies of a shard have: it goes on with one copy, and what that lacks is lost"
            ),
            Err(why) => tracing::warn!(%shard, %epoch, by, why, "the unclean recovery of a shard came to nothing"),
        }
        // Who asked may have gone.
        _ = reply.send(outcome);
    });
}

/// Proposes in one entry what belongs to one step. Nobody waits for it: its effect is seen in the state, and what got lost is proposed again.
fn propose(controller: &Arc<Controller>, mut events: Vec<Event>) {
    events.truncate(BATCH_MAX);
    let event = match events.len() {
        0 => return,
        1 => events.remove(0),
        _ => Event::Batch { events },
    };
    let controller = controller.clone();
    // Ends with the proposal, which has its own patience.
    tasks::spawn("controller proposal", async move {
        if let Err(error) = controller.consensus().propose(event).await {
            tracing::debug!(%error, "a proposal came to nothing; what is still wanted is proposed again");
        }
    });
}
