//! A well-behaved client, which speaks the protocol directly and sees each status.

use gantry_proto::v2;
use gantry_proto::v2::messaging_service_client::MessagingServiceClient;
use gantry_proto::v2::receive_message_response::Content;
use std::net::SocketAddr;
use std::time::Duration;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

const OK: i32 = v2::Code::Ok as i32;
/// More than any answer takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone)]
pub struct Client {
    service: MessagingServiceClient<Channel>,
    topic: &'static str,
    id: String,
}

/// A message as it was received.
#[derive(Debug)]
pub struct Delivered {
    pub id: String,
    handle: String,
}

fn resource(name: &str) -> Option<v2::Resource> {
    Some(v2::Resource { resource_namespace: String::new(), name: name.to_owned() })
}

impl Client {
    /// Connects, and asks for the topic's route, which creates it.
    pub async fn connect(address: SocketAddr, topic: &'static str) -> Client {
        let channel = Endpoint::try_from(format!("http://{address}")).unwrap().connect().await.unwrap();
        let service = MessagingServiceClient::new(channel).max_decoding_message_size(64 << 20);
        let mut client = Client { service, topic, id: format!("{topic}-client") };
        let at = v2::Address { host: address.ip().to_string(), port: address.port().into() };
        let endpoints = v2::Endpoints { scheme: v2::AddressScheme::IPv4 as i32, addresses: vec![at] };
        let ask = client.request(v2::QueryRouteRequest { topic: resource(topic), endpoints: Some(endpoints) });
        let status = client.service.query_route(ask).await.unwrap().into_inner().status.unwrap();
        assert_eq!(status.code, OK, "{}", status.message);
        client
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("x-mq-client-id", self.id.parse().unwrap());
        request.set_timeout(PATIENCE);
        request
    }

    /// The status of one message that is sent.
    pub async fn send(&mut self, id: &str, body: &[u8]) -> v2::Status {
        let system = v2::SystemProperties {
            message_id: id.to_owned(),
            message_type: v2::MessageType::Normal as i32,
            body_encoding: v2::Encoding::Identity as i32,
            born_host: "bad-input".into(),
            ..Default::default()
        };
        let body = bytes::Bytes::copy_from_slice(body);
        let message = v2::Message { topic: resource(self.topic), user_properties: Default::default(), system_properties: Some(system), body };
        let ask = self.request(v2::SendMessageRequest { messages: vec![message] });
        self.service.send_message(ask).await.unwrap().into_inner().status.unwrap()
    }

    /// One poll of this time for at most so many messages: its status and what it brought.
    pub async fn receive(&mut self, wait: Duration, most: usize) -> Result<(v2::Status, Vec<Delivered>), tonic::Status> {
        let ask = self.request(v2::ReceiveMessageRequest {
            group: resource("readers"),
            message_queue: Some(v2::MessageQueue { topic: resource(self.topic), ..Default::default() }),
            batch_size: most.min(32) as i32,
            invisible_duration: Some(prost_types::Duration { seconds: 300, nanos: 0 }),
            long_polling_timeout: Some(prost_types::Duration { seconds: wait.as_secs() as i64, nanos: wait.subsec_nanos() as i32 }),
            ..Default::default()
        });
        let mut stream = self.service.receive_message(ask).await?.into_inner();
        let (mut status, mut delivered) = (v2::Status::default(), Vec::new());
        while let Some(element) = stream.message().await? {
            match element.content {
                Some(Content::Status(told)) => status = told,
                Some(Content::Message(message)) => {
                    let system = message.system_properties.unwrap();
                    delivered.push(Delivered { id: system.message_id, handle: system.receipt_handle.unwrap() });
                }
                Some(Content::DeliveryTimestamp(_)) | None => {}
            }
        }
        Ok((status, delivered))
    }

    /// Acknowledges messages; each must be taken.
    pub async fn ack(&mut self, delivered: &[Delivered]) {
        let entry = |one: &Delivered| v2::AckMessageEntry { message_id: one.id.clone(), receipt_handle: one.handle.clone(), ..Default::default() };
        let entries = delivered.iter().map(entry).collect();
        let ask = self.request(v2::AckMessageRequest { group: resource("readers"), topic: resource(self.topic), entries });
        let answer = self.service.ack_message(ask).await.unwrap().into_inner();
        let status = answer.status.unwrap();
        assert_eq!(status.code, OK, "{}", status.message);
    }

    /// Receives and acknowledges this many messages; answers their ids.
    pub async fn take(&mut self, count: usize) -> Vec<String> {
        let mut ids = Vec::new();
        while ids.len() < count {
            let (status, delivered) = self.receive(Duration::from_secs(10), count - ids.len()).await.unwrap();
            assert_eq!(status.code, OK, "after {} of {count}: {}", ids.len(), status.message);
            self.ack(&delivered).await;
            ids.extend(delivered.into_iter().map(|one| one.id));
        }
        ids
    }
}
