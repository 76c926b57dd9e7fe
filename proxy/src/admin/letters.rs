//! Dead letters of a group: listed, sent again, removed.

use super::lookup::{Bodies, cut, to_wire};
use super::progress::{Progress, Work};
use super::{Page, foreign_token, group, lookup_error, token, topic};
use crate::convert;
use crate::shared::Shared;
use gantry_model::contract::broker::{LetterError, LetterId, Query};
use gantry_model::message::{DeadReason, StoredMessage as Stored};
use gantry_model::{Group, Offset, QueueId, Topic};
use gantry_platform::clock::sleep;
use gantry_proto::admin::dead_letter_selector::Selector;
use gantry_proto::admin::*;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tonic::Status;

/// Most places and most message ids of one selector.
const PLACES_MAX: usize = 10_000;
const IDS_MAX: usize = 1_000;
/// Letters looked for with one message id.
const COPIES_MAX: usize = 100;
/// Letters that are sent again in one step; their bodies are in memory meanwhile.
const REDRIVE_STEP: usize = 32;
/// Letters that are removed in one step.
const PURGE_STEP: usize = 1_000;
/// A broker that is busy is asked again after this pause, so many times.
const BUSY_PAUSE: Duration = Duration::from_millis(100);
const BUSY_MAX: u32 = 100;

/// A group with its dead letter queue.
struct DeadLetters {
    shared: Arc<Shared>,
    group: Arc<Group>,
    topic: Arc<Topic>,
}

/// The letters that somebody means and nobody has looked at yet.
#[derive(Debug)]
enum Meant {
    /// Ascending, each once.
    Places(VecDeque<LetterId>),
    Ranges(VecDeque<Range>),
}

/// Letters of one queue, by offset.
#[derive(Clone, Copy, Debug)]
struct Range {
    queue: QueueId,
    from: u64,
    to: u64,
}

impl DeadLetters {
    fn of(shared: &Arc<Shared>, namespace: &str, name: &str) -> Result<DeadLetters, Status> {
        let group = group(shared, namespace, name)?;
        let topic = shared.metadata.topic_by_id(group.dead_letter);
        let topic = topic.ok_or_else(|| Status::not_found(format!("group `{}` has no dead letter queue", group.name)))?;
        Ok(DeadLetters { shared: shared.clone(), group, topic })
    }

    /// What a selector means at this moment.
    async fn meant(&self, selector: Selector) -> Result<Meant, Status> {
        match selector {
            Selector::Places(places) if (1..=PLACES_MAX).contains(&places.places.len()) => {
                let places: BTreeSet<LetterId> = places.places.iter().map(place).collect();
                Ok(Meant::Places(places.into_iter().collect()))
            }
            Selector::Places(_) => Err(Status::invalid_argument(format!("name 1 to {PLACES_MAX} places"))),
            Selector::MessageIds(ids) if (1..=IDS_MAX).contains(&ids.message_ids.len()) => self.with_ids(ids.message_ids).await,
            Selector::MessageIds(_) => Err(Status::invalid_argument(format!("name 1 to {IDS_MAX} message ids"))),
            Selector::Died(TimeRange { from: None, to: None }) => Err(Status::invalid_argument("a time range has at least one end")),
            Selector::Died(range) => {
                let from_ms = range.from.as_ref().map_or(0, convert::ms);
                self.ranges(from_ms, range.to.as_ref().map_or(u64::MAX, convert::ms)).await
            }
            Selector::All(true) => self.ranges(0, u64::MAX).await,
            Selector::All(false) => Err(nothing_meant()),
        }
    }

    async fn with_ids(&self, ids: Vec<String>) -> Result<Meant, Status> {
        let mut places = BTreeSet::new();
        for id in ids {
            let found = self.shared.broker.find(&self.topic, Query::MessageId(id), COPIES_MAX).await.map_err(lookup_error)?;
            places.extend(found.iter().map(|letter| LetterId { queue: letter.queue, offset: letter.offset }));
        }
        Ok(Meant::Places(places.into_iter().collect()))
    }

    /// What died in a time, as far as it did by now.
    async fn ranges(&self, from_ms: u64, to_ms: u64) -> Result<Meant, Status> {
        let mut ranges = VecDeque::new();
        for (queue, _) in self.topic.queues() {
            let from = self.shared.broker.offset_at(&self.topic, queue, from_ms).await.map_err(lookup_error)?.0;
            let to = self.shared.broker.offset_at(&self.topic, queue, to_ms).await.map_err(lookup_error)?.0;
            ranges.push_back(Range { queue, from, to });
        }
        Ok(Meant::Ranges(ranges))
    }

    /// The next letters that are there, and takes them off what is meant; none when there are no more.
    async fn next(&self, meant: &mut Meant, most: usize) -> Result<Vec<Stored>, Status> {
        let mut letters = Vec::new();
        while letters.len() < most {
            let (queue, offset, limit) = match meant {
                Meant::Places(places) => match places.pop_front() {
                    Some(place) => (place.queue, place.offset, 1),
                    None => break,
                },
                Meant::Ranges(ranges) => match ranges.front() {
                    Some(range) if range.from < range.to => (range.queue, Offset(range.from), most - letters.len()),
                    Some(_) => {
                        ranges.pop_front();
                        continue;
                    }
                    None => break,
                },
            };
            let mut found = self.shared.broker.find(&self.topic, Query::Offset { queue, offset }, limit).await.map_err(lookup_error)?;
            match meant {
                Meant::Places(_) => found.retain(|letter| letter.offset == offset),
                Meant::Ranges(ranges) => {
                    let Some(range) = ranges.front_mut() else { break };
                    range.from = found.last().map_or(range.to, |last| last.offset.0 + 1);
                    found.retain(|letter| letter.offset.0 < range.to);
                }
            }
            letters.extend(found);
        }
        Ok(letters)
    }
}

impl Meant {
    /// Leaves out what comes up to a place, and the place itself.
    fn begin_behind(&mut self, last: LetterId) {
        match self {
            Meant::Places(places) => places.retain(|place| *place > last),
            Meant::Ranges(ranges) => {
                ranges.retain(|range| range.queue >= last.queue);
                ranges.iter_mut().filter(|range| range.queue == last.queue).for_each(|range| range.from = range.from.max(last.offset.0 + 1));
            }
        }
    }

    /// The next places, whether there are letters or not.
    fn places(&mut self, most: usize) -> Vec<LetterId> {
        let mut taken = Vec::new();
        while taken.len() < most {
            match self {
                Meant::Places(places) => match places.pop_front() {
                    Some(place) => taken.push(place),
                    None => break,
                },
                Meant::Ranges(ranges) => match ranges.front_mut() {
                    Some(range) if range.from < range.to => {
                        taken.push(LetterId { queue: range.queue, offset: Offset(range.from) });
                        range.from += 1;
                    }
                    Some(_) => drop(ranges.pop_front()),
                    None => break,
                },
            }
        }
        taken
    }
}

fn place(place: &QueueOffset) -> LetterId {
    LetterId { queue: QueueId(place.queue), offset: Offset(place.offset) }
}

fn nothing_meant() -> Status {
    Status::invalid_argument("say which dead letters: places, message_ids, died or all")
}

fn selector(wanted: Option<DeadLetterSelector>) -> Result<Selector, Status> {
    wanted.and_then(|wanted| wanted.selector).ok_or_else(nothing_meant)
}

pub async fn list(shared: &Arc<Shared>, request: ListDeadLettersRequest) -> Result<ListDeadLettersResponse, Status> {
    let page = Page::read(request.page_size, &request.page_token)?;
    let dead = DeadLetters::of(shared, &request.namespace, &request.group)?;
    let wanted = match request.selector {
        Some(wanted) => selector(Some(wanted))?,
        None => Selector::All(true),
    };
    let mut meant = dead.meant(wanted).await?;
    if let Some(key) = &page.after {
        meant.begin_behind(read_place(key)?);
    }
    let mut letters = dead.next(&mut meant, page.size + 1).await?;
    let all = letters.len();
    cut(&mut letters, page.size);
    let next_page_token = match letters.last() {
        Some(last) if letters.len() < all => token(&format!("{}.{}", last.queue, last.offset)),
        _ => String::new(),
    };
    let bodies = if request.omit_body { Bodies::Omitted } else { Bodies::Kept };
    let letters = letters.into_iter().map(|letter| letter_to_wire(&dead.topic, letter, bodies)).collect();
    Ok(ListDeadLettersResponse { letters, next_page_token })
}

fn read_place(key: &str) -> Result<LetterId, Status> {
    let numbers = key.split_once('.').and_then(|(queue, offset)| Some((queue.parse().ok()?, offset.parse::<u64>().ok()?)));
    let (queue, offset) = numbers.filter(|(_, offset)| *offset < u64::MAX).ok_or_else(foreign_token)?;
    Ok(LetterId { queue: QueueId(queue), offset: Offset(offset) })
}

fn letter_to_wire(topic: &Topic, mut letter: Stored, bodies: Bodies) -> DeadLetter {
    let origin = letter.origin.take();
    let message = Some(to_wire(topic, letter, bodies, Vec::new()));
    let Some(origin) = origin else { return DeadLetter { message, ..Default::default() } };
    DeadLetter {
        message,
        origin_topic: origin.name.map_or_else(String::new, |name| name.name),
        origin_queue: origin.queue.0,
        origin_offset: origin.offset.0,
        attempts: origin.attempts,
        reason: reason(origin.reason) as i32,
    }
}

pub fn reason(reason: DeadReason) -> DeadLetterReason {
    match reason {
        DeadReason::MaxAttempts => DeadLetterReason::MaxAttempts,
        DeadReason::Forwarded => DeadLetterReason::Forwarded,
    }
}

/// Dead letters on their way to be sent again.
pub struct Redrive {
    dead: DeadLetters,
    meant: Meant,
    to: Option<Arc<Topic>>,
    pace: Option<Pace>,
    told: RedriveDeadLettersResponse,
}

/// How fast letters may go.
struct Pace {
    per_second: f64,
    /// In the clock's monotonic time.
    began: Duration,
    sent: u64,
}

pub async fn redrive(shared: &Arc<Shared>, request: RedriveDeadLettersRequest) -> Result<Progress<Redrive>, Status> {
    let dead = DeadLetters::of(shared, &request.namespace, &request.group)?;
    let to = match request.to_topic.as_str() {
        "" => None,
        name => Some(topic(shared, &request.namespace, name)?),
    };
    if to.as_ref().is_some_and(|to| to.name.is_system()) {
        return Err(Status::invalid_argument("names that begin with `%` belong to the server; letters go to ordinary topics"));
    }
    if !request.per_second.is_finite() || request.per_second < 0.0 {
        return Err(Status::invalid_argument("`per_second` is a number of letters; 0 is as fast as it goes"));
    }
    let pace = (request.per_second > 0.0).then(|| Pace { per_second: request.per_second, began: shared.clock.mono(), sent: 0 });
    let meant = dead.meant(selector(request.selector)?).await?;
    tracing::info!(group = %dead.group.name, to = request.to_topic, per_second = request.per_second, "dead letters are sent again");
    Ok(Progress::of(Redrive { dead, meant, to, pace, told: RedriveDeadLettersResponse::default() }))
}

impl Redrive {
    /// Waits until the next letters may go, and answers how many.
    async fn turn(&mut self) -> usize {
        let Some(pace) = &mut self.pace else { return REDRIVE_STEP };
        let due = pace.began + Duration::try_from_secs_f64(pace.sent as f64 / pace.per_second).unwrap_or(Duration::MAX);
        sleep(due.saturating_sub(self.dead.shared.clock.mono())).await;
        // Ten steps a second at most, so that the rate is smooth.
        let step = ((pace.per_second / 10.0) as usize).clamp(1, REDRIVE_STEP);
        pace.sent += step as u64;
        step
    }

    async fn send(&mut self, letters: Vec<LetterId>) -> Result<(), Status> {
        let mut left = letters;
        let mut busy = 0;
        while !left.is_empty() {
            let answers = self.dead.shared.broker.redrive(&self.dead.group, left.clone(), self.to.clone()).await;
            let mut again = Vec::new();
            for (letter, answer) in left.into_iter().zip(answers) {
                match answer {
                    Ok(_) => self.told.redriven += 1,
                    Err(LetterError::Gone) => self.told.gone += 1,
                    Err(LetterError::Busy | LetterError::NoLeader) if busy < BUSY_MAX => again.push(letter),
                    Err(error @ (LetterError::DiskFull { .. } | LetterError::Busy | LetterError::NoLeader)) => {
                        return Err(Status::resource_exhausted(error.to_string()));
                    }
                    Err(error) => self.failed(letter, &error),
                }
            }
            left = again;
            if !left.is_empty() {
                busy += 1;
                sleep(BUSY_PAUSE).await;
            }
        }
        Ok(())
    }

    fn failed(&mut self, letter: LetterId, error: &LetterError) {
        self.told.failed += 1;
        let place = Some(QueueOffset { queue: letter.queue.0, offset: letter.offset.0 });
        self.told.failures.push(DeadLetterFailure { place, why: error.to_string() });
    }
}

impl Work for Redrive {
    type Report = RedriveDeadLettersResponse;

    async fn step(&mut self) -> Result<Option<RedriveDeadLettersResponse>, Status> {
        if self.told.done {
            return Ok(None);
        }
        self.told.failures.clear();
        let most = self.turn().await;
        let named = matches!(self.meant, Meant::Places(_));
        // Who names a letter is told if it isn't there; a range has what it has.
        let letters = match named {
            true => self.meant.places(most),
            false => {
                let found = self.dead.next(&mut self.meant, most).await?;
                found.iter().map(|letter| LetterId { queue: letter.queue, offset: letter.offset }).collect()
            }
        };
        self.told.done = letters.is_empty();
        self.send(letters).await?;
        if self.told.done {
            let RedriveDeadLettersResponse { redriven, gone, failed, .. } = self.told;
            tracing::info!(group = %self.dead.group.name, redriven, gone, failed, "dead letters were sent again");
        }
        Ok(Some(self.told.clone()))
    }
}

/// Dead letters on their way out.
pub struct Purge {
    dead: DeadLetters,
    meant: Meant,
    told: PurgeDeadLettersResponse,
}

pub async fn purge(shared: &Arc<Shared>, request: PurgeDeadLettersRequest) -> Result<Progress<Purge>, Status> {
    let dead = DeadLetters::of(shared, &request.namespace, &request.group)?;
    let meant = dead.meant(selector(request.selector)?).await?;
    tracing::info!(group = %dead.group.name, "dead letters are removed");
    Ok(Progress::of(Purge { dead, meant, told: PurgeDeadLettersResponse::default() }))
}

impl Work for Purge {
    type Report = PurgeDeadLettersResponse;

    async fn step(&mut self) -> Result<Option<PurgeDeadLettersResponse>, Status> {
        if self.told.done {
            return Ok(None);
        }
        let named = matches!(self.meant, Meant::Places(_));
        let letters = self.meant.places(PURGE_STEP);
        self.told.done = letters.is_empty();
        for answer in self.dead.shared.broker.purge(&self.dead.group, letters).await {
            match answer {
                Ok(()) => self.told.purged += 1,
                Err(LetterError::Gone) => self.told.gone += u64::from(named),
                Err(error) => return Err(Status::unavailable(error.to_string())),
            }
        }
        if self.told.done {
            tracing::info!(group = %self.dead.group.name, purged = self.told.purged, "dead letters were removed");
        }
        Ok(Some(self.told))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(queue: u32, offset: u64) -> LetterId {
        LetterId { queue: QueueId(queue), offset: Offset(offset) }
    }

    #[test]
    fn what_is_meant_is_taken_in_order_and_once() {
        let range = |queue, from, to| Range { queue: QueueId(queue), from, to };
        let mut meant = Meant::Ranges([range(0, 3, 5), range(1, 7, 7), range(2, 0, 2)].into());
        assert_eq!(meant.places(3), [letter(0, 3), letter(0, 4), letter(2, 0)]);
        assert_eq!(meant.places(3), [letter(2, 1)]);
        assert_eq!(meant.places(3), []);
    }

    #[test]
    fn a_page_begins_behind_the_last_letter_of_the_one_before() {
        let mut meant = Meant::Ranges([Range { queue: QueueId(0), from: 0, to: 9 }, Range { queue: QueueId(1), from: 2, to: 4 }].into());
        meant.begin_behind(letter(1, 2));
        assert_eq!(meant.places(10), [letter(1, 3)]);
        let mut meant = Meant::Places([letter(0, 1), letter(0, 2), letter(1, 0)].into());
        meant.begin_behind(letter(0, 1));
        assert_eq!(meant.places(10), [letter(0, 2), letter(1, 0)]);
        assert_eq!(read_place("1.2").ok(), Some(letter(1, 2)));
        for foreign in ["", "1", "1.x", "1.18446744073709551615"] {
            assert!(read_place(foreign).is_err(), "`{foreign}`");
        }
    }
}
