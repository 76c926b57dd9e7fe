//! What all producers and consumers of a run share: who they talk to, what they send, what they write down, and when they stop.

use super::history::{Header, Topic};
use super::link::{Answers, Link, Role, Servers};
use super::recorder::Recorder;
use super::workload::Workload;
use crate::connect::resource;
use gantry_proto::v2::Resource;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A run at work.
#[derive(Debug)]
pub struct Run {
    pub header: Header,
    pub workload: Workload,
    pub recorder: Arc<Recorder>,
    pub servers: Arc<Servers>,
    /// Sends of one message under its id, the first included.
    pub attempts: u32,
    pub send_timeout: Duration,
    /// Between two sends of a lane.
    pub interval: Duration,
    /// Messages to send in all.
    pub messages: u64,
    pub producing: Flag,
    pub consuming: Flag,
}

/// Something that goes on until it is told to stop.
#[derive(Debug, Default)]
pub struct Flag(AtomicBool);

impl Flag {
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn goes_on(&self) -> bool {
        !self.0.load(Ordering::Relaxed)
    }
}

impl Run {
    pub fn topic(&self, number: u16) -> &Topic {
        &self.header.topics[usize::from(number)]
    }

    pub fn topic_resource(&self, number: u16) -> Resource {
        resource(&self.servers.global, &self.topic(number).name)
    }

    pub fn group_resource(&self, number: u16) -> Resource {
        resource(&self.servers.global, &self.header.groups[usize::from(number)])
    }

    /// A client for one producer or consumer.
    pub fn link(&self, role: Role, number: usize) -> Link {
        let answers = Answers { workload: self.workload, recorder: self.recorder.clone() };
        Link::new(self.servers.clone(), role, answers, number)
    }
}
