//! `gantry shard …`: where the shards are, who leads them, and how to change that.

mod recover;

use crate::broker::steer;
use crate::connect::{self, Admin, request};
use crate::failure::Failure;
use crate::global::Global;
use crate::output::{self, Report, Table, or_dash};
use crate::terminal::Terminal;
use clap::{Args, Subcommand};
use gantry_proto::admin::steer_cluster_request::Order;
use gantry_proto::admin::{ListShardsRequest, Shard, ShardState, SteerMove, SteerTransfer};
use serde::Serialize;

/// What to do with shards.
#[derive(Debug, Subcommand)]
pub enum ShardCommand {
    /// List the shards, who leads them and who holds copies
    #[command(visible_alias = "ls", after_help = LIST_EXAMPLES)]
    List,
    /// Have another copy lead a shard; requests wait some milliseconds
    #[command(after_help = TRANSFER_EXAMPLES)]
    Transfer(Transfer),
    /// Bring a copy of a shard from one broker to another
    #[command(after_help = MOVE_EXAMPLES)]
    Move(Move),
    /// Have one copy go on alone when the others are lost for ever; acknowledged messages that it lacks are lost
    #[command(after_help = recover::EXAMPLES)]
    Recover(recover::Recover),
}

const LIST_EXAMPLES: &str = "\
Examples:
  gantry shard list
  gantry shard list -o json | jq '.shards[] | select(.leader == null)'";
const TRANSFER_EXAMPLES: &str = "\
Examples:
  gantry shard transfer 3             to the copy that its leader thinks best
  gantry shard transfer 3 --to 5      to the one on node 5";
const MOVE_EXAMPLES: &str = "\
Examples:
  gantry shard move 3 --from 4 --to 7
  gantry shard list                   until node 7 is shown without `learns`";

#[derive(Debug, Args)]
pub struct Transfer {
    /// Its number
    shard: u32,
    /// The node that is to lead
    #[arg(long, value_name = "NODE", value_parser = clap::value_parser!(u64).range(1..))]
    to: Option<u64>,
}

#[derive(Debug, Args)]
pub struct Move {
    /// Its number
    shard: u32,
    /// The node that gives its copy up
    #[arg(long, value_name = "NODE")]
    from: u64,
    /// The node that takes it
    #[arg(long, value_name = "NODE")]
    to: u64,
}

pub async fn run(command: ShardCommand, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let mut admin = connect::admin(global).await?;
    match command {
        ShardCommand::Recover(args) => recover::run(args, &mut admin, global, terminal).await,
        ShardCommand::List => list(&mut admin, global, terminal).await,
        ShardCommand::Transfer(Transfer { shard, to }) => {
            let order = Order::Transfer(SteerTransfer { shard, node: to.unwrap_or(0) });
            steer(order, &format!("transfer shard {shard}"), &mut admin, global, terminal).await
        }
        ShardCommand::Move(Move { shard, from, to }) => {
            let order = Order::Move(SteerMove { shard, from, to });
            steer(order, &format!("move shard {shard}"), &mut admin, global, terminal).await
        }
    }
}

async fn list(admin: &mut Admin, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let listed = admin.list_shards(request(ListShardsRequest {}, global)).await;
    let shards = listed.map_err(|status| Failure::from_grpc("cannot list the shards".to_owned(), &status))?.into_inner().shards;
    output::print(&Listing { shards: shards.into_iter().map(View::from).collect() }, global.output, terminal)
}

#[derive(Debug, Serialize)]
struct Listing {
    shards: Vec<View>,
}

#[derive(Debug, Serialize)]
struct View {
    id: u32,
    state: &'static str,
    epoch: u32,
    /// Null while there is none.
    leader: Option<String>,
    copies: Vec<CopyView>,
    end_lsn: u64,
    disk_used_bytes: u64,
    /// How often acknowledged messages were given up by `gantry shard recover`.
    unclean_recoveries: u32,
    /// They were, and no leader has begun since.
    recovering: bool,
}

#[derive(Debug, Serialize)]
struct CopyView {
    node: u64,
    leads: bool,
    learns: bool,
}

impl From<Shard> for View {
    fn from(shard: Shard) -> View {
        let state = match shard.state() {
            ShardState::Active => "active",
            ShardState::Recovering => "recovering",
            ShardState::Electing => "electing",
            ShardState::ReadOnly => "read-only",
            ShardState::Failed => "failed",
            ShardState::Unspecified => "unknown",
        };
        let copies = shard.copies.iter().map(|copy| CopyView { node: copy.node, leads: copy.leads, learns: copy.learns }).collect();
        let leader = Some(shard.leader).filter(|leader| !leader.is_empty());
        let Shard { id, epoch, end_lsn, disk_used_bytes, unclean_recoveries, recovering, .. } = shard;
        View { id, state, epoch, leader, copies, end_lsn, disk_used_bytes, unclean_recoveries, recovering }
    }
}

impl Report for Listing {
    fn table(&self) -> String {
        let mut table = Table::new(&[">SHARD", "STATE", ">EPOCH", "LEADER", "COPIES ON", ">BYTES", ">UNCLEAN"]);
        for shard in &self.shards {
            let on = |copy: &CopyView| if copy.learns { format!("{} (learns)", copy.node) } else { copy.node.to_string() };
            let copies: Vec<String> = shard.copies.iter().map(on).collect();
            let leader = or_dash(shard.leader.as_deref().unwrap_or_default());
            let (id, epoch, bytes) = (shard.id.to_string(), shard.epoch.to_string(), shard.disk_used_bytes.to_string());
            let unclean = shard.unclean_recoveries.to_string();
            table.row([id, shard.state.to_owned(), epoch, leader, or_dash(&copies.join(", ")), bytes, unclean]);
        }
        table.render()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_proto::admin::ShardCopy;

    #[test]
    fn shards_are_shown_with_their_copies() {
        let copies = vec![ShardCopy { node: 4, leads: true, learns: false }, ShardCopy { node: 7, leads: false, learns: true }];
        let led = Shard {
            id: 0,
            epoch: 3,
            leader: "node 4".into(),
            copies,
            state: ShardState::Active as i32,
            disk_used_bytes: 9,
            unclean_recoveries: 2,
            ..Shard::default()
        };
        let nobody = Shard { id: 1, state: ShardState::Electing as i32, ..Shard::default() };
        let expected = "\
SHARD  STATE     EPOCH  LEADER  COPIES ON      BYTES  UNCLEAN
    0  active        3  node 4  4, 7 (learns)      9        2
    1  electing      0  -       -                  0        0
";
        assert_eq!(Listing { shards: [led, nobody].into_iter().map(View::from).collect() }.table(), expected);
    }
}
