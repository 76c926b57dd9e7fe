//! What the world is like after a step.

use crate::scope::Scope;
use crate::step::{self, Step};
use crate::world::World;
use crate::{controller, replicas};
use stateright::{Model, Property};

impl Model for Scope {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let happen = |world: World, step: &Step| {
            let mut possible = Vec::new();
            step::possible(self, &world, &mut possible);
            assert!(possible.contains(step), "{step:?} can't happen before the run");
            self.next_state(&world, *step).expect("a step that is possible has an effect")
        };
        vec![self.before.iter().fold(World::new(self), happen)]
    }

    fn actions(&self, world: &World, out: &mut Vec<Step>) {
        step::possible(self, world, out);
    }

    fn next_state(&self, before: &World, step: Step) -> Option<World> {
        let mut world = before.clone();
        match step {
            Step::BeginEpoch(members) => controller::begin(self, &mut world, members),
            Step::Seal(node) => replicas::seal(&mut world, node),
            Step::Grant(node) => controller::grant(&mut world, node),
            Step::Become(node) => replicas::begin(self, &mut world, node),
            Step::Send(node) => replicas::send(self, &mut world, node),
            Step::Sync(node) => replicas::sync(self, &mut world, node),
            Step::Append { from, to, end } => replicas::append(self, &mut world, from, to, end),
            Step::Commit { leader, end } => {
                if !replicas::commit(self, &mut world, leader, end) {
                    return None;
                }
            }
            Step::TellCommitted { from, to } => {
                let (leader, follower) = (world.replica(from), world.replica(to));
                world.replica_mut(to).hw = leader.hw.min(leader.log.shared(&follower.log));
            }
            Step::ConfigStable(node) => controller::stabilise(self, &mut world, node),
            Step::Crash { node, keep } => replicas::crash(self, &mut world, node, keep),
            Step::LoseFolder(node) => replicas::lose_folder(&mut world, node),
            Step::Rejoin { leader, node } => replicas::rejoin(&mut world, leader, node),
            Step::Trim(node) => {
                let leader = world.replica_mut(node);
                leader.log.trim(leader.hw.min(leader.durable));
            }
            Step::GiveUp { leader, node } => replicas::give_up(self, &mut world, leader, node),
            Step::Install { leader, node } => replicas::install(&mut world, leader, node),
        }
        if !self.late {
            world.replicas.iter_mut().for_each(|replica| replica.sent = None);
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Scope>> {
        vec![
            Property::always("nothing is broken (P1, P2, P4)", |_, world: &World| world.broken.is_none()),
            Property::always("a leader has all that was committed (P3)", |_, world: &World| world.leader_is_complete()),
            Property::sometimes("something commits in a second epoch", |_, world: &World| {
                world.answered.iter().flatten().any(|entry| entry.epoch >= 2 && entry.value > 0)
            }),
            Property::sometimes("all changes of members end", |scope: &Scope, world: &World| scope.all_changed(world)),
            Property::sometimes("a suspect is believed again, after a crash or an install", |scope: &Scope, world: &World| {
                scope.suspects_nobody() || world.has_cleared_suspect(scope)
            }),
        ]
    }
}
