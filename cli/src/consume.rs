//! `gantry consume`: receives messages as a member of a group, prints them, and acknowledges what was printed.

use crate::connect::{self, Messaging, resource, within};
use crate::failure::{Failure, check_status};
use crate::global::Global;
use crate::output;
use crate::record::{BodyForm, Record, check_filter, nothing_more};
use crate::terminal::Terminal;
use crate::{group, produce, value};
use clap::Args;
use gantry_model::limits::{INVISIBLE_MAX_MS, INVISIBLE_MIN_MS, POLL_MAX_MS, RECEIVE_BATCH_MAX};
use gantry_proto::v2::receive_message_response::Content;
use gantry_proto::v2::{
    AckMessageEntry, AckMessageRequest, Code, FilterExpression, FilterType, Message, MessageQueue, NotifyClientTerminationRequest,
    ReceiveMessageRequest,
};
use std::io::Write;
use std::time::Duration;

pub const EXAMPLES: &str = "\
Examples:
  gantry consume orders --group billing
  gantry consume orders --group billing --follow --filter 'created || paid'
  gantry consume orders --group billing --count 10 --no-ack
  gantry consume orders --group billing -o json | jq -r .body";

#[derive(Debug, Args)]
pub struct Consume {
    /// Topic to receive from
    topic: String,
    /// Consumer group
    #[arg(long, short, value_name = "GROUP")]
    group: String,
    /// End after this many messages
    #[arg(long, short = 'n', value_name = "N", value_parser = produce::count)]
    count: Option<u64>,
    /// Only messages with one of these tags, such as 'A || B'
    #[arg(long, value_name = "TAGS", default_value = "*")]
    filter: String,
    /// Wait for new messages until interrupted
    #[arg(long, short)]
    follow: bool,
    /// Without --follow: end when no message comes for this long, at most 20s
    #[arg(long, value_name = "TIME", value_parser = value::duration, default_value = "3s", conflicts_with = "follow")]
    wait: Duration,
    /// Don't acknowledge: the group gets the messages again after the invisible duration
    #[arg(long)]
    no_ack: bool,
    /// How long others don't see a message that was received, 10s to 12h
    #[arg(long, value_name = "TIME", value_parser = value::duration, default_value = "30s")]
    invisible: Duration,
    /// How to show bodies
    #[arg(long, value_name = "FORM", value_enum, default_value_t = BodyForm::Auto)]
    body: BodyForm,
}

pub async fn run(args: Consume, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    check_filter(&args.filter)?;
    check_invisible(args.invisible)?;
    let mut client = connect::messaging(global, "consume").await?;
    connect::find_topic(&mut client, &args.topic, global).await?;
    let mut receiver = client.clone();
    let outcome = tokio::select! {
        outcome = receive_all(&args, &mut receiver, global, terminal) => outcome,
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    // A polite goodbye gives back at once what was received and not acknowledged; without it the invisible duration does.
    let goodbye = NotifyClientTerminationRequest { group: Some(resource(global, &args.group)) };
    let _ = client.notify_client_termination(within(goodbye, Duration::from_secs(1))).await;
    outcome
}

/// The server would say the same, one round trip later and without naming the option.
fn check_invisible(invisible: Duration) -> Result<(), Failure> {
    let allowed = Duration::from_millis(INVISIBLE_MIN_MS)..=Duration::from_millis(INVISIBLE_MAX_MS);
    if allowed.contains(&invisible) {
        return Ok(());
    }
    Err(Failure::usage(format!("`--invisible {}` is out of bounds", value::show_duration(invisible))).because("it must be 10s to 12h"))
}

async fn receive_all(args: &Consume, client: &mut Messaging, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        let messages = receive(args, left, client, global).await?;
        if messages.is_empty() && !args.follow {
            if args.count.is_some() || terminal.err_is_person {
                terminal.note(nothing_more(&args.topic, global))?;
            }
            return Ok(());
        }
        left = left.saturating_sub(messages.len() as u64);
        let entries: Vec<AckMessageEntry> = messages.iter().map(ack_entry).collect();
        for message in messages {
            output::print_one(&Record::delivered(message, args.body), global.output, terminal)?;
        }
        // Acknowledged only when it has left our hands: a reader of our output that dies must not lose messages.
        terminal.out.flush()?;
        if !args.no_ack && !entries.is_empty() {
            acknowledge(args, entries, client, global).await?;
        }
    }
    Ok(())
}

/// One long poll; an empty list when nothing came.
async fn receive(args: &Consume, left: u64, client: &mut Messaging, global: &Global) -> Result<Vec<Message>, Failure> {
    let longest = Duration::from_millis(POLL_MAX_MS);
    let poll = if args.follow { longest } else { args.wait.min(longest) };
    let ask = ReceiveMessageRequest {
        group: Some(resource(global, &args.group)),
        message_queue: Some(MessageQueue { topic: Some(resource(global, &args.topic)), id: -1, ..Default::default() }),
        filter_expression: Some(FilterExpression { r#type: FilterType::Tag as i32, expression: args.filter.clone() }),
        batch_size: left.min(u64::from(RECEIVE_BATCH_MAX)) as i32,
        invisible_duration: group::wire(args.invisible),
        long_polling_timeout: group::wire(poll),
        ..Default::default()
    };
    let what = format!("cannot receive from topic `{}` as group `{}`", args.topic, args.group);
    let stream = client.receive_message(within(ask, poll + global.timeout)).await;
    let mut stream = stream.map_err(|status| Failure::from_grpc(&what, &status))?.into_inner();
    let (mut messages, mut outcome) = (Vec::new(), None);
    while let Some(part) = stream.message().await.map_err(|status| Failure::from_grpc(&what, &status))? {
        match part.content {
            Some(Content::Message(message)) => messages.push(message),
            Some(Content::Status(status)) => outcome = Some(status),
            Some(Content::DeliveryTimestamp(_)) | None => {}
        }
    }
    match outcome {
        Some(status) if status.code == Code::MessageNotFound as i32 => Ok(Vec::new()),
        outcome => check_status(&what, outcome.as_ref()).map(|()| messages),
    }
}

fn ack_entry(message: &Message) -> AckMessageEntry {
    let system = message.system_properties.clone().unwrap_or_default();
    AckMessageEntry { message_id: system.message_id, receipt_handle: system.receipt_handle.unwrap_or_default(), lite_topic: None }
}

async fn acknowledge(args: &Consume, entries: Vec<AckMessageEntry>, client: &mut Messaging, global: &Global) -> Result<(), Failure> {
    let what = format!("cannot acknowledge messages of topic `{}` as group `{}`", args.topic, args.group);
    let ask = AckMessageRequest { group: Some(resource(global, &args.group)), topic: Some(resource(global, &args.topic)), entries };
    let answer = client.ack_message(connect::request(ask, global)).await.map_err(|status| Failure::from_grpc(&what, &status))?.into_inner();
    let failed = answer.entries.iter().filter_map(|entry| entry.status.as_ref()).find(|status| status.code != Code::Ok as i32);
    let late = "the messages were printed but come again; if printing takes long, raise `--invisible`";
    check_status(&what, failed.or(answer.status.as_ref())).map_err(|failure| failure.hint(late))
}
