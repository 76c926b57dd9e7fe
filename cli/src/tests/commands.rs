//! Each command as a user runs it.

use super::fake::NOON;
use super::{Fake, run, run_line, run_with_input};
use crate::Exit;
use gantry_proto::admin::dead_letter_selector::Selector;
use gantry_proto::admin::reset_group_offsets_request::Target;
use gantry_proto::v2::MessageType;

/// A cluster with two topics, a group, and five messages in `orders`.
async fn populated() -> Fake {
    let fake = Fake::start().await;
    for line in [
        "topic create orders --queues 2 --retention 36h --retention-size 1GiB --dedup off --set delay.max=7d",
        "topic create payments --type fifo --permission read",
        "group create billing --retry-delays 1s,10s,1m --auto-renew-cap 1h --start earliest --set quota.receive.messages=100",
        "group create audit --order none --max-attempts 3 --retry-initial 500ms --retry-max 5m",
    ] {
        let ran = run(&fake, line).await;
        assert_eq!(ran.exit(), Exit::Done, "{line}: {ran:?}");
    }
    for (tag, body) in [("A", "one"), ("B", "two"), ("A", "{\"n\":3}"), ("C", "four"), ("A", "five")] {
        let line = format!("produce orders --tag {tag} --key k-{body} --property region=eu --body {body}");
        assert_eq!(run(&fake, &line).await.exit(), Exit::Done);
    }
    fake
}

/// Message ids and what else differs from run to run, made equal.
fn settled(text: &str) -> String {
    let digits = |word: &str| word.len() == 32 && word.chars().all(|c| c.is_ascii_hexdigit());
    let lines = text.split_inclusive('\n').map(|line| {
        line.split_inclusive([' ', '"', '\n'])
            .map(|word| {
                let bare = word.trim_end_matches([' ', '"', '\n']);
                if digits(bare) { word.replace(bare, "<id>") } else { word.to_owned() }
            })
            .collect::<String>()
    });
    lines.collect()
}

async fn check(fake: &Fake, name: &str, line: &str) {
    let ran = run(fake, line).await;
    let failure = ran.result.as_ref().err().map(|failure| format!("{failure}\nexit code {}\n", failure.exit as u8)).unwrap_or_default();
    insta::assert_snapshot!(name, settled(&format!("$ gantry {line}\n{}{}{failure}", ran.out, ran.err)));
}

#[tokio::test]
async fn topics() {
    let fake = populated().await;
    check(&fake, "topic_list", "topic list").await;
    check(&fake, "topic_list_json", "topic list --prefix ord -o json").await;
    check(&fake, "topic_describe", "topic describe orders").await;
    check(&fake, "topic_describe_json", "topic describe payments -o json").await;
    check(&fake, "topic_update", "topic update orders --queues 4 --retention 7d").await;
    check(&fake, "topic_update_settings", "topic update orders --dedup on --set quota.timers=5 --reset delay.max -o json").await;
    check(&fake, "topic_update_nothing", "topic update orders").await;
    check(&fake, "topic_exists", "topic create orders").await;
    check(&fake, "topic_misspelt", "topic describe ordres").await;
    check(&fake, "topic_delete_unconfirmed", "topic delete orders").await;
    check(&fake, "topic_delete", "topic delete orders payments --yes").await;
    check(&fake, "topic_list_empty", "topic list").await;
}

#[tokio::test]
async fn groups() {
    let fake = populated().await;
    check(&fake, "group_list", "group list").await;
    check(&fake, "group_describe", "group describe billing").await;
    check(&fake, "group_describe_json", "group describe audit -o json").await;
    check(&fake, "group_update", "group update audit --max-attempts 5").await;
    check(&fake, "group_update_settings", "group update billing --set exhausted=block --reset quota.receive.messages -o json").await;
    check(&fake, "group_update_nothing", "group update audit").await;
    check(&fake, "group_misspelt", "group describe biling").await;
    check(&fake, "group_lag", "group lag billing").await;
    check(&fake, "group_lag_queues", "group lag billing --queues").await;
    check(&fake, "group_lag_json", "group lag billing -o json").await;
    check(&fake, "group_delete_json", "group delete audit --yes -o json").await;
}

#[tokio::test]
async fn transactions() {
    let fake = populated().await;
    check(&fake, "transaction_list", "transaction list orders").await;
    check(&fake, "transaction_list_json", "transaction list orders --given-up -o json").await;
    check(&fake, "transaction_list_misspelt", "transaction list ordres").await;
    check(&fake, "transaction_commit_unconfirmed", "transaction commit orders v1.1.transaction-1").await;
    check(&fake, "transaction_resume", "transaction resume orders v1.1.transaction-1").await;
    check(&fake, "transaction_foreign_id", "transaction commit orders x --yes").await;
    check(&fake, "transaction_commit", "transaction commit orders v1.1.transaction-1 --yes").await;
    check(&fake, "transaction_resume_ended", "transaction resume orders v1.1.transaction-1").await;
    check(&fake, "transaction_rollback_json", "transaction rollback orders v1.1.transaction-2 --yes -o json").await;
    check(&fake, "transaction_list_empty", "transaction list orders").await;
    let ended: Vec<i32> = fake.state().ended.values().copied().collect();
    assert_eq!(ended, [1, 2], "committed and rolled back");
}

#[tokio::test]
async fn shards_are_recovered_by_who_types_it_out() {
    let fake = Fake::start().await;
    check(&fake, "shard_recover_dry_run", "shard recover 7 --dry-run").await;
    check(&fake, "shard_recover_dry_run_json", "shard recover 7 --dry-run -o json").await;
    check(&fake, "shard_recover_unconfirmed", "shard recover 7").await;
    check(&fake, "shard_recover_wrong_phrase", "shard recover 7 --accept-data-loss lose·data·of·shard·8").await;
    check(&fake, "shard_recover_led", "shard recover 8 --accept-data-loss lose·data·of·shard·8").await;
    check(&fake, "shard_recover_unknown", "shard recover 9").await;
    assert_eq!(fake.state().recovered, Vec::<String>::new(), "nothing was ordered");
    check(&fake, "shard_recover", "shard recover 7 --accept-data-loss lose·data·of·shard·7 --by eve").await;
    assert_eq!(fake.state().recovered, ["eve"]);
}

#[tokio::test]
async fn a_person_types_the_phrase_at_the_terminal() {
    let plan = "all is lost";
    let ask = async |typed: &'static str| {
        let paper = super::Paper::default();
        let mut terminal = crate::Terminal {
            out: Box::new(std::io::sink()),
            err: Box::new(paper.clone()),
            input: Box::new(typed.as_bytes()),
            input_is_person: true,
            err_is_person: true,
        };
        let typed = terminal.type_phrase(plan, "lose data of shard 7", None, "--accept-data-loss").await;
        assert_eq!(paper.text(), "all is lost\nType `lose data of shard 7` to go on: ");
        typed.map_err(|failure| failure.exit)
    };
    assert_eq!(ask("lose data of shard 7\n").await, Ok(()));
    for wrong in ["", "\n", "yes\n", "y\n", "lose data of shard 17\n", "Lose data of shard 7\n"] {
        assert_eq!(ask(wrong).await, Err(Exit::Refused), "{wrong:?}");
    }
}

#[tokio::test]
async fn positions() {
    let fake = populated().await;
    check(&fake, "group_reset_dry_run", "group reset billing orders --to earliest --dry-run").await;
    check(&fake, "group_reset", "group reset billing orders --to 2026-08-01T12:00:00Z --yes").await;
    check(&fake, "group_reset_json", "group reset billing orders --to 4711 --queue 1 --yes -o json").await;
    check(&fake, "group_reset_unconfirmed", "group reset billing orders --to latest").await;
    check(&fake, "group_reset_offset_alone", "group reset billing orders --to 4711").await;
    check(&fake, "group_reset_misspelt", "group reset biling orders --to latest").await;
    check(&fake, "group_reset_no_topic", "group reset billing order --to latest").await;
    check(&fake, "group_reset_nowhere", "group reset billing orders --to yesterday").await;
    check(&fake, "group_copy", "group copy billing audit orders --yes").await;
    check(&fake, "group_skip", "group skip billing orders 3 17 20-29 --yes").await;
    check(&fake, "group_skip_unconfirmed", "group skip billing orders 3 17").await;
    let state = fake.state();
    let asked: Vec<_> = state.resets.iter().map(|ask| (ask.target.unwrap(), ask.queues.clone(), ask.dry_run)).collect();
    let noon = Target::Time(prost_types::Timestamp { seconds: NOON, nanos: 0 });
    let offset = Target::Offset(4_711);
    let expected = [
        (Target::Earliest(true), vec![], true),
        (noon, vec![], true),
        (noon, vec![], false),
        (offset, vec![1], true),
        (offset, vec![1], false),
        (Target::Latest(true), vec![], true),
    ];
    assert_eq!(asked, expected, "a reset is planned first, and carried out only if that was confirmed");
}

#[tokio::test]
async fn dead_letters() {
    let fake = populated().await;
    check(&fake, "dlq_list", "dlq list billing").await;
    check(&fake, "dlq_list_json", "dlq list billing --limit 1 -o json").await;
    check(&fake, "dlq_list_misspelt", "dlq list biling").await;
    check(&fake, "dlq_peek", "dlq peek billing").await;
    check(&fake, "dlq_peek_place", "dlq peek billing --place 0:2 --body hex").await;
    check(&fake, "dlq_peek_nothing", "dlq peek billing --id none").await;
    check(&fake, "dlq_redrive_some", "dlq redrive billing --id dead-0 --id dead-1 --to payments --rate 100/s").await;
    check(&fake, "dlq_redrive_all", "dlq redrive billing --all").await;
    check(&fake, "dlq_redrive_json", "dlq redrive billing --place 0:1 -o json").await;
    check(&fake, "dlq_redrive_what", "dlq redrive billing").await;
    check(&fake, "dlq_redrive_no_topic", "dlq redrive billing --all --to payment").await;
    check(&fake, "dlq_purge", "dlq purge billing --place 0:1 --yes").await;
    check(&fake, "dlq_purge_unconfirmed", "dlq purge billing --all").await;
    let state = fake.state();
    assert_eq!((state.redrives[0].per_second, state.redrives[0].to_topic.as_str()), (100.0, "payments"));
}

#[tokio::test]
async fn dead_letters_of_a_time() {
    let fake = populated().await;
    let ran = run(&fake, "dlq list billing --since 2h --until 2026-08-01").await;
    assert_eq!((ran.exit(), ran.out.lines().count()), (Exit::Done, 4));
    let Some(Some(Selector::Died(range))) = fake.state().selectors[0].clone().map(|meant| meant.selector) else { panic!("a time") };
    let ago = crate::clock::wall().seconds - range.from.unwrap().seconds;
    assert!((7_200..7_230).contains(&ago), "{ago} s");
    assert_eq!(range.to.unwrap().seconds, NOON - 12 * 3_600);
    assert_eq!(run(&fake, "dlq list billing --since 2h --all").await.exit(), Exit::Usage);
}

#[tokio::test]
async fn messages() {
    let fake = populated().await;
    check(&fake, "message_find_key", "message find orders --key k-two --group billing").await;
    check(&fake, "message_find_place", "message find orders --place 0:1").await;
    check(&fake, "message_find_json", "message find orders --key k-two --group billing -o json").await;
    check(&fake, "message_find_nothing", "message find orders --id none").await;
    check(&fake, "message_find_what", "message find orders").await;
    check(&fake, "message_life", "message life orders 1:0").await;
    check(&fake, "message_life_json", "message life orders 1:1 -o json").await;
    check(&fake, "message_life_missing", "message life orders 1:10").await;
    check(&fake, "message_life_unknown_id", "message life orders none").await;
    let id = fake.state().messages[2].system_properties.as_ref().unwrap().message_id.clone();
    let ran = run(&fake, &format!("message life orders {id}")).await;
    assert!(ran.out.starts_with("orders/0/1\n"), "{ran:?}");
    assert_eq!(run(&fake, "message find orders --since 36500d --limit 4").await.out.lines().count(), 4);
}

#[tokio::test]
async fn clients() {
    let fake = populated().await;
    check(&fake, "client_list", "client list").await;
    check(&fake, "client_list_json", "client list --type push-consumer --group billing -o json").await;
    check(&fake, "client_list_elsewhere", "client list -N elsewhere").await;
    check(&fake, "client_stack", "client stack consumer@1").await;
    check(&fake, "client_stack_no_stream", "client stack producer@2").await;
    check(&fake, "client_stack_unknown", "client stack nobody").await;
    check(&fake, "client_verify", "client verify consumer@1 --topic orders --queue 1 --offset 0").await;
    check(&fake, "client_verify_failed", "client verify consumer@1 --topic orders --id bad -o json").await;
    check(&fake, "client_verify_what", "client verify consumer@1 --topic orders").await;
}

#[tokio::test]
async fn every_command_takes_the_namespace() {
    let fake = populated().await;
    for line in ["topic create -N teams t", "group create --namespace teams g", "topic -N teams list", "-N teams group describe g"] {
        assert_eq!(run(&fake, line).await.exit(), Exit::Done, "{line}");
    }
    let state = fake.state();
    assert_eq!((state.topics["t"].namespace.as_str(), state.groups["g"].namespace.as_str()), ("teams", "teams"));
}

#[tokio::test]
async fn lite_topics() {
    let fake = populated().await;
    assert_eq!(run(&fake, "topic create sessions --type lite").await.exit(), Exit::Done);
    check(&fake, "lite_list", "lite list sessions").await;
    check(&fake, "lite_list_part", "lite list sessions --after session-1 --limit 1").await;
    check(&fake, "lite_list_json", "lite list sessions --limit 0 -o json").await;
    check(&fake, "lite_list_none", "lite list sessions --after session-9").await;
    check(&fake, "lite_list_ordinary_topic", "lite list orders").await;
    check(&fake, "lite_list_misspelt", "lite list session").await;
}

#[tokio::test]
async fn a_produced_message_carries_what_the_options_say() {
    let fake = populated().await;
    check(&fake, "produce_one", "produce orders --body hello").await;
    check(&fake, "produce_one_json", "produce orders --body hello -o json").await;
    let ran = run(&fake, "produce orders -b x -t T -k k1 -k k2 -p a=1 -p b=2=3 -g account-7").await;
    assert_eq!(ran.exit(), Exit::Done);
    run(&fake, "produce orders -b later --delay 10m").await;
    let state = fake.state();
    let [.., fifo, delayed] = &state.messages[..] else { panic!("two messages") };
    let system = fifo.system_properties.as_ref().unwrap();
    assert_eq!((system.tag.as_deref(), system.message_group.as_deref(), system.message_type()), (Some("T"), Some("account-7"), MessageType::Fifo));
    assert_eq!((system.keys.clone(), fifo.user_properties["b"].as_str()), (vec!["k1".to_owned(), "k2".to_owned()], "2=3"));
    let system = delayed.system_properties.as_ref().unwrap();
    let wait = system.delivery_timestamp.as_ref().unwrap().seconds - crate::clock::wall().seconds;
    assert_eq!(system.message_type(), MessageType::Delay);
    assert!((570..=600).contains(&wait), "{wait} s");
    assert!(state.client_ids[0].starts_with("gantry-produce@"));
}

#[tokio::test]
async fn each_line_of_stdin_is_a_message() {
    let fake = populated().await;
    fake.state().messages.clear();
    let ran = run_with_input(&fake, "produce orders --in-flight 4", "one\r\ntwo\n\nthree").await;
    assert_eq!((ran.exit(), ran.out.lines().count()), (Exit::Done, 3));
    let mut bodies: Vec<_> = fake.state().messages.iter().map(|message| message.body.clone()).collect();
    bodies.sort();
    assert_eq!(bodies, ["one", "three", "two"]);
}

#[tokio::test]
async fn many_messages_end_in_a_summary() {
    let fake = populated().await;
    fake.state().messages.clear();
    let ran = run(&fake, "produce orders --count 50 --size 2KiB --rate 2k/s --in-flight 8 -o json").await;
    let summary: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((summary["messages"].as_u64(), summary["bytes"].as_u64()), (Some(50), Some(102_400)));
    // Number 49 is due after 24.5 ms.
    assert!(summary["seconds"].as_f64().unwrap() >= 0.024);
    let state = fake.state();
    let mut ids: Vec<_> = state.messages.iter().map(|message| message.system_properties.as_ref().unwrap().message_id.clone()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 50);
    assert!(state.messages.iter().all(|message| message.body.len() == 2048));
}

#[tokio::test]
async fn a_send_to_nowhere_says_what_to_do() {
    let fake = populated().await;
    check(&fake, "produce_no_topic", "produce nowhere --body x").await;
    check(&fake, "produce_too_large", "produce orders --size 5MiB").await;
}

#[tokio::test]
async fn what_is_consumed_is_printed_and_then_acknowledged() {
    let fake = populated().await;
    check(&fake, "consume_two", "consume orders --group billing --count 2").await;
    assert_eq!(fake.state().acked, ["handle-0", "handle-1"]);
    check(&fake, "consume_rest_json", "consume orders --group billing --wait 20ms -o json").await;
    let (acked, goodbyes) = {
        let state = fake.state();
        (state.acked.len(), state.goodbyes)
    };
    assert_eq!((acked, goodbyes), (5, 2));
    check(&fake, "consume_nothing_left", "consume orders --group billing --wait 20ms --count 1").await;
}

#[tokio::test]
async fn without_ack_nothing_is_acknowledged() {
    let fake = populated().await;
    let ran = run(&fake, "consume orders -g billing --no-ack --wait 20ms --filter A·||·B --invisible 1m --body hex").await;
    assert_eq!((ran.exit(), ran.out.lines().count(), fake.state().acked.len()), (Exit::Done, 5, 0));
    assert!(ran.out.contains("6f6e65"), "{}", ran.out);
    let ask = fake.state().receives[0].clone();
    assert_eq!((ask.filter_expression.unwrap().expression, ask.invisible_duration.unwrap().seconds, ask.batch_size), ("A || B".to_owned(), 60, 32));
}

#[tokio::test]
async fn wrong_values_are_found_before_anything_is_sent() {
    let fake = populated().await;
    check(&fake, "consume_invisible_too_short", "consume orders -g billing --invisible 1s").await;
    check(&fake, "consume_wrong_filter", "consume orders -g billing --filter A|B").await;
    check(&fake, "wrong_duration", "consume orders -g billing --wait 5").await;
}

#[tokio::test]
async fn tail_shows_messages_and_leaves_nothing() {
    let fake = populated().await;
    check(&fake, "tail_last", "tail orders --last 3 --no-follow").await;
    check(&fake, "tail_last_json", "tail orders --last 1 --no-follow -o json").await;
    check(&fake, "tail_filter", "tail orders --last 5 --no-follow --filter A --body json").await;
    check(&fake, "tail_no_topic", "tail order --no-follow").await;
    let state = fake.state();
    assert_eq!((state.receives.len(), state.groups.len()), (0, 2));
}

#[tokio::test]
async fn tail_reads_all_pages_since_a_time() {
    let fake = populated().await;
    let ran = run(&fake, "tail orders --since 36500d --no-follow --body none").await;
    assert_eq!((ran.exit(), ran.out.lines().count()), (Exit::Done, 5));
    assert!(fake.state().lookups.len() > 1);
    assert!(ran.out.starts_with(&crate::value::show_time(NOON, 0)));
}

#[tokio::test]
async fn tail_follows_what_is_stored_later() {
    let fake = populated().await;
    let (watched, ()) = tokio::join!(run(&fake, "tail orders --count 4 --interval 5ms"), async {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        run_with_input(&fake, "produce orders", "six\nseven\neight\nnine\n").await;
    });
    let bodies: Vec<_> = watched.out.lines().map(|line| line.rsplit(' ').next().unwrap()).collect();
    assert_eq!((watched.exit(), bodies.len()), (Exit::Done, 4));
    assert!(bodies.iter().all(|body| ["six", "seven", "eight", "nine"].contains(body)), "{bodies:?}");
}

#[tokio::test]
async fn nobody_listening_is_told_apart() {
    // Port 1 needs root to listen on, and nobody does.
    for line in ["gantry topic list --admin 127.0.0.1:1", "gantry produce t -b x --endpoint 127.0.0.1:1", "gantry tail t --admin https://127.0.0.1:1"]
    {
        let ran = run_line(line, "").await;
        assert_eq!(ran.exit(), Exit::Unreachable, "{line}");
    }
    let failure = run_line("gantry topic list --admin 127.0.0.1:1", "").await.result.unwrap_err();
    insta::assert_snapshot!("unreachable", failure.to_string());
}
