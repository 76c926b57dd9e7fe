//! `gantry broker …`: the nodes of a cluster, and what is put on them.

use crate::connect::{self, Admin, request};
use crate::failure::Failure;
use crate::global::{Global, OutputFormat};
use crate::output::{self, Report, Table, or_dash};
use crate::terminal::Terminal;
use clap::{Args, Subcommand};
use gantry_proto::admin::steer_cluster_request::Order;
use gantry_proto::admin::{ListNodesRequest, Node, SteerClusterRequest};
use serde::Serialize;

/// What to do with brokers.
#[derive(Debug, Subcommand)]
pub enum BrokerCommand {
    /// List the nodes of the cluster, and what they hold and lead
    #[command(visible_alias = "ls", after_help = LIST_EXAMPLES)]
    List,
    /// Put nothing new on a broker, and have others lead what it leads: before a restart
    #[command(after_help = CORDON_EXAMPLES)]
    Cordon(One),
    /// Put copies and leads on a broker again
    #[command(after_help = RESUME_EXAMPLES)]
    Resume(One),
    /// Cordon a broker, and bring its copies to others: before it is taken away
    #[command(after_help = DRAIN_EXAMPLES)]
    Drain(One),
    /// Take a broker that holds nothing any more out of the cluster
    #[command(after_help = REMOVE_EXAMPLES)]
    Remove(One),
}

const LIST_EXAMPLES: &str = "\
Examples:
  gantry broker list
  gantry broker list -o json | jq '.nodes[] | select(.up | not)'";
const CORDON_EXAMPLES: &str = "\
Examples:
  gantry broker cordon 5      # its leads go to others within a second
  gantry broker resume 5      # when it is back";
const RESUME_EXAMPLES: &str = "\
Examples:
  gantry broker resume 5";
const REMOVE_EXAMPLES: &str = "\
Examples:
  gantry broker remove 5      # its number is never given to another";
const DRAIN_EXAMPLES: &str = "\
Examples:
  gantry broker drain 5
  gantry broker list          # until it holds 0 copies
  gantry broker remove 5";

/// One broker.
#[derive(Debug, Args)]
pub struct One {
    /// Its number, as `gantry broker list` shows it
    #[arg(value_name = "NODE", value_parser = clap::value_parser!(u64).range(1..))]
    node: u64,
}

pub async fn run(command: BrokerCommand, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let mut admin = connect::admin(global).await?;
    let (order, tried) = match command {
        BrokerCommand::List => return list(&mut admin, global, terminal).await,
        BrokerCommand::Cordon(One { node }) => (Order::Cordon(node), format!("cordon broker {node}")),
        BrokerCommand::Resume(One { node }) => (Order::Uncordon(node), format!("resume broker {node}")),
        BrokerCommand::Drain(One { node }) => (Order::Drain(node), format!("drain broker {node}")),
        BrokerCommand::Remove(One { node }) => (Order::Remove(node), format!("remove broker {node}")),
    };
    steer(order, &tried, &mut admin, global, terminal).await
}

async fn list(admin: &mut Admin, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let listed = admin.list_nodes(request(ListNodesRequest {}, global)).await;
    let nodes = listed.map_err(|status| Failure::from_grpc("cannot list the nodes".to_owned(), &status))?.into_inner().nodes;
    if nodes.is_empty() && global.output == OutputFormat::Table {
        return terminal.note("this server is all of its cluster; `gantry dev cluster` shows one of several").map_err(Failure::from);
    }
    output::print(&Listing { nodes: nodes.into_iter().map(View::from).collect() }, global.output, terminal)
}

/// Has the cluster do something, and says what is done.
pub async fn steer(order: Order, tried: &str, admin: &mut Admin, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let answer = admin.steer_cluster(request(SteerClusterRequest { order: Some(order) }, global)).await;
    let done = answer.map_err(|status| {
        let mut failure = Failure::from_grpc(format!("cannot {tried}"), &status);
        failure.next.get_or_insert_with(|| "see what there is with `gantry broker list` and `gantry shard list`".to_owned());
        failure
    })?;
    output::print(&Done { done: done.into_inner().done }, global.output, terminal)
}

/// What was done.
#[derive(Debug, Serialize)]
struct Done {
    done: String,
}

impl Report for Done {
    fn table(&self) -> String {
        format!("{}\n", self.done)
    }
}

#[derive(Debug, Serialize)]
struct Listing {
    nodes: Vec<View>,
}

#[derive(Debug, Serialize)]
struct View {
    id: u64,
    role: &'static str,
    address: String,
    zone: String,
    up: bool,
    cordoned: bool,
    copies: u32,
    leads: u32,
}

impl From<Node> for View {
    fn from(node: Node) -> View {
        let Node { id, address, zone, capacity, up, cordoned, copies, leads } = node;
        View { id, role: if capacity > 0 { "broker" } else { "controller" }, address, zone, up, cordoned, copies, leads }
    }
}

impl Report for Listing {
    fn table(&self) -> String {
        let mut table = Table::new(&[">NODE", "ROLE", "ADDRESS", "ZONE", "STATE", ">COPIES", ">LEADS"]);
        for node in &self.nodes {
            let state = match (node.up, node.cordoned) {
                (false, _) => "down",
                (true, true) => "cordoned",
                (true, false) => "up",
            };
            let count = |count: u32| if node.role == "broker" { count.to_string() } else { "-".to_owned() };
            let (copies, leads) = (count(node.copies), count(node.leads));
            table.row([node.id.to_string(), node.role.to_owned(), or_dash(&node.address), or_dash(&node.zone), state.to_owned(), copies, leads]);
        }
        table.render()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_shown_by_role_and_state() {
        let node =
            |id, capacity, up, cordoned| Node { id, address: format!("n{id}:9081"), capacity, up, cordoned, copies: 4, leads: 1, ..Node::default() };
        let nodes = [node(1, 0, true, false), node(4, 9, true, true), node(5, 9, false, false)];
        let expected = "\
NODE  ROLE        ADDRESS  ZONE  STATE     COPIES  LEADS
   1  controller  n1:9081  -     up             -      -
   4  broker      n4:9081  -     cordoned       4      1
   5  broker      n5:9081  -     down           4      1
";
        assert_eq!(Listing { nodes: nodes.into_iter().map(View::from).collect() }.table(), expected);
    }
}
