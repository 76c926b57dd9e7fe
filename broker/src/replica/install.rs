//! A leader's state on its way to a replica that lacks what is gone from the log: offered by the leader, fetched by the replica piece by piece.
//!
//! ```text
//! leader:  Offer ──▶ replica: Fetch(0) ──▶ leader: Piece ──▶ ... ──▶ replica: has all of it, becomes a suspect, gives up its log, is opened anew
//! ```
//! What comes then is in `gantry_store::install`. A piece or a stream that is lost costs a new offer, and the replica goes on where it was.

use super::message::{Fetch, Message, Offer, Outlet, Piece};
use bytes::{Bytes, BytesMut};
use gantry_model::{Epoch, Lsn};
use gantry_platform::disk::SharedDisk;
use gantry_store::install::Image;
use gantry_store::log::Origin;
use gantry_store::replica::Member;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

/// Bytes of one piece.
const PIECE: usize = 1024 * 1024;
/// A replica that asked for nothing for so long is offered again.
const QUIET: Duration = Duration::from_secs(2);
/// A state that nobody asks for is read anew after this time.
const OLD: Duration = Duration::from_secs(60);

/// A leader's state, as it is sent.
#[derive(Clone, Debug)]
pub struct Packed {
    state: Lsn,
    bytes: Bytes,
}

/// Reads the newest state on a leader's disk. `Ok(None)` if there is none.
pub(super) fn pack(disk: &SharedDisk, shard_dir: &Path, origin: Origin) -> Result<Option<Packed>, String> {
    let image = Image::read(&**disk, shard_dir, origin).map_err(|error| error.to_string())?;
    Ok(image.map(|image| Packed { state: image.state.lsn, bytes: image.encode() }))
}

/// A state that one replica is offered.
struct Offered {
    packed: Packed,
    made: Duration,
    /// When it was offered or asked for last.
    spoke: Option<Duration>,
}

/// What a leader offers to whom.
#[derive(Default)]
pub(super) struct Offers {
    offered: BTreeMap<Member, Offered>,
    being_read: BTreeSet<Member>,
}

impl Offers {
    /// A replica needs a state. Answers whether one is to be read for it.
    pub fn need(&mut self, member: Member, outlet: &dyn Outlet, epoch: Epoch, now: Duration) -> bool {
        if self.being_read.contains(&member) {
            return false;
        }
        match self.offered.get_mut(&member) {
            Some(offered) if offered.spoke.is_some_and(|spoke| now < spoke + QUIET) => false,
            Some(offered) if now < offered.made + OLD => {
                offered.spoke = Some(now);
                let Packed { state, bytes } = &offered.packed;
                outlet.send(Message::Offer(Offer { epoch, state: *state, bytes: bytes.len() as u64 }));
                false
            }
            _ => {
                self.offered.remove(&member);
                self.being_read.insert(member);
                true
            }
        }
    }

    /// A state was read.
    pub fn have(&mut self, member: Member, packed: Result<Option<Packed>, String>, now: Duration) {
        self.being_read.remove(&member);
        match packed {
            Ok(Some(packed)) => drop(self.offered.insert(member, Offered { packed, made: now, spoke: None })),
            Ok(None) => tracing::warn!(%member, "a replica needs the state, and no checkpoint was made yet; it is offered the next one"),
            Err(error) => tracing::warn!(%member, %error, "the state can't be read for a replica; it is tried again"),
        }
    }

    /// A replica asks for a piece.
    pub fn fetch(&mut self, fetch: &Fetch, outlet: &dyn Outlet, now: Duration) {
        let Some(offered) = self.offered.get_mut(&fetch.member).filter(|offered| offered.packed.state == fetch.state) else { return };
        let Packed { state, bytes } = &offered.packed;
        let Some(from) = usize::try_from(fetch.from).ok().filter(|from| *from < bytes.len()) else { return };
        offered.spoke = Some(now);
        let piece = bytes.slice(from..bytes.len().min(from + PIECE));
        outlet.send(Message::Piece(Piece { epoch: fetch.epoch, state: *state, from: fetch.from, bytes: piece }));
    }

    /// A new stream: what was said on the one before may be lost.
    pub fn again(&mut self, member: Member) {
        if let Some(offered) = self.offered.get_mut(&member) {
            offered.spoke = None;
        }
    }

    /// It follows again, or is not wanted any more.
    pub fn drop_for(&mut self, member: Member) {
        self.offered.remove(&member);
    }
}

/// A state that is being fetched.
#[derive(Debug)]
pub(super) struct Fetching {
    epoch: Epoch,
    state: Lsn,
    whole: u64,
    got: BytesMut,
}

impl Fetching {
    /// Goes on with what is being fetched if it is this one, else begins with it. Answers what to ask for first.
    pub fn begin(fetching: &mut Option<Fetching>, offer: &Offer, member: Member) -> Fetch {
        let same = |fetching: &&mut Fetching| (fetching.epoch, fetching.state, fetching.whole) == (offer.epoch, offer.state, offer.bytes);
        let Offer { epoch, state, bytes: whole } = *offer;
        match fetching.as_mut().filter(same) {
            Some(fetching) => fetching.next(member),
            None => fetching.insert(Fetching { epoch, state, whole, got: BytesMut::new() }).next(member),
        }
    }

    /// A piece came. Answers the whole state when it was the last one, else what to ask for next; `None` for a piece that was not asked for.
    pub fn take(&mut self, piece: &Piece, member: Member) -> Option<Result<Bytes, Fetch>> {
        let expected = (piece.epoch, piece.state, piece.from) == (self.epoch, self.state, self.got.len() as u64);
        if !expected || self.got.len() as u64 + piece.bytes.len() as u64 > self.whole {
            return None;
        }
        self.got.extend_from_slice(&piece.bytes);
        let done = self.got.len() as u64 == self.whole;
        Some(if done { Ok(self.got.split().freeze()) } else { Err(self.next(member)) })
    }

    fn next(&self, member: Member) -> Fetch {
        Fetch { member, epoch: self.epoch, state: self.state, from: self.got.len() as u64 }
    }
}
