//! Looks through the copies here for damage, slowly and for ever, and at once where somebody could not read; what is found is repaired from peers.
//!
//! Only whole segments are read, each frame with its checksum and its link to the one before. That the end of a log fits to the leader's is checked by
//! every append, and each frame is tied to all before it: so a log that is sound in itself is the leader's.

use super::host::{Host, Opened};
use super::repair::Peers;
use gantry_model::{Lsn, ShardId};
use gantry_platform::clock::sleep;
use gantry_platform::tasks::{self, Stop};
use gantry_store::log::{ReadError, Scrub};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Between two slices.
const PAUSE: Duration = Duration::from_secs(1);
/// Bytes of a slice: 256 GiB take nine hours.
const SLICE: u64 = 8 * 1024 * 1024;
/// A place that could not be repaired is tried again after so many slices.
const PATIENCE: u32 = 30;

/// Where the scrub is in one copy.
#[derive(Clone, Copy, Debug)]
struct Place {
    scrub: Scrub,
    /// Where the segment ends.
    end: Lsn,
}

/// Goes on until it is told to stop.
pub async fn run(host: Arc<Host>, peers: Peers, stop: Stop) {
    let mut scrubbing = Scrubbing { host, peers, next: ShardId(0), places: BTreeMap::new(), wait: 0 };
    loop {
        tokio::select! {
            biased;
            () = stop.stopped() => return,
            () = sleep(PAUSE) => {}
        }
        scrubbing.slice().await;
    }
}

struct Scrubbing {
    host: Arc<Host>,
    peers: Peers,
    next: ShardId,
    places: BTreeMap<ShardId, Place>,
    wait: u32,
}

impl Scrubbing {
    async fn slice(&mut self) {
        let open = self.host.open();
        self.places.retain(|shard, _| open.contains_key(shard));
        for (shard, copy) in &open {
            for base in copy.handle.reader().take_doubted() {
                if let Some(end) = segment_end(copy, base) {
                    self.look(*shard, copy, Place { scrub: copy.handle.reader().scrub_from(base), end }, u64::MAX).await;
                }
            }
        }
        self.wait = self.wait.saturating_sub(1);
        if self.wait > 0 {
            return;
        }
        let Some((shard, copy)) = open.range(self.next..).next().or_else(|| open.iter().next()) else { return };
        let place = self.places.remove(shard).filter(|place| place.scrub.at < place.end && place.scrub.at >= copy.handle.reader().start());
        let Some(place) = place.or_else(|| first_place(copy)) else {
            self.next = ShardId(shard.0 + 1);
            return;
        };
        let Some(place) = self.look(*shard, copy, place, SLICE).await else { return };
        // The next segment, or the next copy when this one was looked through.
        let next = if place.scrub.at < place.end { Some(place) } else { place_at(copy, place.end) };
        match next {
            Some(next) => drop(self.places.insert(*shard, next)),
            None => self.next = ShardId(shard.0 + 1),
        }
    }

    /// Reads a part of a segment, and mends what can't be read. `None` if it could not be mended.
    async fn look(&mut self, shard: ShardId, copy: &Opened, place: Place, most: u64) -> Option<Place> {
        let (reader, mut scrub) = (copy.handle.reader(), place.scrub);
        let looked = tasks::blocking("scrub", move || {
            let found = reader.scrub(&mut scrub, place.end, most);
            (scrub, found)
        });
        let (scrub, found) = looked.await.ok()?;
        self.host.counts().scrubbed.fetch_add(scrub.at.0 - place.scrub.at.0, Ordering::Relaxed);
        let error = match found {
            Ok(()) => return Some(Place { scrub, ..place }),
            // Retention took it meanwhile.
            Err(ReadError::Trimmed { .. } | ReadError::Beyond { .. }) => return Some(Place { scrub, end: scrub.at }),
            Err(error) => error,
        };
        tracing::error!(%shard, %error, "a copy is damaged; it is repaired from another broker");
        self.host.counts().damaged.fetch_add(1, Ordering::Relaxed);
        match self.host.mend_running(&self.peers, shard, scrub.at, place.end).await {
            Ok(()) => Some(Place { scrub, ..place }),
            Err(why) => {
                tracing::error!(%shard, at = %scrub.at, %why, "a damaged copy can't be repaired yet");
                self.wait = PATIENCE;
                self.places.insert(shard, Place { scrub, ..place });
                None
            }
        }
    }
}

/// The end of what can be looked through in the segment that begins at `base`.
fn segment_end(copy: &Opened, base: Lsn) -> Option<Lsn> {
    let reader = copy.handle.reader();
    let segment = reader.segments().into_iter().find(|segment| segment.base == base)?;
    let end = if segment.sealed { Lsn(segment.base.0 + segment.len) } else { reader.durable() };
    (end > base).then_some(end)
}

/// The first sealed segment.
fn first_place(copy: &Opened) -> Option<Place> {
    place_at(copy, copy.handle.reader().start())
}

/// The sealed segment that begins at `base`.
fn place_at(copy: &Opened, base: Lsn) -> Option<Place> {
    let reader = copy.handle.reader();
    let segment = reader.segments().into_iter().find(|segment| segment.base == base && segment.sealed)?;
    Some(Place { scrub: reader.scrub_from(base), end: Lsn(base.0 + segment.len) })
}
