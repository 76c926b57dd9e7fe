//! The administration service.

use crate::rig::{Rig, call_from, channel, resource};
use gantry_model::contract::Metadata;
use gantry_model::topic::TopicType;
use gantry_proto::admin::admin_client::AdminClient;
use gantry_proto::admin::lookup_messages_request::Selector;
use gantry_proto::admin::retry_policy::Policy;
use gantry_proto::admin::*;
use gantry_proto::v2::{CustomizedBackoff, HeartbeatRequest, MessageType, Permission};
use gantry_proxy::Config;
use tonic::Code;
use tonic::transport::Channel;

pub async fn client(rig: &Rig) -> AdminClient<Channel> {
    AdminClient::new(channel(rig.admin).await)
}

pub async fn clients(rig: &Rig) -> Vec<Client> {
    client(rig).await.list_clients(ListClientsRequest::default()).await.unwrap().into_inner().clients
}

fn named(name: &str) -> Topic {
    Topic { name: name.into(), ..Default::default() }
}

fn create(topic: Topic) -> CreateTopicRequest {
    CreateTopicRequest { topic: Some(topic), dedup: None }
}

#[tokio::test]
async fn a_topic_from_creation_to_deletion() {
    let rig = Rig::start().await;
    let mut admin = client(&rig).await;
    let made = admin.create_topic(create(named("t"))).await.unwrap().into_inner().topic.unwrap();
    assert_eq!((made.name.as_str(), made.queue_count, made.permission(), made.dedup), ("t", 8, Permission::ReadWrite, true));
    assert_eq!((made.message_types.clone(), made.state()), (vec![1, 2, 3, 4], TopicState::Active));
    assert_eq!(admin.create_topic(create(named("t"))).await.unwrap().into_inner().topic.unwrap(), made, "again is the same");
    let other = Topic { message_types: vec![MessageType::Fifo as i32], ..named("t") };
    assert_eq!(admin.create_topic(create(other)).await.unwrap_err().code(), Code::AlreadyExists);

    let change = |change: UpdateTopicRequest| UpdateTopicRequest { name: "t".into(), ..change };
    let request = change(UpdateTopicRequest { retention_ms: Some(5_000), permission: Some(Permission::Read as i32), ..Default::default() });
    let changed = admin.update_topic(request).await.unwrap().into_inner().topic.unwrap();
    assert_eq!((changed.retention_ms, changed.retention_bytes, changed.permission()), (5_000, 0, Permission::Read));
    let request = change(UpdateTopicRequest { retention_bytes: Some(7), ..Default::default() });
    let changed = admin.update_topic(request).await.unwrap().into_inner().topic.unwrap();
    assert_eq!((changed.retention_ms, changed.retention_bytes), (5_000, 7), "one bound leaves the other");
    let request = change(UpdateTopicRequest { retention_ms: Some(0), ..Default::default() });
    assert_eq!(admin.update_topic(request).await.unwrap().into_inner().topic.unwrap().retention_ms, 0, "back to the default");

    let get = GetTopicRequest { namespace: String::new(), name: "t".into() };
    assert_eq!(admin.get_topic(get.clone()).await.unwrap().into_inner().topic.unwrap().retention_bytes, 7);
    admin.delete_topic(DeleteTopicRequest { namespace: String::new(), name: "t".into() }).await.unwrap();
    assert_eq!(admin.get_topic(get).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn wrong_topics_are_refused() {
    let rig = Rig::start().await;
    let mut admin = client(&rig).await;
    let typed = |types: &[i32]| Topic { message_types: types.to_vec(), ..named("t") };
    let setting = Topic { settings: [("colour".to_owned(), "red".to_owned())].into(), ..named("t") };
    for (topic, expected) in [
        (named(""), Code::InvalidArgument),
        (named("a.b"), Code::InvalidArgument),
        (named("%DLQ%g"), Code::InvalidArgument),
        (typed(&[1, 2]), Code::InvalidArgument),
        (typed(&[77]), Code::InvalidArgument),
        (Topic { permission: 9, ..named("t") }, Code::InvalidArgument),
        (setting, Code::InvalidArgument),
    ] {
        assert_eq!(admin.create_topic(create(topic.clone())).await.unwrap_err().code(), expected, "{topic:?}");
    }
    assert_eq!(admin.create_topic(CreateTopicRequest::default()).await.unwrap_err().code(), Code::InvalidArgument);
    let missing = UpdateTopicRequest { name: "missing".into(), ..Default::default() };
    assert_eq!(admin.update_topic(missing).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn options_of_a_topic_are_set_by_name() {
    let rig = Rig::start().await;
    let mut admin = client(&rig).await;
    let set = |pairs: &[(&str, &str)]| pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let wanted = Topic { settings: set(&[("delay.max", "2h"), ("quota.send.bytes", "64MiB")]), ..named("t") };
    let request = CreateTopicRequest { topic: Some(wanted), dedup: Some(false) };
    let made = admin.create_topic(request).await.unwrap().into_inner().topic.unwrap();
    assert_eq!((made.dedup, &made.settings), (false, &set(&[("delay.max", "2h"), ("quota.send.bytes", "64MiB")])));
    let change = |change: UpdateTopicRequest| UpdateTopicRequest { name: "t".into(), ..change };
    let request = change(UpdateTopicRequest {
        dedup: Some(true),
        settings: set(&[("quota.timers", "9")]),
        settings_to_reset: vec!["delay.max".into()],
        ..Default::default()
    });
    let changed = admin.update_topic(request).await.unwrap().into_inner().topic.unwrap();
    assert_eq!((changed.dedup, &changed.settings), (true, &set(&[("quota.send.bytes", "64MiB"), ("quota.timers", "9")])));
    let options = rig.metadata.topic(&gantry_model::TopicName::parse("", "t").unwrap()).unwrap().options.clone();
    assert_eq!((options.quota.timers, options.quota.send_bytes_per_s, options.delay_max_ms), (Some(9), Some(64 << 20), 40 * 86_400_000));
    let request = change(UpdateTopicRequest { permission: Some(Permission::Read as i32), ..Default::default() });
    let changed = admin.update_topic(request).await.unwrap().into_inner().topic.unwrap();
    assert_eq!(changed.settings.len(), 2, "a change of something else leaves them");
    let misspelt = change(UpdateTopicRequest { settings: set(&[("quota.timer", "9")]), ..Default::default() });
    let error = admin.update_topic(misspelt).await.unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::InvalidArgument, "unknown setting `quota.timer`: did you mean `quota.timers`?"));
    let priority = Topic { message_types: vec![MessageType::Priority as i32], ..named("p") };
    assert_eq!(admin.create_topic(create(priority)).await.unwrap().into_inner().topic.unwrap().queue_count, 10);
}

#[tokio::test]
async fn options_of_a_group_are_set_by_name() {
    let rig = Rig::start().await;
    let mut admin = client(&rig).await;
    let set = |pairs: &[(&str, &str)]| pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let wanted = Group { name: "g".into(), settings: set(&[("sharing", "broadcasting"), ("lite.bind.topic", "p")]), ..Default::default() };
    let made = admin.create_group(CreateGroupRequest { group: Some(wanted) }).await.unwrap().into_inner().group.unwrap();
    assert_eq!(made.settings, set(&[("sharing", "broadcasting"), ("lite.bind.topic", "p")]));
    let request = UpdateGroupRequest {
        name: "g".into(),
        settings: set(&[("quota.receive.messages", "50"), ("lite.sub.model", "exclusive")]),
        settings_to_reset: vec!["sharing".into()],
        ..Default::default()
    };
    let changed = admin.update_group(request).await.unwrap().into_inner().group.unwrap();
    assert_eq!(changed.settings, set(&[("lite.bind.topic", "p"), ("lite.sub.model", "exclusive"), ("quota.receive.messages", "50")]));
    let misspelt = UpdateGroupRequest { name: "g".into(), settings_to_reset: vec!["colour".into()], ..Default::default() };
    assert_eq!(admin.update_group(misspelt).await.unwrap_err().code(), Code::InvalidArgument);
    let listed = admin.list_groups(ListGroupsRequest::default()).await.unwrap().into_inner().groups;
    assert_eq!(listed[0].settings.len(), 3);
}

#[tokio::test]
async fn lists_come_in_pages_and_filtered() {
    let rig = Rig::start().await;
    let mut admin = client(&rig).await;
    for number in 0..5 {
        admin.create_topic(create(named(&format!("t{number}")))).await.unwrap();
    }
    admin.create_topic(create(Topic { namespace: "ns".into(), ..named("t9") })).await.unwrap();
    admin.create_group(CreateGroupRequest { group: Some(Group { name: "g".into(), ..Default::default() }) }).await.unwrap();
    let mut names = Vec::new();
    let mut request = ListTopicsRequest { page_size: 2, ..Default::default() };
    loop {
        let page = admin.list_topics(request.clone()).await.unwrap().into_inner();
        assert!(page.topics.len() <= 2);
        names.extend(page.topics.into_iter().map(|topic| topic.name));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(names, ["t0", "t1", "t2", "t3", "t4", "t9"]);
    let list = async |request: ListTopicsRequest| -> Vec<String> {
        let mut admin = client(&rig).await;
        admin.list_topics(request).await.unwrap().into_inner().topics.into_iter().map(|topic| topic.name).collect()
    };
    assert_eq!(list(ListTopicsRequest { namespace: Some("ns".into()), ..Default::default() }).await, ["t9"]);
    assert_eq!(list(ListTopicsRequest { namespace: Some(String::new()), name_prefix: "t3".into(), ..Default::default() }).await, ["t3"]);
    assert_eq!(list(ListTopicsRequest { include_dead_letter: true, name_prefix: "%".into(), ..Default::default() }).await, ["%DLQ%g"]);
    let foreign = ListTopicsRequest { page_token: "mine".into(), ..Default::default() };
    assert_eq!(admin.list_topics(foreign).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_group_from_creation_to_deletion() {
    let rig = Rig::start().await;
    let mut admin = client(&rig).await;
    let made = admin.create_group(CreateGroupRequest { group: Some(Group { name: "g".into(), ..Default::default() }) }).await.unwrap();
    let made = made.into_inner().group.unwrap();
    assert_eq!((made.order(), made.max_attempts, made.start_position()), (Order::FollowTopic, 16, StartPosition::FirstAfterCreation));
    assert_eq!(made.auto_renew_cap.unwrap().seconds, 3 * 3_600);
    let Some(Policy::Customized(delays)) = made.retry_policy.unwrap().policy else { panic!("a list") };
    assert_eq!(delays.next.len(), 18);

    let update = |request: UpdateGroupRequest| UpdateGroupRequest { name: "g".into(), ..request };
    let request = update(UpdateGroupRequest { order: Some(Order::Fifo as i32), max_attempts: Some(3), ..Default::default() });
    let changed = admin.update_group(request).await.unwrap().into_inner().group.unwrap();
    assert_eq!((changed.order(), changed.max_attempts), (Order::Fifo, 3));
    let no_delays = RetryPolicy { policy: Some(Policy::Customized(CustomizedBackoff::default())) };
    for bad in [
        UpdateGroupRequest { max_attempts: Some(0), ..Default::default() },
        UpdateGroupRequest { order: Some(99), ..Default::default() },
        UpdateGroupRequest { retry_policy: Some(no_delays), ..Default::default() },
        UpdateGroupRequest { retry_policy: Some(RetryPolicy::default()), ..Default::default() },
        UpdateGroupRequest { auto_renew_cap: Some(crate::rig::seconds(43_201)), ..Default::default() },
        UpdateGroupRequest { auto_renew_cap: Some(crate::rig::seconds(0)), ..Default::default() },
    ] {
        assert_eq!(admin.update_group(update(bad.clone())).await.unwrap_err().code(), Code::InvalidArgument, "{bad:?}");
    }
    let latest = Group { name: "late".into(), start_position: StartPosition::Latest as i32, ..Default::default() };
    let made = admin.create_group(CreateGroupRequest { group: Some(latest) }).await.unwrap().into_inner().group.unwrap();
    assert_eq!(made.start_position(), StartPosition::Latest);
    admin.delete_group(DeleteGroupRequest { namespace: String::new(), name: "late".into() }).await.unwrap();
    let groups = admin.list_groups(ListGroupsRequest::default()).await.unwrap().into_inner().groups;
    assert_eq!(groups.len(), 1);
    admin.delete_group(DeleteGroupRequest { namespace: String::new(), name: "g".into() }).await.unwrap();
    let get = GetGroupRequest { namespace: String::new(), name: "g".into() };
    assert_eq!(admin.get_group(get).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn lag_and_statistics() {
    let (rig, topic) = Rig::with_topic().await;
    rig.metadata.add_topic("idle", TopicType::Normal);
    for number in 0..4 {
        rig.broker.put(&topic, &format!("id-{number}"), "x");
    }
    let mut admin = client(&rig).await;
    let request = GetGroupLagRequest { group: "group".into(), topic: "orders".into(), page_size: 3, ..Default::default() };
    let page = admin.get_group_lag(request.clone()).await.unwrap().into_inner();
    let total = page.total.unwrap();
    assert_eq!((total.ready, total.lag, total.oldest_unacked_time.unwrap().seconds), (3, 3, 2));
    assert_eq!(page.queues.iter().map(|queue| queue.queue).collect::<Vec<_>>(), [0, 1, 2]);
    let page = admin.get_group_lag(GetGroupLagRequest { page_token: page.next_page_token, ..request }).await.unwrap().into_inner();
    assert_eq!((page.total.unwrap().lag, page.queues[0].queue, page.queues[0].end_offset), (3, 3, 4));
    let all = GetGroupLagRequest { group: "group".into(), ..Default::default() };
    let nothing = admin.get_group_lag(all.clone()).await.unwrap().into_inner();
    assert!(nothing.queues.is_empty(), "the group has nothing to do with any topic yet");
    rig.broker.with(|state| state.positions_on.push(topic.id));
    let been = admin.get_group_lag(all.clone()).await.unwrap().into_inner();
    assert_eq!((been.queues.len(), been.queues[0].topic.as_str()), (8, "orders"));
    rig.broker.with(|state| state.positions_on.clear());
    let poll = call_from("c", crate::rig::simple_poll("orders", "group", 0));
    crate::rig::receive(&mut rig.client.clone(), poll).await;
    let subscribed = admin.get_group_lag(all).await.unwrap().into_inner();
    assert_eq!((subscribed.queues.len(), subscribed.queues[0].topic.as_str()), (8, "orders"));
    let missing = GetGroupLagRequest { group: "missing".into(), ..Default::default() };
    assert_eq!(admin.get_group_lag(missing).await.unwrap_err().code(), Code::NotFound);

    let request = GetTopicStatsRequest { topic: "orders".into(), page_size: 5, ..Default::default() };
    let page = admin.get_topic_stats(request.clone()).await.unwrap().into_inner();
    assert_eq!((page.queues.len(), page.queues[4].max_offset, page.queues[4].writable), (5, 4, true));
    let page = admin.get_topic_stats(GetTopicStatsRequest { page_token: page.next_page_token, ..request }).await.unwrap().into_inner();
    assert_eq!((page.queues.len(), page.queues[0].queue, page.next_page_token.as_str()), (3, 5, ""));
}

#[tokio::test]
async fn clients_are_listed_with_what_they_do() {
    let (rig, _) = Rig::with_topic().await;
    crate::rig::receive(&mut rig.client.clone(), call_from("a-consumer", crate::rig::simple_poll("orders", "group", 0))).await;
    let send = gantry_proto::v2::SendMessageRequest { messages: vec![crate::rig::message("orders")] };
    rig.client.clone().send_message(call_from("b-producer", send)).await.unwrap();
    rig.client.clone().heartbeat(call_from("c-other", HeartbeatRequest { group: resource("others"), client_type: 2 })).await.unwrap();
    let all = clients(&rig).await;
    let kinds: Vec<(&str, i32, usize, usize)> =
        all.iter().map(|client| (client.client_id.as_str(), client.client_type, client.groups.len(), client.topics.len())).collect();
    assert_eq!(kinds, [("a-consumer", 3, 1, 1), ("b-producer", 1, 0, 1), ("c-other", 2, 1, 0)]);
    assert_eq!((all[0].version.as_str(), all[0].language(), all[0].last_seen.is_some()), ("5.2.1", gantry_proto::v2::Language::Java, true));
    let mut admin = client(&rig).await;
    for (request, expected) in [
        (ListClientsRequest { group: "group".into(), ..Default::default() }, vec!["a-consumer"]),
        (ListClientsRequest { topic: "orders".into(), ..Default::default() }, vec!["a-consumer", "b-producer"]),
        (ListClientsRequest { client_type: 1, ..Default::default() }, vec!["b-producer"]),
        (ListClientsRequest { namespace: Some("elsewhere".into()), ..Default::default() }, vec![]),
        (ListClientsRequest { page_size: 1, ..Default::default() }, vec!["a-consumer"]),
    ] {
        let listed = admin.list_clients(request).await.unwrap().into_inner().clients;
        assert_eq!(listed.iter().map(|client| client.client_id.as_str()).collect::<Vec<_>>(), expected);
    }
}

#[tokio::test]
async fn messages_are_found_page_by_page() {
    let (rig, topic) = Rig::with_topic().await;
    for number in 0..5 {
        let message = gantry_model::Message { id: format!("id-{number}"), keys: vec!["key".into()], body: "body".into(), ..Default::default() };
        rig.broker.store(topic.id, message);
    }
    let from = Some(prost_types::Timestamp { seconds: 2, nanos: 0 });
    for selector in
        [Selector::ByKey("key".into()), Selector::ByOffset(QueueOffset { queue: 3, offset: 0 }), Selector::ByTime(TimeRange { from, to: None })]
    {
        let mut ids = Vec::new();
        let mut request = LookupMessagesRequest { topic: "orders".into(), selector: Some(selector.clone()), limit: 2, ..Default::default() };
        loop {
            let page = client(&rig).await.lookup_messages(request.clone()).await.unwrap().into_inner();
            assert!((1..=2).contains(&page.messages.len()), "{selector:?}");
            ids.extend(page.messages.into_iter().map(|message| message.message_id));
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        assert_eq!(ids, ["id-0", "id-1", "id-2", "id-3", "id-4"], "{selector:?}");
    }
}

#[tokio::test]
async fn a_found_message_is_shown_whole() {
    let (rig, topic) = Rig::with_topic().await;
    rig.broker.put(&topic, "one", "body");
    rig.broker.put(&topic, "two", vec![1; 3 << 20]);
    rig.broker.put(&topic, "three", vec![1; 3 << 20]);
    rig.broker.put(&topic, "four", "body");
    let ask = async |request: LookupMessagesRequest| {
        client(&rig).await.max_decoding_message_size(64 << 20).lookup_messages(LookupMessagesRequest { topic: "orders".into(), ..request }).await
    };
    let by_id = |id: &str| Some(Selector::ById(id.into()));
    let found = ask(LookupMessagesRequest { selector: by_id("one"), delivery_groups: vec!["group".into()], ..Default::default() }).await;
    let message = found.unwrap().into_inner().messages.remove(0);
    assert_eq!((message.message_id.as_str(), message.queue, message.offset, &message.body[..]), ("one", 3, 0, &b"body"[..]));
    assert_eq!((message.deliveries[0].group.as_str(), message.deliveries[0].state()), ("group", DeliveryState::Ready));
    let bare = ask(LookupMessagesRequest { selector: by_id("two"), omit_body: true, ..Default::default() }).await.unwrap().into_inner();
    assert_eq!((bare.messages[0].body.len(), bare.messages[0].body_size), (0, 3 << 20));
    let all = Some(Selector::ByOffset(QueueOffset { queue: 3, offset: 0 }));
    let page = ask(LookupMessagesRequest { selector: all, ..Default::default() }).await.unwrap().into_inner();
    assert_eq!((page.messages.len(), page.next_page_token.is_empty()), (3, false), "an answer is bounded in bytes");

    let nobody = ask(LookupMessagesRequest { selector: by_id("one"), delivery_groups: vec!["nobody".into()], ..Default::default() }).await;
    assert_eq!(nobody.unwrap_err().code(), Code::NotFound);
    for bad in [None, by_id(""), Some(Selector::ByKey(String::new())), Some(Selector::ByTime(TimeRange::default()))] {
        assert_eq!(
            ask(LookupMessagesRequest { selector: bad.clone(), ..Default::default() }).await.unwrap_err().code(),
            Code::InvalidArgument,
            "{bad:?}"
        );
    }
}

#[tokio::test]
async fn the_cluster_says_what_it_is() {
    let config =
        Config { data_dir: "./data".into(), endpoints: vec![("messaging".into(), "127.0.0.1:8081".into())], version: "1.2.3", ..Config::default() };
    let rig = Rig::with(config).await;
    let info = client(&rig).await.get_cluster_info(GetClusterInfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.cluster_name.as_str(), info.version.as_str(), info.data_dir.as_str()), ("test-cluster", "1.2.3", "./data"));
    assert_eq!(info.endpoints, [Endpoint { purpose: "messaging".into(), address: "127.0.0.1:8081".into() }]);
    let shards = client(&rig).await.list_shards(ListShardsRequest {}).await.unwrap().into_inner().shards;
    assert_eq!(shards, info.shards);
    assert_eq!((info.shards[0].end_lsn, info.shards[0].durable_lsn, info.shards[0].state()), (100, 90, ShardState::Active));
}
