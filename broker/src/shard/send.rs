//! Messages on their way into the log: which queue each one goes to, and whether it was here before.
//!
//! Messages of one message group always go to the same queue, a priority is a queue of its own, everything else takes turns. What becomes
//! visible later (delayed messages, open transactions) is parked; see `timers` and `transactions`.

use super::core::{Action, BatchPart, Core, Draft, Reply, Token};
use super::state::seen::Row;
use gantry_model::contract::broker::{SendError, Sent};
use gantry_model::topic::QueueState;
use gantry_model::{ClientId, MessageKind, Offset, QueueId, QueueKey, Topic, placement};

/// What decides where a message goes and when it becomes visible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    pub kind: MessageKind,
    /// Hash of topic and message id.
    pub id: u128,
    /// Hash of the message group.
    pub group: Option<u64>,
    pub priority: Option<u8>,
    /// When it is due, ms since the Unix epoch.
    pub deliver_ms: Option<u64>,
    pub lite: Option<Box<str>>,
    /// How long nobody is asked about its transaction.
    pub recovery_ms: Option<u64>,
}

/// A message whose queue is known.
struct Placed<D> {
    /// Its number in the request.
    number: usize,
    queue: QueueKey,
    draft: D,
}

/// What becomes of one message of a request.
pub(super) enum Fate<D> {
    /// It goes into a queue, with others of the request for the same queue in one piece.
    Queue(QueueKey, D),
    Answered(Result<Sent, SendError>),
    /// It has the id of another message of the request, and gets its answer.
    Like(usize),
}

impl<D: Draft> Core<D> {
    pub(super) fn send(&mut self, token: Token, topic: &Topic, client: &ClientId, drafts: Vec<D>) {
        if self.draining() {
            return self.reply(token, Reply::Sent(vec![Err(SendError::Draining); drafts.len()]));
        }
        let ids: Vec<u128> = drafts.iter().map(|draft| draft.class().id).collect();
        let mut answers = vec![Err(SendError::NoWritableQueue); drafts.len()];
        let mut placed = Vec::with_capacity(drafts.len());
        let mut alike = Vec::new();
        for (number, draft) in drafts.into_iter().enumerate() {
            let twin = ids[..number].iter().position(|id| topic.options.dedup && *id == ids[number]);
            match self.fate(topic, client, twin, draft) {
                Fate::Queue(queue, draft) => placed.push(Placed { number, queue, draft }),
                Fate::Answered(answer) => answers[number] = answer,
                Fate::Like(twin) => alike.push((number, twin)),
            }
        }
        self.store_placed(placed, &mut answers);
        for (number, twin) in alike {
            answers[number] = answers[twin].clone().map(|sent| Sent { duplicate: true, ..sent });
        }
        self.reply(token, Reply::Sent(answers));
    }

    fn fate(&mut self, topic: &Topic, client: &ClientId, twin: Option<usize>, draft: D) -> Fate<D> {
        if let Some(twin) = twin {
            return Fate::Like(twin);
        }
        if let Some(row) = self.stored_before(topic, draft.class()) {
            return Fate::Answered(Ok(self.repeated(topic, &row, &draft)));
        }
        if let Some(error) = self.why_no_room(topic, draft.size()) {
            return Fate::Answered(Err(error));
        }
        let queue = match draft.class().kind {
            MessageKind::Transaction => return Fate::Answered(self.store_half(topic, client, draft)),
            MessageKind::Delay if draft.class().deliver_ms.is_some_and(|at| at > self.now) => {
                return Fate::Answered(self.store_delayed(topic, draft));
            }
            MessageKind::Lite => return self.lite_fate(topic, draft),
            MessageKind::Fifo => placement::queue_of_group(topic, draft.class().group.unwrap_or(0)),
            MessageKind::Priority => placement::queue_of_priority(topic, draft.class().priority.unwrap_or(0)),
            MessageKind::Normal | MessageKind::Delay => self.next_queue(topic).map(|queue| (queue, self.shard)),
        };
        match queue {
            Some((queue, shard)) if shard == self.shard => Fate::Queue(QueueKey::new(topic.id, queue), draft),
            Some((queue, shard)) => Fate::Answered(Err(SendError::Misplaced { queue, shard })),
            None => Fate::Answered(Err(SendError::NoWritableQueue)),
        }
    }

    /// Whether the quota of the topic leaves no room for so many bytes.
    fn why_no_room(&self, topic: &Topic, bytes: usize) -> Option<SendError> {
        let most = placement::share_of(topic, self.shard, topic.options.quota.stored_bytes?);
        let held = self.state.held(topic.id);
        (held + bytes as u64 > most).then(|| SendError::QuotaExceeded {
            what: format!("topic `{}` holds {held} bytes on its shard and may hold {most}; the oldest go as its retention says", topic.name),
        })
    }

    /// Stores messages, those of one queue in one piece and in the order given.
    fn store_placed(&mut self, mut placed: Vec<Placed<D>>, answers: &mut [Result<Sent, SendError>]) {
        placed.sort_by_key(|message| message.queue);
        let mut rest = placed.into_iter().peekable();
        while let Some(first) = rest.next() {
            let mut run = vec![first];
            while let Some(next) = rest.next_if(|next| next.queue == run[0].queue) {
                run.push(next);
            }
            let count = run.len();
            for (place, Placed { number, queue, draft }) in run.into_iter().enumerate() {
                let offset = self.store_message(queue, BatchPart::of(place, count), draft);
                answers[number] = Ok(Sent::at(queue.queue(), offset));
            }
        }
    }

    fn store_message(&mut self, queue: QueueKey, batch: BatchPart, draft: D) -> Offset {
        let offset = self.state.apply_message(queue);
        self.remember(draft.class().id, queue, offset);
        self.state.lite.touched(queue, self.now);
        self.hide(queue, offset);
        self.out.push(Action::Store { queue, offset, batch, head: None, draft });
        offset
    }

    /// Notes the id of a message that was just given its place.
    pub(super) fn remember(&mut self, id: u128, queue: QueueKey, offset: Offset) {
        self.state.seen.remember(Row { id, queue, offset: offset.0, time: self.now });
    }

    fn stored_before(&self, topic: &Topic, class: &Class) -> Option<Row> {
        if !topic.options.dedup {
            return None;
        }
        self.state.seen.find(class.id, self.now).filter(|row| row.queue.topic() == topic.id)
    }

    /// The answer that the first send with this id got.
    fn repeated(&self, topic: &Topic, row: &Row, draft: &D) -> Sent {
        let ticket = self.half_ticket(topic, row).or_else(|| self.timer_ticket(topic, row, draft));
        Sent { queue: row.queue.queue(), offset: Offset(row.offset), duplicate: true, ticket }
    }

    /// Queues of this shard that take messages, in the order of their numbers.
    pub(super) fn open_queues<'a>(&self, topic: &'a Topic) -> impl Iterator<Item = QueueId> + use<'a, D> {
        let shard = self.shard;
        placement::open_queues(topic).filter(move |(_, place)| place.shard == shard).map(|(queue, _)| queue)
    }

    /// The next writable queue in turn: messages without a group spread evenly.
    pub(super) fn next_queue(&mut self, topic: &Topic) -> Option<QueueId> {
        if topic.queues.is_empty() || !topic.permission.can_write() {
            return None;
        }
        let count = topic.queues.len() as u32;
        let turn = self.rotation.entry(topic.id).or_insert(0);
        for _ in 0..count {
            let queue = *turn % count;
            *turn = (queue + 1) % count;
            let place = topic.queues[queue as usize];
            if place.shard == self.shard && place.state == QueueState::Active {
                return Some(QueueId(queue));
            }
        }
        None
    }
}
