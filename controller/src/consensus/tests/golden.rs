//! What version 1 stored, which every later version must read.

use super::world::{DIR, image};
use crate::consensus::frame;
use crate::consensus::kinds::Member;
use crate::consensus::snapshot::Snapshots;
use crate::state::State;
use crate::state::event::{Event, Secret};
use crate::state::nodes::NodeSpec;
use crate::state::requests::RequestId;
use crate::state::shards::{Grant, Move, Policy, Replica, ShardConfig};
use gantry_model::group::{GroupSpec, Order, RetryPolicy, StartPosition};
use gantry_model::topic::{Permission, Retention, TopicChange, TopicSpec, TopicType};
use gantry_model::{Epoch, GroupName, Lsn, NodeId, ShardId, TopicName};
use gantry_platform::MemoryDisk;
use gantry_platform::disk::{DiskFile, SharedDisk};
use openraft::{CommittedLeaderId, LogId, Membership, StoredMembership};
use std::collections::{BTreeMap, BTreeSet};
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

/// A snapshot, one frame a line.
const SNAPSHOT: &str = include_str!("golden/v1-snapshot.jsonl");
const NAME: &str = "snapshot-00000000000000000042";

fn replica(node: u64) -> Replica {
    Replica { node: NodeId(node), store: format!("{node:032x}") }
}

fn state() -> State {
    let mut state = State::default();
    let orders = TopicName::parse("shop", "orders").unwrap();
    let spec = TopicSpec {
        kind: TopicType::Fifo,
        permission: Permission::Read,
        queues: 4,
        retention: Retention { age_ms: Some(60_000), bytes: None },
        ..TopicSpec::on_first_use(orders.clone())
    };
    let group = GroupSpec {
        order: Order::Fifo,
        max_attempts: 5,
        retry: RetryPolicy::Customized { delays_ms: vec![1, 2] },
        start: StartPosition::Earliest,
        ..GroupSpec::new(GroupName::parse("", "payments").unwrap())
    };
    let node = NodeSpec { address: "c2:9082".into(), zone: "b".into(), capacity: 8, incarnation: 3, format: 1 };
    let config = ShardConfig { generation: 1, members: vec![replica(1), replica(2)], w: 2 };
    let grant = Grant { epoch: Epoch(1), leader: replica(2), incarnation: 3, last_epoch: Epoch(0), end: Lsn(64), generation: 1, unclean: false };
    let events = [
        Event::ClusterCreated { id: "0123456789abcdef".repeat(2), name: "gantry".into(), shards: 3, time_ms: 1_000 },
        Event::HandleKeyAdded { secret: Secret([0xab; 32]), time_ms: 1_000 },
        Event::TopicCreated { topic: spec, time_ms: 1_000 },
        Event::TopicUpdated { name: orders, change: TopicChange { queues: Some(2), ..TopicChange::default() } },
        Event::GroupCreated { group, time_ms: 1_000 },
        Event::NodeJoined { node },
        Event::NodeDown { id: NodeId(2), incarnation: 3 },
        Event::NodeCordoned { id: NodeId(1) },
        Event::ShardCreated { shard: ShardId(0), config, policy: Policy { copies: 3, min_copies: 1 } },
        Event::LeaderGranted { shard: ShardId(0), grant },
        Event::MovePlanned { shard: ShardId(0), expect: 0, moving: Move { joining: None, leaving: Some(replica(1)) } },
    ];
    for (number, event) in events.iter().enumerate() {
        state.take(RequestId(number as u128 + 1), 1_000, event);
    }
    state
}

fn members() -> StoredMembership<NodeId, Member> {
    let nodes = BTreeMap::from([1, 2].map(|id| (NodeId(id), Member { address: format!("c{id}:9082") })));
    let at = LogId::new(CommittedLeaderId::new(3, NodeId(1)), 40);
    StoredMembership::new(Some(at), Membership::new(vec![BTreeSet::from([NodeId(1)])], nodes))
}

#[test]
fn snapshots_of_version_1_are_read() {
    let mut bytes = Vec::new();
    SNAPSHOT.lines().for_each(|line| frame::encode(line.as_bytes(), &mut bytes));
    let disk: SharedDisk = Arc::new(MemoryDisk::new());
    disk.create_dir_all(Path::new(DIR)).unwrap();
    disk.create(&Path::new(DIR).join(NAME)).unwrap().write_at(0, &[IoSlice::new(&bytes)]).unwrap();
    let loaded = Snapshots::new(disk, Path::new(DIR)).newest(None).unwrap().unwrap();
    assert_eq!(image(&loaded.state), image(&state()));
    assert_eq!((loaded.meta.last_log_id.unwrap().index, loaded.meta.last_membership), (42, members()));
}

#[test]
fn snapshots_are_written_like_that() {
    let disk: SharedDisk = Arc::new(MemoryDisk::new());
    disk.create_dir_all(Path::new(DIR)).unwrap();
    let at = LogId::new(CommittedLeaderId::new(3, NodeId(1)), 42);
    let (_, written) = Snapshots::new(disk, Path::new(DIR)).write(Some(at), &members(), &state()).unwrap();
    let mut frames = frame::Frames::new(written.file.as_ref()).unwrap();
    let lines: Vec<String> = std::iter::from_fn(|| frames.next().unwrap()).map(|payload| String::from_utf8(payload).unwrap()).collect();
    assert_eq!(lines.join("\n") + "\n", SNAPSHOT);
    assert_eq!(DiskFile::len(written.file.as_ref()).unwrap(), written.len);
}
