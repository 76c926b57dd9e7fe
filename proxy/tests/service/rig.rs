//! A running proxy on loopback ports, and clients for it.

use crate::fakes::{FakeBroker, FakeMetadata};
use gantry_model::contract::Metadata;
use gantry_model::topic::TopicType;
use gantry_model::{GroupName, ReceiptHandle, Topic};
use gantry_platform::clock::{SystemClock, sleep};
use gantry_platform::net::{ListenOptions, Listener};
use gantry_platform::tasks::{self, TaskGroup};
use gantry_proto::v2::messaging_service_client::MessagingServiceClient;
use gantry_proto::v2::receive_message_response::Content;
use gantry_proto::v2::*;
use gantry_proxy::{Config, Proxy};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

pub type Client = MessagingServiceClient<Channel>;

pub struct Rig {
    pub proxy: Proxy,
    pub broker: Arc<FakeBroker>,
    pub metadata: Arc<FakeMetadata>,
    pub messaging: SocketAddr,
    pub admin: SocketAddr,
    pub http: SocketAddr,
    pub tasks: TaskGroup,
    pub client: Client,
}

fn listen() -> (Listener, SocketAddr) {
    let listener = Listener::bind(&["127.0.0.1:0".parse().unwrap()], ListenOptions::default()).unwrap();
    let address = listener.local_addresses().unwrap()[0];
    (listener, address)
}

impl Rig {
    pub async fn start() -> Rig {
        Rig::with(Config::default()).await
    }

    pub async fn with(config: Config) -> Rig {
        let rig = Rig::lazily(config).await;
        let client = MessagingServiceClient::new(channel(rig.messaging).await);
        Rig { client, ..rig }
    }

    /// A rig whose client connects only when it is used.
    pub async fn lazily(config: Config) -> Rig {
        let (broker, metadata) = (Arc::new(FakeBroker::default()), Arc::new(FakeMetadata::new()));
        let proxy = Proxy::new(config, broker.clone(), metadata.clone(), Arc::new(SystemClock::new())).unwrap();
        let ((messaging_listener, messaging), (admin_listener, admin), (http_listener, http)) = (listen(), listen(), listen());
        let tasks = TaskGroup::new();
        let (connections, incoming) = mpsc::channel(16);
        let (service, stop) = (proxy.clone(), tasks.signal());
        tasks.spawn("messaging", async move { service.serve_messaging(incoming, stop).await });
        tasks::spawn("acceptor", async move {
            while let Ok((stream, _)) = messaging_listener.accept().await {
                if connections.send(stream.into_std().unwrap()).await.is_err() {
                    return;
                }
            }
        });
        let (service, stop) = (proxy.clone(), tasks.signal());
        tasks.spawn("admin", async move { service.serve_admin(admin_listener, stop).await });
        let (service, stop) = (proxy.clone(), tasks.signal());
        tasks.spawn("http", async move { service.serve_http(http_listener, stop).await });
        let client = MessagingServiceClient::new(Endpoint::from_shared(format!("http://{messaging}")).unwrap().connect_lazy());
        Rig { proxy, broker, metadata, messaging, admin, http, tasks, client }
    }

    /// A rig with one topic of any ordinary type and one group.
    pub async fn with_topic() -> (Rig, Arc<Topic>) {
        let rig = Rig::start().await;
        let topic = rig.metadata.add_topic("orders", TopicType::Mixed);
        rig.metadata.create_group(gantry_model::group::GroupSpec::new(GroupName::parse("", "group").unwrap())).await.unwrap();
        (rig, topic)
    }

    /// A number of `/metrics` without labels.
    pub async fn gauge(&self, name: &str) -> i64 {
        let text = self.proxy.metrics_text().await;
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap().parse().unwrap()
    }

    /// Waits until a number of `/metrics` has come down to this.
    pub async fn until_at_most(&self, name: &str, most: i64) {
        for _ in 0..500 {
            if self.gauge(name).await <= most {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("`{name}` stays above {most}");
    }

    /// The text of a handle that this cluster would sign.
    pub fn sign(&self, handle: &ReceiptHandle) -> String {
        self.metadata.handle_keys().sign(handle)
    }

    /// A handle of a delivery of the topic to the group.
    pub fn handle(&self, topic: &str, group: &str) -> ReceiptHandle {
        let topic = self.metadata.topic(&gantry_model::TopicName::parse("", topic).unwrap()).unwrap().id;
        let group = self.metadata.group(&GroupName::parse("", group).unwrap()).unwrap().id;
        let (shard, queue, offset) = (gantry_model::ShardId(0), gantry_model::QueueId(1), gantry_model::Offset(2));
        ReceiptHandle { shard, topic, group, queue, offset, lease: gantry_model::LeaseId(9), reset: 0, attempt: 1 }
    }
}

pub async fn channel(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

/// A call with the headers of a Java client.
pub fn call<T>(message: T) -> Request<T> {
    call_from("client-1", message)
}

pub fn call_from<T>(client: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let headers = request.metadata_mut();
    headers.insert("x-mq-client-id", client.parse().unwrap());
    headers.insert("x-mq-language", "JAVA".parse().unwrap());
    headers.insert("x-mq-client-version", "5.2.1".parse().unwrap());
    request
}

pub fn resource(name: &str) -> Option<Resource> {
    Some(Resource { resource_namespace: String::new(), name: name.into() })
}

/// A message that is fine in every respect.
pub fn message(topic: &str) -> Message {
    let system = SystemProperties {
        message_id: "01020304".into(),
        message_type: MessageType::Normal as i32,
        body_encoding: Encoding::Identity as i32,
        ..Default::default()
    };
    Message { topic: resource(topic), body: "hello".into(), system_properties: Some(system), ..Default::default() }
}

/// A message with something changed about it.
pub fn changed(topic: &str, change: impl FnOnce(&mut Message, &mut SystemProperties)) -> Message {
    let mut message = message(topic);
    let mut system = message.system_properties.take().unwrap();
    change(&mut message, &mut system);
    message.system_properties = Some(system);
    message
}

/// A push consumer's poll.
pub fn push_poll(topic: &str, group: &str) -> ReceiveMessageRequest {
    ReceiveMessageRequest {
        group: resource(group),
        message_queue: Some(MessageQueue { topic: resource(topic), id: -1, ..Default::default() }),
        batch_size: 32,
        auto_renew: true,
        ..Default::default()
    }
}

/// A simple consumer's poll.
pub fn simple_poll(topic: &str, group: &str, wait_ms: i32) -> ReceiveMessageRequest {
    ReceiveMessageRequest {
        auto_renew: false,
        invisible_duration: Some(seconds(30)),
        long_polling_timeout: Some(prost_types::Duration { seconds: 0, nanos: wait_ms * 1_000_000 }),
        ..push_poll(topic, group)
    }
}

pub fn seconds(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

/// A whole answer: its only status, its messages, and whether it ended with the time.
pub async fn receive(client: &mut Client, request: Request<ReceiveMessageRequest>) -> (Status, Vec<Message>, bool) {
    let mut stream = client.receive_message(request).await.unwrap().into_inner();
    let (mut status, mut messages, mut timed) = (None, Vec::new(), false);
    while let Some(element) = stream.message().await.unwrap() {
        assert!(!timed, "the time is the last element");
        match element.content.expect("never an empty element") {
            Content::Status(next) => assert!(status.replace(next).is_none() && messages.is_empty(), "one status, and it is the first element"),
            Content::Message(message) => messages.push(message),
            Content::DeliveryTimestamp(_) => timed = true,
        }
    }
    (status.expect("a status"), messages, timed)
}

/// Waits until something holds, at most 5 s.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("never came true: {what}");
}
