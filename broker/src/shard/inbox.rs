//! The way into a shard: requests with the channel for their answer, and the status that others may read at any time.

use super::asks::{Ask, Told};
use super::core::{After, Given, Token};
use super::halves::Listed;
use super::polls::Seeks;
use super::state::transactions::TxnKey;
use super::transactions::Asked;
use crate::admission::Permit;
use crate::draft::Draft;
use crate::post::ReplyTo;
use crate::record::Forget;
use crate::replica::leading::CaughtUp;
use crate::replica::message::PeerEvent;
use gantry_model::contract::broker::{
    AttemptCount, EndError, EndedBy, LeaseError, LeaseTerm, LiteError, LiteSync, LiteTopic, QueueBounds, QueuePosition, RecallError, Resolution,
    SendError, Sent, ShardCondition,
};
use gantry_model::handle::RecallHandle;
use gantry_model::{ClientId, Filter, Group, GroupId, Lsn, QueueKey, ReceiptHandle, Topic, TopicId};
use gantry_store::index::{Entry, Run, RunError};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

/// What a shard is asked to do.
#[derive(Debug)]
pub enum Request {
    Send {
        topic: Arc<Topic>,
        client: ClientId,
        drafts: Vec<Draft>,
        permit: Permit,
        reply: ReplyTo<Vec<Result<Sent, SendError>>>,
    },
    Receive {
        token: Token,
        wish: Wish,
        reply: ReplyTo<Leased>,
    },
    Cancel {
        token: Token,
    },
    Ack {
        group: GroupId,
        handles: Vec<ReceiptHandle>,
        reply: ReplyTo<Vec<Result<(), LeaseError>>>,
    },
    Change {
        group: Arc<Group>,
        handle: ReceiptHandle,
        after: After,
        attempt: AttemptCount,
        reply: ReplyTo<Result<(), LeaseError>>,
    },
    Dead {
        group: Arc<Group>,
        handle: ReceiptHandle,
        reply: ReplyTo<Result<(), LeaseError>>,
    },
    Release {
        handles: Vec<ReceiptHandle>,
    },
    ClientGone {
        client: ClientId,
    },
    Positions {
        group: Arc<Group>,
        topic: Arc<Topic>,
        reply: ReplyTo<Vec<QueuePosition>>,
    },
    Queues {
        topic: Arc<Topic>,
        reply: ReplyTo<Vec<QueueBounds>>,
    },
    EndTransaction {
        topic: Arc<Topic>,
        id: u64,
        resolution: Resolution,
        by: EndedBy,
        reply: ReplyTo<Result<(), EndError>>,
    },
    ResumeTransaction {
        key: TxnKey,
        reply: ReplyTo<Result<(), EndError>>,
    },
    OpenTransactions {
        topic: TopicId,
        /// The lowest number to show.
        from: u64,
        limit: usize,
        reply: ReplyTo<Vec<Listed>>,
    },
    /// What became of a question about a transaction.
    Asked {
        key: TxnKey,
        asked: Asked,
    },
    ProducerReady {
        topics: Vec<TopicId>,
    },
    Ask {
        token: Token,
        ask: Ask,
        reply: ReplyTo<Told>,
    },
    Find {
        find: Find,
        limit: usize,
        reply: ReplyTo<Vec<Found>>,
    },
    Recall {
        handle: RecallHandle,
        reply: ReplyTo<Result<(), RecallError>>,
    },
    TopicKnown {
        topic: Arc<Topic>,
    },
    SyncLite {
        sync: LiteSync,
        reply: ReplyTo<Result<(), LiteError>>,
    },
    LiteTopics {
        topic: Arc<Topic>,
        after: String,
        limit: usize,
        reply: ReplyTo<Vec<LiteTopic>>,
    },
    GroupKnown {
        group: Arc<Group>,
    },
    Forget {
        what: Forget,
    },
    /// A job of upkeep is finished.
    Sealed {
        run: Result<Run, RunError>,
    },
    Checkpointed {
        at: Lsn,
        error: Option<String>,
    },
    Spared {
        error: Option<String>,
    },
    Drain {
        reply: ReplyTo<()>,
    },
    /// Another replica, or the controller about this one, speaks.
    Peer(PeerEvent),
    /// Frames were read for a follower.
    CaughtUp(CaughtUp),
    Stop,
}

/// A receive as a client asked for it.
#[derive(Debug)]
pub struct Wish {
    pub group: Arc<Group>,
    pub topic: Arc<Topic>,
    pub filter: Arc<Filter>,
    pub client: ClientId,
    pub max: u32,
    pub term: LeaseTerm,
    pub wait: Duration,
    pub attempt_id: Option<String>,
    pub ordered_batch: bool,
    pub member: String,
    pub seeks: Seeks,
}

/// What a receive was given, with the place of each message in the log.
#[derive(Debug)]
pub enum Leased {
    Messages(Vec<(Given, Found)>),
    /// It may come and lease under the name of this request.
    Offered(Token),
    TooManyPolls,
    GroupPulls,
    NoLeader,
}

/// A stored message: which one, and where its frame is.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    pub queue: QueueKey,
    pub offset: u64,
    pub lsn: Lsn,
    pub len: u32,
    pub tag_hash: u32,
}

impl From<Entry> for Found {
    fn from(entry: Entry) -> Found {
        Found { queue: entry.queue, offset: entry.offset.0, lsn: entry.position, len: entry.len, tag_hash: entry.tag_hash }
    }
}

/// What to look for in the index.
#[derive(Clone, Debug)]
pub enum Find {
    /// Positions of frames with this key hash, in any queue of the topic.
    Key {
        hash: u64,
    },
    From {
        queue: QueueKey,
        offset: u64,
    },
    /// This one, whatever became of it.
    Place {
        queue: QueueKey,
        offset: u64,
    },
    /// Stored in this time, over all queues of the topic.
    Stored {
        topic: Arc<Topic>,
        from_ms: u64,
        to_ms: u64,
    },
}

/// A cheap handle to a shard's thread.
#[derive(Clone, Debug)]
pub struct Inbox {
    requests: mpsc::Sender<Request>,
    tokens: Arc<AtomicU64>,
}

impl Inbox {
    pub fn new() -> (Inbox, mpsc::Receiver<Request>) {
        let (requests, receiver) = mpsc::channel();
        (Inbox { requests, tokens: Arc::new(AtomicU64::new(1)) }, receiver)
    }

    /// A name for a request; unique for the life of the process.
    pub fn token(&self) -> Token {
        Token(self.tokens.fetch_add(1, Ordering::Relaxed))
    }

    /// Hands a request over. If the shard has ended, the request is dropped and its answer channel with it, which tells the caller.
    pub fn put(&self, request: Request) {
        let _ = self.requests.send(request);
    }
}

/// The next request; waits for it so long at most.
pub fn next_request(requests: &mpsc::Receiver<Request>, patience: Duration) -> Option<Request> {
    if patience.is_zero() {
        return match requests.try_recv() {
            Ok(request) => Some(request),
            Err(mpsc::TryRecvError::Empty) => None,
            Err(mpsc::TryRecvError::Disconnected) => Some(Request::Stop),
        };
    }
    match requests.recv_timeout(patience) {
        Ok(request) => Some(request),
        Err(mpsc::RecvTimeoutError::Timeout) => None,
        Err(mpsc::RecvTimeoutError::Disconnected) => Some(Request::Stop),
    }
}

/// Numbers of transactions.
#[derive(Debug, Default)]
pub struct TransactionNumbers {
    pub open: AtomicU64,
    pub committed: AtomicU64,
    pub rolled_back: AtomicU64,
    pub given_up: AtomicU64,
    pub checks: AtomicU64,
}

/// Numbers that others read while the shard works.
#[derive(Debug, Default)]
pub struct Status {
    pub epoch: AtomicU64,
    pub start: AtomicU64,
    pub end: AtomicU64,
    pub durable: AtomicU64,
    pub disk_total: AtomicU64,
    pub disk_free: AtomicU64,
    pub condition: AtomicU64,
    /// Whether this is a replica that does not lead, or can't commit.
    pub follows: AtomicBool,
    pub open_polls: AtomicU64,
    pub messages_stored: AtomicU64,
    pub messages_delivered: AtomicU64,
    pub messages_acked: AtomicU64,
    pub dead_letters: AtomicU64,
    pub filter_errors: AtomicU64,
    pub timers_pending: AtomicU64,
    pub timers_released: AtomicU64,
    pub timers_recalled: AtomicU64,
    pub timers_orphaned: AtomicU64,
    pub timers_damaged: AtomicU64,
    pub timer_lateness_ms: AtomicU64,
    pub transactions: TransactionNumbers,
}

impl Status {
    pub fn set_condition(&self, condition: ShardCondition) {
        self.condition.store(condition as u64, Ordering::Release);
    }

    pub fn condition(&self) -> ShardCondition {
        use ShardCondition::*;
        [Ready, Full, Failed, Draining].into_iter().find(|&known| known as u64 == self.condition.load(Ordering::Acquire)).unwrap_or_default()
    }
}
