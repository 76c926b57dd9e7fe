//! One request of a proxy: what it names is looked up, a copy of the shard here is asked, its answer is put on the wire.

use super::Locals;
use super::link::Link;
use super::outbox::{Part, Ready, cut, size_of_message};
use gantry_model::contract::Broker;
use gantry_model::contract::broker::{LeaseError, LetterError, Pulled, ReceiveError, ReceiveRequest, SendError};
use gantry_model::contract::metadata::Version;
use gantry_model::{Group, Offset, QueueId, ShardId, Topic};
use gantry_proto::broker as pb;
use gantry_proto::broker::answer::Body as Said;
use gantry_proto::broker::refusal::Code;
use gantry_proto::broker::request::Body;
use gantry_proto::shards::Refuse;
use gantry_proto::shards::{handle, life, lite, lookup, message, offsets, receive, send, status};
use prost::Message;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// A call that runs: its number and its answer; nothing if it was withdrawn.
pub type Answering = Pin<Box<dyn Future<Output = Option<(u64, Ready)>> + Send>>;

type Answered = Result<Ready, pb::Refusal>;

/// One request, and where it is to be answered.
#[derive(Debug)]
pub struct Call {
    pub locals: Arc<Locals>,
    pub link: Arc<Link>,
    pub number: u64,
    pub shard: ShardId,
    pub version: Version,
}

/// Whether a request may take long, or give a lot.
pub fn is_lookup(body: &Body) -> bool {
    use Body::*;
    matches!(
        body,
        Positions(_)
            | Queues(_)
            | TopicsOf(_)
            | Standing(_)
            | Find(_)
            | OpenTransactions(_)
            | Seek(_)
            | Skip(_)
            | Redrive(_)
            | Purge(_)
            | Life(_)
            | LiteTopics(_)
    )
}

/// Whether a request is taken back when its caller goes away.
pub fn is_withdrawn(body: &Body) -> bool {
    matches!(body, Body::Receive(_) | Body::Join(_) | Body::Offered(_) | Body::Take(_) | Body::Pull(_))
}

fn refusal(code: Code, why: &str) -> pb::Refusal {
    pb::Refusal { code: code as i32, why: why.to_owned(), ..pb::Refusal::default() }
}

fn senseless() -> pb::Refusal {
    refusal(Code::Failed, "the broker can't read the request; it may be of another version than the proxy")
}

macro_rules! begin {
    ($call:ident, $op:ident, $wire:expr) => {{
        let wire = $wire;
        Box::pin(async move {
            let answered = $call.$op(wire).await;
            Some($call.finish(answered))
        })
    }};
}

impl Call {
    /// Begins what a request asks for; `None` if there is no answer to it.
    pub fn begin(self, body: Body) -> Option<Answering> {
        let call = self;
        Some(match body {
            Body::Send(wire) => begin!(call, send, wire),
            Body::Receive(wire) => begin!(call, receive, wire),
            Body::Join(wire) => begin!(call, join, wire),
            Body::Offered(wire) => begin!(call, offered, wire),
            Body::Take(wire) => begin!(call, take, wire),
            Body::Ack(wire) => begin!(call, ack, wire),
            Body::Change(wire) => begin!(call, change, wire),
            Body::DeadLetter(wire) => begin!(call, dead_letter, wire),
            Body::Positions(wire) => begin!(call, positions, wire),
            Body::Queues(wire) => begin!(call, queues, wire),
            Body::TopicsOf(wire) => begin!(call, topics_of, wire),
            Body::Standing(wire) => begin!(call, standing, wire),
            Body::Find(wire) => begin!(call, find, wire),
            Body::End(wire) => begin!(call, end, wire),
            Body::OpenTransactions(wire) => begin!(call, open_transactions, wire),
            Body::Resume(wire) => begin!(call, resume, wire),
            Body::Recall(wire) => begin!(call, recall, wire),
            Body::Pull(wire) => begin!(call, pull, wire),
            Body::Committed(wire) => begin!(call, committed, wire),
            Body::CommitOffset(wire) => begin!(call, commit_offset, wire),
            Body::OffsetAt(wire) => begin!(call, offset_at, wire),
            Body::Seek(wire) => begin!(call, seek, wire),
            Body::Skip(wire) => begin!(call, skip, wire),
            Body::Redrive(wire) => begin!(call, redrive, wire),
            Body::Purge(wire) => begin!(call, purge, wire),
            Body::Life(wire) => begin!(call, life, wire),
            Body::SyncLite(wire) => begin!(call, sync_lite, wire),
            Body::LiteTopics(wire) => begin!(call, lite_topics, wire),
            Body::Status(wire) => begin!(call, status, wire),
            Body::Release(_) | Body::Alive(_) | Body::Gone(_) | Body::ProducerReady(_) | Body::Cancel(_) | Body::Decline(_) | Body::Reached(_) => {
                return None;
            }
        })
    }

    fn finish(&self, answered: Answered) -> (u64, Ready) {
        let ready = answered.unwrap_or_else(|refusal| self.answer(Said::Refused(refusal)));
        (self.number, ready)
    }

    fn answer(&self, body: Said) -> Ready {
        Ready::Small(pb::Answer { call: self.number, more: false, body: Some(body) })
    }

    /// An answer that may be long, and is written whole.
    fn long(&self, body: Said) -> Ready {
        let answer = pb::Answer { call: self.number, more: false, body: Some(body) };
        let bytes = answer.encoded_len();
        Ready::Long([Part { answer, bytes }].into())
    }

    fn done(&self) -> Ready {
        self.answer(Said::Done(pb::Empty {}))
    }

    /// The copy of the shard that is here, whether it leads or not.
    fn broker(&self) -> Result<Arc<dyn Broker>, pb::Refusal> {
        self.locals.get(self.shard).ok_or_else(|| self.led_elsewhere())
    }

    fn led_elsewhere(&self) -> pb::Refusal {
        pb::Refusal { leader: self.locals.reign(self.shard), ..refusal(Code::NoLeader, "") }
    }

    /// An error, with the leader if there is another.
    fn refuse<E: Refuse>(&self, error: E) -> pb::Refusal {
        let mut refusal = error.refusal();
        if refusal.code() == Code::NoLeader {
            refusal.leader = self.locals.reign(self.shard);
        }
        refusal
    }

    /// What is not known here: it does not exist, or this process has not heard of it yet and nothing was done.
    fn unknown(&self, code: Code, what: &str) -> pb::Refusal {
        if self.locals.names.knows_all(self.version) { refusal(code, what) } else { self.led_elsewhere() }
    }

    /// Waits for the metadata that the caller knew. Apart, because calls that need not wait should stay small: each is allocated.
    async fn catch_up(&self) {
        if !self.locals.names.is_ready(self.version) {
            Box::pin(self.locals.names.catch_up(self.version)).await;
        }
    }

    async fn topic(&self, id: u32, unknown: Code) -> Result<Arc<Topic>, pb::Refusal> {
        self.catch_up().await;
        self.locals.names.topic(id).ok_or_else(|| self.unknown(unknown, "the topic does not exist"))
    }

    async fn group(&self, id: u32, unknown: Code) -> Result<Arc<Group>, pb::Refusal> {
        self.catch_up().await;
        self.locals.names.group(id).ok_or_else(|| self.unknown(unknown, "the consumer group does not exist"))
    }

    async fn send(&self, wire: pb::Send) -> Answered {
        let broker = self.broker()?;
        let topic = self.topic(wire.topic, Code::NoWritableQueue).await?;
        let request = send::send_from_wire(wire, topic).ok_or_else(senseless)?;
        let answers = broker.send_packed(request).await.ok_or_else(senseless)?;
        if !answers.is_empty() && answers.iter().all(|answer| *answer == Err(SendError::NoLeader)) {
            return Err(self.led_elsewhere());
        }
        Ok(self.answer(Said::Sent(send::sent_each_to_wire(&answers))))
    }

    async fn wish(&self, mut wire: pb::Receive) -> Result<ReceiveRequest, pb::Refusal> {
        let topic = self.topic(wire.topic, Code::NoReadableQueue).await?;
        let group = self.group(wire.group, Code::Failed).await?;
        let filter = self.locals.names.filter(wire.filter.take()).ok_or_else(senseless)?;
        Ok(receive::receive_from_wire(wire, group, topic, filter))
    }

    fn deliveries(&self, deliveries: Result<Vec<gantry_model::contract::broker::Delivery>, ReceiveError>) -> Answered {
        let deliveries: Vec<pb::Delivery> = deliveries.map_err(|error| self.refuse(error))?.iter().map(message::delivery_to_wire).collect();
        if deliveries.is_empty() {
            return Ok(self.answer(Said::Deliveries(pb::Deliveries::default())));
        }
        let size = |delivery: &pb::Delivery| size_of_message(delivery.message.as_ref());
        Ok(cut(self.number, deliveries, size, |deliveries| Said::Deliveries(pb::Deliveries { deliveries })))
    }

    async fn receive(&self, wire: pb::Receive) -> Answered {
        let (broker, request) = (self.broker()?, self.wish(wire).await?);
        self.deliveries(broker.receive(request).await)
    }

    async fn join(&self, wire: pb::Receive) -> Answered {
        let (broker, request) = (self.broker()?, self.wish(wire).await?);
        self.deliveries(broker.join(&request).await)
    }

    async fn offered(&self, wire: pb::Receive) -> Answered {
        let (broker, request) = (self.broker()?, self.wish(wire).await?);
        let offer = broker.offered(&request).await.map_err(|error| self.refuse(error))?;
        let offer = offer.map(|offer| self.link.keep_offer(offer));
        Ok(self.answer(Said::Offer(pb::OfferMade { offer })))
    }

    async fn take(&self, wire: pb::Take) -> Answered {
        let broker = self.broker()?;
        let request = self.wish(wire.receive.ok_or_else(senseless)?).await?;
        // One that is not known here any more is worth nothing at its shard, either.
        let Some(offer) = self.link.take_offer(wire.offer) else { return self.deliveries(Ok(Vec::new())) };
        self.deliveries(broker.take(&request, offer).await)
    }

    async fn ack(&self, wire: pb::Acks) -> Answered {
        let broker = self.broker()?;
        let group = self.group(wire.group, Code::Ended).await?;
        let answers = broker.ack(&group, handle::handles_from_wire(wire.handles)).await;
        if !answers.is_empty() && answers.iter().all(|answer| *answer == Err(LeaseError::NoLeader)) {
            return Err(self.led_elsewhere());
        }
        Ok(self.answer(Said::DoneEach(receive::done_each_to_wire(&answers))))
    }

    async fn change(&self, wire: pb::Change) -> Answered {
        let broker = self.broker()?;
        let group = self.group(wire.group, Code::Ended).await?;
        let change = receive::change_from_wire(wire, group).ok_or_else(senseless)?;
        broker.change_visibility(change).await.map_err(|error| self.refuse(error))?;
        Ok(self.done())
    }

    async fn dead_letter(&self, wire: pb::DeadLetter) -> Answered {
        let broker = self.broker()?;
        let group = self.group(wire.group, Code::Ended).await?;
        let handle = wire.handle.ok_or_else(senseless)?.into();
        broker.dead_letter(&group, handle).await.map_err(|error| self.refuse(error))?;
        Ok(self.done())
    }

    async fn positions(&self, wire: pb::GroupOnTopic) -> Answered {
        let broker = self.broker()?;
        let topic = self.topic(wire.topic, Code::NoSuchQueue).await?;
        let group = self.group(wire.group, Code::NoSuchQueue).await?;
        let positions = broker.positions(&group, &topic).await.map_err(|error| self.refuse(error))?;
        Ok(self.long(Said::Positions(lookup::positions_to_wire(&positions))))
    }

    async fn queues(&self, wire: pb::OnTopic) -> Answered {
        let broker = self.broker()?;
        let topic = self.topic(wire.topic, Code::NoSuchQueue).await?;
        let queues = broker.queues(&topic).await.map_err(|error| self.refuse(error))?;
        Ok(self.long(Said::Queues(lookup::queues_to_wire(&queues))))
    }

    async fn topics_of(&self, wire: pb::OnGroup) -> Answered {
        let broker = self.broker()?;
        let group = self.group(wire.group, Code::NoSuchQueue).await?;
        let topics = broker.topics_of(&group).await.map_err(|error| self.refuse(error))?;
        Ok(self.long(Said::Topics(pb::TopicIds { topics: topics.iter().map(|topic| topic.0).collect() })))
    }

    async fn standing(&self, wire: pb::StandingOf) -> Answered {
        let broker = self.broker()?;
        let topic = self.topic(wire.topic, Code::NoSuchQueue).await?;
        let group = self.group(wire.group, Code::NoSuchQueue).await?;
        let messages = handle::places_from_wire(&wire.messages);
        let standings = broker.standing(&group, &topic, messages).await.map_err(|error| self.refuse(error))?;
        Ok(self.long(Said::Standings(lookup::standings_to_wire(&standings))))
    }

    async fn find(&self, wire: pb::Find) -> Answered {
        let broker = self.broker()?;
        let topic = self.topic(wire.topic, Code::NoSuchQueue).await?;
        let limit = wire.limit as usize;
        let query = lookup::query_from_wire(wire).ok_or_else(senseless)?;
        let found = broker.find(&topic, query, limit).await.map_err(|error| self.refuse(error))?;
        let messages = found.iter().map(message::stored_to_wire).collect();
        Ok(cut(self.number, messages, size_of_stored, |messages| Said::Messages(pb::StoredMessages { messages })))
    }

    async fn end(&self, wire: pb::End) -> Answered {
        let broker = self.broker()?;
        let topic = self.topic(wire.topic, Code::Unknown).await?;
        let (handle, resolution, by) = send::end_from_wire(wire).ok_or_else(senseless)?;
        broker.end_transaction(&topic, handle, resolution, by).await.map_err(|error| self.refuse(error))?;
        Ok(self.done())
    }

    async fn open_transactions(&self, wire: pb::OpenAfter) -> Answered {
        let broker = self.broker()?;
        let topic = self.topic(wire.topic, Code::NoSuchQueue).await?;
        let after = wire.after.map(Into::into);
        let open = broker.open_transactions(&topic, after, wire.limit as usize).await.map_err(|error| self.refuse(error))?;
        let open = open.iter().map(send::open_to_wire).collect();
        let size = |open: &pb::open_transactions::One| open.message.as_ref().map_or(0, size_of_stored);
        Ok(cut(self.number, open, size, |each| Said::Transactions(pb::OpenTransactions { each })))
    }

    async fn resume(&self, wire: pb::TransactionId) -> Answered {
        self.broker()?.resume_transaction(wire.into()).await.map_err(|error| self.refuse(error))?;
        Ok(self.done())
    }

    async fn recall(&self, wire: pb::Recall) -> Answered {
        let broker = self.broker()?;
        let topic = self.topic(wire.topic, Code::Unknown).await?;
        let handle = wire.id.ok_or_else(senseless)?.into();
        broker.recall(&topic, handle).await.map_err(|error| self.refuse(error))?;
        Ok(self.done())
    }

    async fn pull(&self, mut wire: pb::Pull) -> Answered {
        let broker = self.broker()?;
        let topic = self.topic(wire.topic, Code::NoSuchQueue).await?;
        let filter = self.locals.names.filter(wire.filter.take()).ok_or_else(senseless)?;
        let request = offsets::pull_from_wire(&wire, topic, filter);
        let Pulled { messages, next } = broker.pull(request).await.map_err(|error| self.refuse(error))?;
        let messages = messages.iter().map(message::stored_to_wire).collect();
        Ok(cut(self.number, messages, size_of_stored, |messages| Said::Pulled(pb::Pulled { messages, next: next.0 })))
    }

    async fn committed(&self, wire: pb::GroupOnQueue) -> Answered {
        let broker = self.broker()?;
        let topic = self.topic(wire.topic, Code::NoSuchQueue).await?;
        let group = self.group(wire.group, Code::NoSuchQueue).await?;
        let committed = broker.committed(&group, &topic, QueueId(wire.queue)).await.map_err(|error| self.refuse(error))?;
        Ok(self.answer(Said::Committed(pb::MaybeOffset { offset: committed.map(|offset| offset.0) })))
    }

    async fn commit_offset(&self, wire: pb::CommitOffset) -> Answered {
        let broker = self.broker()?;
        let topic = self.topic(wire.topic, Code::NoSuchQueue).await?;
        let group = self.group(wire.group, Code::NoSuchQueue).await?;
        let committed = broker.commit_offset(&group, &topic, QueueId(wire.queue), Offset(wire.offset)).await;
        committed.map_err(|error| self.refuse(error))?;
        Ok(self.done())
    }

    async fn offset_at(&self, wire: pb::OffsetAt) -> Answered {
        let broker = self.broker()?;
        let topic = self.topic(wire.topic, Code::NoSuchQueue).await?;
        let offset = broker.offset_at(&topic, QueueId(wire.queue), wire.time_ms).await.map_err(|error| self.refuse(error))?;
        Ok(self.answer(Said::Number(offset.0)))
    }

    async fn seek(&self, wire: pb::Seek) -> Answered {
        let broker = self.broker()?;
        let topic = self.topic(wire.topic, Code::NoSuchQueue).await?;
        let group = self.group(wire.group, Code::NoSuchQueue).await?;
        let like = match wire.target {
            Some(pb::seek::Target::Like(like)) => Some(self.group(like, Code::NoSuchQueue).await?),
            _ => None,
        };
        let request = offsets::seek_from_wire(wire, group, topic, like).ok_or_else(senseless)?;
        let moved = broker.seek(request).await.map_err(|error| self.refuse(error))?;
        Ok(self.long(Said::Moved(offsets::moved_to_wire(&moved))))
    }

    async fn skip(&self, wire: pb::Skip) -> Answered {
        let broker = self.broker()?;
        let topic = self.topic(wire.topic, Code::NoSuchQueue).await?;
        let group = self.group(wire.group, Code::NoSuchQueue).await?;
        let skipped = wire.offsets.into_iter().map(Offset).collect();
        let count = broker.skip(&group, &topic, QueueId(wire.queue), skipped).await.map_err(|error| self.refuse(error))?;
        Ok(self.answer(Said::Number(count)))
    }

    async fn redrive(&self, wire: pb::Redrive) -> Answered {
        let broker = self.broker()?;
        let letters = wire.letters.ok_or_else(senseless)?;
        let group = self.group(letters.group, Code::Gone).await?;
        let to = match wire.to {
            Some(to) => Some(self.topic(to, Code::NoWritableQueue).await?),
            None => None,
        };
        let answers = broker.redrive(&group, handle::letters_from_wire(letters.letters), to).await;
        if !answers.is_empty() && answers.iter().all(|answer| *answer == Err(LetterError::NoLeader)) {
            return Err(self.led_elsewhere());
        }
        Ok(self.answer(Said::Sent(send::sent_each_to_wire(&answers))))
    }

    async fn purge(&self, wire: pb::Letters) -> Answered {
        let broker = self.broker()?;
        let group = self.group(wire.group, Code::Gone).await?;
        let answers = broker.purge(&group, handle::letters_from_wire(wire.letters)).await;
        if !answers.is_empty() && answers.iter().all(|answer| *answer == Err(LetterError::NoLeader)) {
            return Err(self.led_elsewhere());
        }
        Ok(self.answer(Said::DoneEach(receive::done_each_to_wire(&answers))))
    }

    async fn life(&self, wire: pb::Place) -> Answered {
        let broker = self.broker()?;
        let topic = self.topic(wire.topic, Code::NoSuchQueue).await?;
        let life = broker.life(&topic, QueueId(wire.queue), Offset(wire.offset)).await.map_err(|error| self.refuse(error))?;
        Ok(self.long(Said::Life(life::life_to_wire(&life))))
    }

    async fn sync_lite(&self, wire: pb::LiteSync) -> Answered {
        let broker = self.broker()?;
        let topic = self.topic(wire.topic, Code::Failed).await?;
        let group = self.group(wire.group, Code::Failed).await?;
        let sync = lite::sync_from_wire(wire, group, topic).ok_or_else(senseless)?;
        broker.sync_lite(sync).await.map_err(|error| self.refuse(error))?;
        Ok(self.done())
    }

    async fn lite_topics(&self, wire: pb::LiteAfter) -> Answered {
        let broker = self.broker()?;
        let topic = self.topic(wire.topic, Code::NoSuchQueue).await?;
        let topics = broker.lite_topics(&topic, &wire.after, wire.limit as usize).await.map_err(|error| self.refuse(error))?;
        Ok(self.long(Said::LiteTopics(lite::topics_to_wire(&topics))))
    }

    async fn status(&self, _: pb::Empty) -> Answered {
        let statuses = self.broker()?.shards().await;
        Ok(self.answer(Said::Statuses(status::statuses_to_wire(&statuses))))
    }
}

fn size_of_stored(stored: &pb::StoredMessage) -> usize {
    size_of_message(stored.message.as_ref())
}
