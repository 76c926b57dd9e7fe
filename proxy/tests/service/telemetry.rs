//! Telemetry: settings per language, what a stream survives, and what the server sends on its own.

use crate::rig::{Rig, call, call_from, push_poll, resource, until};
use gantry_model::contract::Metadata;
use gantry_model::group::{GroupChange, Order};
use gantry_model::topic::TopicType;
use gantry_model::{GroupName, RetryPolicy, contract::metadata::Version};
use gantry_platform::clock::timeout;
use gantry_proto::v2::retry_policy::Strategy;
use gantry_proto::v2::settings::PubSub;
use gantry_proto::v2::telemetry_command::Command;
use gantry_proto::v2::*;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Streaming};

/// A client's Telemetry stream.
pub struct Session {
    commands: Option<mpsc::Sender<TelemetryCommand>>,
    answers: Streaming<TelemetryCommand>,
}

impl Session {
    pub async fn open(rig: &Rig, client: &str, language: &str) -> Session {
        let (commands, outgoing) = mpsc::channel(8);
        let mut request = call_from(client, ReceiverStream::new(outgoing));
        request.metadata_mut().insert("x-mq-language", language.parse().unwrap());
        Session::with(rig, commands, request).await
    }

    async fn with(rig: &Rig, commands: mpsc::Sender<TelemetryCommand>, request: Request<ReceiverStream<TelemetryCommand>>) -> Session {
        let answers = timeout(Duration::from_secs(2), rig.client.clone().telemetry(request)).await.expect("headers at once").unwrap().into_inner();
        Session { commands: Some(commands), answers }
    }

    pub async fn send(&self, settings: Settings) {
        let command = TelemetryCommand { status: None, command: Some(Command::Settings(settings)) };
        self.commands.as_ref().unwrap().send(command).await.unwrap();
    }

    /// Says something that is no settings.
    pub async fn say(&self, command: TelemetryCommand) {
        self.commands.as_ref().unwrap().send(command).await.unwrap();
    }

    /// Ends the client's half of the stream.
    pub fn half_close(&mut self) {
        self.commands = None;
    }

    pub async fn next(&mut self) -> Result<Option<TelemetryCommand>, tonic::Status> {
        timeout(Duration::from_secs(3), self.answers.message()).await.expect("an answer within the patience of clients")
    }

    pub async fn settings(&mut self) -> Settings {
        let command = self.next().await.unwrap().expect("the stream goes on");
        assert_eq!(command.status.expect("settings come with a status").code(), Code::Ok);
        let Some(Command::Settings(settings)) = command.command else { panic!("settings") };
        assert!(settings.metric.is_some() && settings.backoff_policy.as_ref().is_some_and(|policy| policy.strategy.is_some()));
        settings
    }
}

pub fn producer(topics: &[&str]) -> Settings {
    let topics = topics.iter().map(|topic| resource(topic).unwrap()).collect();
    Settings {
        client_type: Some(ClientType::Producer as i32),
        access_point: Some(Endpoints { scheme: AddressScheme::IPv4 as i32, addresses: vec![Address { host: "10.0.0.1".into(), port: 8081 }] }),
        request_timeout: Some(crate::rig::seconds(3)),
        user_agent: Some(Ua { language: Language::Java as i32, version: "5.2.1".into(), ..Default::default() }),
        pub_sub: Some(PubSub::Publishing(Publishing { topics, ..Default::default() })),
        ..Default::default()
    }
}

pub fn consumer(group: &str, topics: &[(&str, &str)]) -> Settings {
    let entry = |&(topic, tags): &(&str, &str)| SubscriptionEntry {
        topic: resource(topic),
        expression: Some(FilterExpression { r#type: FilterType::Tag as i32, expression: tags.into() }),
    };
    Settings {
        client_type: Some(ClientType::PushConsumer as i32),
        pub_sub: Some(PubSub::Subscription(Subscription {
            group: resource(group),
            subscriptions: topics.iter().map(entry).collect(),
            ..Default::default()
        })),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_producer_gets_back_what_it_sent_and_what_the_server_owns() {
    let (rig, _) = Rig::with_topic().await;
    let mut session = Session::open(&rig, "p", "JAVA").await;
    let sent = producer(&["orders", "unknown"]);
    for _ in 0..3 {
        session.send(sent.clone()).await;
        let settings = session.settings().await;
        assert_eq!((settings.client_type(), &settings.access_point), (ClientType::Producer, &sent.access_point));
        assert_eq!((&settings.request_timeout, &settings.user_agent), (&sent.request_timeout, &sent.user_agent));
        let Some(PubSub::Publishing(publishing)) = settings.pub_sub else { panic!("the same kind") };
        assert_eq!((publishing.topics.len(), publishing.max_body_size, publishing.validate_message_type), (2, 4 << 20, true));
        assert!(matches!(settings.backoff_policy.unwrap().strategy, Some(Strategy::ExponentialBackoff(_))));
    }
}

#[tokio::test]
async fn each_language_gets_a_strategy_that_it_reads() {
    let (rig, _) = Rig::with_topic().await;
    let exponential = |settings: &Settings| matches!(settings.backoff_policy.as_ref().unwrap().strategy, Some(Strategy::ExponentialBackoff(_)));
    for (language, expected) in
        [("JAVA", false), ("GO", false), ("DOTNET", false), ("CPP", false), ("RUST", false), ("PYTHON", false), ("HTTP", true), ("DART?", false)]
    {
        let mut session = Session::open(&rig, language, language).await;
        session.send(consumer("group", &[("orders", "*")])).await;
        assert_eq!(exponential(&session.settings().await), expected, "{language}");
    }
    let growing = RetryPolicy::Exponential { initial_ms: 1_000, max_ms: 4_000, multiplier: 2.0 };
    let change = GroupChange { retry: Some(growing), ..Default::default() };
    rig.metadata.update_group(&GroupName::parse("", "group").unwrap(), change).await.unwrap();
    for (language, expected) in [("JAVA", true), ("HTTP", true), ("PYTHON", false)] {
        let mut session = Session::open(&rig, &format!("{language} again"), language).await;
        session.send(consumer("group", &[("orders", "*")])).await;
        assert_eq!(exponential(&session.settings().await), expected, "{language}");
    }
}

#[tokio::test]
async fn settings_of_a_new_group_make_it() {
    let rig = Rig::start().await;
    let mut session = Session::open(&rig, "c", "JAVA").await;
    session.send(consumer("fresh", &[("nowhere", "a||b")])).await;
    let settings = session.settings().await;
    let Some(PubSub::Subscription(subscription)) = settings.pub_sub else { panic!("the same kind") };
    assert_eq!((subscription.fifo, subscription.receive_batch_size, subscription.subscriptions.len()), (Some(false), Some(32), 1));
    assert_eq!(settings.backoff_policy.unwrap().max_attempts, 16);
    assert!(rig.metadata.group(&GroupName::parse("", "fresh").unwrap()).is_some());
}

#[tokio::test]
async fn lite_clients_learn_their_quota() {
    let rig = Rig::start().await;
    let mut session = Session::open(&rig, "c", "JAVA").await;
    session.send(Settings { client_type: Some(ClientType::LitePushConsumer as i32), ..consumer("g", &[]) }).await;
    let Some(PubSub::Subscription(subscription)) = session.settings().await.pub_sub else { panic!("the same kind") };
    assert_eq!((subscription.lite_subscription_quota, subscription.max_lite_topic_size), (Some(2_000), Some(64)));
}

#[tokio::test]
async fn illegal_settings_end_the_stream_with_the_reason() {
    let (rig, _) = Rig::with_topic().await;
    let sql = |expression: &str| {
        let expression = Some(FilterExpression { r#type: FilterType::Sql as i32, expression: expression.into() });
        let entry = SubscriptionEntry { topic: resource("orders"), expression };
        Settings {
            pub_sub: Some(PubSub::Subscription(Subscription { group: resource("group"), subscriptions: vec![entry], ..Default::default() })),
            ..consumer("group", &[])
        }
    };
    let large = Settings { client_properties: [("k".to_owned(), "v".repeat(300 * 1024))].into(), ..producer(&[]) };
    for (settings, expected) in [
        (producer(&["a.b"]), Code::IllegalTopic),
        (consumer("a.b", &[]), Code::IllegalConsumerGroup),
        (consumer("group", &[("TBW102", "*")]), Code::IllegalTopic),
        (consumer("group", &[("orders", "a|b")]), Code::IllegalFilterExpression),
        (sql(""), Code::IllegalFilterExpression),
        (Settings { pub_sub: None, ..producer(&[]) }, Code::BadRequest),
        (Settings { client_type: Some(ClientType::Producer as i32), ..consumer("group", &[]) }, Code::BadRequest),
        (Settings { client_type: Some(ClientType::PushConsumer as i32), ..producer(&[]) }, Code::BadRequest),
        (large, Code::BadRequest),
    ] {
        let mut session = Session::open(&rig, "c", "JAVA").await;
        session.send(settings).await;
        let command = session.next().await.unwrap().unwrap();
        assert_eq!((command.status.unwrap().code(), command.command), (expected, None));
        assert_eq!(session.next().await.unwrap_err().code(), tonic::Code::InvalidArgument);
    }
    let mut session = Session::open(&rig, "c", "JAVA").await;
    session.send(sql("a > 5")).await;
    session.settings().await;
}

#[tokio::test]
async fn bad_client_properties_are_told_and_the_stream_goes_on() {
    let rig = Rig::start().await;
    let mut session = Session::open(&rig, "c", "JAVA").await;
    let many = (0..33).map(|n| (format!("k{n}"), String::new())).collect();
    let one = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
    for properties in [many, one("1a", ""), one("rocketmq.x", ""), one("a b", ""), one("", ""), one("k", &"v".repeat(257)), one(&"k".repeat(65), "")]
    {
        session.send(Settings { client_properties: properties, ..producer(&[]) }).await;
        assert_eq!(session.next().await.unwrap().unwrap().status.unwrap().code(), Code::InvalidClientProperties);
    }
    session.send(Settings { client_properties: one("app.name-1", "shop"), ..producer(&[]) }).await;
    assert_eq!(session.settings().await.client_properties.len(), 1);
}

#[tokio::test]
async fn without_a_client_id_there_is_one_status_and_a_clean_end() {
    let rig = Rig::start().await;
    let (commands, outgoing) = mpsc::channel(8);
    let mut session = Session::with(&rig, commands, Request::new(ReceiverStream::new(outgoing))).await;
    assert_eq!(session.next().await.unwrap().unwrap().status.unwrap().code(), Code::ClientIdRequired);
    assert_eq!(session.next().await.unwrap(), None);
}

#[tokio::test]
async fn what_was_sent_before_a_half_close_is_answered() {
    let rig = Rig::start().await;
    let mut session = Session::open(&rig, "c", "RUST").await;
    session.send(producer(&["t"])).await;
    session.half_close();
    session.settings().await;
    assert_eq!(session.next().await.unwrap(), None);
}

#[tokio::test]
async fn the_end_of_a_stream_means_nothing() {
    let (rig, _) = Rig::with_topic().await;
    let mut session = Session::open(&rig, "c", "DOTNET").await;
    session.send(consumer("group", &[("orders", "*")])).await;
    session.settings().await;
    drop(session);
    let mut request = call(HeartbeatRequest { group: resource("group"), client_type: 0 });
    request.metadata_mut().insert("x-mq-client-id", "c".parse().unwrap());
    assert_eq!(rig.client.clone().heartbeat(request).await.unwrap().into_inner().status.unwrap().code(), Code::Ok);
    assert!(rig.broker.with(|state| state.gone.is_empty()));
}

#[tokio::test]
async fn a_changed_group_is_pushed_to_the_newest_stream() {
    let (rig, _) = Rig::with_topic().await;
    let mut old = Session::open(&rig, "c", "JAVA").await;
    old.send(consumer("group", &[("orders", "*")])).await;
    old.settings().await;
    let mut new = Session::open(&rig, "c", "JAVA").await;
    new.send(consumer("group", &[("orders", "*")])).await;
    new.settings().await;
    let group = GroupName::parse("", "group").unwrap();
    rig.metadata.update_group(&group, GroupChange { order: Some(Order::Fifo), max_attempts: Some(4), ..Default::default() }).await.unwrap();
    let settings = new.settings().await;
    assert_eq!(settings.backoff_policy.unwrap().max_attempts, 4);
    let Some(PubSub::Subscription(subscription)) = settings.pub_sub else { panic!("the same kind") };
    assert_eq!(subscription.fifo, Some(true));

    drop(new);
    rig.until_at_most("gantry_telemetry_streams", 1).await;
    rig.metadata.update_group(&group, GroupChange { max_attempts: Some(5), ..Default::default() }).await.unwrap();
    assert_eq!(old.settings().await.backoff_policy.unwrap().max_attempts, 5, "an older stream that is open serves as well");
}

#[tokio::test]
async fn a_change_that_concerns_nobody_is_not_pushed() {
    let (rig, _) = Rig::with_topic().await;
    let mut session = Session::open(&rig, "c", "JAVA").await;
    session.send(consumer("group", &[("orders", "*")])).await;
    session.settings().await;
    rig.metadata.add_topic("unrelated", TopicType::Fifo);
    assert!(rig.metadata.version() > Version(1));
    assert!(timeout(Duration::from_millis(400), session.answers.message()).await.is_err());
}

#[tokio::test]
async fn the_request_timeout_of_settings_shortens_a_poll_without_its_own_time() {
    let (rig, _) = Rig::with_topic().await;
    let mut session = Session::open(&rig, "client-1", "GO").await;
    session.send(Settings { request_timeout: Some(crate::rig::seconds(6)), ..consumer("group", &[("orders", "*")]) }).await;
    session.settings().await;
    let mut request = call(push_poll("orders", "group"));
    request.set_timeout(Duration::from_secs(10));
    let stream = rig.client.clone().receive_message(request).await.unwrap();
    until("the broker is asked", || rig.broker.with(|state| !state.receives.is_empty())).await;
    drop(stream);
    assert_eq!(rig.broker.with(|state| state.receives[0].wait), Duration::from_secs(4));
}
