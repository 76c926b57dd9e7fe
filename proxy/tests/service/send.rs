//! SendMessage: every row of the validation tables, and the shape of the answer.

use crate::rig::{Rig, call, changed, message, resource, seconds};
use gantry_model::contract::broker::SendError;
use gantry_model::message::BodyEncoding;
use gantry_model::topic::{Permission, TopicType};
use gantry_model::{MessageKind, TopicName, contract::Metadata};
use gantry_proto::v2::*;
use prost_types::Timestamp;
use std::time::Duration;

async fn send(rig: &Rig, messages: Vec<Message>) -> SendMessageResponse {
    rig.client.clone().send_message(call(SendMessageRequest { messages })).await.unwrap().into_inner()
}

fn code(answer: &SendMessageResponse) -> Code {
    answer.status.as_ref().unwrap().code()
}

/// Sends one message to the topic `orders`, which takes the ordinary kinds.
async fn check(rig: &Rig, message: Message, expected: Code) {
    let text = format!("{message:?}").chars().take(300).collect::<String>();
    let answer = send(rig, vec![message]).await;
    assert_eq!(code(&answer), expected, "{} for {text}", answer.status.unwrap().message);
    assert_eq!(answer.entries.len(), usize::from(expected == Code::Ok), "a refusal has no entries");
}

fn timestamp(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds, nanos: 0 })
}

#[tokio::test]
async fn a_stored_message_is_answered_with_its_own_entry() {
    let (rig, topic) = Rig::with_topic().await;
    let message = changed("orders", |message, system| {
        message.user_properties = [("k".to_owned(), "v".to_owned())].into();
        system.tag = Some("tag".into());
        system.keys = vec!["one".into(), String::new(), "two words".into()];
        system.born_timestamp = Some(Timestamp { seconds: 12, nanos: 345_678_901 });
        system.born_host = "host".into();
        system.body_encoding = Encoding::Gzip as i32;
        system.trace_context = Some("00-trace".into());
        system.delivery_attempt = Some(77);
        system.queue_id = 99;
    });
    let answer = send(&rig, vec![message]).await;
    assert_eq!(code(&answer), Code::Ok);
    let entry = &answer.entries[0];
    assert_eq!((entry.status.as_ref().unwrap().code(), entry.message_id.as_str(), entry.offset), (Code::Ok, "01020304", 0));
    let stored = rig.broker.with(|state| state.stored[0].clone());
    assert_eq!(stored.topic, topic.id);
    let message = stored.message;
    assert_eq!((message.id.as_str(), message.kind, &message.body[..]), ("01020304", MessageKind::Normal, &b"hello"[..]));
    assert_eq!(message.properties, [("k".to_owned(), "v".to_owned())]);
    assert_eq!((message.tag.as_deref(), message.keys), (Some("tag"), vec!["one".to_owned(), "two words".to_owned()]));
    assert_eq!((message.born_ms, message.born_host.as_str(), message.encoding), (12_345, "host", BodyEncoding::Gzip));
    assert_eq!(message.trace_context.as_deref(), Some("00-trace"));
    assert_eq!(message.digest[..4], [0xaa, 0xf4, 0xc6, 0x1d], "SHA-1 of the body");
}

#[tokio::test]
async fn what_a_producer_leaves_out_is_filled_in() {
    let (rig, _) = Rig::with_topic().await;
    check(&rig, message("orders"), Code::Ok).await;
    let message = rig.broker.with(|state| state.stored[0].message.clone());
    assert_eq!(message.born_host, "127.0.0.1");
    assert!(message.born_ms > 1_735_689_600_000, "the time of arrival");
}

#[tokio::test]
async fn bodies_have_bounds() {
    let (rig, _) = Rig::with_topic().await;
    check(&rig, changed("orders", |message, _| message.body = "".into()), Code::MessageBodyEmpty).await;
    check(&rig, changed("orders", |message, _| message.body = vec![1; 4 << 20].into()), Code::Ok).await;
    check(&rig, changed("orders", |message, _| message.body = vec![1; (4 << 20) + 1].into()), Code::MessageBodyTooLarge).await;
}

#[tokio::test]
async fn properties_have_bounds() {
    let (rig, _) = Rig::with_topic().await;
    let with = |properties: Vec<(String, String)>| changed("orders", |message, _| message.user_properties = properties.into_iter().collect());
    let many = |count: usize| (0..count).map(|n| (format!("k{n}"), "v".to_owned())).collect();
    check(&rig, with(many(128)), Code::Ok).await;
    check(&rig, with(many(129)), Code::MessagePropertiesTooLarge).await;
    for reserved in ["KEYS", "UNIQ_KEY", "__CRC32#", "_SYS_MSG_PRIORITY_"] {
        check(&rig, with(vec![(reserved.into(), "v".into())]), Code::IllegalMessagePropertyKey).await;
    }
    for leaked in ["__SHARDINGKEY", "TRACE_CONTEXT", "INNER_NUM", "keys"] {
        check(&rig, with(vec![(leaked.into(), "v".into())]), Code::Ok).await;
    }
    for control in ["\u{0}", "\u{1f}", "\u{7f}", "\u{9f}"] {
        check(&rig, with(vec![(format!("k{control}"), "v".into())]), Code::IllegalMessagePropertyKey).await;
        check(&rig, with(vec![("k".into(), format!("v{control}"))]), Code::IllegalMessagePropertyKey).await;
    }
    check(&rig, with(vec![("k".into(), "v".repeat(16 * 1024 - 1))]), Code::Ok).await;
    check(&rig, with(vec![("k".into(), "v".repeat(16 * 1024))]), Code::MessagePropertiesTooLarge).await;
    let trace = changed("orders", |_, system| system.trace_context = Some("t".repeat(16 * 1024 + 1)));
    check(&rig, trace, Code::MessagePropertiesTooLarge).await;
}

#[tokio::test]
async fn tags_and_keys_are_checked() {
    let (rig, _) = Rig::with_topic().await;
    for (tag, expected) in
        [("", Code::Ok), ("ok", Code::Ok), (" ", Code::IllegalMessageTag), ("a|b", Code::IllegalMessageTag), ("a\n", Code::IllegalMessageTag)]
    {
        check(&rig, changed("orders", |_, system| system.tag = Some(tag.into())), expected).await;
    }
    for (key, expected) in
        [("", Code::Ok), ("a b", Code::Ok), ("\t", Code::IllegalMessageKey), (" ", Code::IllegalMessageKey), ("a\u{85}", Code::IllegalMessageKey)]
    {
        check(&rig, changed("orders", |_, system| system.keys = vec!["ok".into(), key.into()]), expected).await;
    }
    let long = changed("orders", |_, system| (system.tag, system.keys) = (Some("t".into()), vec!["k".repeat(16 * 1024)]));
    check(&rig, long, Code::MessagePropertiesTooLarge).await;
}

#[tokio::test]
async fn message_ids_are_opaque_but_not_blank() {
    let (rig, _) = Rig::with_topic().await;
    for (id, expected) in [
        ("x".to_owned(), Code::Ok),
        ("i".repeat(255), Code::Ok),
        ("i".repeat(256), Code::IllegalMessageId),
        (" ".into(), Code::IllegalMessageId),
        (String::new(), Code::IllegalMessageId),
    ] {
        check(&rig, changed("orders", |_, system| system.message_id = id.clone()), expected).await;
    }
    check(&rig, Message { system_properties: None, ..message("orders") }, Code::IllegalMessageId).await;
}

#[tokio::test]
async fn times_are_checked_before_kinds() {
    let (rig, _) = Rig::with_topic().await;
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() as i64;
    let days = 86_400;
    for (due, expected) in [
        (now + 40 * days - 60, Code::Ok),
        (now + 40 * days + 60, Code::IllegalDeliveryTime),
        (i64::MAX, Code::IllegalDeliveryTime),
        (now - 10, Code::Ok),
        (i64::MIN, Code::Ok),
    ] {
        check(&rig, changed("orders", |_, system| system.delivery_timestamp = timestamp(due)), expected).await;
    }
    for (recovery, expected) in [(3_600, Code::Ok), (0, Code::Ok), (-5, Code::Ok), (3_601, Code::BadRequest)] {
        let transaction = changed("orders", |_, system| {
            system.message_type = MessageType::Transaction as i32;
            system.orphaned_transaction_recovery_duration = Some(seconds(recovery));
        });
        check(&rig, transaction, expected).await;
    }
}

#[tokio::test]
async fn message_groups_are_checked() {
    let (rig, _) = Rig::with_topic().await;
    for (group, expected) in [
        (String::new(), Code::Ok),
        ("g".repeat(63), Code::Ok),
        ("g".repeat(64), Code::IllegalMessageGroup),
        ("ü".repeat(32), Code::IllegalMessageGroup),
        ("  ".into(), Code::IllegalMessageGroup),
        ("a\u{1}".into(), Code::IllegalMessageGroup),
    ] {
        check(&rig, changed("orders", |_, system| system.message_group = Some(group.clone())), expected).await;
    }
}

#[tokio::test]
async fn the_first_fault_in_the_order_of_the_protocol_wins() {
    let (rig, _) = Rig::with_topic().await;
    let everything_wrong = |fixed: usize| {
        changed("orders", move |message, system| {
            if fixed < 1 {
                message.body = "".into();
            }
            if fixed < 2 {
                message.user_properties = [("TAGS".to_owned(), "v".to_owned())].into();
            }
            if fixed < 3 {
                system.tag = Some("|".into());
            }
            if fixed < 4 {
                system.keys = vec![" ".into()];
            }
            if fixed < 5 {
                system.message_id = String::new();
            }
            if fixed < 6 {
                system.delivery_timestamp = timestamp(i64::MAX);
            }
            system.message_group = Some(" ".into());
        })
    };
    let order = [
        Code::MessageBodyEmpty,
        Code::IllegalMessagePropertyKey,
        Code::IllegalMessageTag,
        Code::IllegalMessageKey,
        Code::IllegalMessageId,
        Code::IllegalDeliveryTime,
        Code::IllegalMessageGroup,
    ];
    for (fixed, expected) in order.into_iter().enumerate() {
        check(&rig, everything_wrong(fixed), expected).await;
    }
}

#[tokio::test]
async fn topics_are_checked() {
    let (rig, _) = Rig::with_topic().await;
    rig.metadata.add_topic_with("closed", TopicType::Normal, Permission::Read);
    for (topic, expected) in [
        ("", Code::IllegalTopic),
        ("a.b", Code::IllegalTopic),
        ("SELF_TEST_TOPIC", Code::IllegalTopic),
        ("missing", Code::TopicNotFound),
        ("closed", Code::Forbidden),
        ("%DLQ%group", Code::Forbidden),
    ] {
        check(&rig, message(topic), expected).await;
    }
    assert!(rig.metadata.topic(&TopicName::parse("", "missing").unwrap()).is_none(), "sending makes no topic");
}

#[tokio::test]
async fn kinds_exclude_each_other_and_must_fit_the_topic() {
    let (rig, _) = Rig::with_topic().await;
    for (name, kind) in [
        ("normal", TopicType::Normal),
        ("fifo", TopicType::Fifo),
        ("delay", TopicType::Delay),
        ("lite", TopicType::Lite),
        ("urgent", TopicType::Priority),
    ] {
        rig.metadata.add_topic(name, kind);
    }
    let conflict = Code::MessagePropertyConflictWithType;
    let with = |topic: &str, kind: MessageType, change: fn(&mut SystemProperties)| {
        changed(topic, |_, system| {
            system.message_type = kind as i32;
            change(system);
        })
    };
    let group = |system: &mut SystemProperties| system.message_group = Some("g".into());
    let due = |system: &mut SystemProperties| system.delivery_timestamp = timestamp(5);
    let nothing = |_: &mut SystemProperties| {};
    let both = |system: &mut SystemProperties| (system.message_group, system.delivery_timestamp) = (Some("g".into()), timestamp(5));
    let lite = |system: &mut SystemProperties| system.lite_topic = Some("chat-1".into());
    let bad_lite = |system: &mut SystemProperties| system.lite_topic = Some("no spaces".into());
    let priority = |system: &mut SystemProperties| system.priority = Some(3);
    let bad_priority = |system: &mut SystemProperties| system.priority = Some(-1);
    check(&rig, with("normal", MessageType::Normal, nothing), Code::Ok).await;
    check(&rig, with("normal", MessageType::Unspecified, nothing), Code::Ok).await;
    check(&rig, with("normal", MessageType::Normal, group), conflict).await;
    check(&rig, with("fifo", MessageType::Normal, nothing), conflict).await;
    check(&rig, with("delay", MessageType::Delay, nothing), conflict).await;
    check(&rig, with("fifo", MessageType::Fifo, group), Code::Ok).await;
    check(&rig, with("orders", MessageType::Unspecified, group), Code::Ok).await;
    check(&rig, with("orders", MessageType::Fifo, nothing), conflict).await;
    check(&rig, with("orders", MessageType::Delay, group), conflict).await;
    check(&rig, with("orders", MessageType::Fifo, both), conflict).await;
    check(&rig, with("orders", MessageType::Transaction, due), conflict).await;
    check(&rig, with("orders", MessageType::Priority, priority), conflict).await;
    check(&rig, with("urgent", MessageType::Priority, priority), Code::Ok).await;
    check(&rig, with("lite", MessageType::Lite, lite), Code::Ok).await;
    check(&rig, with("lite", MessageType::Lite, bad_lite), Code::IllegalLiteTopic).await;
    check(&rig, with("orders", MessageType::Priority, bad_priority), Code::BadRequest).await;
}

#[tokio::test]
async fn a_batch_is_checked_as_a_whole() {
    let (rig, _) = Rig::with_topic().await;
    let answer = send(&rig, vec![]).await;
    assert_eq!((code(&answer), answer.entries.len()), (Code::BadRequest, 0));
    let answer = send(&rig, vec![message("orders"), message("other")]).await;
    assert_eq!((code(&answer), answer.entries.len()), (Code::MessageCorrupted, 0));
    let namespaced = Message { topic: Some(Resource { resource_namespace: "ns".into(), name: "orders".into() }), ..message("orders") };
    assert_eq!(code(&send(&rig, vec![message("orders"), namespaced]).await), Code::MessageCorrupted);
    assert_eq!(code(&send(&rig, vec![message("orders"); 129]).await), Code::BadRequest);
    let large = changed("orders", |message, _| message.body = vec![1; 3 << 20].into());
    assert_eq!(code(&send(&rig, vec![large; 3]).await), Code::MessageBodyTooLarge);
    let second_bad = changed("orders", |_, system| system.message_id = String::new());
    assert_eq!(code(&send(&rig, vec![message("orders"), second_bad]).await), Code::IllegalMessageId);
    let second_both = changed("orders", |_, system| (system.message_group, system.delivery_timestamp) = (Some("g".into()), timestamp(5)));
    assert_eq!(code(&send(&rig, vec![message("orders"), second_both]).await), Code::MessagePropertyConflictWithType);
    assert!(rig.broker.with(|state| state.stored.is_empty()), "nothing of a refused batch is stored");

    let batch: Vec<Message> = (0..128).map(|n| changed("orders", |_, system| system.message_id = format!("id-{n}"))).collect();
    let answer = send(&rig, batch).await;
    assert_eq!((code(&answer), answer.entries.len()), (Code::Ok, 128));
    assert!(answer.entries.iter().enumerate().all(|(n, entry)| entry.message_id == format!("id-{n}") && entry.offset == n as i64));
}

#[tokio::test]
async fn answers_of_the_broker_become_codes() {
    let (rig, _) = Rig::with_topic().await;
    for (error, expected) in [
        (SendError::Busy, Code::TooManyRequests),
        (SendError::DiskFull { used_percent: 97 }, Code::TooManyRequests),
        (SendError::NoWritableQueue, Code::Forbidden),
        (SendError::Draining, Code::TooManyRequests),
        (SendError::Unknown { why: "the disk failed".into() }, Code::InternalServerError),
    ] {
        rig.broker.with(|state| state.send_error = Some(error.clone()));
        let answer = send(&rig, vec![message("orders"), message("orders")]).await;
        assert_eq!((code(&answer), answer.entries.len()), (expected, 2));
        assert!(answer.entries.iter().all(|entry| entry.message_id.is_empty() && entry.status.as_ref().unwrap().message == error.to_string()));
    }
    rig.broker.with(|state| (state.send_error, state.second_send_error) = (None, Some(SendError::Busy)));
    let answer = send(&rig, vec![message("orders"), message("orders")]).await;
    let codes: Vec<Code> = answer.entries.iter().map(|entry| entry.status.as_ref().unwrap().code()).collect();
    assert_eq!((code(&answer), codes), (Code::MultipleResults, vec![Code::Ok, Code::TooManyRequests]));
}

#[tokio::test]
async fn a_call_is_answered_before_its_deadline() {
    let (rig, _) = Rig::with_topic().await;
    rig.broker.with(|state| state.send_takes = Duration::from_secs(60));
    let mut request = call(SendMessageRequest { messages: vec![message("orders")] });
    request.set_timeout(Duration::from_millis(600));
    let answer = rig.client.clone().send_message(request).await.unwrap().into_inner();
    assert_eq!((code(&answer), answer.entries.len()), (Code::ProxyTimeout, 0));
}

#[tokio::test]
async fn a_topic_of_a_namespace_is_another_topic() {
    let (rig, _) = Rig::with_topic().await;
    let elsewhere = Message { topic: Some(Resource { resource_namespace: "ns".into(), ..resource("orders").unwrap() }), ..message("orders") };
    check(&rig, elsewhere, Code::TopicNotFound).await;
}
