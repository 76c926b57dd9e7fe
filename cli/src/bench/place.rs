//! Where a run takes place: the server, its process, and a topic and groups, which a run makes for itself unless told otherwise.

use crate::clock;
use crate::connect::{self, request};
use crate::failure::Failure;
use crate::global::Global;
use gantry_proto::admin::{CreateGroupRequest, CreateTopicRequest, DeleteGroupRequest, DeleteTopicRequest, Group, StartPosition, Topic};
use gantry_proto::v2::{MessageType, Permission};

/// What is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Gantry,
    Floor,
}

/// A server to load and the names to use there.
#[derive(Clone, Debug)]
pub struct Place {
    pub kind: Kind,
    pub global: Global,
    pub pid: Option<u32>,
    pub topic: String,
    /// At least one; each gets every message.
    pub groups: Vec<String>,
    /// Marks the bodies of this run.
    pub run: u64,
    made_topic: bool,
    /// How many of the groups the run made, from the first on.
    made_groups: usize,
}

/// What is to be made: a topic for messages of these types (none means any), and the first so many groups.
struct Missing {
    topic: Option<Vec<i32>>,
    groups: usize,
}

impl Place {
    /// The empty handler, which has no topics and takes any name.
    pub fn floor(global: Global, pid: u32) -> Place {
        let (topic, groups) = ("bench".to_owned(), vec!["bench".to_owned()]);
        Place { kind: Kind::Floor, global, pid: Some(pid), topic, groups, run: clock::random_tag(), made_topic: false, made_groups: 0 }
    }

    /// A server, with a topic and a group made there when none is named.
    pub async fn prepare(topic: Option<&str>, group: Option<&str>, pid: Option<u32>, global: &Global) -> Result<Place, Failure> {
        let mut place = Place::unmade(1, pid, global);
        let mut missing = Missing { topic: Some(Vec::new()), groups: 1 };
        if let Some(topic) = topic {
            place.topic = topic.to_owned();
            missing.topic = None;
        }
        if let Some(group) = group {
            place.groups = vec![group.to_owned()];
            missing.groups = 0;
        }
        let hint = "is `--admin` right? With `--topic` and `--group` no admin service is needed";
        place.make(missing).await.map_err(|failure| failure.hint(hint))
    }

    /// A server, with a topic for messages of one type and so many groups made there.
    pub async fn make_for(message_type: MessageType, groups: usize, pid: u32, global: &Global) -> Result<Place, Failure> {
        let missing = Missing { topic: Some(vec![message_type as i32]), groups };
        Place::unmade(groups, Some(pid), global).make(missing).await.map_err(|failure| failure.hint("is `--admin` right?"))
    }

    /// Names that nobody else has, and nothing made yet.
    fn unmade(groups: usize, pid: Option<u32>, global: &Global) -> Place {
        let run = clock::random_tag();
        let own = format!("bench-{run:016x}");
        let groups = (0..groups).map(|number| if number == 0 { own.clone() } else { format!("{own}-{number}") }).collect();
        Place { kind: Kind::Gantry, global: global.clone(), pid, topic: own, groups, run, made_topic: false, made_groups: 0 }
    }

    /// Makes all that is missing, or nothing.
    async fn make(mut self, missing: Missing) -> Result<Place, Failure> {
        if let Err(failure) = self.try_make(missing).await {
            // The failure to make one of them is what the user must hear about.
            let _ = self.clean_up().await;
            return Err(failure);
        }
        Ok(self)
    }

    async fn try_make(&mut self, missing: Missing) -> Result<(), Failure> {
        if missing.topic.is_none() && missing.groups == 0 {
            return Ok(());
        }
        let global = &self.global;
        let mut admin = connect::admin(global).await?;
        if let Some(message_types) = missing.topic {
            let permission = Permission::ReadWrite as i32;
            let topic = Topic { name: self.topic.clone(), namespace: global.namespace.clone(), message_types, permission, ..Default::default() };
            let made = admin.create_topic(request(CreateTopicRequest { topic: Some(topic), dedup: None }, global)).await;
            made.map_err(|status| Failure::from_grpc("cannot create a topic for the run", &status))?;
            self.made_topic = true;
        }
        for name in &self.groups[..missing.groups] {
            let start_position = StartPosition::Earliest as i32;
            let group = Group { name: name.clone(), namespace: global.namespace.clone(), start_position, ..Default::default() };
            let made = admin.create_group(request(CreateGroupRequest { group: Some(group) }, global)).await;
            made.map_err(|status| Failure::from_grpc("cannot create a group for the run", &status))?;
            self.made_groups += 1;
        }
        Ok(())
    }

    /// Deletes what the run made.
    pub async fn clean_up(&self) -> Result<(), Failure> {
        if !self.made_topic && self.made_groups == 0 {
            return Ok(());
        }
        let (namespace, global) = (self.global.namespace.clone(), &self.global);
        let mut admin = connect::admin(global).await?;
        for name in &self.groups[..self.made_groups] {
            let ask = DeleteGroupRequest { namespace: namespace.clone(), name: name.clone() };
            let left = format!("the group `{name}` of the run is left behind");
            admin.delete_group(request(ask, global)).await.map_err(|status| Failure::from_grpc(left, &status))?;
        }
        if self.made_topic {
            let ask = DeleteTopicRequest { namespace, name: self.topic.clone() };
            let left = format!("the topic `{}` of the run is left behind", self.topic);
            admin.delete_topic(request(ask, global)).await.map_err(|status| Failure::from_grpc(left, &status))?;
        }
        Ok(())
    }

    pub fn is_floor(&self) -> bool {
        self.kind == Kind::Floor
    }
}
