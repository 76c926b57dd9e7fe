//! Tests of placement: some pictures that a person can check, then what must hold for all.

#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;

fn place(node: u64, zone: &str) -> (NodeId, Place) {
    (NodeId(node), Place { node: NodeId(node), zone: zone.into(), capacity: 1_000, open: true })
}

fn picture(zones: &[&str]) -> Picture {
    Picture { places: zones.iter().enumerate().map(|(at, zone)| place(at as u64 + 1, zone)).collect(), shards: BTreeMap::new() }
}

/// Puts shards one after the other where placement wants them.
fn fill(picture: &mut Picture, shards: u32, copies: usize) {
    for shard in (0..shards).map(ShardId) {
        let nodes = picture.place(copies).unwrap();
        picture.shards.insert(shard, Held { shard, leader: Some(nodes[0]), nodes: nodes.into_iter().collect() });
    }
}

fn spread(counts: &BTreeMap<NodeId, u32>) -> u32 {
    counts.values().max().unwrap_or(&0) - counts.values().min().unwrap_or(&0)
}

#[test]
fn copies_go_to_different_zones_and_leads_to_different_nodes() {
    let mut picture = picture(&["a", "a", "b", "b", "c", "c"]);
    fill(&mut picture, 18, 3);
    assert!(picture.shards.values().all(|held| picture.crowding(&held.nodes) == 1));
    assert_eq!(picture.loads().into_values().collect::<Vec<_>>(), [9; 6]);
    assert_eq!(picture.leads().into_values().collect::<Vec<_>>(), [3; 6]);
}

#[test]
fn an_impossible_placement_says_what_is_missing() {
    let mut picture = picture(&["a", "b", "c"]);
    picture.places.get_mut(&NodeId(2)).unwrap().open = false;
    let error = picture.place(3).unwrap_err().to_string();
    assert_eq!(error, "3 copies need 3 nodes that are up, not cordoned and have room; there are 2. Add brokers or ask for fewer copies");
}

#[test]
fn a_node_that_dies_is_replaced_in_its_zone_if_that_keeps_copies_apart() {
    let mut picture = picture(&["a", "b", "c", "a", "b", "c"]);
    fill(&mut picture, 1, 3);
    let nodes: Vec<NodeId> = picture.shards[&ShardId(0)].nodes.iter().copied().collect();
    assert_eq!(nodes, [1, 2, 3].map(NodeId));
    assert_eq!(picture.substitute(ShardId(0), NodeId(2)), Some(NodeId(5)));
    for gone in [4, 5, 6] {
        picture.places.remove(&NodeId(gone));
    }
    assert_eq!(picture.substitute(ShardId(0), NodeId(2)), None);
}

#[test]
fn a_drained_node_leads_nothing_first_and_holds_nothing_in_the_end() {
    let mut picture = picture(&["a", "b", "c", "d"]);
    fill(&mut picture, 12, 3);
    picture.places.get_mut(&NodeId(1)).unwrap().open = false;
    let steps = picture.drain(NodeId(1), usize::MAX);
    let first_move = steps.iter().position(|step| matches!(step, Step::Move { .. })).unwrap();
    assert!(steps[first_move..].iter().all(|step| matches!(step, Step::Move { .. })));
    steps.into_iter().for_each(|step| _ = picture.take(step));
    assert_eq!((picture.loads()[&NodeId(1)], picture.leads()[&NodeId(1)]), (0, 0));
    assert!(picture.shards.values().all(|held| held.nodes.len() == 3));
}

#[test]
fn a_new_node_gets_its_share() {
    let mut picture = picture(&["a", "b", "c"]);
    fill(&mut picture, 12, 3);
    picture.places.extend([place(4, "a")]);
    let steps = picture.balance_copies(usize::MAX);
    steps.into_iter().for_each(|step| _ = picture.take(step));
    let steps = picture.balance_leads(usize::MAX);
    steps.into_iter().for_each(|step| _ = picture.take(step));
    assert!(picture.loads()[&NodeId(4)] >= 4, "{:?}", picture.loads());
    assert!(spread(&picture.leads()) <= 2, "{:?}", picture.leads());
    assert!(picture.shards.values().all(|held| picture.crowding(&held.nodes) == 1));
}

prop_compose! {
    /// Any nodes, and shards on any of them.
    fn any_picture()(
        zones in prop::collection::vec((0..4u8, 1..20u32, prop::bool::weighted(0.8)), 1..9),
        shards in prop::collection::vec((prop::collection::btree_set(0..8usize, 1..4), 0..4usize), 0..30),
    ) -> Picture {
        let places: BTreeMap<NodeId, Place> = zones.iter().enumerate().map(|(at, (zone, capacity, open))| {
            let node = NodeId(at as u64 + 1);
            (node, Place { node, zone: format!("z{zone}"), capacity: *capacity, open: *open })
        }).collect();
        let count = places.len();
        let shards = shards.into_iter().enumerate().map(|(at, (nodes, leader))| {
            let nodes: BTreeSet<NodeId> = nodes.into_iter().map(|node| NodeId((node % count) as u64 + 1)).collect();
            let leader = nodes.iter().nth(leader).copied();
            (ShardId(at as u32), Held { shard: ShardId(at as u32), nodes, leader })
        }).collect();
        Picture { places, shards }
    }
}

/// What no step may break.
fn check_step(before: &Picture, step: Step) -> Picture {
    let mut after = before.clone();
    after.take(step);
    match step {
        Step::Move { shard, from, to } => {
            let (old, new) = (&before.shards[&shard], &after.shards[&shard]);
            assert!(old.nodes.contains(&from) && !old.nodes.contains(&to) && new.nodes.len() == old.nodes.len());
            assert!(before.places[&to].open && after.loads()[&to] <= before.places[&to].capacity);
        }
        Step::Lead { shard, from, to } => {
            let held = &before.shards[&shard];
            assert!(held.leader == Some(from) && held.nodes.contains(&to) && before.places[&to].open);
        }
    }
    after
}

proptest! {
    #[test]
    fn a_placement_is_as_apart_as_it_can_be(picture in any_picture(), copies in 1..6usize) {
        let loads = picture.loads();
        let open: BTreeSet<NodeId> = picture.places.values().filter(|place| has_room(place, &loads)).map(|place| place.node).collect();
        match picture.place(copies) {
            Err(error) => prop_assert_eq!((open.len() < copies, error), (true, NoPlace { wanted: copies, open: open.len() })),
            Ok(nodes) => {
                let chosen: BTreeSet<NodeId> = nodes.iter().copied().collect();
                prop_assert_eq!(chosen.len(), copies, "each copy has a node of its own");
                prop_assert!(chosen.is_subset(&open));
                // Nobody could take a copy out of the fullest zone into an emptier one.
                let zones = picture.zones(&chosen);
                for free in open.difference(&chosen) {
                    let there = zones.get(picture.places[free].zone.as_str()).copied().unwrap_or(0);
                    prop_assert!(there + 1 >= picture.crowding(&chosen));
                }
                prop_assert_eq!(picture.place(copies).unwrap(), nodes, "the same picture gives the same plan");
            }
        }
    }

    #[test]
    fn balancing_ends_and_makes_every_step_better(picture in any_picture()) {
        let mut now = picture.clone();
        let steps = picture.balance_copies(10_000);
        prop_assert!(steps.len() < 10_000);
        for step in steps {
            let Step::Move { shard, from, to } = step else { panic!("{step:?}") };
            prop_assert!(now.loads()[&from] > now.loads()[&to] + 1);
            let next = check_step(&now, step);
            prop_assert!(next.crowding(&next.shards[&shard].nodes) <= now.crowding(&now.shards[&shard].nodes));
            now = next;
        }
        prop_assert!(now.balance_copies(1).is_empty());
        let leads = now.balance_leads(10_000);
        prop_assert!(leads.len() < 10_000);
        for step in leads {
            let Step::Lead { from, to, .. } = step else { panic!("{step:?}") };
            prop_assert!(now.leads()[&from] > now.leads()[&to] + 1);
            now = check_step(&now, step);
        }
        prop_assert!(now.balance_leads(1).is_empty());
    }

    #[test]
    fn draining_takes_only_legal_steps(picture in any_picture()) {
        let mut now = picture.clone();
        now.places.get_mut(&NodeId(1)).unwrap().open = false;
        for step in now.drain(NodeId(1), 10_000) {
            now = check_step(&now, step);
        }
        // Whatever is left could not go anywhere.
        let stuck: Vec<ShardId> = now.shards.values().filter(|held| held.nodes.contains(&NodeId(1))).map(|held| held.shard).collect();
        for shard in stuck {
            prop_assert_eq!(now.substitute(shard, NodeId(1)), None);
        }
    }
}
