//! A broker as part of a cluster: which copies it holds, whom they follow, and what the controllers say to it.
//!
//! `host` opens and closes copies as the directory says, `repair` and `scrub` mend them from others, `following` connects each to its leader, `session` speaks with the leader of the
//! controllers, `wire` translates. None of them decides anything: the rules are in `gantry_store::replica`, and who leads is the controllers' affair.

mod host;
mod following;
mod repair;
mod scrub;
mod session;
mod wire;

pub use host::{Counts, Host, HostSettings};
pub use repair::Peers;
pub use session::{Forbidden, SessionSettings, Spec};

use gantry_model::contract::Directory;
use gantry_platform::tasks::{Stop, TaskGroup};
use gantry_proto::connections::Channels;
use std::sync::Arc;
use tokio::sync::watch;

/// What a broker that takes part in a cluster does, until it is told to stop.
#[derive(Clone, Debug)]
pub struct Agent {
    pub host: Arc<Host>,
    pub directory: Arc<dyn Directory>,
    pub channels: Arc<Channels>,
    pub session: SessionSettings,
}

impl Agent {
    /// Starts its tasks. The receiver is told when the cluster doesn't want this broker.
    pub fn start(self, tasks: &TaskGroup) -> watch::Receiver<Option<Forbidden>> {
        let Agent { host, directory, channels, session } = self;
        let (tell, forbidden) = watch::channel(None);
        host.clone().start(Peers { directory: directory.clone(), channels: channels.clone() }, tasks);
        tasks.spawn("streams to leaders", following::run(host.clone(), directory, channels.clone(), tasks.signal()));
        let stop: Stop = tasks.signal();
        tasks.spawn("session with the controllers", async move {
            if let Err(why) = session::run(host, session, channels, stop).await {
                tracing::error!("{why}");
                tell.send_replace(Some(why));
            }
        });
        forbidden
    }
}
