//! Unclean recovery: what is known of the copies of a shard that nobody can lead, and whether an operator may have the best of them go on alone.
//!
//! Nothing here happens by itself. What is acknowledged and not in the copy that goes on is lost, so the order is refused whenever something
//! better can be had, or could be had soon: a leader, a clean election, a copy that is on its way. See `docs/design/018-unclean-recovery.md`.

use super::facts;
use super::sessions::Sessions;
use crate::state::State;
use crate::state::event::Event;
use crate::state::nodes::Health;
use crate::state::shards::{Shard, UncleanEpochBegun};
use gantry_model::contract::directory::{Copy, LogEnd, Recover, Survey, Surveyed, loss_phrase};
use gantry_model::{Epoch, Lsn, NodeId, ShardId};
use gantry_proto::controller as pb;
use gantry_store::replica::elector::{self, can_seal, heard_by_enough};
use gantry_store::replica::{Member, Reign};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A controller that leads for a shorter time does not know yet who is there.
const GATHER: Duration = Duration::from_secs(6);
/// Longest name of an operator that is kept.
const NAME_CHARS: usize = 120;

/// Where what is known comes from.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub state: &'a State,
    pub sessions: &'a Sessions,
    /// For how long this controller has led.
    pub led_for: Duration,
}

/// One member of the shard.
struct Known {
    member: Member,
    suspect: bool,
    log: Result<LogEnd, Away>,
}

/// Why a copy can't be used.
enum Away {
    /// Nothing is to be expected of it.
    Lost(String),
    /// It may be of use soon.
    Wait(String),
}

impl Away {
    fn why(self) -> String {
        let (Away::Lost(why) | Away::Wait(why)) = self;
        why
    }
}

impl View<'_> {
    /// What is known of the copies, and which of them would go on.
    pub fn survey(&self, id: ShardId) -> Result<Survey, String> {
        let shard = self.state.shards_placed().get(id).ok_or_else(|| format!("there is no shard {id}, or it was never given copies"))?;
        let reign = facts::reign(shard).ok_or_else(|| format!("what is known of shard {id} makes no sense"))?;
        let known: Vec<Known> = reign.members().into_iter().map(|member| self.know(shard, member)).collect();
        let best = self.best(shard, &reign, &known);
        let copies = known.into_iter().map(|known| {
            let log = known.log.map_err(Away::why);
            Surveyed { copy: Copy { node: known.member.node, store: known.member.store.0 }, suspect: known.suspect, log }
        });
        Ok(Survey { shard: id, epoch: shard.epoch, copies: copies.collect(), best })
    }

    /// The event that an order asks for, if it is still what the operator saw.
    pub fn recover(&self, order: &Recover, time_ms: u64) -> Result<Event, String> {
        let Recover { shard: id, epoch, node, phrase, by } = order;
        let wanted = loss_phrase(*id);
        if *phrase != wanted {
            return Err(format!("nothing was changed: who means it says `{wanted}`"));
        }
        let Survey { epoch: now, best, copies, .. } = self.survey(*id)?;
        if now != *epoch {
            return Err(format!("shard {id} is in epoch {now} now, not in {epoch}; look at it again"));
        }
        let best = best?;
        if best != *node {
            return Err(format!("the best copy of shard {id} is on node {best} now, not on node {node}; look at it again"));
        }
        let kept = copies.iter().find(|surveyed| surveyed.copy.node == best).ok_or_else(|| format!("node {best} holds no copy of shard {id}"))?;
        let kept = facts::replica(Member { node: best, store: gantry_store::replica::StoreId(kept.copy.store) });
        let by = by.chars().filter(|c| !c.is_control()).take(NAME_CHARS).collect();
        Ok(Event::UncleanEpochBegun { shard: *id, begin: UncleanEpochBegun { expect: now, kept, by, time_ms } })
    }

    fn know(&self, shard: &Shard, member: Member) -> Known {
        let copy = self.sessions.copy(shard.id, member);
        let suspect = copy.is_some_and(|copy| copy.suspect);
        Known { member, suspect, log: self.log_end(member.node, copy) }
    }

    fn log_end(&self, node: NodeId, copy: Option<&pb::Standing>) -> Result<LogEnd, Away> {
        match copy {
            Some(copy) if !copy.failed.is_empty() => Err(Away::Lost(format!("it failed: {}", copy.failed))),
            // Frames may still come to it, so its end is not the end.
            Some(copy) if copy.hears > 0 => Err(Away::Wait(format!("it hears the leader of epoch {}", copy.hears))),
            Some(copy) if copy.serves => Err(Away::Wait(format!("it leads epoch {}", copy.leads))),
            Some(copy) => {
                Ok(LogEnd { last_epoch: Epoch(copy.last_epoch), end: Lsn(copy.end), hw: Lsn(copy.high_watermark), last_time_ms: copy.last_time_ms })
            }
            None if self.sessions.spec(node).is_some() => Err(Away::Wait("its broker is there, and it is not open yet".to_owned())),
            None => match self.state.nodes().get(node) {
                Some(known) if known.health == Health::Up => Err(Away::Wait("its broker was heard of a moment ago".to_owned())),
                Some(_) => Err(Away::Lost("its broker is down".to_owned())),
                None => Err(Away::Lost("its broker was removed".to_owned())),
            },
        }
    }

    /// The copy that would go on alone, or why none is to.
    fn best(&self, shard: &Shard, reign: &Reign, known: &[Known]) -> Result<NodeId, String> {
        let id = shard.id;
        let sessions = self.sessions.of(id, reign, self.state, &BTreeMap::new());
        if let Some(grant) = reign.led_by() {
            let leader = grant.leader.node;
            match sessions.get(&grant.leader) {
                Some(standing) if standing.serves == Some(grant.epoch) => {
                    return Err(format!("node {leader} leads shard {id}; nothing is to be recovered"));
                }
                None if heard_by_enough(reign, &sessions, grant) => {
                    return Err(format!(
                        "shard {id} is led by node {leader}, which its followers hear and the controllers don't; nothing is to be recovered"
                    ));
                }
                _ => {}
            }
        }
        if self.led_for < GATHER {
            return Err(
                "this controller leads since a moment ago and does not know yet which brokers are there; ask again in some seconds".to_owned()
            );
        }
        for Known { member, log, .. } in known {
            if let Err(Away::Wait(why)) = log {
                return Err(format!("the copy on node {} may be needed: {why}; wait, and look again", member.node));
            }
        }
        let sound: BTreeSet<Member> = known.iter().filter(|known| known.log.is_ok() && !known.suspect).map(|known| known.member).collect();
        let clean: elector::Sessions = sessions.into_iter().filter(|(member, _)| sound.contains(member)).collect();
        if reign.is_unclean() && known.iter().any(|known| known.log.is_ok()) {
            return Err(format!("shard {id} is being recovered already; wait until it is led"));
        }
        if can_seal(reign, &clean) {
            return Err(format!(
                "{} of the {} copies of shard {id} answer, which is enough to choose a leader without a loss; wait for it, and look into the logs of \
                 the controllers and of these brokers if none comes",
                clean.len(),
                known.len()
            ));
        }
        let usable = known.iter().filter_map(|known| Some((known, known.log.as_ref().ok()?)));
        let best = usable.max_by_key(|(known, log)| (log.last_epoch, log.end, !known.suspect, Reverse(known.member)));
        best.map(|(known, _)| known.member.node)
            .ok_or_else(|| format!("no copy of shard {id} answers, so there is nothing to go on with; bring back a broker that holds one"))
    }
}

/// How a survey is told.
pub fn tell_survey(survey: Survey) -> pb::Survey {
    use pb::survey::Verdict;
    let copy = |surveyed: Surveyed| {
        let Copy { node, store } = surveyed.copy;
        let (log, away) = match surveyed.log {
            Ok(LogEnd { last_epoch, end, hw, last_time_ms }) => {
                (Some(pb::LogEnd { last_epoch: last_epoch.0, end: end.0, high_watermark: hw.0, last_time_ms }), String::new())
            }
            Err(why) => (None, why),
        };
        pb::SurveyedCopy { replica: Some(pb::Replica { node: node.0, store: store.to_vec().into() }), away, suspect: surveyed.suspect, log }
    };
    let verdict = survey.best.map_or_else(Verdict::No, |node| Verdict::Best(node.0));
    pb::Survey { shard: survey.shard.0, epoch: survey.epoch.0, copies: survey.copies.into_iter().map(copy).collect(), verdict: Some(verdict) }
}

/// What was told; `None` for what makes no sense.
pub fn read_survey(survey: pb::Survey) -> Option<Survey> {
    use pb::survey::Verdict;
    let copy = |surveyed: pb::SurveyedCopy| {
        let Member { node, store } = facts::read_replica(surveyed.replica.as_ref())?;
        let end = |log: pb::LogEnd| LogEnd {
            last_epoch: Epoch(log.last_epoch),
            end: Lsn(log.end),
            hw: Lsn(log.high_watermark),
            last_time_ms: log.last_time_ms,
        };
        Some(Surveyed { copy: Copy { node, store: store.0 }, suspect: surveyed.suspect, log: surveyed.log.map(end).ok_or(surveyed.away) })
    };
    let best = match survey.verdict? {
        Verdict::Best(node) => Ok(NodeId(node)),
        Verdict::No(why) => Err(why),
    };
    let copies: Option<Vec<Surveyed>> = survey.copies.into_iter().map(copy).collect();
    Some(Survey { shard: ShardId(survey.shard), epoch: Epoch(survey.epoch), copies: copies?, best })
}
