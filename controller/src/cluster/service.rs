//! The door for brokers and proxies: `gantry.controller.v1.Cluster`.
//!
//! Any controller answers `Enrol`, `Watch` and `Decide`; a session or an order that comes to one that does not lead is told who does.

use super::facts;
use super::helm::{Letter, Mailbox};
use super::overseer::{Mail, Said};
use super::recovery::tell_survey;
use crate::consensus::RequestId;
use crate::controller::Controller;
use crate::state::event::Event;
use crate::state::nodes::NodeSpec;
use crate::state::shards::{Move, Replica};
use crate::state::{Effect, State};
use gantry_model::contract::Metadata;
use gantry_model::contract::directory::Recover;
use gantry_model::contract::metadata::{MetadataError, Version};
use gantry_model::{Epoch, NodeId, ShardId};
use gantry_platform::clock::timeout;
use gantry_platform::tasks;
use gantry_proto::controller as pb;
use pb::cluster_server::{Cluster, ClusterServer};
use pb::from_broker::Body as FromBroker;
use pb::refused::Code;
use pb::watched::Body as Watched;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::mpsc::{self, unbounded_channel};
use tokio::sync::oneshot;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Largest message in either direction.
const MESSAGE_MAX: usize = 16 * 1024 * 1024;
/// Changes told in one message.
const CHANGES: usize = 256;
/// Messages that wait for a watcher; one that is slower than that is waited for.
const WAITING: usize = 8;
/// A watcher hears something at least this often.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long an order may take.
const ORDER: Duration = Duration::from_secs(15);
/// How long an operator waits for the copy that is to go on.
const BEGUN: Duration = Duration::from_secs(5);

/// The service. It is there before the controller knows its cluster, because the other controllers come in beside it; until then it refuses.
#[derive(Clone, Debug, Default)]
pub struct Door {
    inside: Arc<OnceLock<Inside>>,
}

/// What is behind the door.
#[derive(Clone, Debug)]
struct Inside {
    controller: Arc<Controller>,
    mailbox: Mailbox,
    streams: Arc<AtomicU64>,
}

impl Door {
    /// Lets brokers and proxies in. Only the first time counts.
    pub fn open(&self, controller: Arc<Controller>, mailbox: Mailbox) {
        _ = self.inside.set(Inside { controller, mailbox, streams: Arc::default() });
    }

    pub fn server(self) -> ClusterServer<Door> {
        ClusterServer::new(self).max_decoding_message_size(MESSAGE_MAX).max_encoding_message_size(MESSAGE_MAX)
    }

    fn inside(&self) -> Result<&Inside, Status> {
        self.inside.get().ok_or_else(|| Status::unavailable("this controller is starting and does not know its cluster yet; try another, or again"))
    }
}

impl Inside {
    fn refuses(&self, caller: Option<&pb::Caller>) -> Option<pb::Refused> {
        self.controller.consensus().refuses(caller)
    }

    async fn enrol_node(&self, request: pb::EnrolRequest) -> Result<pb::Joined, pb::Refused> {
        if let Some(refusal) = self.refuses(request.caller.as_ref()) {
            return Err(refusal);
        }
        let id = read_request(&request.request)?;
        let spec = read_spec(request.node.unwrap_or_default());
        let cluster = self.controller.cluster().id.clone();
        match self.controller.propose_as(id, Event::NodeJoined { node: spec }).await.map_err(refusal_of)? {
            Effect::Node(node) => Ok(pb::Joined { cluster, node: node.id.0 }),
            effect => unreachable!("a node that joins is answered a node, not {effect:?}"),
        }
    }

    async fn decide_event(&self, request: pb::DecideRequest) -> Result<pb::Proposed, pb::Refused> {
        if let Some(refusal) = self.refuses(request.caller.as_ref()) {
            return Err(refusal);
        }
        let id = read_request(&request.request)?;
        let event: Event =
            serde_json::from_slice(&request.event).map_err(|error| refused(Code::Invalid, format!("the event makes no sense: {error}")))?;
        if !may_be_asked_for(&event) {
            return Err(refused(Code::Invalid, "only topics and groups are changed this way"));
        }
        let applied = self.controller.consensus().propose_as(id, event).await;
        let applied = applied.map_err(|error| refusal_of(error.into()))?;
        let outcome = serde_json::to_vec(&applied.effect.outcome()).expect("an outcome can always be written").into();
        Ok(pb::Proposed { version: applied.version.0, outcome })
    }

    async fn obey(&self, request: pb::OrderRequest) -> Result<String, pb::Refused> {
        if let Some(refusal) = self.refuses(request.caller.as_ref()) {
            return Err(refusal);
        }
        if !self.controller.consensus().leads() {
            return Err(self.controller.consensus().not_leader());
        }
        use pb::order_request::Order;
        match request.order.ok_or_else(|| refused(Code::Invalid, "the order is empty"))? {
            Order::Transfer(order) => self.transfer(ShardId(order.shard), (order.node != 0).then_some(NodeId(order.node))).await,
            Order::Move(order) => self.plan_move(ShardId(order.shard), NodeId(order.from), NodeId(order.to)).await,
            Order::Cordon(node) => {
                self.tell(Event::NodeCordoned { id: NodeId(node) }, format!("node {node} takes nothing new; what it leads is handed over")).await
            }
            Order::Uncordon(node) => self.tell(Event::NodeUncordoned { id: NodeId(node) }, format!("node {node} takes copies and leads again")).await,
            Order::Drain(node) => self.drain(NodeId(node)).await,
            Order::Recover(order) => self.recover(read_recover(order)).await,
            Order::Remove(node) => {
                self.tell(Event::NodeRemoved { id: NodeId(node) }, format!("node {node} is no part of the cluster any more")).await
            }
        }
    }

    async fn tell(&self, event: Event, done: String) -> Result<String, pb::Refused> {
        self.controller.consensus().propose(event).await.map_err(|error| refusal_of(error.into())).and_then(|applied| match applied.effect {
            Effect::Refused(error) => Err(refusal_of(error)),
            _ => Ok(done),
        })
    }

    async fn transfer(&self, shard: ShardId, to: Option<NodeId>) -> Result<String, pb::Refused> {
        let (reply, outcome) = oneshot::channel();
        self.mailbox.put(Letter::Transfer { shard, to, reply });
        match timeout(ORDER, outcome).await {
            Ok(Ok(outcome)) => outcome.map_err(|why| refused(Code::Invalid, why)),
            Ok(Err(_)) => Err(refused(Code::Unknown, "this controller leads no longer; look what became of it")),
            Err(_) => Err(refused(Code::Unknown, "it takes too long; look what became of it")),
        }
    }

    async fn survey(&self, request: pb::SurveyRequest) -> Result<pb::Survey, pb::Refused> {
        if let Some(refusal) = self.refuses(request.caller.as_ref()) {
            return Err(refusal);
        }
        if !self.controller.consensus().leads() {
            return Err(self.controller.consensus().not_leader());
        }
        let (reply, survey) = oneshot::channel();
        self.mailbox.put(Letter::Survey { shard: ShardId(request.shard), reply });
        match timeout(ORDER, survey).await {
            Ok(Ok(survey)) => survey.map(tell_survey).map_err(|why| refused(Code::Invalid, why)),
            Ok(Err(_)) | Err(_) => Err(refused(Code::Unavailable, "this controller leads no longer")),
        }
    }

    /// Has one copy go on alone; answers when it leads, or when that takes too long.
    async fn recover(&self, order: Recover) -> Result<String, pb::Refused> {
        let (reply, outcome) = oneshot::channel();
        let id = order.shard;
        self.mailbox.put(Letter::Recover { order, reply });
        let begun = match timeout(ORDER, outcome).await {
            Ok(Ok(outcome)) => outcome.map_err(|why| refused(Code::Invalid, why))?,
            Ok(Err(_)) | Err(_) => return Err(refused(Code::Unknown, "it is not known what became of it; look at the shard again")),
        };
        let led = || {
            let shard = self.controller.consensus().read(|state| state.shards_placed().get(id).cloned())?;
            let leader = shard.leader().filter(|_| !shard.unclean)?;
            Some(format!("node {} leads shard {id} since epoch {}; further copies are made from its copy", leader.node, shard.epoch))
        };
        let mut versions = self.controller.consensus().watch();
        // The versions are told as long as the controller lives.
        _ = timeout(BEGUN, versions.wait_for(|_| led().is_some())).await;
        Ok(led().unwrap_or_else(|| format!("epoch {} of shard {id} has begun, and its copy does not lead yet; look at it again", begun.epoch)))
    }

    async fn plan_move(&self, shard: ShardId, from: NodeId, to: NodeId) -> Result<String, pb::Refused> {
        let joining = Replica { node: to, store: self.new_store() };
        let event = self.controller.consensus().read(|state| move_of(state, shard, from, joining))?;
        self.tell(event, format!("a copy of shard {shard} goes from node {from} to node {to}; it learns first, then it takes the place of the other"))
            .await
    }

    /// Cordons a node and plans a move for each of its copies for which there is a place.
    async fn drain(&self, node: NodeId) -> Result<String, pb::Refused> {
        self.tell(Event::NodeCordoned { id: node }, String::new()).await?;
        let planned = self.controller.consensus().read(|state| {
            let steps = crate::placement::Picture::of(state).drain(node, usize::MAX);
            let moves = steps.into_iter().filter_map(|step| match step {
                crate::placement::Step::Move { shard, from, to } => move_of(state, shard, from, Replica { node: to, store: self.new_store() }).ok(),
                crate::placement::Step::Lead { .. } => None,
            });
            moves.collect::<Vec<Event>>()
        });
        let copies = self.controller.consensus().read(|state| state.shards_placed().iter().filter(|shard| shard.is_on(node)).count());
        let moving = planned.len();
        if moving > 0 {
            self.tell(Event::Batch { events: planned }, String::new()).await?;
        }
        let left = copies.saturating_sub(moving);
        let rest = match left {
            0 => String::new(),
            _ => format!("; {left} of its copies have no place elsewhere yet: add a broker and drain again"),
        };
        Ok(format!("node {node} takes nothing new, {moving} of its copies go elsewhere{rest}"))
    }

    fn new_store(&self) -> String {
        super::overseer::new_store(&mut |bytes| self.controller.consensus().draw(bytes))
    }
}

fn read_recover(order: pb::RecoverShard) -> Recover {
    let pb::RecoverShard { shard, epoch, node, phrase, by } = order;
    Recover { shard: ShardId(shard), epoch: Epoch(epoch), node: NodeId(node), phrase, by }
}

/// The event that begins a move.
fn move_of(state: &State, shard: ShardId, from: NodeId, joining: Replica) -> Result<Event, pb::Refused> {
    let known = state.shards_placed().get(shard).ok_or_else(|| refused(Code::Invalid, format!("there is no shard {shard}")))?;
    let leaving = known.stable.members.iter().find(|replica| replica.node == from);
    let leaving = leaving.ok_or_else(|| refused(Code::Invalid, format!("node {from} holds no copy of shard {shard}")))?;
    let moving = Move { joining: Some(joining), leaving: Some(leaving.clone()) };
    Ok(Event::MovePlanned { shard, expect: known.revision, moving })
}

/// What a broker or a proxy may want to happen. Epochs and nodes are the controllers' own affair.
fn may_be_asked_for(event: &Event) -> bool {
    use Event::{GroupCreated, GroupDeleted, GroupUpdated, TopicCreated, TopicDeleted, TopicUpdated};
    matches!(event, TopicCreated { .. } | TopicUpdated { .. } | TopicDeleted { .. } | GroupCreated { .. } | GroupUpdated { .. } | GroupDeleted { .. })
}

#[tonic::async_trait]
impl Cluster for Door {
    type WatchStream = ReceiverStream<Result<pb::Watched, Status>>;
    type SessionStream = ReceiverStream<Result<pb::ToBroker, Status>>;

    async fn enrol(&self, request: Request<pb::EnrolRequest>) -> Result<Response<pb::EnrolReply>, Status> {
        use pb::enrol_reply::Outcome;
        let outcome = self.inside()?.enrol_node(request.into_inner()).await.map_or_else(Outcome::Refused, Outcome::Joined);
        Ok(Response::new(pb::EnrolReply { outcome: Some(outcome) }))
    }

    async fn decide(&self, request: Request<pb::DecideRequest>) -> Result<Response<pb::DecideReply>, Status> {
        use pb::decide_reply::Outcome;
        let outcome = self.inside()?.decide_event(request.into_inner()).await.map_or_else(Outcome::Refused, Outcome::Done);
        Ok(Response::new(pb::DecideReply { outcome: Some(outcome) }))
    }

    async fn order(&self, request: Request<pb::OrderRequest>) -> Result<Response<pb::OrderReply>, Status> {
        use pb::order_reply::Outcome;
        let outcome = self.inside()?.obey(request.into_inner()).await.map_or_else(Outcome::Refused, Outcome::Done);
        Ok(Response::new(pb::OrderReply { outcome: Some(outcome) }))
    }

    async fn survey(&self, request: Request<pb::SurveyRequest>) -> Result<Response<pb::SurveyReply>, Status> {
        use pb::survey_reply::Outcome;
        let outcome = self.inside()?.survey(request.into_inner()).await.map_or_else(Outcome::Refused, Outcome::Survey);
        Ok(Response::new(pb::SurveyReply { outcome: Some(outcome) }))
    }

    async fn watch(&self, request: Request<pb::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let pb::WatchRequest { caller, from } = request.into_inner();
        let (out, told) = mpsc::channel(WAITING);
        let inside = self.inside()?;
        let (refusal, controller) = (inside.refuses(caller.as_ref()), inside.controller.clone());
        // Ends with the stream.
        tasks::spawn("watch of the state", async move {
            // Who hung up needs no more.
            _ = match refusal {
                Some(refusal) => out.send(Ok(pb::Watched { body: Some(Watched::Refused(refusal)) })).await.ok(),
                None => tell_changes(&controller, Version(from), &out).await,
            };
        });
        Ok(Response::new(ReceiverStream::new(told)))
    }

    async fn session(&self, request: Request<Streaming<pb::FromBroker>>) -> Result<Response<Self::SessionStream>, Status> {
        let inside = self.inside()?;
        let mut said = request.into_inner();
        let Some(FromBroker::Opening(opening)) = said.message().await?.and_then(|first| first.body) else {
            return Err(Status::invalid_argument("a session begins with an opening"));
        };
        let (tell, mut orders) = unbounded_channel();
        let node = NodeId(opening.node);
        match inside.opens(&opening, node) {
            Err(refusal) => _ = tell.send(pb::to_broker::Body::Refused(refusal)),
            Ok(spec) => {
                let stream = inside.streams.fetch_add(1, Ordering::Relaxed);
                let mailbox = inside.mailbox.clone();
                mailbox.put(Letter::Mail(Mail { node, stream, said: Said::Opened { spec, out: tell } }));
                // Ends with the stream.
                tasks::spawn("a broker's session", async move {
                    while let Some(Ok(message)) = said.next().await {
                        if let Some(said) = message.body.and_then(read_said) {
                            mailbox.put(Letter::Mail(Mail { node, stream, said }));
                        }
                    }
                    mailbox.put(Letter::Mail(Mail { node, stream, said: Said::Broke }));
                });
            }
        }
        let (out, answers) = mpsc::channel(WAITING);
        // Ends when the overseer drops the session, or the broker its stream.
        tasks::spawn("orders to a broker", async move {
            while let Some(body) = orders.recv().await {
                if out.send(Ok(pb::ToBroker { body: Some(body) })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

impl Inside {
    /// Whether a broker may open a session here, and what it says of itself.
    fn opens(&self, opening: &pb::Opening, node: NodeId) -> Result<NodeSpec, pb::Refused> {
        if let Some(refusal) = self.refuses(opening.caller.as_ref()) {
            return Err(refusal);
        }
        if !self.controller.consensus().leads() {
            return Err(self.controller.consensus().not_leader());
        }
        let known = self.controller.consensus().read(|state| state.nodes().get(node).cloned());
        let Some(known) = known else {
            let why = format!("node {node} is no part of the cluster, or was removed; clear its data folder and let it join as a new node");
            return Err(refused(Code::OtherNode, why));
        };
        let spec = read_spec(opening.spec.clone().unwrap_or_default());
        if spec.incarnation < known.spec.incarnation {
            let why = format!("node {node} started again as {}: its data folder is a copy, or a process of it is left over", known.spec.incarnation);
            return Err(refused(Code::Invalid, why));
        }
        Ok(spec)
    }
}

fn read_said(body: FromBroker) -> Option<Said> {
    Some(match body {
        FromBroker::Opening(_) => return None,
        FromBroker::Report(report) => Said::Report(report),
        FromBroker::Sealed(sealed) => Said::Sealed(ShardId(sealed.shard), facts::read_sealed(&sealed)?),
        FromBroker::Promised(promised) => Said::Promised(ShardId(promised.shard), facts::read_promised(&promised)?),
        FromBroker::NotBegun(not_begun) => Said::NotBegun { shard: ShardId(not_begun.shard), epoch: Epoch(not_begun.epoch), why: not_begun.why },
        FromBroker::HandedOver(handed) => {
            let to = facts::read_replica(handed.to.as_ref()).ok_or(handed.why);
            Said::HandedOver { shard: ShardId(handed.shard), epoch: Epoch(handed.epoch), to }
        }
        FromBroker::Leaving(_) => Said::Left,
        FromBroker::Draining(_) => Said::Drains,
    })
}

/// Tells a watcher what it lacks, and then each change. Ends when it hangs up.
async fn tell_changes(controller: &Controller, mut from: Version, out: &mpsc::Sender<Result<pb::Watched, Status>>) -> Option<()> {
    let tell = async |body| out.send(Ok(pb::Watched { body: Some(body) })).await.ok();
    // Says at once that the stream stands.
    tell(Watched::StillHere(pb::Done {})).await?;
    let mut versions = controller.consensus().watch();
    loop {
        versions.mark_unchanged();
        match controller.consensus().changes(from, CHANGES) {
            Some(changes) if changes.is_empty() => {
                if timeout(HEARTBEAT, versions.changed()).await.is_err() {
                    tell(Watched::StillHere(pb::Done {})).await?;
                }
            }
            Some(changes) => {
                let first = from.0 + 1;
                from.0 += changes.len() as u64;
                tell(Watched::Changes(pb::Changes { first, events: changes.iter().map(|change| change.encoded()).collect() })).await?;
            }
            None => {
                let state = controller.consensus().read(State::without_requests);
                from = state.version();
                let mut parts = state.parts().peekable();
                while let Some(part) = parts.next() {
                    let part = serde_json::to_vec(&part).expect("a part can always be written").into();
                    tell(Watched::Part(pb::StatePart { part, last: parts.peek().is_none() })).await?;
                }
            }
        }
    }
}

fn read_request(id: &[u8]) -> Result<RequestId, pb::Refused> {
    let bytes = id.try_into().map_err(|_| refused(Code::Invalid, "a request id has 16 bytes"))?;
    Ok(RequestId(u128::from_be_bytes(bytes)))
}

fn read_spec(spec: pb::NodeSpec) -> NodeSpec {
    let pb::NodeSpec { address, zone, capacity, incarnation, format } = spec;
    NodeSpec { address, zone, capacity, incarnation, format }
}

fn refused(code: Code, why: impl Into<String>) -> pb::Refused {
    pb::Refused { code: code.into(), why: why.into(), leader: None }
}

fn refusal_of(error: MetadataError) -> pb::Refused {
    let code = match error {
        MetadataError::Unavailable { .. } => Code::Unavailable,
        MetadataError::Exists { .. } | MetadataError::NotFound { .. } | MetadataError::Invalid { .. } => Code::Invalid,
    };
    refused(code, error.to_string())
}
