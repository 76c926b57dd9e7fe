//! Messages on their way into the log: which queue each one goes to, and whether it was here before.
//!
//! Messages of one message group always go to the same queue, a priority is a queue of its own, everything else takes turns. What becomes
//! visible later (delayed messages, open transactions) is parked; see `timers` and `transactions`.

use super::core::{Action, BatchPart, Core, Draft, Reply, Token};
use super::state::seen::Row;
use gantry_model::contract::broker::{SendError, Sent};
use gantry_model::topic::QueueState;
use gantry_model::{ClientId, MessageKind, Offset, QueueId, QueueKey, Topic};

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
            MessageKind::Fifo => self.queue_of_group(topic, draft.class().group.unwrap_or(0)),
            MessageKind::Priority => self.queue_of_priority(topic, draft.class().priority.unwrap_or(0)),
            MessageKind::Normal | MessageKind::Delay => self.next_queue(topic),
        };
        match queue {
            Some(queue) => Fate::Queue(QueueKey::new(topic.id, queue), draft),
            None => Fate::Answered(Err(SendError::NoWritableQueue)),
        }
    }

    /// Whether the quota of the topic leaves no room for so many bytes.
    fn why_no_room(&self, topic: &Topic, bytes: usize) -> Option<SendError> {
        let most = topic.options.quota.stored_bytes?;
        let held = self.state.held(topic.id);
        (held + bytes as u64 > most).then(|| SendError::QuotaExceeded {
            what: format!("topic `{}` holds {held} bytes and may hold {most}; the oldest go as its retention says", topic.name),
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
    pub(super) fn open_queues(&self, topic: &Topic) -> impl Iterator<Item = QueueId> + '_ {
        let writable = topic.permission.can_write();
        let queues: Vec<QueueId> = topic
            .queues()
            .filter(|(_, place)| writable && place.shard == self.shard && place.state == QueueState::Active)
            .map(|(queue, _)| queue)
            .collect();
        queues.into_iter()
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

    /// All messages of a group go to one queue, which changes for few groups when the number of queues does.
    pub(super) fn queue_of_group(&self, topic: &Topic, group: u64) -> Option<QueueId> {
        let queues: Vec<QueueId> = self.open_queues(topic).collect();
        let count = u32::try_from(queues.len()).ok().filter(|&count| count > 0)?;
        queues.get(jump(group, count) as usize).copied()
    }

    /// Queue `n` holds priority `n`; what is above the highest queue goes there.
    pub(super) fn queue_of_priority(&self, topic: &Topic, priority: u8) -> Option<QueueId> {
        let queues: Vec<QueueId> = self.open_queues(topic).collect();
        queues.get(usize::from(priority)).or(queues.last()).copied()
    }
}

/// Jump consistent hash (Lamping and Veach, 2014): spreads keys evenly, and moves one key in `n + 1` when a bucket is added to `n`.
fn jump(mut key: u64, buckets: u32) -> u32 {
    let (mut bucket, mut next) = (0, 0i64);
    while next < i64::from(buckets) {
        bucket = next;
        key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        next = ((bucket + 1) as f64 * ((1u64 << 31) as f64 / ((key >> 33) + 1) as f64)) as i64;
    }
    bucket as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_keys_move_when_a_queue_is_added() {
        let moved = (0..10_000u64).filter(|key| jump(key.wrapping_mul(0x9E37_79B9_7F4A_7C15), 8) != jump(key.wrapping_mul(0x9E37_79B9_7F4A_7C15), 9));
        let moved = moved.count();
        assert!((900..1_350).contains(&moved), "{moved} of 10,000 keys moved, a ninth was expected");
        assert!((0..1_000u64).all(|key| jump(key, 1) == 0));
    }

    #[test]
    fn the_queue_of_a_key_never_changes() {
        assert_eq!([(42, 57), (0xDEAD_10CC, 666), (256, 1_024)].map(|(key, count)| jump(key, count)), [43, 361, 520]);
    }
}
