//! Lite topics at the edge: who may subscribe and receive them, what is refused, and what a client is told.

use crate::rig::{Rig, call, call_from, changed, push_poll, receive, resource, seconds, simple_poll, until};
use gantry_model::contract::Metadata;
use gantry_model::contract::broker::{LiteChange, LiteError, LiteStart, LiteTopic, SendError};
use gantry_model::group::{GroupOptions, GroupSpec, LiteGroup, LiteSharing};
use gantry_model::topic::TopicType;
use gantry_model::{ClientId, GroupId, GroupName, MessageKind, Offset, TopicId};
use gantry_platform::clock::timeout;
use gantry_proto::admin::ListLiteTopicsRequest;
use gantry_proto::admin::admin_client::AdminClient;
use gantry_proto::v2::offset_option::{OffsetType, Policy};
use gantry_proto::v2::settings::PubSub;
use gantry_proto::v2::telemetry_command::Command;
use gantry_proto::v2::*;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// A parent `sessions`, a group `readers` bound to it, one called `all` that gets everything, and one that is bound to nothing.
async fn lite_rig() -> Rig {
    let rig = Rig::start().await;
    rig.metadata.add_topic("sessions", TopicType::Lite);
    rig.metadata.add_topic("others", TopicType::Lite);
    rig.metadata.add_topic("orders", TopicType::Mixed);
    for (name, lite) in [("readers", Some(false)), ("all", Some(true)), ("unbound", None)] {
        let lite = lite.map(|wildcard| LiteGroup { topic: "sessions".into(), sharing: LiteSharing::Shared, client_quota: 7, wildcard });
        let spec = GroupSpec::new(GroupName::parse("", name).unwrap());
        rig.metadata.create_group(GroupSpec { options: GroupOptions { lite, ..spec.options }, ..spec }).await.unwrap();
    }
    rig
}

fn wish(action: LiteSubscriptionAction, names: &[&str]) -> SyncLiteSubscriptionRequest {
    SyncLiteSubscriptionRequest {
        action: action as i32,
        topic: resource("sessions"),
        group: resource("readers"),
        lite_topic_set: names.iter().map(|&name| name.to_owned()).collect(),
        ..Default::default()
    }
}

async fn sync(rig: &Rig, request: SyncLiteSubscriptionRequest) -> Code {
    rig.client.clone().sync_lite_subscription(call(request)).await.unwrap().into_inner().status.unwrap().code()
}

#[tokio::test]
async fn each_action_changes_a_subscription_in_its_way() {
    let rig = lite_rig().await;
    for (action, change) in [
        (LiteSubscriptionAction::PartialAdd, LiteChange::Add),
        (LiteSubscriptionAction::PartialRemove, LiteChange::Remove),
        (LiteSubscriptionAction::CompleteAdd, LiteChange::Replace),
        (LiteSubscriptionAction::CompleteRemove, LiteChange::Clear),
    ] {
        assert_eq!(sync(&rig, wish(action, &["chat-1", "chat-2"])).await, Code::Ok);
        let asked = rig.broker.with(|state| state.syncs.pop()).unwrap();
        assert_eq!((asked.change, asked.names.len(), asked.client.as_str(), asked.start), (change, 2, "client-1", LiteStart::Last));
        assert_eq!((asked.topic.name.name.as_str(), asked.group.name.name.as_str()), ("sessions", "readers"));
    }
    assert_eq!(sync(&rig, wish(LiteSubscriptionAction::CompleteAdd, &[])).await, Code::Ok, "an empty set is a sign of life");
}

#[tokio::test]
async fn a_subscription_may_say_where_it_begins() {
    let rig = lite_rig().await;
    for (wished, expected) in [
        (OffsetType::Policy(Policy::Last as i32), Some(LiteStart::Last)),
        (OffsetType::Policy(Policy::Min as i32), Some(LiteStart::Min)),
        (OffsetType::Policy(Policy::Max as i32), Some(LiteStart::Max)),
        (OffsetType::Offset(0), Some(LiteStart::At(Offset(0)))),
        (OffsetType::TailN(3), Some(LiteStart::Tail(3))),
        (OffsetType::Timestamp(1_700_000_000_000), Some(LiteStart::Time(1_700_000_000_000))),
        (OffsetType::Policy(9), None),
        (OffsetType::Offset(-1), None),
        (OffsetType::TailN(-1), None),
        (OffsetType::Timestamp(-1), None),
    ] {
        let option = OffsetOption { offset_type: Some(wished) };
        let code = sync(&rig, SyncLiteSubscriptionRequest { offset_option: Some(option), ..wish(LiteSubscriptionAction::PartialAdd, &["a"]) }).await;
        assert_eq!(code, if expected.is_some() { Code::Ok } else { Code::BadRequest }, "{wished:?}");
        assert_eq!(rig.broker.with(|state| state.syncs.pop()).map(|asked| asked.start), expected, "{wished:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_subscribed_is_refused_by_its_code() {
    let rig = lite_rig().await;
    let of = |topic: &str, group: &str, names: &[&str]| SyncLiteSubscriptionRequest {
        topic: resource(topic),
        group: resource(group),
        ..wish(LiteSubscriptionAction::PartialAdd, names)
    };
    let many: Vec<String> = (0..308).map(|number| format!("n{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let long = "x".repeat(65);
    for (request, expected) in [
        (of("a.b", "readers", &["a"]), Code::IllegalTopic),
        (of("missing", "readers", &["a"]), Code::TopicNotFound),
        (of("orders", "readers", &["a"]), Code::IllegalTopic),
        (of("sessions", "a.b", &["a"]), Code::IllegalConsumerGroup),
        (of("sessions", "missing", &["a"]), Code::ConsumerGroupNotFound),
        (of("sessions", "unbound", &["a"]), Code::IllegalTopic),
        (of("others", "readers", &["a"]), Code::IllegalTopic),
        (of("sessions", "all", &["a"]), Code::BadRequest),
        (of("sessions", "readers", &["a", "b c"]), Code::IllegalLiteTopic),
        (of("sessions", "readers", &[""]), Code::IllegalLiteTopic),
        (of("sessions", "readers", &[long.as_str()]), Code::IllegalLiteTopic),
        (of("sessions", "readers", &many), Code::LiteSubscriptionQuotaExceeded),
        (of("sessions", "readers", &many[..307]), Code::Ok),
    ] {
        assert_eq!(sync(&rig, request.clone()).await, expected, "{request:?}");
    }
    assert!(rig.metadata.group(&GroupName::parse("", "missing").unwrap()).is_none(), "a group without a binding is of no use here");
    assert_eq!(rig.broker.with(|state| state.syncs.len()), 1);
    for (error, expected) in [
        (LiteError::SubscriptionQuota { most: 7 }, Code::LiteSubscriptionQuotaExceeded),
        (LiteError::TopicQuota { most: 7 }, Code::LiteTopicQuotaExceeded),
        (LiteError::Busy, Code::TooManyRequests),
        (LiteError::Failed { why: "broken".into() }, Code::InternalServerError),
    ] {
        rig.broker.with(|state| state.lite_error = Some(error));
        assert_eq!(sync(&rig, wish(LiteSubscriptionAction::CompleteAdd, &["a"])).await, expected);
    }
}

#[tokio::test]
async fn a_wildcard_group_syncs_its_empty_set() {
    let rig = lite_rig().await;
    let request = SyncLiteSubscriptionRequest { group: resource("all"), ..wish(LiteSubscriptionAction::CompleteAdd, &[]) };
    assert_eq!(sync(&rig, request).await, Code::Ok);
}

#[tokio::test]
async fn a_message_for_a_lite_topic_goes_to_its_parent_and_carries_its_name() {
    let rig = lite_rig().await;
    let lite = |topic: &str, name: &str| changed(topic, |_, system| system.lite_topic = Some(name.into()));
    let send = async |messages: Vec<Message>| {
        let answer = rig.client.clone().send_message(call(SendMessageRequest { messages })).await.unwrap().into_inner();
        (answer.status.unwrap().code(), answer.entries.len())
    };
    assert_eq!(send(vec![lite("sessions", "chat-1"), lite("sessions", "chat-2")]).await, (Code::Ok, 2));
    let stored = rig.broker.with(|state| state.stored.clone());
    assert_eq!(stored.iter().map(|stored| stored.message.lite_topic.as_deref()).collect::<Vec<_>>(), [Some("chat-1"), Some("chat-2")]);
    assert!(stored.iter().all(|stored| stored.message.kind == MessageKind::Lite));
    assert_eq!(send(vec![lite("orders", "chat-1")]).await.0, Code::MessagePropertyConflictWithType);
    assert_eq!(send(vec![lite("sessions", "a b")]).await.0, Code::IllegalLiteTopic);
    assert_eq!(send(vec![changed("sessions", |_, _| {})]).await.0, Code::MessagePropertyConflictWithType);
    rig.broker.with(|state| state.send_error = Some(SendError::LiteTopicQuota { most: 3 }));
    assert_eq!(send(vec![lite("sessions", "one-more")]).await.0, Code::LiteTopicQuotaExceeded);

    let (status, messages, _) = receive(&mut rig.client.clone(), call(simple_poll("sessions", "readers", 100))).await;
    let lites: Vec<String> = messages.iter().map(|message| message.system_properties.as_ref().unwrap().lite_topic().to_owned()).collect();
    assert_eq!((status.code(), lites), (Code::Ok, vec!["chat-1".to_owned(), "chat-2".to_owned()]));
    let system = messages[0].system_properties.as_ref().unwrap();
    assert_eq!(system.message_type(), MessageType::Lite);
    let entry = AckMessageEntry {
        message_id: system.message_id.clone(),
        receipt_handle: system.receipt_handle().to_owned(),
        lite_topic: Some("chat-1".into()),
    };
    let request = AckMessageRequest { group: resource("readers"), topic: resource("sessions"), entries: vec![entry] };
    let answer = rig.client.clone().ack_message(call(request)).await.unwrap().into_inner();
    assert_eq!(answer.status.unwrap().code(), Code::Ok);
}

#[tokio::test]
async fn only_a_bound_group_receives_and_without_a_filter() {
    let rig = lite_rig().await;
    let filter = |expression: &str| Some(FilterExpression { r#type: FilterType::Tag as i32, expression: expression.into() });
    for (request, expected) in [
        (simple_poll("sessions", "unbound", 10), Code::IllegalTopic),
        (simple_poll("others", "readers", 10), Code::IllegalTopic),
        (ReceiveMessageRequest { filter_expression: filter("A"), ..simple_poll("sessions", "readers", 10) }, Code::IllegalFilterExpression),
        (ReceiveMessageRequest { filter_expression: filter("*"), ..simple_poll("sessions", "readers", 10) }, Code::MessageNotFound),
        (simple_poll("sessions", "all", 10), Code::MessageNotFound),
    ] {
        let (status, _, _) = receive(&mut rig.client.clone(), call(request.clone())).await;
        assert_eq!(status.code(), expected, "{request:?}");
    }
}

#[tokio::test]
async fn a_push_consumer_gets_one_message_of_each_lite_topic_however_it_renews() {
    let rig = lite_rig().await;
    let asked = async |client: &str, request: ReceiveMessageRequest| {
        let stream = rig.client.clone().receive_message(call_from(client, request)).await.unwrap();
        until("the broker is asked", || rig.broker.with(|state| state.receives.iter().any(|asked| asked.client.as_str() == client))).await;
        drop(stream);
        rig.broker.with(|state| state.receives.iter().find(|asked| asked.client.as_str() == client).unwrap().ordered_batch)
    };
    let mut push = Telemetry::open(&rig, "own-renewal").await;
    push.tell(ClientType::LitePushConsumer).await;
    let renews_itself = ReceiveMessageRequest { invisible_duration: Some(seconds(30)), ..simple_poll("sessions", "readers", 500) };
    assert!(!asked("own-renewal", renews_itself.clone()).await);
    assert!(!asked("push", push_poll("sessions", "readers")).await);
    assert!(asked("simple", renews_itself).await);
}

struct Telemetry {
    commands: mpsc::Sender<TelemetryCommand>,
    answers: tonic::Streaming<TelemetryCommand>,
}

impl Telemetry {
    async fn open(rig: &Rig, client: &str) -> Telemetry {
        let (commands, outgoing) = mpsc::channel(8);
        let answers = rig.client.clone().telemetry(call_from(client, ReceiverStream::new(outgoing))).await.unwrap().into_inner();
        Telemetry { commands, answers }
    }

    /// Sends settings and answers what comes back.
    async fn tell(&mut self, client_type: ClientType) -> Subscription {
        let entry = SubscriptionEntry { topic: resource("sessions"), expression: None };
        let subscription = Subscription { group: resource("readers"), subscriptions: vec![entry], ..Default::default() };
        let settings = Settings { client_type: Some(client_type as i32), pub_sub: Some(PubSub::Subscription(subscription)), ..Default::default() };
        self.commands.send(TelemetryCommand { status: None, command: Some(Command::Settings(settings)) }).await.unwrap();
        let Some(Command::Settings(settings)) = self.next().await else { panic!("settings") };
        let Some(PubSub::Subscription(subscription)) = settings.pub_sub else { panic!("the same kind") };
        subscription
    }

    async fn next(&mut self) -> Option<Command> {
        timeout(Duration::from_secs(3), self.answers.message()).await.expect("in time").unwrap().unwrap().command
    }
}

#[tokio::test]
async fn settings_tell_the_quota_of_the_group() {
    let rig = lite_rig().await;
    for client_type in [ClientType::LitePushConsumer, ClientType::LiteSimpleConsumer] {
        let subscription = Telemetry::open(&rig, "c").await.tell(client_type).await;
        assert_eq!((subscription.lite_subscription_quota, subscription.max_lite_topic_size), (Some(7), Some(64)));
        assert_eq!(subscription.fifo, Some(false), "the server keeps the order of each lite topic");
    }
}

#[tokio::test]
async fn who_lost_a_lite_topic_is_told_on_its_stream() {
    let rig = lite_rig().await;
    let mut telemetry = Telemetry::open(&rig, "old").await;
    telemetry.tell(ClientType::LitePushConsumer).await;
    let clients = rig.broker.with(|state| state.clients.clone()).expect("the proxy says that it is there");
    clients.lost_lite(&ClientId::new("nobody"), GroupId(1), TopicId(1), "chat-1");
    clients.lost_lite(&ClientId::new("old"), GroupId(1), TopicId(1), "chat-1");
    let Some(Command::NotifyUnsubscribeLiteCommand(command)) = telemetry.next().await else { panic!("the command") };
    assert_eq!(command.lite_topic, "chat-1");
}

#[tokio::test]
async fn operators_list_the_lite_topics_of_a_parent() {
    let rig = lite_rig().await;
    let lite = |name: &str| LiteTopic { name: name.into(), min: Offset(1), max: Offset(4), active_ms: 5_000, subscribers: 2 };
    rig.broker.with(|state| state.lites = ["a", "b", "c"].map(lite).into());
    let mut admin = AdminClient::new(crate::rig::channel(rig.admin).await);
    let ask = ListLiteTopicsRequest { topic: "sessions".into(), page_size: 2, ..Default::default() };
    let first = admin.list_lite_topics(ask.clone()).await.unwrap().into_inner();
    assert_eq!(first.lite_topics.iter().map(|lite| lite.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    let shown = &first.lite_topics[0];
    assert_eq!((shown.min_offset, shown.max_offset, shown.subscribers, shown.active_time.unwrap().seconds), (1, 4, 2, 5));
    let rest = admin.list_lite_topics(ListLiteTopicsRequest { page_token: first.next_page_token, ..ask.clone() }).await.unwrap().into_inner();
    assert_eq!((rest.lite_topics.len(), rest.lite_topics[0].name.as_str(), rest.next_page_token.as_str()), (1, "c", ""));
    let behind = admin.list_lite_topics(ListLiteTopicsRequest { after: "b".into(), ..ask.clone() }).await.unwrap().into_inner();
    assert_eq!(behind.lite_topics.len(), 1);
    for (topic, expected) in [("orders", tonic::Code::FailedPrecondition), ("missing", tonic::Code::NotFound), ("a.b", tonic::Code::InvalidArgument)]
    {
        let refused = admin.list_lite_topics(ListLiteTopicsRequest { topic: topic.into(), ..Default::default() }).await.unwrap_err();
        assert_eq!(refused.code(), expected, "{topic}");
    }
}
