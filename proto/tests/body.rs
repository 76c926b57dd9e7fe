//! A message body must not be copied when it is decoded: it stays a slice of the buffer that came from the socket.

#![allow(clippy::unwrap_used)]

use gantry_proto::v2;
use prost::Message;
use prost::bytes::Bytes;

#[test]
fn a_decoded_body_shares_the_buffer_it_came_in() {
    let message = v2::Message { body: Bytes::from(vec![7; 4096]), ..Default::default() };
    let wire = Bytes::from(v2::SendMessageRequest { messages: vec![message] }.encode_to_vec());
    let decoded = v2::SendMessageRequest::decode(wire.clone()).unwrap();
    let body = &decoded.messages[0].body;
    assert_eq!(body.len(), 4096);
    assert!(wire.as_ptr_range().contains(&body.as_ptr()), "the body was copied out of the buffer");
}
