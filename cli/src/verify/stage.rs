//! The topics and groups of a run: made for it and deleted at the end, or those that the user named.

use super::history::{Kind, Topic};
use super::workload::message_type;
use crate::connect::{self, Admin, request};
use crate::failure::{Exit, Failure};
use crate::global::Global;
use gantry_proto::admin::{CreateGroupRequest, CreateTopicRequest, DeleteGroupRequest, DeleteTopicRequest, Group, StartPosition};
use gantry_proto::v2::Permission;

/// Deliveries before a message becomes a dead letter: more than a run can need, since each answer that is lost costs one.
const ATTEMPTS: u32 = 1_000;

/// Where a run takes place.
#[derive(Debug, Default)]
pub struct Stage {
    pub topics: Vec<Topic>,
    pub groups: Vec<String>,
    own_groups: bool,
}

/// What the user wants to be made.
#[derive(Debug)]
pub struct Wish<'a> {
    pub run: u64,
    pub kinds: &'a [Kind],
    pub topics_of_each: u16,
    pub groups: u16,
    /// Topics that exist.
    pub named_topics: &'a [(Kind, String)],
    pub named_groups: &'a [String],
}

impl Stage {
    /// Makes what is missing; what was made is deleted again if that fails.
    pub async fn set(wish: &Wish<'_>, global: &Global) -> Result<Stage, Failure> {
        let mut stage = Stage { own_groups: wish.named_groups.is_empty(), ..Default::default() };
        let named = wish.named_topics.iter().map(|(kind, name)| Topic { name: name.clone(), kind: *kind, once: false, own: false });
        stage.topics.extend(named);
        if !stage.own_groups {
            stage.groups = wish.named_groups.to_vec();
        }
        if !stage.topics.is_empty() && !stage.own_groups {
            return Ok(stage);
        }
        let hint = "is `--admin` right? With `--topic` and `--group` no admin service is needed";
        let mut admin = connect::admin(global).await.map_err(|failure| failure.hint(hint))?;
        if let Err(failure) = stage.make(wish, &mut admin, global).await {
            // The failure to make one of them is what the user must hear about.
            let _ = stage.clear(global).await;
            return Err(failure);
        }
        Ok(stage)
    }

    async fn make(&mut self, wish: &Wish<'_>, admin: &mut Admin, global: &Global) -> Result<(), Failure> {
        let namespace = &global.namespace;
        let missing = if self.topics.is_empty() { wish.topics_of_each } else { 0 };
        for (number, kind) in (0..missing).flat_map(|number| wish.kinds.iter().map(move |kind| (number, *kind))) {
            let name = format!("verify-{:016x}-{}-{number}", wish.run, kind.name());
            let (message_types, permission) = (vec![message_type(kind) as i32], Permission::ReadWrite as i32);
            let topic =
                gantry_proto::admin::Topic { name: name.clone(), namespace: namespace.clone(), message_types, permission, ..Default::default() };
            let made = admin.create_topic(request(CreateTopicRequest { topic: Some(topic), dedup: None }, global)).await;
            made.map_err(|status| Failure::from_grpc(format!("cannot create a topic for {} messages", kind.name()), &status))?;
            self.topics.push(Topic { name, kind, once: has_place(kind), own: true });
        }
        for number in 0..if self.own_groups { wish.groups } else { 0 } {
            let name = format!("verify-{:016x}-{number}", wish.run);
            let start_position = StartPosition::Earliest as i32;
            let group = Group { name: name.clone(), namespace: namespace.clone(), start_position, max_attempts: ATTEMPTS, ..Default::default() };
            let made = admin.create_group(request(CreateGroupRequest { group: Some(group) }, global)).await;
            made.map_err(|status| Failure::from_grpc("cannot create a group for the run", &status))?;
            self.groups.push(name);
        }
        Ok(())
    }

    /// Deletes what was made.
    pub async fn clear(&self, global: &Global) -> Result<(), Failure> {
        let own: Vec<&Topic> = self.topics.iter().filter(|topic| topic.own).collect();
        if own.is_empty() && !self.own_groups {
            return Ok(());
        }
        let mut admin = connect::admin(global).await?;
        let left = |noun: &str, name: &str| format!("the {noun} `{name}` of the run is left behind");
        for name in self.groups.iter().filter(|_| self.own_groups) {
            let ask = DeleteGroupRequest { namespace: global.namespace.clone(), name: name.clone() };
            admin.delete_group(request(ask, global)).await.map_err(|status| Failure::from_grpc(left("group", name), &status))?;
        }
        for topic in own {
            let ask = DeleteTopicRequest { namespace: global.namespace.clone(), name: topic.name.clone() };
            admin.delete_topic(request(ask, global)).await.map_err(|status| Failure::from_grpc(left("topic", &topic.name), &status))?;
        }
        Ok(())
    }

    /// What a user can look at after a violation.
    pub fn names(&self) -> String {
        let topics: Vec<&str> = self.topics.iter().map(|topic| topic.name.as_str()).collect();
        topics.join(", ")
    }
}

/// Whether messages of a kind wait for the shard where they belong, which remembers their ids. The others go elsewhere while it has no leader, and
/// what was sent again may then be stored twice.
fn has_place(kind: Kind) -> bool {
    kind != Kind::Normal
}

/// Reads `fifo=orders`.
pub fn named_topic(text: &str) -> Result<(Kind, String), String> {
    let wrong = || format!("`{text}` is no topic with its kind; write it as fifo=orders");
    let (kind, name) = text.split_once('=').filter(|(_, name)| !name.is_empty()).ok_or_else(wrong)?;
    let kind = <Kind as clap::ValueEnum>::from_str(kind, false).map_err(|_| wrong())?;
    Ok((kind, name.to_owned()))
}

/// Nothing to do is no run.
pub fn check(wish: &Wish<'_>) -> Result<(), Failure> {
    if wish.named_topics.is_empty() != wish.named_groups.is_empty() {
        return Err(Failure::new(Exit::Usage, "`--topic` and `--group` go together").because("a run makes its topics and groups, or none of them"));
    }
    Ok(())
}
