//! A client that speaks the protocol directly and tells an answer from no answer.

use gantry_proto::v2;
use gantry_proto::v2::messaging_service_client::MessagingServiceClient;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, metadata::MetadataValue};

const TOPIC: &str = "kill";
const GROUP: &str = "kill";
const OK: i32 = v2::Code::Ok as i32;

/// One connection to the server, made anew when it breaks.
pub struct Client {
    service: MessagingServiceClient<Channel>,
}

/// A message as it was received.
#[derive(Debug)]
pub struct Delivered {
    pub id: String,
    pub queue: i32,
    pub offset: i64,
    pub attempt: i32,
    handle: String,
}

fn resource(name: &str) -> Option<v2::Resource> {
    Some(v2::Resource { resource_namespace: String::new(), name: name.to_owned() })
}

fn request<T>(message: T, client: usize) -> Request<T> {
    let mut request = Request::new(message);
    let id = MetadataValue::try_from(format!("kill@{client}")).expect("ascii");
    request.metadata_mut().insert("x-mq-client-id", id);
    request.set_timeout(Duration::from_secs(8));
    request
}

impl Client {
    pub fn new(endpoint: String) -> Client {
        let channel = Endpoint::try_from(endpoint).expect("a legal address").connect_timeout(Duration::from_secs(1)).connect_lazy();
        Client { service: MessagingServiceClient::new(channel) }
    }

    /// Asks for the route, which creates the topic.
    pub async fn prepare(&mut self) -> bool {
        let endpoints = v2::Endpoints { scheme: v2::AddressScheme::IPv4 as i32, addresses: vec![v2::Address { host: "127.0.0.1".into(), port: 1 }] };
        let ask = v2::QueryRouteRequest { topic: resource(TOPIC), endpoints: Some(endpoints) };
        self.service.query_route(request(ask, 0)).await.is_ok_and(|answer| answer.into_inner().status.is_some_and(|status| status.code == OK))
    }

    /// The offset if the send was acknowledged; `None` if nobody knows.
    pub async fn send(&mut self, id: &str) -> Option<i64> {
        let system = v2::SystemProperties {
            message_id: id.to_owned(),
            message_type: v2::MessageType::Normal as i32,
            body_encoding: v2::Encoding::Identity as i32,
            born_host: "kill".into(),
            ..Default::default()
        };
        let body = bytes::Bytes::from(id.repeat(20));
        let message = v2::Message { topic: resource(TOPIC), user_properties: Default::default(), system_properties: Some(system), body };
        let answer = self.service.send_message(request(v2::SendMessageRequest { messages: vec![message] }, 0)).await.ok()?.into_inner();
        let entry = answer.entries.into_iter().next()?;
        (answer.status?.code == OK).then_some(entry.offset)
    }

    pub async fn receive(&mut self, client: usize) -> Option<Vec<Delivered>> {
        let ask = v2::ReceiveMessageRequest {
            group: resource(GROUP),
            message_queue: Some(v2::MessageQueue { topic: resource(TOPIC), ..Default::default() }),
            filter_expression: None,
            batch_size: 16,
            invisible_duration: Some(prost_types::Duration { seconds: 10, nanos: 0 }),
            auto_renew: false,
            long_polling_timeout: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
            ..Default::default()
        };
        let mut stream = self.service.receive_message(request(ask, client)).await.ok()?.into_inner();
        let mut delivered = Vec::new();
        while let Some(element) = stream.message().await.ok()? {
            if let Some(v2::receive_message_response::Content::Message(message)) = element.content {
                let system = message.system_properties.unwrap_or_default();
                delivered.push(Delivered {
                    id: system.message_id,
                    queue: system.queue_id,
                    offset: system.queue_offset.unwrap_or(-1),
                    attempt: system.delivery_attempt.unwrap_or(0),
                    handle: system.receipt_handle.unwrap_or_default(),
                });
            }
        }
        Some(delivered)
    }

    /// Whether the acknowledgement was taken; `None` if nobody knows.
    pub async fn ack(&mut self, delivered: &Delivered) -> Option<bool> {
        let entry = v2::AckMessageEntry { message_id: delivered.id.clone(), receipt_handle: delivered.handle.clone(), ..Default::default() };
        let ask = v2::AckMessageRequest { group: resource(GROUP), topic: resource(TOPIC), entries: vec![entry] };
        let answer = self.service.ack_message(request(ask, 0)).await.ok()?.into_inner();
        Some(answer.status?.code == OK)
    }
}
