//! The administration service of RocketMQ 5: each rpc with what it answers, and with what it refuses.

use crate::rig::{Rig, call_from, channel, receive, resource, simple_poll};
use crate::telemetry::{Session, consumer, producer};
use gantry_model::contract::Metadata;
use gantry_model::contract::broker::{OffsetError, SeekTarget};
use gantry_model::group::{GroupChange, GroupOptions, Sharing};
use gantry_model::topic::{TopicOptions, TopicSpec, TopicType};
use gantry_model::{GroupName, TopicName};
use gantry_platform::tasks;
use gantry_proto::v2::admin_client::AdminClient;
use gantry_proto::v2::change_log_level_request::Level;
use gantry_proto::v2::list_message_request::SearchKey;
use gantry_proto::v2::telemetry_command::Command;
use gantry_proto::v2::*;
use gantry_proxy::Config;
use gantry_proxy::admin_v2::LogControl;
use prost_types::Timestamp;
use std::sync::{Arc, Mutex};
use tokio::sync::oneshot;
use tonic::transport::Channel;

async fn client(rig: &Rig) -> AdminClient<Channel> {
    AdminClient::new(channel(rig.admin).await).max_decoding_message_size(64 << 20)
}

/// Calls an rpc, and answers its response and the code in it.
macro_rules! ask {
    ($rig:expr, $rpc:ident, $request:expr) => {{
        let answer = client(&$rig).await.$rpc($request).await.unwrap().into_inner();
        let code = answer.status.as_ref().unwrap().code();
        (answer, code)
    }};
}

/// A push consumer of `orders` in `group`, with an open stream.
async fn connected(rig: &Rig, client: &str, filter: &str) -> Session {
    let mut session = Session::open(rig, client, "JAVA").await;
    session.send(consumer("group", &[("orders", filter)])).await;
    session.settings().await;
    session
}

fn at(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds, nanos: 0 })
}

#[tokio::test]
async fn the_log_level_is_handed_to_the_process() {
    let levels: Arc<Mutex<Vec<tracing::Level>>> = Arc::default();
    let seen = levels.clone();
    let control = LogControl::new(move |level| {
        seen.lock().unwrap().push(level);
        if level == tracing::Level::ERROR { Err("it is busy".to_owned()) } else { Ok(()) }
    });
    let rig = Rig::with(Config { log_control: Some(control), ..Config::default() }).await;
    let change = async |level: i32| client(&rig).await.change_log_level(ChangeLogLevelRequest { level }).await;
    let remark = change(Level::Debug as i32).await.unwrap().into_inner().remark;
    assert_eq!(remark, "the server logs from DEBUG on, until it restarts with its own `log.level`");
    assert!(change(0).await.unwrap().into_inner().remark.contains("TRACE"), "absent means TRACE");
    assert_eq!(change(9).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    assert!(change(Level::Error as i32).await.unwrap_err().message().contains("it is busy"));
    assert_eq!(*levels.lock().unwrap(), [tracing::Level::DEBUG, tracing::Level::TRACE, tracing::Level::ERROR]);
    let fixed = Rig::start().await;
    let refused = client(&fixed).await.change_log_level(ChangeLogLevelRequest { level: 2 }).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
}

#[tokio::test]
async fn a_topic_says_what_it_is() {
    let rig = Rig::start().await;
    let options = TopicOptions { delay_max_ms: 3_600_000, ..Default::default() };
    let spec = |name: &str, kind| TopicSpec { kind, options: options.clone(), ..TopicSpec::on_first_use(TopicName::parse("", name).unwrap()) };
    rig.metadata.create_topic(spec("fifo", TopicType::Fifo)).await.unwrap();
    rig.metadata.create_topic(spec("mixed", TopicType::Mixed)).await.unwrap();
    let describe = |name: &str| DescribeTopicStatusRequest { topic: resource(name), deployment_name: None };
    let (fifo, code) = ask!(rig, describe_topic_status, describe("fifo"));
    assert_eq!(
        (code, fifo.topic_message_type(), fifo.create_timestamp),
        (Code::Ok, MessageType::Fifo, Some(Timestamp { seconds: 0, nanos: 5_000_000 }))
    );
    let expected = [("types", "FIFO"), ("queues", "8"), ("permission", "ReadWrite"), ("delay.max", "1h")];
    assert_eq!(fifo.tags, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    let (mixed, _) = ask!(rig, describe_topic_status, describe("mixed"));
    assert_eq!((mixed.topic_message_type(), mixed.tags["types"].as_str()), (MessageType::Unspecified, "NORMAL,FIFO,DELAY,TRANSACTION"));
    for (request, expected) in [
        (describe("missing"), Code::TopicNotFound),
        (describe("a.b"), Code::IllegalTopic),
        (DescribeTopicStatusRequest { topic: None, deployment_name: None }, Code::IllegalTopic),
        (DescribeTopicStatusRequest { deployment_name: Some("other".into()), ..describe("fifo") }, Code::NotFound),
        (DescribeTopicStatusRequest { deployment_name: Some("test-cluster".into()), ..describe("fifo") }, Code::Ok),
        (DescribeTopicStatusRequest { deployment_name: Some(String::new()), ..describe("fifo") }, Code::Ok),
    ] {
        assert_eq!(ask!(rig, describe_topic_status, request.clone()).1, expected, "{request:?}");
    }
}

#[tokio::test]
async fn a_route_has_the_form_of_older_tools() {
    let config = Config { endpoints: vec![("messaging".into(), "127.0.0.1:8081".into())], ..Config::default() };
    let rig = Rig::with(config).await;
    rig.metadata.add_topic_with("orders", TopicType::Normal, gantry_model::topic::Permission::Read);
    let request = |name: &str| GetTopicRouteRequest { topic: resource(name), network_type: 2, ..Default::default() };
    let (route, code) = ask!(rig, get_topic_route, request("orders"));
    let route: serde_json::Value = serde_json::from_str(&route.topic_route_data).unwrap();
    let queues = &route["queueDatas"][0];
    assert_eq!((code, &queues["brokerName"], &queues["perm"]), (Code::Ok, &"test-cluster".into(), &4.into()));
    assert_eq!((&queues["readQueueNums"], &queues["writeQueueNums"]), (&8.into(), &8.into()));
    assert_eq!(route["brokerDatas"][0]["brokerAddrs"]["0"], "127.0.0.1:8081");
    assert_eq!(ask!(rig, get_topic_route, request("missing")).1, Code::TopicNotFound);
}

#[tokio::test]
async fn subscriptions_are_what_members_say() {
    let (rig, topic) = Rig::with_topic().await;
    let list = |topic: Option<Resource>, group: Option<Resource>| ListSubscriptionRequest { topic, group, deployment_name: None };
    let (none, code) = ask!(rig, list_subscription, list(resource("orders"), None));
    assert_eq!((code, none.subscription_info.len()), (Code::Ok, 0));
    let _first = connected(&rig, "a", "").await;
    let _second = connected(&rig, "b", "*").await;
    let (found, _) = ask!(rig, list_subscription, list(resource("orders"), resource("group")));
    let [info] = found.subscription_info.as_slice() else { panic!("one group reads one topic: {found:?}") };
    let all = FilterExpression { r#type: FilterType::Tag as i32, expression: "*".into() };
    assert_eq!((&info.group, &info.topic, &info.expression), (&resource("group"), &resource("orders"), &Some(all)));
    assert_eq!((info.online, info.subscription_consistency, info.message_model()), (true, true, MessageModel::Clustering));
    assert!(info.last_update_timestamp.is_some());

    let third = connected(&rig, "d", "X").await;
    let (found, _) = ask!(rig, list_subscription, list(None, resource("group")));
    assert!(!found.subscription_info[0].subscription_consistency, "filters differ");
    let (each, _) = ask!(rig, describe_subscription, DescribeSubscriptionRequest { topic: resource("orders"), ..Default::default() });
    let seen: Vec<(String, String)> = each
        .client_subscription_info
        .into_iter()
        .map(|entry| (entry.client_info.unwrap().client_id, entry.subscription_info.unwrap().expression.unwrap().expression))
        .collect();
    assert_eq!(seen, [("a", "*"), ("b", "*"), ("d", "X")].map(|(id, filter)| (id.to_owned(), filter.to_owned())));
    drop(third);

    let delete = |expression: Option<&str>| DeleteSubscriptionRequest {
        topic: resource("orders"),
        group: resource("group"),
        expression: expression.map(|text| FilterExpression { r#type: 1, expression: text.into() }),
        ..Default::default()
    };
    for (request, expected) in [
        (delete(None), Code::PreconditionFailed),
        (delete(Some("*")), Code::PreconditionFailed),
        (delete(Some("Y")), Code::Ok),
        (delete(Some("a|b")), Code::IllegalFilterExpression),
        (DeleteSubscriptionRequest { group: None, ..delete(None) }, Code::IllegalConsumerGroup),
        (DeleteSubscriptionRequest { topic: resource("missing"), ..delete(None) }, Code::TopicNotFound),
        (DeleteSubscriptionRequest { deployment_name: Some("x".into()), ..delete(None) }, Code::NotFound),
    ] {
        assert_eq!(ask!(rig, delete_subscription, request.clone()).1, expected, "{request:?}");
    }
    assert_eq!(ask!(rig, list_subscription, list(None, None)).1, Code::BadRequest);
    assert_eq!(ask!(rig, list_subscription, list(None, resource("missing"))).1, Code::ConsumerGroupNotFound);
    assert_eq!(ask!(rig, describe_subscription, DescribeSubscriptionRequest::default()).1, Code::BadRequest);
    rig.broker.put(&topic, "x", "x");
}

#[tokio::test]
async fn a_group_without_members_still_shows_where_it_was() {
    let (rig, topic) = Rig::with_topic().await;
    let spec = gantry_model::group::GroupSpec::on_first_use(GroupName::parse("", "gone").unwrap());
    rig.metadata.create_group(spec).await.unwrap();
    rig.broker.put(&topic, "x", "x");
    rig.broker.with(|state| state.positions_on = vec![topic.id]);
    let request = ListSubscriptionRequest { group: resource("gone"), ..Default::default() };
    let (found, code) = ask!(rig, list_subscription, request);
    let [info] = found.subscription_info.as_slice() else { panic!("the topic it read: {found:?}") };
    assert_eq!((code, info.online, &info.topic, &info.expression), (Code::Ok, false, &resource("orders"), &None));
}

#[tokio::test]
async fn members_of_a_group_are_listed_with_what_they_are() {
    let (rig, _) = Rig::with_topic().await;
    let _consumer = connected(&rig, "a", "*").await;
    receive(&mut rig.client.clone(), call_from("b", simple_poll("orders", "group", 0))).await;
    let mut lite = Session::open(&rig, "lite", "JAVA").await;
    lite.send(Settings { client_type: Some(ClientType::LitePushConsumer as i32), ..consumer("group", &[]) }).await;
    lite.settings().await;
    let list = |request: ListConsumerConnectionRequest| ListConsumerConnectionRequest { group: resource("group"), ..request };
    let (found, code) = ask!(rig, list_consumer_connection, list(Default::default()));
    let shown: Vec<(&str, i32)> = found.client_info.iter().map(|client| (client.client_id.as_str(), client.message_model)).collect();
    let (clustering, selective) = (MessageModel::Clustering as i32, MessageModel::LiteSelective as i32);
    assert_eq!((code, shown), (Code::Ok, vec![("a", clustering), ("b", clustering), ("lite", selective)]));
    let a = &found.client_info[0];
    assert_eq!((a.version.as_str(), a.language.as_str(), a.egress_ip.as_str()), ("5.2.1", "JAVA", "127.0.0.1"));
    let (of_topic, _) = ask!(rig, list_consumer_connection, list(ListConsumerConnectionRequest { topic: resource("orders"), ..Default::default() }));
    assert_eq!(of_topic.client_info.len(), 2);

    let options = GroupOptions { sharing: Sharing::Broadcasting, ..Default::default() };
    let change = GroupChange { options: Some(options), ..Default::default() };
    rig.metadata.update_group(&GroupName::parse("", "group").unwrap(), change).await.unwrap();
    let (found, _) = ask!(rig, list_consumer_connection, list(Default::default()));
    assert_eq!(found.client_info[0].message_model(), MessageModel::Broadcasting);
    for (request, expected) in [
        (list(ListConsumerConnectionRequest { lite_topic: Some("l".into()), ..Default::default() }), Code::NotImplemented),
        (list(ListConsumerConnectionRequest { topic: resource("missing"), ..Default::default() }), Code::TopicNotFound),
        (ListConsumerConnectionRequest { group: resource("missing"), ..Default::default() }, Code::ConsumerGroupNotFound),
        (ListConsumerConnectionRequest::default(), Code::IllegalConsumerGroup),
    ] {
        assert_eq!(ask!(rig, list_consumer_connection, request.clone()).1, expected, "{request:?}");
    }
}

#[tokio::test]
async fn what_the_server_knows_of_a_consumer() {
    let (rig, topic) = Rig::with_topic().await;
    rig.broker.put(&topic, "x", "x");
    let mut session = Session::open(&rig, "a", "JAVA").await;
    let properties = [("app".to_owned(), "shop".to_owned()), ("client_type".to_owned(), "none".to_owned())].into();
    session.send(Settings { client_properties: properties, ..consumer("group", &[("orders", "X")]) }).await;
    session.settings().await;
    let request = |client: &str| GetConsumerRunningInfoRequest { group: resource("group"), client_id: client.into(), deployment_name: None };
    let (answer, code) = ask!(rig, get_consumer_running_info, request("a"));
    let info = answer.consumer_running_info.unwrap();
    assert_eq!((code, info.properties["app"].as_str(), info.properties["client_type"].as_str()), (Code::Ok, "shop", "PUSH_CONSUMER"));
    assert_eq!(info.subscriptions["orders"].expression, "X");
    let third = &info.message_queue_table[3];
    assert_eq!(third.message_queue.as_ref().unwrap().id, 3);
    assert_eq!((info.message_queue_table.len(), third.process_queue_info.as_ref().unwrap().commit_offset), (8, 1));
    let mut producer_session = Session::open(&rig, "p", "JAVA").await;
    producer_session.send(producer(&["orders"])).await;
    producer_session.settings().await;
    for (client, expected) in [("", Code::BadRequest), ("nobody", Code::NotFound), ("p", Code::NotFound)] {
        assert_eq!(ask!(rig, get_consumer_running_info, request(client)).1, expected, "`{client}`");
    }
}

#[tokio::test]
async fn the_backlog_of_a_group_in_numbers_and_times() {
    let (rig, topic) = Rig::with_topic().await;
    rig.metadata.add_topic("idle", TopicType::Normal);
    for number in 0..4 {
        rig.broker.put(&topic, &format!("id-{number}"), "x");
    }
    let request = |topics: &[&str]| DescribeGroupAccumulationRequest {
        group: resource("group"),
        topics: topics.iter().map(|topic| resource(topic).unwrap()).collect(),
        ..Default::default()
    };
    let (answer, code) = ask!(rig, describe_group_accumulation, request(&["orders", "idle"]));
    let total = answer.accumulation.unwrap();
    assert_eq!((code, total.ready_messages, total.inflight_messages, total.accumulation), (Code::Ok, 3, 0, 3));
    assert_eq!(total.last_consume_timestamp, 2_000, "the message before the committed offset");
    assert!(total.deliver_delay_time.as_ref().unwrap().seconds > 1_000_000, "waiting since 1970");
    assert_eq!((answer.topic_accumulation["orders"].accumulation, answer.topic_accumulation["idle"].accumulation), (3, 0));
    let (nothing, _) = ask!(rig, describe_group_accumulation, request(&[]));
    assert_eq!(nothing.topic_accumulation.len(), 0, "the group has nothing to do with any topic yet");
    let _member = connected(&rig, "a", "*").await;
    let (all, _) = ask!(rig, describe_group_accumulation, request(&[]));
    assert_eq!(all.topic_accumulation["orders"].accumulation, 3, "and then it has");
    for (request, expected) in [
        (DescribeGroupAccumulationRequest { lite_topic: Some("l".into()), ..request(&[]) }, Code::NotImplemented),
        (request(&["missing"]), Code::TopicNotFound),
        (DescribeGroupAccumulationRequest::default(), Code::IllegalConsumerGroup),
    ] {
        assert_eq!(ask!(rig, describe_group_accumulation, request.clone()).1, expected, "{request:?}");
    }

    let span = |topics: &[&str]| QueryTimeSpanRequest {
        group: resource("group"),
        topics: topics.iter().map(|topic| resource(topic).unwrap()).collect(),
        deployment_name: None,
    };
    let (spans, code) = ask!(rig, query_time_span, span(&["orders"]));
    assert_eq!((code, spans.queue_time_span_list.len()), (Code::Ok, 8));
    let third = &spans.queue_time_span_list[3];
    assert_eq!(third.message_queue.as_ref().unwrap().topic, resource("orders"));
    // The fake says that queue 3 ends at 3, and has messages from 2000 ms on, one a millisecond.
    assert_eq!((third.min_timestamp, third.max_timestamp, third.consume_timestamp, third.delay_time_ms), (2_000, 2_002, 2_000, 2));
    assert_eq!(spans.queue_time_span_list[0], {
        let message_queue = Some(MessageQueue { id: 0, ..third.message_queue.clone().unwrap() });
        query_time_span_response::QueueTimeSpan { message_queue, ..Default::default() }
    });
    assert_eq!(ask!(rig, query_time_span, span(&["missing"])).1, Code::TopicNotFound);
    assert_eq!(ask!(rig, query_time_span, QueryTimeSpanRequest::default()).1, Code::IllegalConsumerGroup);
}

#[tokio::test]
async fn a_group_is_moved_to_a_time() {
    let (rig, _) = Rig::with_topic().await;
    let request =
        |reset_timestamp| ResetGroupOffsetRequest { group: resource("group"), topic: resource("orders"), reset_timestamp, deployment_name: None };
    assert_eq!(ask!(rig, reset_group_offset, request(at(7))).1, Code::Ok);
    let seek = rig.broker.with(|state| state.seeks[0].clone());
    assert_eq!((seek.target, seek.dry_run, seek.queues.len(), seek.topic.name.name.as_str()), (SeekTarget::Time(7_000), false, 0, "orders"));
    assert_eq!(ask!(rig, reset_group_offset, request(None)).1, Code::BadRequest);
    let missing = ResetGroupOffsetRequest { topic: resource("missing"), ..request(at(7)) };
    assert_eq!(ask!(rig, reset_group_offset, missing).1, Code::TopicNotFound);
    for (error, expected) in [
        (OffsetError::Busy, Code::TooManyRequests),
        (OffsetError::NoSuchQueue, Code::IllegalOffset),
        (OffsetError::GroupReceives, Code::PreconditionFailed),
        (OffsetError::Failed { why: "broken".into() }, Code::InternalServerError),
    ] {
        rig.broker.with(|state| state.offset_error = Some(error));
        assert_eq!(ask!(rig, reset_group_offset, request(at(7))).1, expected);
    }
}

async fn found(rig: &Rig, request: ListMessageRequest) -> (Vec<String>, ListMessageResponse) {
    let (answer, code) = ask!(rig, query_message, ListMessageRequest { topic: resource("orders"), ..request });
    assert_eq!(code, Code::Ok);
    let ids = answer.messages.iter().map(|message| message.system_properties.as_ref().unwrap().message_id.clone()).collect();
    (ids, answer)
}

#[tokio::test]
async fn messages_are_found_by_id_key_and_time() {
    let (rig, topic) = Rig::with_topic().await;
    for number in 0..5 {
        let message = gantry_model::Message { id: format!("id-{number}"), keys: vec!["key".into()], body: "body".into(), ..Default::default() };
        rig.broker.store(topic.id, message);
    }
    let by = |key| ListMessageRequest { search_key: Some(key), ..Default::default() };
    let (ids, answer) = found(&rig, by(SearchKey::MessageId("id-3".into()))).await;
    let message = &answer.messages[0];
    let system = message.system_properties.as_ref().unwrap();
    assert_eq!((ids.len(), &message.body[..], &message.topic), (1, &b"body"[..], &resource("orders")));
    assert_eq!((system.queue_id, system.queue_offset, &system.receipt_handle), (3, Some(3), &None));
    assert_eq!(found(&rig, by(SearchKey::MessageKey("key".into()))).await.0.len(), 5);
    let millisecond = |ms: i64| Some(Timestamp { seconds: ms / 1_000, nanos: (ms % 1_000) as i32 * 1_000_000 });
    let span = |begin, end| ListMessageRequest { begin_timestamp: millisecond(begin), end_timestamp: millisecond(end), ..Default::default() };
    assert_eq!(found(&rig, span(2_001, 2_003)).await.0, ["id-1", "id-2", "id-3"], "both ends are inside");
    let both = ListMessageRequest { search_key: Some(SearchKey::MessageKey("key".into())), ..span(2_004, 9_000) };
    assert_eq!(found(&rig, both).await.0, ["id-4"]);
    assert_eq!(found(&rig, ListMessageRequest { queue_id: Some(2), ..Default::default() }).await.0.len(), 0);
    assert_eq!(found(&rig, ListMessageRequest { queue_id: Some(3), broker_name: Some("any".into()), ..Default::default() }).await.0.len(), 5);
}

#[tokio::test]
async fn found_messages_come_in_pages_of_either_kind() {
    let (rig, topic) = Rig::with_topic().await;
    for number in 0..7 {
        rig.broker.put(&topic, &format!("id-{number}"), "x");
    }
    let mut scroll = ListMessageRequest { max_message_nums: 3, ..Default::default() };
    let mut seen = Vec::new();
    loop {
        let (ids, answer) = found(&rig, scroll.clone()).await;
        assert!(ids.len() <= 3);
        seen.extend(ids);
        if answer.scroll_id.is_empty() {
            break;
        }
        scroll.scroll_id = Some(answer.scroll_id);
    }
    assert_eq!(seen.len(), 7);
    let page = |page_num| ListMessageRequest { page_num: Some(page_num), page_size: Some(3), max_message_nums: 100, ..Default::default() };
    let mut paged = Vec::new();
    for number in 1..=4 {
        paged.extend(found(&rig, page(number)).await.0);
    }
    assert_eq!(paged, seen, "pages and scrolling show the same");
    assert_eq!(found(&rig, page(0)).await.0, seen[..3], "page 0 is the first as well");
}

#[tokio::test]
async fn wrong_searches_are_refused() {
    let (rig, _) = Rig::with_topic().await;
    let topic = |request: ListMessageRequest| ListMessageRequest { topic: resource("orders"), ..request };
    let by = |key| topic(ListMessageRequest { search_key: Some(key), ..Default::default() });
    for (request, expected) in [
        (ListMessageRequest::default(), Code::IllegalTopic),
        (ListMessageRequest { topic: resource("missing"), ..Default::default() }, Code::TopicNotFound),
        (by(SearchKey::MessageId(String::new())), Code::BadRequest),
        (by(SearchKey::MessageKey(String::new())), Code::BadRequest),
        (by(SearchKey::Subscription("s".into())), Code::NotImplemented),
        (by(SearchKey::LiteTopic("l".into())), Code::NotImplemented),
        (topic(ListMessageRequest { begin_timestamp: at(9), end_timestamp: at(8), ..Default::default() }), Code::BadRequest),
        (topic(ListMessageRequest { max_message_nums: -1, ..Default::default() }), Code::BadRequest),
        (topic(ListMessageRequest { page_size: Some(-1), ..Default::default() }), Code::BadRequest),
        (topic(ListMessageRequest { page_num: Some(-1), ..Default::default() }), Code::BadRequest),
        (topic(ListMessageRequest { page_num: Some(1_000_000), ..Default::default() }), Code::BadRequest),
        (topic(ListMessageRequest { queue_id: Some(-1), ..Default::default() }), Code::BadRequest),
        (topic(ListMessageRequest { scroll_id: Some("mine".into()), ..Default::default() }), Code::BadRequest),
        (topic(ListMessageRequest { scroll_id: Some("x".into()), page_num: Some(2), ..Default::default() }), Code::BadRequest),
        (topic(ListMessageRequest { deployment_name: Some("x".into()), ..Default::default() }), Code::NotFound),
    ] {
        assert_eq!(ask!(rig, query_message, request.clone()).1, expected, "{request:?}");
    }
}

#[tokio::test]
async fn a_message_is_sent_with_all_checks_of_a_producer() {
    let (rig, _) = Rig::with_topic().await;
    let request = |topic: &str| AdminSendMessageRequest {
        topic: resource(topic),
        tag: Some("T".into()),
        key: Some("K".into()),
        body: "hello".into(),
        user_properties: [("colour".to_owned(), "red".to_owned())].into(),
        ext_info: [("protocol_type".to_owned(), "REMOTING".to_owned())].into(),
        ..Default::default()
    };
    let (answer, code) = ask!(rig, admin_send_message, request("orders"));
    assert_eq!((code, answer.message_id.len()), (Code::Ok, 32));
    let stored = rig.broker.with(|state| state.stored[0].message.clone());
    assert_eq!((&stored.id, &stored.tag, &stored.keys), (&answer.message_id, &Some("T".to_owned()), &vec!["K".to_owned()]));
    assert_eq!((&stored.body[..], stored.properties, stored.born_host.as_str()), (&b"hello"[..], vec![("colour".into(), "red".into())], "127.0.0.1"));
    let system = SystemProperties { message_id: "mine".into(), keys: vec!["K".into(), "L".into()], ..Default::default() };
    let (answer, _) = ask!(rig, admin_send_message, AdminSendMessageRequest { system_properties: Some(system), ..request("orders") });
    assert_eq!(answer.message_id, "mine");
    assert_eq!(rig.broker.with(|state| state.stored[1].message.keys.clone()), ["K", "L"]);
    for (request, expected) in [
        (request("missing"), Code::TopicNotFound),
        (request("%DLQ%group"), Code::Forbidden),
        (AdminSendMessageRequest { body: Default::default(), ..request("orders") }, Code::MessageBodyEmpty),
        (AdminSendMessageRequest { tag: Some("a|b".into()), ..request("orders") }, Code::IllegalMessageTag),
        (AdminSendMessageRequest { deployment_name: Some("x".into()), ..request("orders") }, Code::NotFound),
    ] {
        assert_eq!(ask!(rig, admin_send_message, request.clone()).1, expected, "{request:?}");
    }
    let large = AdminSendMessageRequest { body: vec![1; (4 << 20) + 1].into(), ..request("orders") };
    assert_eq!(ask!(rig, admin_send_message, large).1, Code::MessageBodyTooLarge);
    assert!(crate::admin::clients(&rig).await.is_empty(), "an operator is no client");
}

#[tokio::test]
async fn a_client_is_asked_for_its_stacks_and_to_consume() {
    let (rig, topic) = Rig::with_topic().await;
    rig.broker.put(&topic, "one", "body");
    let mut session = connected(&rig, "c", "*").await;
    let stack = |client: &str, group: &str| PrintThreadStackTraceRequest { client_id: client.into(), group: resource(group), deployment_name: None };
    let (mut admin, (sender, answer)) = (client(&rig).await, oneshot::channel());
    let request = stack("c", "group");
    tasks::spawn("asking", async move {
        // The test may have ended.
        let _ = sender.send(admin.print_thread_stack_trace(request).await.unwrap().into_inner());
    });
    let Some(Command::PrintThreadStackTraceCommand(command)) = session.next().await.unwrap().unwrap().command else { panic!("asked for stacks") };
    let trace = ThreadStackTrace { nonce: command.nonce, thread_stack_trace: Some("main".into()) };
    session.say(TelemetryCommand { status: None, command: Some(Command::ThreadStackTrace(trace)) }).await;
    let answer = answer.await.unwrap();
    assert_eq!((answer.status.unwrap().code(), answer.thread_stack_trace.as_deref()), (Code::Ok, Some("main")));

    let verify = |client: &str, id: &str| VerifyMessageRequest {
        client_id: client.into(),
        group: resource("group"),
        topic: resource("orders"),
        message_id: id.into(),
        deployment_name: None,
    };
    for (told, expected) in [
        (20_000, Code::Ok),
        (60_000, Code::FailedToConsumeMessage),
        (50_502, Code::VerifyFifoMessageUnsupported),
        (40_001, Code::InternalServerError),
    ] {
        let (mut admin, (sender, answer)) = (client(&rig).await, oneshot::channel());
        let request = verify("c", "one");
        tasks::spawn("asking", async move {
            // The test may have ended.
            let _ = sender.send(admin.verify_message(request).await.unwrap().into_inner().status.unwrap().code());
        });
        let Some(Command::VerifyMessageCommand(command)) = session.next().await.unwrap().unwrap().command else { panic!("asked to consume") };
        let result = Command::VerifyMessageResult(VerifyMessageResult { nonce: command.nonce });
        session.say(TelemetryCommand { status: Some(Status { code: told, message: String::new() }), command: Some(result) }).await;
        assert_eq!(answer.await.unwrap(), expected);
    }

    receive(&mut rig.client.clone(), call_from("no-stream", simple_poll("orders", "group", 0))).await;
    for (request, expected) in [
        (stack("", "group"), Code::BadRequest),
        (stack("nobody", "group"), Code::NotFound),
        (stack("c", "others"), Code::NotFound),
        (stack("no-stream", "group"), Code::PreconditionFailed),
    ] {
        assert_eq!(ask!(rig, print_thread_stack_trace, request.clone()).1, expected, "{request:?}");
    }
    for (request, expected) in [
        (verify("c", ""), Code::BadRequest),
        (verify("c", "two"), Code::MessageNotFound),
        (verify("nobody", "one"), Code::NotFound),
        (VerifyMessageRequest { topic: resource("missing"), ..verify("c", "one") }, Code::TopicNotFound),
    ] {
        assert_eq!(ask!(rig, verify_message, request.clone()).1, expected, "{request:?}");
    }
}

#[tokio::test]
async fn a_silent_client_is_given_up_at_the_end_of_the_caller_s_time() {
    let (rig, _) = Rig::with_topic().await;
    let _session = connected(&rig, "c", "*").await;
    let mut request = tonic::Request::new(PrintThreadStackTraceRequest { client_id: "c".into(), ..Default::default() });
    request.metadata_mut().insert("grpc-timeout", "700m".parse().unwrap());
    let status = client(&rig).await.print_thread_stack_trace(request).await.unwrap().into_inner().status.unwrap();
    assert_eq!(status.code(), Code::ProxyTimeout);
    assert!(status.message.contains("did not answer within"), "{}", status.message);
}

#[tokio::test]
async fn the_proxy_says_how_busy_it_is() {
    let (rig, topic) = Rig::with_topic().await;
    rig.broker.put(&topic, "x", "x");
    let request = SendMessageRequest { messages: vec![crate::rig::message("orders")] };
    rig.client.clone().send_message(call_from("p", request)).await.unwrap();
    receive(&mut rig.client.clone(), call_from("c", simple_poll("orders", "group", 0))).await;
    let (stats, code) = ask!(rig, get_proxy_runtime_stats, GetProxyRuntimeStatsRequest {});
    assert_eq!((code, stats.proxy_name.as_str(), stats.producers, stats.consumers), (Code::Ok, "test-cluster", 1, 1));
    assert!(stats.in_tps > 0.0 && stats.out_tps > stats.in_tps && stats.connections >= 2, "{stats:?}");
}
