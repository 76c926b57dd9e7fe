//! What clients were told, by message id; and the promises that follow from it.

use crate::Report;
use crate::client::Delivered;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[derive(Debug, Default)]
struct Book {
    sending: BTreeSet<String>,
    /// The offset that each acknowledged send was told; the answer doesn't name the queue.
    sent: BTreeMap<String, i64>,
    acked: BTreeSet<String>,
    /// Every place at which a message was seen, and which.
    seen: BTreeMap<(i32, i64), String>,
    places: BTreeMap<String, BTreeSet<(i32, i64)>>,
    deliveries: usize,
    repeated: usize,
    broken: Vec<String>,
}

/// Shared by producers and consumers.
#[derive(Debug, Default)]
pub struct Ledger {
    book: Mutex<Book>,
    draining: AtomicBool,
}

impl Ledger {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub fn sending(&self, id: &str) {
        self.book().sending.insert(id.to_owned());
    }

    pub fn sent(&self, id: &str, offset: i64) {
        self.book().sent.insert(id.to_owned(), offset);
    }

    pub fn acked(&self, id: &str) {
        self.book().acked.insert(id.to_owned());
    }

    pub fn delivered(&self, delivery: &Delivered) {
        let mut book = self.book();
        let (id, place) = (&delivery.id, (delivery.queue, delivery.offset));
        book.deliveries += 1;
        if !book.sending.contains(id) {
            book.broken.push(format!("{id} was delivered and never sent"));
        }
        if book.acked.contains(id) {
            book.broken.push(format!("{id} was acknowledged and came again at {place:?}"));
        }
        if let Some(other) = book.seen.insert(place, id.clone()) {
            book.repeated += 1;
            if other != *id {
                book.broken.push(format!("{place:?} held {other} and now holds {id}"));
            }
        }
        book.places.entry(id.clone()).or_default().insert(place);
    }

    /// Producers stop.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Messages that were sent and not acknowledged.
    pub fn backlog(&self) -> usize {
        let book = self.book();
        book.sent.len().saturating_sub(book.acked.len())
    }

    /// Waits until everything is acknowledged and nothing more comes. `false` if nothing happens for half a minute and something is left.
    pub async fn wait_until_quiet(&self) -> bool {
        let (mut quiet, mut stuck, mut before) = (0, 0, 0);
        while stuck < 120 {
            gantry_platform::clock::sleep(Duration::from_millis(250)).await;
            let (acked, all) = {
                let book = self.book();
                (book.acked.len(), book.sent.keys().all(|id| book.acked.contains(id)))
            };
            quiet = if acked == before && all { quiet + 1 } else { 0 };
            stuck = if acked == before { stuck + 1 } else { 0 };
            before = acked;
            if quiet > 8 {
                return true;
            }
        }
        false
    }

    /// Panics if a promise is broken.
    pub fn verify(&self) {
        let book = self.book();
        let mut broken = book.broken.clone();
        for (id, offset) in &book.sent {
            match book.places.get(id) {
                None => broken.push(format!("{id} was acknowledged at offset {offset} and never delivered")),
                Some(places) if !places.iter().any(|place| place.1 == *offset) => {
                    broken.push(format!("{id} was acknowledged at offset {offset} and delivered at {places:?}"));
                }
                Some(_) => {}
            }
        }
        let mut queues: BTreeMap<i32, BTreeSet<i64>> = BTreeMap::new();
        for &(queue, offset) in book.seen.keys() {
            queues.entry(queue).or_default().insert(offset);
        }
        for (queue, offsets) in queues {
            let count = offsets.len() as i64;
            if offsets.first() != Some(&0) || offsets.last() != Some(&(count - 1)) {
                broken.push(format!("queue {queue} is not dense: {count} offsets from {:?} to {:?}", offsets.first(), offsets.last()));
            }
        }
        assert!(broken.is_empty(), "{} broken promises, first: {:#?}", broken.len(), &broken[..broken.len().min(10)]);
    }

    pub fn summary(&self) -> String {
        let book = self.book();
        format!("{} sends acknowledged, {} messages acknowledged, {} deliveries", book.sent.len(), book.acked.len(), book.deliveries)
    }

    pub fn report(&self, kills: u32, slowest_restart: Duration) -> Report {
        let book = self.book();
        Report { kills, sent: book.sent.len(), acked: book.acked.len(), delivered: book.deliveries, repeated: book.repeated, slowest_restart }
    }
}
