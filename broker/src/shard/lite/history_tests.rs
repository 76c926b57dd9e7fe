//! Random histories of lite topics, with crashes: every message of a subscribed lite topic comes to its group, in order, and none comes twice.

use super::tests::{parent, readers};
use crate::record::Forget;
use crate::shard::core::{Event, Given};
use crate::shard::rig::{Rig, handle};
use crate::shard::state::snapshot;
use gantry_model::contract::broker::{AttemptCount, LiteChange, LiteStart};
use gantry_model::group::LiteSharing;
use gantry_model::{ClientId, Group, QueueKey};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
const CLIENTS: [&str; 3] = ["x", "y", "z"];

#[derive(Clone, Debug)]
enum Step {
    Send(Vec<usize>),
    Sync { client: usize, change: u8, names: Vec<usize> },
    Receive { client: usize, max: u32, ordered: bool },
    Ack(usize),
    Nack(usize, u64),
    Suspend(usize),
    Release(usize),
    Gone(usize),
    DropIdle,
    Sleep(u64),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let names = || prop::collection::vec(0..NAMES.len(), 0..4);
    let step = prop_oneof![
        5 => names().prop_map(Step::Send),
        4 => (0..CLIENTS.len(), 0u8..3, names()).prop_map(|(client, change, names)| Step::Sync { client, change, names }),
        6 => (0..CLIENTS.len(), 1u32..5, any::<bool>()).prop_map(|(client, max, ordered)| Step::Receive { client, max, ordered }),
        6 => (0usize..64).prop_map(Step::Ack),
        2 => (0usize..64, 0u64..20_000).prop_map(|(at, after)| Step::Nack(at, after)),
        1 => (0usize..64).prop_map(Step::Suspend),
        1 => (0usize..64).prop_map(Step::Release),
        1 => (0..CLIENTS.len()).prop_map(Step::Gone),
        1 => Just(Step::DropIdle),
        2 => (0u64..15_000).prop_map(Step::Sleep),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..100)
}

/// What the history must look like from outside.
struct Witness {
    group: Arc<Group>,
    exclusive: bool,
    wanted: BTreeMap<&'static str, BTreeSet<&'static str>>,
    /// Where the group stands, by lite topic: everything below is acknowledged.
    acked: BTreeMap<QueueKey, BTreeSet<u64>>,
    /// Where the group began.
    begun: BTreeMap<QueueKey, u64>,
    held: Vec<Given>,
}

impl Witness {
    fn name(rig: &Rig, queue: QueueKey) -> &'static str {
        let name = rig.core.state.lite.get(queue).expect("only lite topics that there are give messages").name.clone();
        NAMES.into_iter().find(|known| **known == *name).expect("one of ours")
    }

    fn synced(&mut self, rig: &mut Rig, client: &'static str, change: LiteChange, names: &[&'static str]) {
        rig.sync(&self.group, client, change, names);
        for lost in std::mem::take(&mut rig.lost) {
            assert!(self.exclusive, "only in an exclusive group anything is lost");
            assert_ne!(lost.client.as_str(), client);
        }
        // What the state says of subscriptions is checked against the messages that come.
        for other in CLIENTS {
            let key = (parent().id, self.group.id, ClientId::new(other));
            let member = rig.core.state.lite.member(&key).cloned().unwrap_or_default();
            let numbers = member.wanted.iter().map(|&id| Witness::name(rig, QueueKey::new(parent().id, id)));
            self.wanted.insert(other, numbers.collect());
        }
        if self.exclusive {
            let all: Vec<_> = self.wanted.values().flatten().collect();
            assert_eq!(all.len(), all.iter().collect::<BTreeSet<_>>().len(), "nobody shares an exclusive lite topic");
        }
        let wanted = &self.wanted[client];
        match change {
            LiteChange::Add => assert!(names.iter().all(|name| wanted.contains(name))),
            LiteChange::Remove => assert!(!names.iter().any(|name| wanted.contains(name))),
            LiteChange::Replace => assert!(wanted.iter().all(|name| names.contains(name))),
            LiteChange::Clear => assert!(wanted.is_empty()),
        }
        for cursor in rig.core.state.cursors().filter(|(_, group, _)| *group == self.group.id) {
            self.begun.entry(cursor.0).or_insert(cursor.2.base);
        }
    }

    fn received(&mut self, rig: &Rig, client: &str, given: Vec<Given>) {
        let mut last: BTreeMap<QueueKey, u64> = BTreeMap::new();
        for one in &given {
            let name = Witness::name(rig, one.queue);
            assert!(self.wanted.get(client).is_some_and(|wanted| wanted.contains(name)), "`{client}` doesn't subscribe `{name}`");
            let done = self.acked.entry(one.queue).or_default();
            assert!(!done.contains(&one.offset), "an acknowledged message came again: {one:?}");
            let from = last.get(&one.queue).map_or(self.begun[&one.queue], |last| last + 1);
            let skipped = (from..one.offset).find(|offset| !done.contains(offset));
            assert_eq!(skipped, None, "{one:?} came before a message in front of it was finished");
            last.insert(one.queue, one.offset);
        }
        self.held.extend(given);
    }

    fn pick(&mut self, at: usize) -> Option<Given> {
        let count = self.held.len();
        (count > 0).then(|| self.held.swap_remove(at % count))
    }

    fn step(&mut self, rig: &mut Rig, step: Step) {
        match step {
            Step::Send(names) => {
                let names: Vec<&str> = names.into_iter().map(|at| NAMES[at]).collect();
                assert!(rig.send_lites(&parent(), &names).iter().all(Result::is_ok));
            }
            Step::Sync { client, change, names } => {
                let names: Vec<&'static str> = names.into_iter().map(|at| NAMES[at]).collect();
                let change = [LiteChange::Add, LiteChange::Remove, LiteChange::Replace][usize::from(change)];
                self.synced(rig, CLIENTS[client], change, &names);
            }
            Step::Receive { client, max, ordered } => {
                let token = rig.poll_lite(&self.group, CLIENTS[client], max, ordered, 0);
                let given = rig.answer(token);
                if !ordered {
                    assert_eq!(given.len(), given.iter().map(|given| given.queue).collect::<BTreeSet<_>>().len(), "one of each");
                }
                self.received(rig, CLIENTS[client], given);
            }
            Step::Ack(at) => {
                let Some(given) = self.pick(at) else { return };
                if rig.ack(&self.group, &[given]) == [Ok(())] {
                    self.acked.entry(given.queue).or_default().insert(given.offset);
                }
            }
            Step::Nack(at, after) => {
                let Some(given) = self.pick(at) else { return };
                let _ = rig.change(&self.group, &given, after, AttemptCount::Counts);
            }
            Step::Suspend(at) => {
                let Some(given) = self.pick(at) else { return };
                let _ = rig.change(&self.group, &given, 0, AttemptCount::Suspended);
            }
            Step::Release(at) => {
                let Some(given) = self.pick(at) else { return };
                rig.step(Event::Release { handles: vec![handle(&self.group, &given)] });
                rig.settle();
            }
            Step::Gone(client) => {
                rig.step(Event::ClientGone { client: ClientId::new(CLIENTS[client]) });
                rig.settle();
                self.wanted.remove(CLIENTS[client]);
            }
            Step::DropIdle => self.drop_idle(rig),
            Step::Sleep(ms) => rig.sleep(ms),
            Step::Restart => {}
        }
    }

    fn drop_idle(&mut self, rig: &mut Rig) {
        let before: BTreeMap<QueueKey, u64> =
            rig.core.state.lite.by_name(parent().id, "").map(|(_, queue)| (queue, rig.core.state.bounds(queue).next)).collect();
        let now = rig.now;
        rig.drop_idle(&NAMES, now);
        for (queue, stored) in before.into_iter().filter(|(queue, _)| rig.core.state.lite.get(*queue).is_none()) {
            let begun = self.begun.remove(&queue);
            let acked = self.acked.remove(&queue).unwrap_or_default();
            let unfinished = begun.into_iter().flat_map(|begun| begun..stored).find(|offset| !acked.contains(offset));
            assert_eq!(unfinished, None, "a lite topic ended before the group had all of {queue:?}");
        }
    }

    /// Once all leases have ended, one client gets everything that is left, in order.
    fn end(mut self, mut rig: Rig) {
        let mut copy = rig.core.state.clone();
        copy.touch_all();
        let parts = copy.freeze().into_iter().map(|(number, part)| (number, part.expect("everything counts as changed").encode()));
        assert!(snapshot::restore(parts).expect("every part comes back") == rig.core.state, "a checkpoint keeps everything");
        rig.sleep(100_000);
        self.synced(&mut rig, "x", LiteChange::Add, &NAMES);
        let mut empty = 0;
        while empty < 2 {
            let given = rig.receive_lite(&self.group, "x");
            empty = if given.is_empty() { empty + 1 } else { 0 };
            self.received(&rig, "x", given.clone());
            for one in &given {
                assert_eq!(rig.ack(&self.group, &[*one]), [Ok(())]);
                self.acked.entry(one.queue).or_default().insert(one.offset);
            }
        }
        for (queue, begun) in &self.begun {
            let acked = self.acked.get(queue).cloned().unwrap_or_default();
            let stored: BTreeSet<u64> = (*begun..rig.core.state.bounds(*queue).next).collect();
            assert_eq!(&acked & &stored, stored, "everything since the group began on {queue:?} has come");
        }
        rig.step(Event::Forget { what: Forget::Group(self.group.id) });
        assert_eq!(rig.core.state.lite.subscriptions(), 0);
        rig.restart();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn subscribed_messages_come_in_order_and_none_is_lost(steps in steps(), exclusive in any::<bool>()) {
        let sharing = if exclusive { LiteSharing::Exclusive } else { LiteSharing::Shared };
        let group = readers(1, sharing, false);
        let mut rig = Rig::new();
        let (wanted, acked, begun) = Default::default();
        let mut witness = Witness { group, exclusive, wanted, acked, begun, held: Vec::new() };
        for step in steps {
            let restart = matches!(step, Step::Restart);
            witness.step(&mut rig, step);
            if restart {
                rig = rig.restart();
            }
        }
        witness.end(rig);
    }

    #[test]
    fn a_receive_that_waits_gets_what_arrives_while_it_waits(names in prop::collection::vec((0..NAMES.len(), 0u64..3), 1..15)) {
        let group = readers(1, LiteSharing::Shared, false);
        let mut rig = Rig::new();
        assert_eq!(rig.sync_from(&group, "x", LiteChange::Replace, &NAMES, LiteStart::Min), Ok(()));
        let mut got = 0;
        for (at, pause) in &names {
            let waiting = rig.poll_lite(&group, "x", 32, true, 60_000);
            assert!(!rig.replies.contains_key(&waiting), "all before was taken");
            rig.send_lite(NAMES[*at]);
            let given = rig.answer(waiting);
            assert_eq!(given.len(), 1);
            got += given.len();
            rig.sleep(*pause);
            rig.ack(&group, &given);
        }
        assert_eq!(got, names.len());
    }
}
