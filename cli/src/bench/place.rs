//! Where a run takes place: the server, its process, and a topic and a group, which a run makes for itself unless told otherwise.

use crate::clock;
use crate::connect::{self, request};
use crate::failure::Failure;
use crate::global::Global;
use gantry_proto::admin::{CreateGroupRequest, CreateTopicRequest, DeleteGroupRequest, DeleteTopicRequest, Group, StartPosition, Topic};
use gantry_proto::v2::Permission;

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
    pub group: String,
    /// Marks the bodies of this run.
    pub run: u64,
    made_topic: bool,
    made_group: bool,
}

impl Place {
    /// The empty handler, which has no topics and takes any name.
    pub fn floor(global: Global, pid: u32) -> Place {
        let (topic, group) = ("bench".to_owned(), "bench".to_owned());
        Place { kind: Kind::Floor, global, pid: Some(pid), topic, group, run: clock::random_tag(), made_topic: false, made_group: false }
    }

    /// A server, with a topic and a group made there when none is named.
    pub async fn prepare(topic: Option<&str>, group: Option<&str>, pid: Option<u32>, global: &Global) -> Result<Place, Failure> {
        let run = clock::random_tag();
        let own = format!("bench-{run:016x}");
        let mut place = Place {
            kind: Kind::Gantry,
            global: global.clone(),
            pid,
            topic: topic.unwrap_or(&own).to_owned(),
            group: group.unwrap_or(&own).to_owned(),
            run,
            made_topic: false,
            made_group: false,
        };
        if let Err(failure) = place.make(topic.is_none(), group.is_none()).await {
            // The failure to make the second of the two is what the user must hear about.
            let _ = place.clean_up().await;
            return Err(failure.hint("is `--admin` right? With `--topic` and `--group` no admin service is needed"));
        }
        Ok(place)
    }

    async fn make(&mut self, make_topic: bool, make_group: bool) -> Result<(), Failure> {
        if !make_topic && !make_group {
            return Ok(());
        }
        let global = &self.global;
        let mut admin = connect::admin(global).await?;
        if make_topic {
            let permission = Permission::ReadWrite as i32;
            let topic = Topic { name: self.topic.clone(), namespace: global.namespace.clone(), permission, ..Default::default() };
            let made = admin.create_topic(request(CreateTopicRequest { topic: Some(topic), dedup: None }, global)).await;
            made.map_err(|status| Failure::from_grpc("cannot create a topic for the run", &status))?;
            self.made_topic = true;
        }
        if make_group {
            let start_position = StartPosition::Earliest as i32;
            let group = Group { name: self.group.clone(), namespace: global.namespace.clone(), start_position, ..Default::default() };
            let made = admin.create_group(request(CreateGroupRequest { group: Some(group) }, global)).await;
            made.map_err(|status| Failure::from_grpc("cannot create a group for the run", &status))?;
            self.made_group = true;
        }
        Ok(())
    }

    /// Deletes what the run made.
    pub async fn clean_up(&self) -> Result<(), Failure> {
        if !self.made_topic && !self.made_group {
            return Ok(());
        }
        let (namespace, global) = (self.global.namespace.clone(), &self.global);
        let mut admin = connect::admin(global).await?;
        if self.made_group {
            let ask = DeleteGroupRequest { namespace: namespace.clone(), name: self.group.clone() };
            let left = format!("the group `{}` of the run is left behind", self.group);
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
