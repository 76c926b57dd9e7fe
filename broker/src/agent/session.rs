//! The session with the leader of the controllers: it hears how the copies here are doing, and says what they are to do.

use super::host::Host;
use super::wire;
use crate::replica::message::{Answer, PeerEvent};
use gantry_model::ShardId;
use gantry_platform::clock::{sleep, timeout};
use gantry_platform::tasks::Stop;
use gantry_proto::connections::Channels;
use gantry_proto::controller as pb;
use pb::cluster_client::ClusterClient;
use pb::from_broker::Body as FromBroker;
use pb::refused::Code;
use pb::to_broker::Body as ToBroker;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;

/// The copies are looked at this often; what changed is reported at once.
const LOOK: Duration = Duration::from_millis(20);
/// Something is said at least this often.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// How long a controller may take to open the session.
const OPEN: Duration = Duration::from_secs(2);
/// The time between two tries.
const RETRY: Duration = Duration::from_millis(100);

/// What a broker says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// `host:port` where other brokers and proxies reach it.
    pub address: String,
    pub zone: String,
    /// Copies of shards that it may hold.
    pub capacity: u32,
    pub incarnation: u64,
    /// The newest stored format that it reads and writes.
    pub format: u32,
}

/// How to speak with the controllers.
#[derive(Clone)]
pub struct SessionSettings {
    pub controllers: Vec<String>,
    pub token: String,
    /// 32 hexadecimal digits.
    pub cluster: String,
    pub spec: Spec,
    /// Becomes true when the broker wants to end: then its leads are handed over.
    pub draining: watch::Receiver<bool>,
}

impl fmt::Debug for SessionSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionSettings").field("controllers", &self.controllers).field("spec", &self.spec).finish_non_exhaustive()
    }
}

/// Why the cluster does not want this broker. Trying again is of no use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forbidden(pub String);

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the cluster does not want this broker: {}", self.0)
    }
}

impl std::error::Error for Forbidden {}

/// How a session ended.
enum End {
    /// Another controller leads.
    Elsewhere(String),
    Broke(String),
    Forbidden(String),
    Stopped,
}

/// Has a session whenever there is a leader, until it is told to stop.
pub async fn run(host: Arc<Host>, settings: SessionSettings, channels: Arc<Channels>, stop: Stop) -> Result<(), Forbidden> {
    let (mut turn, mut hint, mut told) = (0, None::<String>, String::new());
    loop {
        let address = hint.take().unwrap_or_else(|| settings.controllers[turn % settings.controllers.len()].clone());
        match one_session(&host, &settings, &channels, &address, &stop).await {
            End::Stopped => return Ok(()),
            End::Forbidden(why) => return Err(Forbidden(why)),
            End::Elsewhere(leader) => hint = Some(leader),
            End::Broke(why) => {
                turn += 1;
                if why != told {
                    tracing::info!(controller = %address, %why, "there is no session with the controllers; others are tried");
                    told = why;
                }
            }
        }
        tokio::select! {
            () = stop.stopped() => return Ok(()),
            () = sleep(RETRY) => {}
        }
    }
}

async fn one_session(host: &Arc<Host>, settings: &SessionSettings, channels: &Channels, address: &str, stop: &Stop) -> End {
    let channel = match channels.to(address) {
        Ok(channel) => channel,
        Err(error) => return End::Broke(error.0),
    };
    let (out, said) = unbounded_channel();
    let SessionSettings { token, cluster, spec, .. } = settings;
    let Spec { address: own, zone, capacity, incarnation, format } = spec.clone();
    let spec = Some(pb::NodeSpec { address: own, zone, capacity, incarnation, format });
    let caller = Some(pb::Caller { cluster: cluster.clone(), token: token.clone() });
    let mut way = Way { out };
    way.say(FromBroker::Opening(pb::Opening { caller, node: host.node().0, spec }));
    let mut client = ClusterClient::new(channel);
    let opened = timeout(OPEN, async { client.session(UnboundedReceiverStream::new(said)).await }).await;
    let mut orders = match opened {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => return End::Broke(status.message().to_owned()),
        Err(_) => return End::Broke("it does not answer".to_owned()),
    };
    match timeout(OPEN, orders.next()).await {
        Ok(Some(Ok(pb::ToBroker { body: Some(ToBroker::Opened(_)) }))) => {}
        Ok(Some(Ok(pb::ToBroker { body: Some(ToBroker::Refused(refused)) }))) => return refusal(refused),
        Ok(Some(Err(status))) => return End::Broke(status.message().to_owned()),
        Ok(_) => return End::Broke("it hung up".to_owned()),
        Err(_) => return End::Broke("it does not open the session".to_owned()),
    }
    tracing::info!(controller = %address, "the session with the controllers stands");
    speak(host, settings.draining.clone(), &mut way, &mut orders, stop).await
}

fn refusal(refused: pb::Refused) -> End {
    match (refused.code(), refused.leader) {
        (Code::NotLeader, Some(leader)) => End::Elsewhere(leader.address),
        (Code::BadToken | Code::OtherCluster | Code::OtherNode | Code::Invalid, _) => End::Forbidden(refused.why),
        _ => End::Broke(refused.why),
    }
}

/// Reports and obeys to the end of the stream.
async fn speak(host: &Arc<Host>, draining: watch::Receiver<bool>, way: &mut Way, orders: &mut Streaming<pb::ToBroker>, stop: &Stop) -> End {
    let mut reported = Reported::default();
    let mut look = gantry_platform::clock::interval(LOOK);
    let mut drains = false;
    loop {
        tokio::select! {
            biased;
            () = stop.stopped() => {
                way.say(FromBroker::Leaving(pb::Done {}));
                // The last words go out before the stream is dropped.
                sleep(LOOK).await;
                return End::Stopped;
            }
            order = orders.next() => match order {
                Some(Ok(pb::ToBroker { body: Some(ToBroker::Refused(refused)) })) => return refusal(refused),
                Some(Ok(pb::ToBroker { body: Some(order) })) => obey(host, way, order),
                Some(Ok(pb::ToBroker { body: None })) => return End::Broke("it sent what makes no sense".to_owned()),
                Some(Err(status)) => return End::Broke(status.message().to_owned()),
                None => return End::Broke("it hung up".to_owned()),
            },
            _ = look.tick() => {
                if !drains && *draining.borrow() {
                    drains = true;
                    way.say(FromBroker::Draining(pb::Done {}));
                }
                if let Some(report) = reported.news(host) {
                    way.say(FromBroker::Report(report));
                }
            }
        }
    }
}

/// What the leader was told of the copies.
#[derive(Default)]
struct Reported {
    copies: BTreeMap<ShardId, pb::Standing>,
    silent: Duration,
}

impl Reported {
    /// What is to be told now, if anything is.
    fn news(&mut self, host: &Host) -> Option<pb::Report> {
        let open = host.open();
        let mut now: BTreeMap<ShardId, pb::Standing> = open.iter().map(|(shard, copy)| (*shard, wire::standing(*shard, copy))).collect();
        for (shard, copy) in host.failed() {
            now.entry(shard).or_insert_with(|| wire::failed(shard, &copy));
        }
        // A copy that was closed is told of as gone.
        for (shard, before) in &self.copies {
            let gone = || pb::Standing { shard: shard.0, store: before.store.clone(), failed: "it was closed".to_owned(), ..pb::Standing::default() };
            now.entry(*shard).or_insert_with(gone);
        }
        let changed: Vec<pb::Standing> =
            now.iter().filter(|(shard, copy)| self.copies.get(shard) != Some(copy)).map(|(_, copy)| copy.clone()).collect();
        self.copies = now;
        self.silent += LOOK;
        if changed.is_empty() && self.silent < HEARTBEAT {
            return None;
        }
        self.silent = Duration::ZERO;
        Some(pb::Report { copies: changed })
    }
}

/// The way to the controllers' leader.
#[derive(Clone)]
struct Way {
    out: UnboundedSender<pb::FromBroker>,
}

impl Way {
    fn say(&self, body: FromBroker) {
        // A stream that ended takes nothing more; the next session begins anew.
        _ = self.out.send(pb::FromBroker { body: Some(body) });
    }
}

/// Hands an order to the copy that it is for. One that isn't here does not answer.
fn obey(host: &Host, way: &Way, order: ToBroker) {
    let copy = |shard: u32, store: &[u8]| host.get(ShardId(shard)).filter(|copy| copy.store == store);
    let way = way.clone();
    match order {
        ToBroker::Seal(order) => {
            let Some(copy) = copy(order.shard, &order.store) else { return };
            let shard = ShardId(order.shard);
            let answer = Answer::new(move |answer| way.say(wire::sealed(shard, answer)));
            copy.handle.tell(PeerEvent::Seal { seal: wire::read_seal(&order), answer });
        }
        ToBroker::Become(order) => {
            let Some(grant) = wire::read_grant(&order) else { return };
            let Some(copy) = copy(order.shard, &grant.leader.store.0) else { return };
            let (shard, epoch) = (order.shard, order.epoch);
            if copy.handle.view().leads == Some(grant.epoch) {
                // The order was repeated before the controllers heard that it was obeyed.
                return;
            }
            let answer = Answer::new(move |begun: Result<(), String>| {
                if let Err(why) = begun {
                    way.say(FromBroker::NotBegun(pb::NotBegun { shard, epoch, why }));
                }
            });
            copy.handle.tell(PeerEvent::Become { grant, answer });
        }
        ToBroker::HandOver(order) => {
            let Some(copy) = host.get(ShardId(order.shard)) else { return };
            let (shard, epoch) = (ShardId(order.shard), order.epoch);
            let answer = Answer::new(move |ready| way.say(wire::handed_over(shard, epoch, ready)));
            if copy.handle.view().leads.is_none_or(|leads| leads.0 != epoch) {
                return answer.send(Err("this copy does not lead that epoch".to_owned()));
            }
            copy.handle.tell(PeerEvent::HandOver { to: order.to.as_ref().and_then(wire::read_replica), answer });
        }
        ToBroker::Opened(_) | ToBroker::Refused(_) => {}
    }
}
