//! What a proxy asks of the brokers: send, receive, acknowledge, look up.
//!
//! Rules for every implementation:
//! - An `Ok` means committed: it survives a crash. An error other than `Unknown` means that nothing was stored or changed.
//! - Dropping a future before it is ready withdraws the request where it can still be withdrawn. A dropped `receive` leases nothing, or gives
//!   back what it leased without counting the attempt; a dropped `send` may still be stored.
//! - Every call ends: the implementation bounds its waits by the times in the request.
//! - Requests carry the topic or group as the caller sees it; the implementation trusts only the ids in it.
//! - Several shards behind one implementation are one broker: a receive leases on one of them at a time.
//! - `NoLeader` says that a shard can't be asked at the moment. Nothing was changed; who has time may try again.

pub mod send;
pub mod receive;
pub mod offsets;
pub mod transactions;
pub mod lite;
pub mod lookup;
pub mod status;

pub use lite::{LiteChange, LiteError, LiteStart, LiteSync, LiteTopic};
pub use lookup::{Life, LifeEvent, LifeStep, LookupError, Query, QueueBounds, QueuePosition, Standing};
pub use offsets::{LetterError, LetterId, Moved, OffsetError, PullError, PullRequest, Pulled, SeekRequest, SeekTarget};
pub use receive::{AttemptCount, Delivery, LeaseError, LeaseTerm, Offer, ReceiveError, ReceiveRequest, VisibilityChange};
pub use send::{EndError, EndedBy, PackedSend, RecallError, Resolution, SendError, SendRequest, Sent, Ticket};
pub use status::{ShardCondition, ShardStatus, TransactionCounts};
pub use transactions::{Check, Clients, OpenTransaction};

use crate::handle::{RecallHandle, TransactionHandle};
use crate::message::StoredMessage;
use crate::{ClientId, Group, Offset, QueueId, ReceiptHandle, Topic, TopicId};
use async_trait::async_trait;
use std::fmt;
use std::sync::Arc;

/// The data path.
#[async_trait]
pub trait Broker: Send + Sync + fmt::Debug {
    /// Stores messages and answers each of them, in the order given. Messages for one queue are stored all or none.
    async fn send(&self, request: SendRequest) -> Vec<Result<Sent, SendError>>;

    /// As `send`. `None` if one of the messages can't be read; then none was stored.
    async fn send_packed(&self, request: PackedSend) -> Option<Vec<Result<Sent, SendError>>> {
        Some(self.send(request.unpack()?).await)
    }

    /// Leases up to `max` messages to a client, waiting up to `wait` for the first one. An empty answer means that the wait ended.
    async fn receive(&self, request: ReceiveRequest) -> Result<Vec<Delivery>, ReceiveError>;

    /// Tells that a member of a group is about to receive from several shards: its filter counts here, and a group or a member that begins with
    /// its first receive begins. Leases nothing; answers what a receive with the same attempt id was given here and still holds.
    async fn join(&self, request: &ReceiveRequest) -> Result<Vec<Delivery>, ReceiveError>;

    /// Waits up to `wait` until this shard has something for a receive, and offers it in turn; `None` if the wait ended or the shard drains.
    /// Leases nothing. Dropping the future, or the offer, lets the next one have it.
    async fn offered(&self, request: &ReceiveRequest) -> Result<Option<Offer>, ReceiveError>;

    /// Leases what was offered, without waiting. Empty if the offer was taken back, or what it stood for is gone: then nothing is leased, and
    /// the receive may wait for the next offer.
    async fn take(&self, request: &ReceiveRequest, offer: Offer) -> Result<Vec<Delivery>, ReceiveError>;

    /// Finishes deliveries; one answer per handle, in the order given. Finishing twice is `Ok`.
    async fn ack(&self, group: &Group, handles: Vec<ReceiptHandle>) -> Vec<Result<(), LeaseError>>;

    /// Moves the time at which a delivered message becomes visible again. The handle stays the same.
    async fn change_visibility(&self, request: VisibilityChange) -> Result<(), LeaseError>;

    /// Moves a delivered message to the dead letter queue of its group and finishes the delivery, in one step. Repeating it is `Ok`.
    async fn dead_letter(&self, group: &Group, handle: ReceiptHandle) -> Result<(), LeaseError>;

    /// Gives back deliveries that never reached the client: visible at once, the attempt is not counted. Never fails for the caller.
    fn release(&self, handles: Vec<ReceiptHandle>);

    /// Tells that these clients are alive: any call of theirs counts. Cheap; may be called for every request.
    fn client_alive(&self, client: &ClientId);

    /// Tells that a client has ended: its open polls end empty, and what it held with auto-renewal becomes visible.
    fn client_gone(&self, client: &ClientId);

    /// Where a group stands on each queue of a topic.
    async fn positions(&self, group: &Group, topic: &Topic) -> Result<Vec<QueuePosition>, LookupError>;

    /// The bounds of each queue of a topic.
    async fn queues(&self, topic: &Topic) -> Result<Vec<QueueBounds>, LookupError>;

    /// Topics on which a group has a position.
    async fn topics_of(&self, group: &Group) -> Result<Vec<TopicId>, LookupError>;

    /// Where messages stand for a group, in the order given.
    async fn standing(&self, group: &Group, topic: &Topic, messages: Vec<(QueueId, Offset)>) -> Result<Vec<Standing>, LookupError>;

    /// Finds stored messages, newest last, at most `limit` of them.
    async fn find(&self, topic: &Topic, query: Query, limit: usize) -> Result<Vec<StoredMessage>, LookupError>;

    /// Ends a transaction. `Ok` also if it was ended the same way before, within a day.
    async fn end_transaction(&self, topic: &Topic, handle: TransactionHandle, resolution: Resolution, by: EndedBy) -> Result<(), EndError>;

    /// Transactions of a topic that are not ended, shard after shard and the oldest of each first, those that were given up included; the first
    /// after `after`.
    async fn open_transactions(&self, topic: &Topic, after: Option<TransactionHandle>, limit: usize) -> Result<Vec<OpenTransaction>, LookupError>;

    /// Has a transaction that was given up checked again.
    async fn resume_transaction(&self, handle: TransactionHandle) -> Result<(), EndError>;

    /// Who can reach clients. Asked for checks that are due; replaces who was there before.
    fn attach(&self, clients: Arc<dyn Clients>);

    /// Tells that a producer of these topics can be reached: checks that found nobody are tried again.
    fn producer_ready(&self, topics: &[TopicId]);

    /// Takes a delayed message back before it is due. `Ok` also if it was taken back before.
    async fn recall(&self, topic: &Topic, handle: RecallHandle) -> Result<(), RecallError>;

    /// Reads a queue from an offset, waiting for the first message.
    async fn pull(&self, request: PullRequest) -> Result<Pulled, PullError>;

    /// Where a group stands on a queue: every offset below is finished. `None` if it never read it.
    async fn committed(&self, group: &Group, topic: &Topic, queue: QueueId) -> Result<Option<Offset>, LookupError>;

    /// Moves the position of a pulling group forward.
    async fn commit_offset(&self, group: &Group, topic: &Topic, queue: QueueId, offset: Offset) -> Result<(), OffsetError>;

    /// The first offset stored at or after a time; past the end, the next one to be stored.
    async fn offset_at(&self, topic: &Topic, queue: QueueId, time_ms: u64) -> Result<Offset, LookupError>;

    /// Moves a group's position, whatever way it consumes: leases, waiting messages and locks on those queues end, and handles from before
    /// are void.
    async fn seek(&self, request: SeekRequest) -> Result<Vec<Moved>, OffsetError>;

    /// Finishes messages for a group without delivering them. Answers how many were not finished before.
    async fn skip(&self, group: &Group, topic: &Topic, queue: QueueId, offsets: Vec<Offset>) -> Result<u64, OffsetError>;

    /// Sends dead letters of a group again, to `to` or where they came from, each in one step with its removal from the dead letter queue. One
    /// that belongs to another shard now is stored there first and removed then: a crash between the two leaves it in both places.
    async fn redrive(&self, group: &Group, letters: Vec<LetterId>, to: Option<Arc<Topic>>) -> Vec<Result<Sent, LetterError>>;

    /// Removes dead letters of a group.
    async fn purge(&self, group: &Group, letters: Vec<LetterId>) -> Vec<Result<(), LetterError>>;

    /// What happened to one message since it was stored; nothing if it is not stored any more.
    async fn life(&self, topic: &Topic, queue: QueueId, offset: Offset) -> Result<Life, LookupError>;

    /// Changes which lite topics a client wants, or repeats it, which keeps the subscription alive.
    async fn sync_lite(&self, sync: LiteSync) -> Result<(), LiteError>;

    /// Lite topics of a parent by name, the first after `after`.
    async fn lite_topics(&self, topic: &Topic, after: &str, limit: usize) -> Result<Vec<LiteTopic>, LookupError>;

    /// How the shards are doing.
    async fn shards(&self) -> Vec<ShardStatus>;

    /// Stops taking work: open polls end empty, what was accepted is finished and synced.
    async fn drain(&self);
}

macro_rules! error_text {
    ($name:ident { $($pattern:pat => $text:expr),+ $(,)? }) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                use $name::*;
                match self { $($pattern => f.write_str(&$text)),+ }
            }
        }

        impl std::error::Error for $name {}
    };
}

use error_text;
