//! The log that was committed, as seen from outside, and what every replica must be to it.
//!
//! After each round of a replica its log is compared: what a leader commits is written down here, frame by frame, and nothing that is here may ever
//! be missing from a later leader, or differ anywhere.

use crate::marks::Mark;
use crate::sim::{Process, Said, Sim};
use gantry_broker::replica::View;
use gantry_model::{Epoch, Lsn};
use gantry_store::log::{CommitLog, own_links};
use gantry_store::replica::log::{Link, Log, Tail};
use gantry_store::replica::{Config, Member};
use std::collections::BTreeMap;

/// What is known of one replica's copy.
#[derive(Clone, Debug)]
struct Copy {
    process: Process,
    /// What it knew to be committed in this process.
    hw: Lsn,
    /// Up to here its frames were compared.
    compared: Lsn,
    start: Lsn,
    end: Lsn,
    durable: Lsn,
    /// What it told a leader to have durably, of the log that it has now.
    acked: Lsn,
    /// The newest epoch that it told anybody to have promised.
    promised: Epoch,
    leads: Option<Epoch>,
}

#[derive(Debug, Default)]
pub struct Ghost {
    frames: BTreeMap<Lsn, Tail>,
    end: Option<Tail>,
    /// Where the commits of each leader ended.
    committed: BTreeMap<Epoch, Tail>,
    leaders: BTreeMap<Epoch, Process>,
    copies: BTreeMap<Member, Copy>,
    /// A leader died in the middle of a round: what it committed there, only its followers can tell.
    blind: bool,
}

type Checked = Result<(), String>;

impl Ghost {
    /// A process has opened its copy.
    pub fn opened(&mut self, process: Process, member: Member, view: &View) -> Checked {
        let Some(copy) = self.copies.get_mut(&member) else {
            let copy = Copy {
                process,
                hw: view.hw,
                compared: Lsn(0),
                start: Lsn(0),
                end: view.end,
                durable: view.durable,
                acked: Lsn(0),
                promised: view.promised,
                leads: None,
            };
            self.copies.insert(member, copy);
            return Ok(());
        };
        if view.promised < copy.promised {
            return Err(format!("P6: {member} promised epoch {}, and remembers {}", copy.promised, view.promised));
        }
        if view.end < copy.acked && !view.suspect {
            return Err(format!("D1: {member} acknowledged everything before {}, and its log ends at {}", copy.acked, view.end));
        }
        *copy = Copy { process, hw: view.hw, compared: Lsn(0), end: view.end, durable: view.durable, leads: None, ..copy.clone() };
        Ok(())
    }

    /// A replica gives its word.
    pub fn said(&mut self, said: &Said) -> Checked {
        match said {
            Said::Ack(ack) => {
                let Some(copy) = self.copies.get_mut(&ack.member) else { return Ok(()) };
                if ack.epoch < copy.promised {
                    return Err(format!("P6: {} acknowledges in epoch {} after it promised {}", ack.member, ack.epoch, copy.promised));
                }
                copy.acked = copy.acked.max(ack.durable);
                // It may die before its round is over. That it spoke the truth is seen when it starts again.
                copy.durable = copy.durable.max(ack.durable);
            }
            Said::Promise(member, epoch) => {
                let Some(copy) = self.copies.get_mut(member) else { return Ok(()) };
                copy.promised = copy.promised.max(*epoch);
            }
        }
        Ok(())
    }

    /// A leader did not come to the end of its round.
    pub fn lost_sight(&mut self) {
        self.blind = true;
    }

    /// A replica took a round.
    pub fn observe(&mut self, sim: &Sim, process: Process, member: Member, view: &View, log: &CommitLog, config: Option<&Config>) -> Checked {
        let Some(copy) = self.copies.get_mut(&member).filter(|copy| copy.process == process) else { return Ok(()) };
        if view.hw < copy.hw {
            return Err(format!("P4: the high watermark of {member} went from {} to {}", copy.hw, view.hw));
        }
        let end = log.end();
        if end < copy.end {
            sim.inside().marks.add(Mark::Cuts);
            if log.segments().last().is_some_and(|segment| segment.base < copy.end && copy.end.0 - end.0 > segment.file) {
                sim.inside().marks.add(Mark::CutsOfWholeSegments);
            }
        }
        if end < copy.hw.max(view.hw) {
            return Err(format!("P4: {member} cut its log at {end}, below what is committed at {}", copy.hw.max(view.hw)));
        }
        if log.start() > copy.start {
            copy.start = log.start();
            sim.inside().marks.add(Mark::Trims);
        }
        copy.acked = copy.acked.min(end);
        let committed = view.hw > copy.hw;
        (copy.hw, copy.end, copy.durable) = (view.hw, end, log.durable());
        let began = view.leads.is_some() && view.leads != copy.leads;
        let leader = view.leads.or(copy.leads);
        copy.leads = view.leads;
        let from = copy.compared.max(log.start());
        if let Some(epoch) = view.leads.filter(|_| began) {
            self.begins(process, member, epoch, log)?;
        }
        self.compare(member, leader, view.hw, log, from)?;
        if view.leads.is_some() && committed {
            self.check_copies(config, view.hw, member)?;
        }
        Ok(())
    }

    /// P1 and P3: nobody else leads this epoch, and the leader has everything.
    fn begins(&mut self, process: Process, member: Member, epoch: Epoch, log: &CommitLog) -> Checked {
        if let Some(other) = self.leaders.insert(epoch, process).filter(|other| *other != process) {
            return Err(format!("P1: {process:?} and {other:?} lead in epoch {epoch}"));
        }
        // A leader that comes late may lack what later ones have committed.
        for (_, tail) in self.committed.range(..epoch) {
            if tail.end > log.end() || tail.end >= log.start() && log.tail_at(tail.end) != Some(*tail) {
                return Err(format!(
                    "P3: {member} leads epoch {epoch} without what was committed before it, up to {}: its log ends at {} and there it has {:?}",
                    tail.end,
                    log.end(),
                    log.tail_at(tail.end)
                ));
            }
        }
        Ok(())
    }

    /// P2: what is committed is the same everywhere. A leader adds to it.
    fn compare(&mut self, member: Member, leader: Option<Epoch>, hw: Lsn, log: &CommitLog, from: Lsn) -> Checked {
        let mut at = from;
        let reader = log.reader();
        while at < hw {
            let raw = reader.raw(at, 64 * 1024).map_err(|error| format!("P9: {member} can't read its own log at {at}: {error}"))?;
            let links = own_links(&raw.bytes, at);
            let Some(last) = links.last() else { return Err(format!("P9: nothing is at {at} in the log of {member}")) };
            let next = last.tail.end;
            for link in links.into_iter().take_while(|link| link.lsn < hw) {
                self.compare_one(member, leader, link)?;
            }
            at = next;
        }
        if let Some(copy) = self.copies.get_mut(&member) {
            copy.compared = hw.max(from);
        }
        Ok(())
    }

    fn compare_one(&mut self, member: Member, leader: Option<Epoch>, link: Link) -> Checked {
        match self.frames.get(&link.lsn) {
            Some(tail) if *tail == link.tail => Ok(()),
            Some(tail) => Err(format!("P2: at {} {member} has {:?}, and {tail:?} was committed", link.lsn, link.tail)),
            None if leader.is_some() || self.blind => self.commit(member, leader, link),
            None => Err(format!("P5: {member} takes {link:?} for committed, and no leader committed it")),
        }
    }

    fn commit(&mut self, member: Member, leader: Option<Epoch>, link: Link) -> Checked {
        let expected = self.end.map_or(Lsn(0), |tail| tail.end);
        if link.lsn != expected && !self.frames.is_empty() && self.end.is_some_and(|tail| link.prev_crc != tail.crc || link.lsn < tail.end) {
            return Err(format!("P2: {member} commits {:?} behind {:?}", link, self.end));
        }
        self.frames.insert(link.lsn, link.tail);
        self.end = Some(link.tail);
        self.committed.insert(leader.unwrap_or(link.tail.epoch), link.tail);
        Ok(())
    }

    /// P5: what is committed is durable on W members.
    fn check_copies(&self, config: Option<&Config>, hw: Lsn, leader: Member) -> Checked {
        let Some(config) = config else { return Ok(()) };
        let have = config.members().iter().filter(|member| self.copies.get(member).is_some_and(|copy| copy.durable >= hw)).count();
        if have < config.w() {
            return Err(format!("P5: {leader} commits up to {hw}, which {have} of {} members have durably", config.members().len()));
        }
        Ok(())
    }

    /// Frames that were committed.
    pub fn frames(&self) -> &BTreeMap<Lsn, Tail> {
        &self.frames
    }

    pub fn end(&self) -> Lsn {
        self.end.map_or(Lsn(0), |tail| tail.end)
    }
}
