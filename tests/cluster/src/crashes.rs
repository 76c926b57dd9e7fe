//! `kill -9` of what matters most at that moment.

use crate::cluster::Cluster;
use crate::load::Load;
use gantry_platform::clock::sleep;
use std::time::Duration;

/// How long what is left works without the one that was killed.
const ALONE: Duration = Duration::from_secs(4);
/// How long the cluster is left alone before the next kill.
const CALM: Duration = Duration::from_secs(2);

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Victim {
    /// The broker that leads most shards
    Leader,
    /// The controller that leads the others
    Controller,
    /// That broker and that controller at the same moment
    Both,
    /// Each proxy in turn
    Proxy,
    /// Two controllers of three: nothing can be decided, and messages must flow
    Majority,
}

/// Kills, lets the rest go on, starts it again, and waits until the cluster is whole; so many times.
pub async fn kill(cluster: &mut Cluster, load: &mut Load, victim: Victim, times: usize) {
    for time in 0..times {
        let victims = victims(cluster, victim, time).await;
        load.fault(format!("{victim:?} {}", victims.join(" and ")));
        for name in &victims {
            cluster.process(name).kill().await;
        }
        sleep(ALONE).await;
        load.fault(format!("return of {}", victims.join(" and ")));
        for name in &victims {
            cluster.process(name).start().await;
        }
        cluster.whole().await;
        sleep(CALM).await;
    }
}

async fn victims(cluster: &Cluster, victim: Victim, time: usize) -> Vec<String> {
    let controller = || async { cluster.controller_leader().await.expect("a whole cluster has a controller that leads") };
    match victim {
        Victim::Leader => vec![cluster.busiest_broker().await],
        Victim::Controller => vec![controller().await],
        Victim::Both => vec![cluster.busiest_broker().await, controller().await],
        Victim::Proxy => {
            let proxies = cluster.of("proxy");
            vec![proxies[time % proxies.len()].clone()]
        }
        Victim::Majority => {
            let leader = controller().await;
            let other = cluster.of("controller").into_iter().find(|name| *name != leader);
            vec![leader, other.expect("there are three")]
        }
    }
}
