//! The events: everything that ever happened to the metadata, as it stands in the log.
//!
//! These are stored as JSON and read back by every later version. A field may be added with a default; none may change its meaning.

use super::nodes::NodeSpec;
use super::shards::{EpochBegun, Grant, Move, Policy, ShardConfig, UncleanEpochBegun};
use gantry_model::group::{GroupChange, GroupOptions, GroupSpec, Order, RetryPolicy, StartPosition};
use gantry_model::topic::{Permission, Retention, TopicChange, TopicOptions, TopicSpec, TopicType};
use gantry_model::{Epoch, GroupName, NodeId, ShardId, TopicName};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// One change, with all that is needed to repeat it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// The first event of every cluster.
    ClusterCreated {
        id: String,
        name: String,
        shards: u32,
        time_ms: u64,
    },
    ClusterRenamed {
        name: String,
    },
    HandleKeyAdded {
        secret: Secret,
        time_ms: u64,
    },
    TopicCreated {
        #[serde(with = "TopicSpecForm")]
        topic: TopicSpec,
        time_ms: u64,
    },
    TopicUpdated {
        name: TopicName,
        #[serde(with = "TopicChangeForm")]
        change: TopicChange,
    },
    TopicDeleted {
        name: TopicName,
    },
    /// Makes the group's dead letter topic as well.
    GroupCreated {
        #[serde(with = "GroupSpecForm")]
        group: GroupSpec,
        time_ms: u64,
    },
    GroupUpdated {
        name: GroupName,
        #[serde(with = "GroupChangeForm")]
        change: GroupChange,
    },
    /// Deletes the group's dead letter topic as well.
    GroupDeleted {
        name: GroupName,
    },
    /// A node with an empty disk; it is given the next number.
    NodeJoined {
        node: NodeSpec,
    },
    /// A node that was here before started again.
    NodeStarted {
        id: NodeId,
        node: NodeSpec,
    },
    /// The node was not heard of for some time.
    NodeDown {
        id: NodeId,
        incarnation: u64,
    },
    NodeUp {
        id: NodeId,
        incarnation: u64,
    },
    /// Nothing new is put on the node.
    NodeCordoned {
        id: NodeId,
    },
    NodeUncordoned {
        id: NodeId,
    },
    /// The node never comes back; its number is never given to another.
    NodeRemoved {
        id: NodeId,
    },
    /// A shard is given its first replicas. The shard after the last one makes the cluster larger by one.
    ShardCreated {
        shard: ShardId,
        config: ShardConfig,
        policy: Policy,
    },
    EpochBegun {
        shard: ShardId,
        begin: EpochBegun,
    },
    /// An operator has one copy go on alone: acknowledged messages that it lacks are lost.
    UncleanEpochBegun {
        shard: ShardId,
        begin: UncleanEpochBegun,
    },
    LeaderGranted {
        shard: ShardId,
        grant: Grant,
    },
    ConfigSettled {
        shard: ShardId,
        epoch: Epoch,
    },
    ShardPolicySet {
        shard: ShardId,
        expect: u64,
        policy: Policy,
    },
    MovePlanned {
        shard: ShardId,
        expect: u64,
        #[serde(rename = "move")]
        moving: Move,
    },
    MoveDropped {
        shard: ShardId,
        expect: u64,
    },
    /// Several events in one place of the order, each obeyed or refused by itself: a broker that dies has fifty shards.
    Batch {
        events: Vec<Event>,
    },
}

/// Most events in a batch.
pub const BATCH_MAX: usize = 10_000;

/// Bytes that sign handles; printed nowhere but in the log.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub [u8; 32]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(self.0))
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut secret = [0; 32];
        hex::decode_to_slice(text, &mut secret).map_err(serde::de::Error::custom)?;
        Ok(Secret(secret))
    }
}

/// How a [`TopicSpec`] is written.
#[derive(Serialize, Deserialize)]
#[serde(remote = "TopicSpec")]
struct TopicSpecForm {
    name: TopicName,
    kind: TopicType,
    queues: u32,
    permission: Permission,
    #[serde(default)]
    retention: Retention,
    #[serde(default, skip_serializing_if = "TopicOptions::is_default")]
    options: TopicOptions,
}

/// How a [`TopicChange`] is written: only what changes.
#[derive(Serialize, Deserialize)]
#[serde(remote = "TopicChange")]
struct TopicChangeForm {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kind: Option<TopicType>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    queues: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    permission: Option<Permission>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retention: Option<Retention>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    options: Option<TopicOptions>,
}

/// How a [`GroupSpec`] is written.
#[derive(Serialize, Deserialize)]
#[serde(remote = "GroupSpec")]
struct GroupSpecForm {
    name: GroupName,
    order: Order,
    max_attempts: u32,
    retry: RetryPolicy,
    start: StartPosition,
    auto_renew_cap_ms: u64,
    #[serde(default, skip_serializing_if = "GroupOptions::is_default")]
    options: GroupOptions,
}

/// How a [`GroupChange`] is written: only what changes.
#[derive(Serialize, Deserialize)]
#[serde(remote = "GroupChange")]
struct GroupChangeForm {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    order: Option<Order>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_attempts: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry: Option<RetryPolicy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    auto_renew_cap_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    options: Option<GroupOptions>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::state::shards::{Reason, Replica};
    use gantry_model::Lsn;

    /// The stored form is forever: if this test fails, old logs can't be read any more.
    fn check(event: Event, stored: &str) {
        assert_eq!(serde_json::to_string(&event).unwrap(), stored);
        assert_eq!(serde_json::from_str::<Event>(stored).unwrap(), event);
    }

    fn topic(name: &str) -> TopicName {
        TopicName::parse("", name).unwrap()
    }

    #[test]
    fn cluster_events_keep_their_stored_form() {
        check(
            Event::ClusterCreated { id: "0a".into(), name: "gantry".into(), shards: 1, time_ms: 5 },
            r#"{"type":"cluster_created","id":"0a","name":"gantry","shards":1,"time_ms":5}"#,
        );
        check(Event::ClusterRenamed { name: "b".into() }, r#"{"type":"cluster_renamed","name":"b"}"#);
        check(
            Event::HandleKeyAdded { secret: Secret([0xab; 32]), time_ms: 5 },
            &format!(r#"{{"type":"handle_key_added","secret":"{}","time_ms":5}}"#, "ab".repeat(32)),
        );
    }

    #[test]
    fn topic_events_keep_their_stored_form() {
        let retention = Retention { age_ms: Some(1), bytes: None };
        check(
            Event::TopicCreated { topic: TopicSpec { retention, ..TopicSpec::on_first_use(topic("t")) }, time_ms: 5 },
            r#"{"type":"topic_created","topic":{"name":{"name":"t"},"kind":"MIXED","queues":8,"permission":"READ_WRITE","retention":{"age_ms":1,"bytes":null}},"time_ms":5}"#,
        );
        check(
            Event::TopicUpdated { name: TopicName::parse("ns", "t").unwrap(), change: TopicChange { queues: Some(4), ..TopicChange::default() } },
            r#"{"type":"topic_updated","name":{"namespace":"ns","name":"t"},"change":{"queues":4}}"#,
        );
        check(Event::TopicDeleted { name: topic("t") }, r#"{"type":"topic_deleted","name":{"name":"t"}}"#);
    }

    #[test]
    fn node_events_keep_their_stored_form() {
        let node = NodeSpec { address: "b1:9081".into(), zone: "a".into(), capacity: 8, incarnation: 2, format: 1 };
        let stored = r#"{"address":"b1:9081","zone":"a","capacity":8,"incarnation":2,"format":1}"#;
        check(Event::NodeJoined { node: node.clone() }, &format!(r#"{{"type":"node_joined","node":{stored}}}"#));
        check(Event::NodeStarted { id: NodeId(3), node }, &format!(r#"{{"type":"node_started","id":3,"node":{stored}}}"#));
        check(Event::NodeDown { id: NodeId(3), incarnation: 2 }, r#"{"type":"node_down","id":3,"incarnation":2}"#);
        check(Event::NodeUp { id: NodeId(3), incarnation: 2 }, r#"{"type":"node_up","id":3,"incarnation":2}"#);
        check(Event::NodeCordoned { id: NodeId(3) }, r#"{"type":"node_cordoned","id":3}"#);
        check(Event::NodeUncordoned { id: NodeId(3) }, r#"{"type":"node_uncordoned","id":3}"#);
        check(Event::NodeRemoved { id: NodeId(3) }, r#"{"type":"node_removed","id":3}"#);
    }

    #[test]
    fn shard_events_keep_their_stored_form() {
        let shard = ShardId(4);
        let replica = Replica { node: NodeId(3), store: "0a".into() };
        let config = ShardConfig { generation: 1, members: vec![replica.clone()], w: 1 };
        let stored = r#"{"generation":1,"members":[{"node":3,"store":"0a"}],"w":1}"#;
        let policy = Policy { copies: 3, min_copies: 2 };
        check(
            Event::ShardCreated { shard, config: config.clone(), policy },
            &format!(r#"{{"type":"shard_created","shard":4,"config":{stored},"policy":{{"copies":3,"min_copies":2}}}}"#),
        );
        let begin = EpochBegun { expect: Epoch(7), reason: Reason::LeaderLost, prefer: None, config: None };
        check(Event::EpochBegun { shard, begin: begin.clone() }, r#"{"type":"epoch_begun","shard":4,"begin":{"expect":7,"reason":"leader_lost"}}"#);
        let begin = EpochBegun { prefer: Some(replica.clone()), config: Some(config), ..begin };
        let begun = format!(r#"{{"expect":7,"reason":"leader_lost","prefer":{{"node":3,"store":"0a"}},"config":{stored}}}"#);
        check(Event::EpochBegun { shard, begin }, &format!(r#"{{"type":"epoch_begun","shard":4,"begin":{begun}}}"#));
        let grant =
            Grant { epoch: Epoch(8), leader: replica.clone(), incarnation: 2, last_epoch: Epoch(6), end: Lsn(99), generation: 1, unclean: false };
        let unclean = Grant { unclean: true, ..grant.clone() };
        check(
            Event::LeaderGranted { shard, grant },
            r#"{"type":"leader_granted","shard":4,"grant":{"epoch":8,"leader":{"node":3,"store":"0a"},"incarnation":2,"last_epoch":6,"end":99,"generation":1}}"#,
        );
        check(
            Event::LeaderGranted { shard, grant: unclean },
            r#"{"type":"leader_granted","shard":4,"grant":{"epoch":8,"leader":{"node":3,"store":"0a"},"incarnation":2,"last_epoch":6,"end":99,"generation":1,"unclean":true}}"#,
        );
        let begin = UncleanEpochBegun { expect: Epoch(8), kept: replica.clone(), by: "eve".into(), time_ms: 5 };
        check(
            Event::UncleanEpochBegun { shard, begin },
            r#"{"type":"unclean_epoch_begun","shard":4,"begin":{"expect":8,"kept":{"node":3,"store":"0a"},"by":"eve","time_ms":5}}"#,
        );
        check(Event::ConfigSettled { shard, epoch: Epoch(8) }, r#"{"type":"config_settled","shard":4,"epoch":8}"#);
        check(
            Event::ShardPolicySet { shard, expect: 5, policy },
            r#"{"type":"shard_policy_set","shard":4,"expect":5,"policy":{"copies":3,"min_copies":2}}"#,
        );
        let moving = Move { joining: Some(replica), leaving: None };
        check(
            Event::MovePlanned { shard, expect: 5, moving },
            r#"{"type":"move_planned","shard":4,"expect":5,"move":{"joining":{"node":3,"store":"0a"},"leaving":null}}"#,
        );
        let dropped = r#"{"type":"move_dropped","shard":4,"expect":5}"#;
        check(Event::MoveDropped { shard, expect: 5 }, dropped);
        check(Event::Batch { events: vec![Event::MoveDropped { shard, expect: 5 }] }, &format!(r#"{{"type":"batch","events":[{dropped}]}}"#));
    }

    #[test]
    fn group_events_keep_their_stored_form() {
        let name = GroupName::parse("", "g").unwrap();
        let spec = GroupSpec { retry: RetryPolicy::Customized { delays_ms: vec![1] }, ..GroupSpec::on_first_use(name.clone()) };
        check(
            Event::GroupCreated { group: spec, time_ms: 5 },
            r#"{"type":"group_created","group":{"name":{"name":"g"},"order":"FOLLOW_TOPIC","max_attempts":16,"retry":{"customized":{"delays_ms":[1]}},"start":"EARLIEST","auto_renew_cap_ms":10800000},"time_ms":5}"#,
        );
        let retry = Some(RetryPolicy::Exponential { initial_ms: 1, max_ms: 2, multiplier: 1.5 });
        check(
            Event::GroupUpdated { name: name.clone(), change: GroupChange { retry, ..GroupChange::default() } },
            r#"{"type":"group_updated","name":{"name":"g"},"change":{"retry":{"exponential":{"initial_ms":1,"max_ms":2,"multiplier":1.5}}}}"#,
        );
        check(Event::GroupDeleted { name }, r#"{"type":"group_deleted","name":{"name":"g"}}"#);
    }
}
