//! The calls of the load generator. A send is a copy of bytes that were encoded once, with id and stamp put in: what is left is gRPC
//! itself, so that the machine is the server's as far as possible.

use super::stamp::{STAMP_BYTES, Stamp};
use crate::clock;
use crate::connect::{DECODE_LIMIT, Headers};
use crate::global::Global;
use bytes::{BufMut, Bytes};
use gantry_proto::v2::receive_message_response::Content;
use gantry_proto::v2::{
    AckMessageRequest, AckMessageResponse, Code, Encoding, EndTransactionRequest, EndTransactionResponse, Message, MessageType,
    ReceiveMessageRequest, ReceiveMessageResponse, Resource, SendMessageRequest, SendMessageResponse, SendResultEntry, Status, SystemProperties,
    TransactionResolution, TransactionSource,
};
use prost::Message as _;
use prost_types::Timestamp;
use std::marker::PhantomData;
use std::sync::Arc;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;

const SEND: &str = "/apache.rocketmq.v2.MessagingService/SendMessage";
const RECEIVE: &str = "/apache.rocketmq.v2.MessagingService/ReceiveMessage";
const ACK: &str = "/apache.rocketmq.v2.MessagingService/AckMessage";
const END: &str = "/apache.rocketmq.v2.MessagingService/EndTransaction";

/// A message id has this many hexadecimal digits.
const ID_DIGITS: usize = 32;

/// What the messages of a template have besides a body.
#[derive(Debug)]
pub struct Traits {
    pub message_type: MessageType,
    pub message_group: Option<String>,
    pub deliver_at: Option<Timestamp>,
    pub property: Option<(&'static str, &'static str)>,
}

/// A send request of one producer, encoded but for the message id and the stamp.
#[derive(Debug)]
pub struct Template {
    run: u64,
    producer: u32,
    before_id: Bytes,
    between: Bytes,
    filler: Bytes,
}

impl Template {
    /// `size` is that of the body.
    pub fn new(topic: Resource, run: u64, producer: u32, size: usize, traits: Traits) -> Template {
        let mark = "!".repeat(ID_DIGITS);
        let system = SystemProperties {
            message_id: mark.clone(),
            body_encoding: Encoding::Identity as i32,
            message_type: traits.message_type as i32,
            // One time for all: a new one for each message would change its length, and no server looks at it.
            born_timestamp: Some(clock::wall()),
            born_host: "gantry-bench".to_owned(),
            message_group: traits.message_group,
            delivery_timestamp: traits.deliver_at,
            ..Default::default()
        };
        let user_properties = traits.property.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let body = Bytes::from(vec![b'.'; size]);
        let message = Message { topic: Some(topic), user_properties, system_properties: Some(system), body };
        let whole = Bytes::from(SendMessageRequest { messages: vec![message] }.encode_to_vec());
        let id = whole.windows(ID_DIGITS).position(|part| part == mark.as_bytes()).expect("the id was just encoded");
        // The body is the last field, so its bytes are the last.
        let body = whole.len() - size;
        let between = whole.slice(id + ID_DIGITS..body);
        Template { run, producer, before_id: whole.slice(..id), between, filler: whole.slice(body + STAMP_BYTES..) }
    }

    /// Who sends these messages, as their stamps say it.
    pub fn producer(&self) -> u32 {
        self.producer
    }

    fn message_id(&self, seq: u64) -> [u8; ID_DIGITS] {
        let mut number = [0; ID_DIGITS / 2];
        number[..8].copy_from_slice(&self.run.to_be_bytes());
        number[8..].copy_from_slice(&((u64::from(self.producer) << 40) | seq).to_be_bytes());
        let mut id = [0; ID_DIGITS];
        hex::encode_to_slice(number, &mut id).expect("two digits a byte");
        id
    }
}

/// Something that can write itself as a request.
pub trait Encode: Send + Sync + 'static {
    fn encode(self, out: &mut impl BufMut);
}

impl Encode for Bytes {
    fn encode(self, out: &mut impl BufMut) {
        out.put(self);
    }
}

/// One send of a template.
pub struct StampedSend {
    pub template: Arc<Template>,
    pub seq: u64,
    pub due: u64,
}

impl Encode for StampedSend {
    fn encode(self, out: &mut impl BufMut) {
        let Template { run, producer, before_id, between, filler } = &*self.template;
        let stamp = Stamp { run: *run, producer: *producer, seq: self.seq, due: self.due };
        let id = self.template.message_id(self.seq);
        for part in [&before_id[..], &id, &between[..], &stamp.bytes(filler), &filler[..]] {
            out.put_slice(part);
        }
    }
}

/// Writes requests that know their bytes, reads answers with prost.
struct Lean<E, D>(PhantomData<fn(E) -> D>);

impl<E, D> Default for Lean<E, D> {
    fn default() -> Lean<E, D> {
        Lean(PhantomData)
    }
}

impl<E: Encode, D: prost::Message + Default + 'static> Codec for Lean<E, D> {
    type Encode = E;
    type Decode = D;
    type Encoder = Lean<E, ()>;
    type Decoder = Lean<(), D>;

    fn encoder(&mut self) -> Lean<E, ()> {
        Lean::default()
    }

    fn decoder(&mut self) -> Lean<(), D> {
        Lean::default()
    }
}

impl<E: Encode> Encoder for Lean<E, ()> {
    type Item = E;
    type Error = tonic::Status;

    fn encode(&mut self, item: E, out: &mut EncodeBuf<'_>) -> Result<(), tonic::Status> {
        item.encode(out);
        Ok(())
    }
}

impl<D: prost::Message + Default + 'static> Decoder for Lean<(), D> {
    type Item = D;
    type Error = tonic::Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<D>, tonic::Status> {
        D::decode(bytes).map(Some).map_err(|error| tonic::Status::internal(error.to_string()))
    }
}

/// The calls of one connection. Clones share the connection.
#[derive(Clone, Debug)]
pub struct Calls {
    grpc: Grpc<Channel>,
    headers: MetadataMap,
}

impl Calls {
    pub fn new(channel: Channel, global: &Global) -> Calls {
        let mut headers = Headers::new("bench", &global.namespace).map();
        let timeout = format!("{}m", global.timeout.as_millis().min(99_999_999));
        headers.insert("grpc-timeout", timeout.parse().expect("digits and a letter fit a header"));
        Calls { grpc: Grpc::new(channel).max_decoding_message_size(DECODE_LIMIT), headers }
    }

    /// The same calls with another time to wait, for long polls.
    pub fn with_timeout(&self, millis: u64) -> Calls {
        let mut calls = self.clone();
        calls.headers.insert("grpc-timeout", format!("{millis}m").parse().expect("digits and a letter fit a header"));
        calls
    }

    /// Sends one message.
    pub async fn send(&mut self, message: StampedSend) -> Result<(), String> {
        self.store(message).await.map(drop)
    }

    /// Sends one half message and commits it.
    pub async fn send_and_commit(&mut self, message: StampedSend, topic: Resource) -> Result<(), String> {
        let message_id = String::from_utf8_lossy(&message.template.message_id(message.seq)).into_owned();
        let entry = self.store(message).await?;
        let end = EndTransactionRequest {
            topic: Some(topic),
            message_id,
            transaction_id: entry.transaction_id,
            resolution: TransactionResolution::Commit as i32,
            source: TransactionSource::SourceClient as i32,
            ..Default::default()
        };
        let answer: EndTransactionResponse = self.unary(END, Bytes::from(end.encode_to_vec())).await?;
        ok(answer.status.as_ref())
    }

    async fn store(&mut self, message: StampedSend) -> Result<SendResultEntry, String> {
        let mut answer: SendMessageResponse = self.unary(SEND, message).await?;
        let entry = answer.entries.pop().unwrap_or_default();
        ok(entry.status.as_ref().or(answer.status.as_ref())).map(|()| entry)
    }

    /// Acknowledges what the request names.
    pub async fn ack(&mut self, request: &AckMessageRequest) -> Result<(), String> {
        let answer: AckMessageResponse = self.unary(ACK, Bytes::from(request.encode_to_vec())).await?;
        ok(answer.status.as_ref())
    }

    /// One receive with the whole of its answer; empty when nothing came.
    pub async fn receive(&mut self, request: Bytes) -> Result<Vec<Message>, String> {
        self.grpc.ready().await.map_err(|error| error.to_string())?;
        let request = tonic::Request::from_parts(self.headers.clone(), Default::default(), request);
        let codec = Lean::<Bytes, ReceiveMessageResponse>::default();
        let stream = self.grpc.server_streaming(request, PathAndQuery::from_static(RECEIVE), codec).await.map_err(show)?;
        let (mut stream, mut messages, mut status) = (stream.into_inner(), Vec::new(), None);
        while let Some(part) = stream.message().await.map_err(show)? {
            match part.content {
                Some(Content::Message(message)) => messages.push(message),
                Some(Content::Status(outcome)) => status = Some(outcome),
                Some(Content::DeliveryTimestamp(_)) | None => {}
            }
        }
        if status.as_ref().is_some_and(|status| status.code == Code::MessageNotFound as i32) {
            return Ok(Vec::new());
        }
        ok(status.as_ref()).map(|()| messages)
    }

    async fn unary<E: Encode, D: prost::Message + Default + 'static>(&mut self, path: &'static str, message: E) -> Result<D, String> {
        self.grpc.ready().await.map_err(|error| error.to_string())?;
        let request = tonic::Request::from_parts(self.headers.clone(), Default::default(), message);
        let answer = self.grpc.unary(request, PathAndQuery::from_static(path), Lean::<E, D>::default()).await;
        answer.map(tonic::Response::into_inner).map_err(show)
    }
}

fn show(status: tonic::Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

fn ok(status: Option<&Status>) -> Result<(), String> {
    match status {
        Some(status) if status.code == Code::Ok as i32 => Ok(()),
        Some(status) => Err(format!("{}: {}", status.code, status.message)),
        None => Err("the answer has no status".to_owned()),
    }
}

/// A receive request as bytes: it is the same for every poll of a run.
pub fn encode_receive(request: &ReceiveMessageRequest) -> Bytes {
    Bytes::from(request.encode_to_vec())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::connect::resource;
    use crate::tests::global;

    #[test]
    fn a_filled_template_is_the_request_that_prost_would_write() {
        let traits =
            Traits { message_type: MessageType::Fifo, message_group: Some("g".to_owned()), deliver_at: None, property: Some(("colour", "blue")) };
        let topic = resource(&global("unused", "unused"), "orders");
        let template = Arc::new(Template::new(topic, 0xabc, 7, 100, traits));
        let mut bytes = Vec::new();
        StampedSend { template, seq: 9, due: 11 }.encode(&mut bytes);
        let request = SendMessageRequest::decode(&bytes[..]).unwrap();
        let message = &request.messages[0];
        let system = message.system_properties.as_ref().unwrap();
        assert_eq!(message.topic.as_ref().unwrap().name, "orders");
        assert_eq!(system.message_id, "0000000000000abc0000070000000009");
        assert_eq!((system.message_group.as_deref(), system.message_type()), (Some("g"), MessageType::Fifo));
        assert_eq!(message.user_properties["colour"], "blue");
        assert_eq!(message.body.len(), 100);
        assert_eq!(Stamp::read(&message.body), Some(Stamp { run: 0xabc, producer: 7, seq: 9, due: 11 }));
    }
}
