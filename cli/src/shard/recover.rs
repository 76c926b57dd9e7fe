//! `gantry shard recover`: shows what is left of a shard that nobody can lead, and has the best copy go on alone if that is typed out.

use crate::broker::steer;
use crate::connect::{Admin, request};
use crate::failure::{Exit, Failure};
use crate::global::Global;
use crate::output::{self, Report, Table};
use crate::terminal::Terminal;
use crate::value;
use clap::Args;
use gantry_proto::admin::steer_cluster_request::Order;
use gantry_proto::admin::{SteerRecover, SurveyShardRequest, SurveyShardResponse, SurveyedCopy};
use serde::Serialize;

pub const EXAMPLES: &str = "\
First bring back every broker that can be brought back: as soon as enough copies answer, a leader is chosen and nothing is lost.

Examples:
  gantry shard recover 7 --dry-run        what is known of its copies
  gantry shard recover 7                  asks to type `lose data of shard 7`
  gantry shard recover 7 --accept-data-loss 'lose data of shard 7'";

#[derive(Debug, Args)]
pub struct Recover {
    /// Its number
    shard: u32,
    /// Only show what is known of its copies
    #[arg(long)]
    dry_run: bool,
    /// What would have to be typed: `lose data of shard N`
    #[arg(long, value_name = "PHRASE", conflicts_with = "dry_run")]
    accept_data_loss: Option<String>,
    /// Who does this, for the record
    #[arg(long, value_name = "NAME", env = "USER", hide_env_values = true, default_value = "unknown")]
    by: String,
}

pub async fn run(args: Recover, admin: &mut Admin, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let Recover { shard, dry_run, accept_data_loss, by } = args;
    let tried = format!("recover shard {shard}");
    let surveyed = admin.survey_shard(request(SurveyShardRequest { shard }, global)).await;
    let survey = surveyed.map_err(|status| Failure::from_grpc(format!("cannot {tried}"), &status))?.into_inner();
    let view = View::from(&survey);
    if dry_run {
        return output::print(&view, global.output, terminal);
    }
    terminal.note(view.copies())?;
    let Some(best) = view.best else {
        let next = "look at it with `gantry shard list` and `gantry broker list`";
        return Err(Failure::new(Exit::Refused, format!("cannot {tried}")).because(survey.refusal).hint(next));
    };
    let plan = plan(&view, best);
    terminal.type_phrase(&plan, &survey.phrase, accept_data_loss.as_deref(), "--accept-data-loss").await?;
    let SurveyShardResponse { epoch, phrase, .. } = survey;
    steer(Order::Recover(SteerRecover { shard, epoch, node: best, phrase, by }), &tried, admin, global, terminal).await
}

/// What would happen, for who has to decide.
fn plan(view: &View, best: u64) -> String {
    let others: Vec<String> = view.copies.iter().filter(|copy| copy.node != best).map(|copy| copy.node.to_string()).collect();
    let newest = view.copies.iter().find(|copy| copy.node == best).and_then(|copy| copy.log.as_ref()).and_then(|log| log.last_time.clone());
    let newest = newest.map_or_else(|| "it is empty".to_owned(), |time| format!("its newest record is of {time}"));
    format!(
        "Kept: what the copy on node {best} has; {newest}.\n\
         Lost for ever: every message and every progress of a group that was acknowledged, and is only in the copies on nodes {}. How much that is \
         can't be known without them. Be sure that their brokers have ended: if they are only cut off, they may still be serving clients.\n\
         Files of those copies are put aside when their brokers come back, and removed 10 minutes later. There is no way back.",
        others.join(", ")
    )
}

/// What is known of a shard's copies.
#[derive(Debug, Serialize)]
struct View {
    shard: u32,
    epoch: u32,
    copies: Vec<CopyView>,
    /// The node whose copy would go on alone.
    best: Option<u64>,
    /// Why none is to.
    refusal: Option<String>,
}

#[derive(Debug, Serialize)]
struct CopyView {
    node: u64,
    /// Why it can't be used.
    away: Option<String>,
    suspect: bool,
    log: Option<LogView>,
}

#[derive(Debug, Serialize)]
struct LogView {
    last_epoch: u32,
    end_lsn: u64,
    committed_lsn: u64,
    last_time: Option<String>,
}

impl From<&SurveyShardResponse> for View {
    fn from(survey: &SurveyShardResponse) -> View {
        let copy = |copy: &SurveyedCopy| {
            let log = copy.log.as_ref().map(|log| LogView {
                last_epoch: log.last_epoch,
                end_lsn: log.end,
                committed_lsn: log.high_watermark,
                last_time: log.last_time.as_ref().map(value::show_timestamp),
            });
            CopyView { node: copy.node, away: Some(copy.away.clone()).filter(|why| !why.is_empty()), suspect: copy.suspect, log }
        };
        View {
            shard: survey.shard,
            epoch: survey.epoch,
            copies: survey.copies.iter().map(copy).collect(),
            best: Some(survey.best).filter(|best| *best > 0),
            refusal: Some(survey.refusal.clone()).filter(|why| !why.is_empty()),
        }
    }
}

impl Report for View {
    fn table(&self) -> String {
        let refusal = self.refusal.as_ref().map(|why| format!("Nothing is to be given up: {why}\n")).unwrap_or_default();
        format!("{}{refusal}", self.copies())
    }
}

impl View {
    fn copies(&self) -> String {
        let mut table = Table::new(&[">NODE", ">LAST EPOCH", ">END", ">COMMITTED", "NEWEST RECORD", "COPY"]);
        for copy in &self.copies {
            let dash = || "-".to_owned();
            let said = match (&copy.away, copy.suspect) {
                (Some(why), _) => why.clone(),
                (None, true) => "answers, and may lack what it acknowledged".to_owned(),
                (None, false) => "answers".to_owned(),
            };
            let said = if self.best == Some(copy.node) { format!("{said}; the best") } else { said };
            let numbers = match &copy.log {
                Some(LogView { last_epoch, end_lsn, committed_lsn, last_time }) => {
                    [last_epoch.to_string(), end_lsn.to_string(), committed_lsn.to_string(), last_time.clone().unwrap_or_else(dash)]
                }
                None => [dash(), dash(), dash(), dash()],
            };
            table.row([copy.node.to_string()].into_iter().chain(numbers).chain([said]));
        }
        format!("Shard {}, epoch {}\n{}", self.shard, self.epoch, table.render())
    }
}
