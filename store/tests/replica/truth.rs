//! What is true whatever happens: remembers all that was ever committed, and looks whether anybody disagrees.

use crate::broker::{Broker, Word};
use crate::cluster::Faults;
use gantry_model::{Epoch, Lsn};
use gantry_store::replica::leader::Durability;
use gantry_store::replica::log::Link;
use gantry_store::replica::reign::{Entry, Reign};
use gantry_store::replica::{Incarnation, Log, Member};
use std::collections::{BTreeMap, BTreeSet};

/// The memory of somebody who sees everything.
pub struct Truth {
    faults: Faults,
    /// Frames that a leader knew to be committed, by address.
    committed: BTreeMap<Lsn, Link>,
    /// Who appended in which epoch.
    leaders: BTreeMap<Epoch, (Member, Incarnation)>,
    granted: BTreeSet<Epoch>,
    /// Epochs of which the `EpochStart` was committed.
    started: BTreeSet<Epoch>,
    /// What each process knew to be committed.
    known: BTreeMap<(Member, Incarnation), Lsn>,
    promised: BTreeMap<Member, Epoch>,
}

impl Truth {
    pub fn new(faults: Faults) -> Truth {
        let (leaders, known, promised) = Default::default();
        Truth { faults, committed: BTreeMap::new(), leaders, granted: BTreeSet::new(), started: BTreeSet::new(), known, promised }
    }

    /// After each step.
    pub fn look(&mut self, brokers: &[Broker]) {
        for broker in brokers.iter().filter(|broker| broker.leader.is_some()) {
            self.look_at_leader(broker, brokers);
        }
        for broker in brokers {
            self.look_at_replica(broker);
        }
        for (at, a) in brokers.iter().enumerate() {
            brokers[..at].iter().for_each(|b| same_below_equal_checksums(a, b));
        }
    }

    /// An operator gave up what these replicas lack: what is left is what they know.
    pub fn forgive(&mut self, left: &[Broker]) {
        let known = left.iter().flat_map(|broker| broker.log.links().iter().filter(|link| link.tail.end <= broker.follower.hw()));
        self.committed = known.map(|link| (link.lsn, *link)).collect();
    }

    /// A replica has begun to lead.
    pub fn begins(&mut self, broker: &Broker) {
        let epoch = broker.leader.as_ref().map(|leader| leader.epoch()).expect("it leads");
        let who = (broker.member, broker.incarnation);
        assert_eq!(*self.leaders.entry(epoch).or_insert(who), who, "P1: one process appends in an epoch");
        assert!(!broker.disk.promise.suspect, "P7: no suspect leads");
        let start = broker.log.start();
        for link in self.committed.values().filter(|link| link.lsn >= start) {
            assert!(broker.log.contains(link), "P3: the leader of epoch {epoch} lacks the committed frame at {}", link.lsn);
        }
        let last = self.committed.keys().next_back().copied().unwrap_or_default();
        assert!(broker.log.tail().end > last, "P3: the leader of epoch {epoch} lacks all behind its start");
    }

    /// The controller's state has changed.
    pub fn applied(&mut self, entry: &Entry, reign: &Reign, brokers: &[Broker]) {
        match entry {
            Entry::BeginEpoch { .. } | Entry::BeginUnclean { .. } => {}
            Entry::Grant(grant) => {
                assert!(self.granted.insert(grant.epoch), "P1: an epoch is granted once");
                for config in reign.configs() {
                    let sealed = |broker: &&Broker| config.contains(broker.member) && broker.disk.promise.epoch >= grant.epoch;
                    assert!(brokers.iter().filter(sealed).count() >= config.r(), "P8: {config:?} was not sealed");
                }
            }
            Entry::ConfigStable(epoch) => assert!(self.started.contains(epoch), "P8: epoch {epoch} has committed nothing"),
        }
    }

    /// P6: who was sealed for an epoch acknowledges nothing of an older one afterwards.
    pub fn spoke_in_order(&self, brokers: &[Broker]) {
        for broker in brokers {
            let mut sealed = Epoch(0);
            for word in &broker.memory.words {
                match word {
                    Word::Sealed(epoch) => sealed = sealed.max(*epoch),
                    Word::Acked(epoch) => {
                        assert!(*epoch >= sealed, "P6: {} acknowledged epoch {epoch} after it was sealed for {sealed}", broker.member)
                    }
                }
            }
        }
    }

    fn look_at_leader(&mut self, broker: &Broker, brokers: &[Broker]) {
        let Some(leader) = &broker.leader else { return };
        let news: Vec<Link> =
            broker.log.links().iter().filter(|link| link.tail.end <= leader.hw() && !self.committed.contains_key(&link.lsn)).copied().collect();
        if leader.started() {
            self.started.insert(leader.epoch());
        }
        let Some(last) = news.last() else { return };
        if self.faults.durability == Durability::Disk && !self.faults.damage {
            let has = |other: &&Broker| leader.config().contains(other.member) && (other.disk.log.contains(last) || other.log.start() > last.lsn);
            assert!(brokers.iter().filter(has).count() >= leader.config().w(), "P5: {} is not durable on W members", last.lsn);
        }
        self.committed.extend(news.iter().map(|link| (link.lsn, *link)));
    }

    fn look_at_replica(&mut self, broker: &Broker) {
        let hw = broker.follower.hw();
        let known = self.known.entry((broker.member, broker.incarnation)).or_default();
        assert!(hw >= *known, "P4: what {} knows to be committed went back", broker.member);
        *known = hw;
        let promised = self.promised.entry(broker.member).or_default();
        assert!(broker.disk.promise.epoch >= *promised, "P6: the promise of {} went back", broker.member);
        *promised = broker.disk.promise.epoch;
        for link in broker.log.links().iter().take_while(|link| link.tail.end <= hw) {
            assert_eq!(self.committed.get(&link.lsn), Some(link), "P3, P4: {} takes something else for committed", broker.member);
        }
    }
}

/// P2: equal checksums at equal addresses mean equal frames before.
fn same_below_equal_checksums(a: &Broker, b: &Broker) {
    let end = a.log.shared_end(&b.log);
    let start = a.log.start().max(b.log.start());
    let below = |broker: &Broker| broker.log.links().iter().filter(|link| link.lsn >= start && link.tail.end <= end).copied().collect::<Vec<Link>>();
    assert_eq!(below(a), below(b), "P2: {} and {} differ below {end}", a.member, b.member);
}
