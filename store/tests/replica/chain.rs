//! A log in memory: frames as links of a chain, without their content.

use gantry_model::{Epoch, Lsn};
use gantry_store::replica::log::{EpochTable, Link, Log, Tail};

/// Frames in order, the first of them at `start`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    links: Vec<Link>,
    /// The log as it was before the first link.
    before: Tail,
}

impl Chain {
    /// Appends a frame. `content` makes its checksum.
    pub fn append(&mut self, epoch: Epoch, len: u64, content: u64) -> Link {
        let Tail { end: lsn, crc: prev_crc, .. } = self.tail();
        let crc = [u64::from(prev_crc), u64::from(epoch.0), len, content]
            .iter()
            .fold(0x811C_9DC5_u64, |crc, word| (crc ^ word).wrapping_mul(0x0100_0000_01B3));
        let link = Link { lsn, prev_crc, tail: Tail { end: Lsn(lsn.0 + len), epoch, crc: (crc ^ (crc >> 32)) as u32 } };
        self.links.push(link);
        link
    }

    pub fn extend(&mut self, links: &[Link]) {
        for link in links {
            assert_eq!((link.lsn, link.prev_crc), (self.tail().end, self.tail().crc), "P9: frames follow each other");
            assert!(link.tail.epoch >= self.tail().epoch, "P9: epochs do not decrease");
            self.links.push(*link);
        }
    }

    /// Cuts what lies behind `end`.
    pub fn cut(&mut self, end: Lsn) {
        self.links.retain(|link| link.tail.end <= end);
        assert_eq!(self.tail().end, end, "a cut is between two frames");
    }

    /// Forgets what lies before `start`.
    pub fn trim(&mut self, start: Lsn) {
        let gone = self.links.iter().take_while(|link| link.tail.end <= start).count();
        self.before = gone.checked_sub(1).map_or(self.before, |last| self.links[last].tail);
        self.links.drain(..gone);
    }

    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// Links from `from` on that fit into so many bytes, one at least.
    pub fn links_from(&self, from: Lsn, bytes: u64) -> Vec<Link> {
        let behind = self.links.iter().filter(|link| link.lsn >= from);
        behind.enumerate().take_while(|(at, link)| *at == 0 || link.tail.end.0 - from.0 <= bytes).map(|(_, link)| *link).collect()
    }

    /// Frames that both have, by address: the ends up to which the logs are the same.
    pub fn shared_end(&self, other: &Chain) -> Lsn {
        let same = self.links.iter().rev().find(|link| other.tail_at(link.tail.end) == Some(link.tail));
        same.map_or(self.before.end.min(other.before.end), |link| link.tail.end)
    }

    pub fn contains(&self, link: &Link) -> bool {
        self.links.binary_search_by_key(&link.lsn, |own| own.lsn).is_ok_and(|at| self.links[at] == *link)
    }
}

impl Log for Chain {
    fn start(&self) -> Lsn {
        self.before.end
    }

    fn tail(&self) -> Tail {
        self.links.last().map_or(self.before, |link| link.tail)
    }

    fn tail_at(&self, lsn: Lsn) -> Option<Tail> {
        if lsn == self.before.end {
            return Some(self.before);
        }
        self.links.binary_search_by_key(&lsn, |link| link.tail.end).ok().map(|at| self.links[at].tail)
    }

    fn epochs(&self) -> EpochTable {
        let mut table = EpochTable::default();
        self.links.iter().for_each(|link| table.note(link.tail.epoch, link.lsn));
        table
    }
}
