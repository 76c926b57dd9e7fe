//! gRPC by hand, for the calls that come by the thousand: one message is read, one answer is written.
//!
//! tonic copies each request into a buffer of its own, makes another one for the answer, and puts boxes around both: 1.5 µs of CPU
//! a call, a tenth of what a send costs (`docs/benchmarks.md`). Here a request is decoded where HTTP/2 put it, and its body stays there until it is
//! written to the log. What a client sees is the same.

use crate::budget::Charged;
use crate::rpc::receive_message;
use bytes::{BufMut, Bytes, BytesMut};
use gantry_proto::v2::Status as AnswerStatus;
use http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use prost::Message;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::Status;

/// Bytes before a message: whether it is compressed, and its length.
pub const PREFIX: usize = 5;
/// Room made for a message whose parts arrive one by one; more is made as they come, so that a claimed length costs nothing.
const FIRST_ROOM: usize = 64 * 1024;

const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
const IDENTITY: HeaderValue = HeaderValue::from_static("identity");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// Reads the one message of a request, and sees that nothing follows it.
pub async fn read<Q: Message + Default>(headers: &HeaderMap, mut body: Charged, most: usize) -> Result<Q, Status> {
    check_encoding(headers)?;
    let mut request = Request::default();
    while let Some(frame) = body.frame().await {
        // Trailers of a request say nothing.
        if let Ok(data) = frame?.into_data() {
            request.add(data, most)?;
        }
    }
    Q::decode(request.message()?).map_err(|error| Status::internal(error.to_string()))
}

fn check_encoding(headers: &HeaderMap) -> Result<(), Status> {
    let Some(encoding) = headers.get(ENCODING).filter(|encoding| *encoding != IDENTITY) else { return Ok(()) };
    let mut status =
        Status::unimplemented(format!("content is compressed with `{}`, which this server does not read", encoding.to_str().unwrap_or("?")));
    status.metadata_mut().as_mut().insert(ACCEPT_ENCODING, IDENTITY);
    Err(status)
}

/// What has arrived of a request. Nearly always it comes in one piece, which is then not copied.
#[derive(Debug, Default)]
struct Request {
    whole: Bytes,
    gathered: BytesMut,
}

impl Request {
    fn add(&mut self, data: Bytes, most: usize) -> Result<(), Status> {
        if self.arrived().is_empty() {
            self.whole = data;
        } else if !data.is_empty() {
            if self.gathered.is_empty() {
                self.gathered.reserve(FIRST_ROOM);
                self.gathered.extend_from_slice(&self.whole);
            }
            self.gathered.extend_from_slice(&data);
        }
        let Some(len) = self.claimed()? else { return Ok(()) };
        if len > most {
            return Err(Status::out_of_range(format!("the request has {len} bytes, the most allowed is {most}")));
        }
        if self.arrived().len() > PREFIX + len {
            return Err(Status::internal("the call has more than one message"));
        }
        Ok(())
    }

    fn arrived(&self) -> &[u8] {
        if self.gathered.is_empty() { &self.whole } else { &self.gathered }
    }

    /// The length of the message as its prefix says it, once that is there.
    fn claimed(&self) -> Result<Option<usize>, Status> {
        match self.arrived().first_chunk::<PREFIX>() {
            None => Ok(None),
            Some([0, len @ ..]) => Ok(Some(u32::from_be_bytes(*len) as usize)),
            Some([flag, ..]) => Err(Status::internal(format!("the message has the compression flag {flag}, but the call names no encoding"))),
        }
    }

    fn message(mut self) -> Result<Bytes, Status> {
        match self.claimed()? {
            Some(len) if self.arrived().len() == PREFIX + len => {}
            None if self.arrived().is_empty() => return Err(Status::internal("the call has no message")),
            _ => return Err(Status::internal("the call ended inside its message")),
        }
        let bytes = if self.gathered.is_empty() { self.whole } else { self.gathered.split().freeze() };
        Ok(bytes.slice(PREFIX..))
    }
}

/// The body of an answer.
pub enum Answer {
    /// As tonic made it.
    Made(tonic::body::Body),
    Deliveries(Box<receive_message::Answers>),
    Message(Bytes),
    Trailers,
    End,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answer")
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let (frame, next) = match &mut *self {
            Answer::Made(body) => return Pin::new(body).poll_frame(cx),
            Answer::Deliveries(answers) => return Pin::new(&mut **answers).poll_frame(cx),
            Answer::Message(data) => (Frame::data(std::mem::take(data)), Answer::Trailers),
            Answer::Trailers => (Frame::trailers(trailers()), Answer::End),
            Answer::End => return Poll::Ready(None),
        };
        *self = next;
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Answer::Made(body) => body.is_end_stream(),
            Answer::Deliveries(answers) => answers.is_end_stream(),
            Answer::End => true,
            Answer::Message(_) | Answer::Trailers => false,
        }
    }
}

/// What ends every answer: how a call went is said inside its messages.
pub fn trailers() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
    trailers
}

/// Appends a message with its prefix.
pub fn put(out: &mut BytesMut, message: &impl Message) {
    let len = message.encoded_len();
    out.reserve(PREFIX + len);
    out.put_u8(0);
    out.put_u32(u32::try_from(len).expect("answers are limited to far less"));
    message.encode_raw(out);
}

/// An answer with one message.
pub fn answer(message: &impl Message) -> Response<Answer> {
    let mut data = BytesMut::new();
    put(&mut data, message);
    respond(Answer::Message(data.freeze()))
}

/// An answer that is only a status, which is field 1 of the response of every rpc.
pub fn answer_status(status: AnswerStatus) -> Response<Answer> {
    answer(&gantry_proto::v2::HeartbeatResponse { status: Some(status) })
}

/// The response that begins an answer.
pub fn respond(body: Answer) -> Response<Answer> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, GRPC);
    response
}

/// The answer to a call that was not understood.
pub fn refuse(status: Status) -> Response<Answer> {
    status.into_http::<tonic::body::Body>().map(Answer::Made)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use tonic::Code;

    const MOST: usize = 1_000;

    fn framed(message: &[u8]) -> Vec<u8> {
        [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat()
    }

    fn read(parts: &[&[u8]]) -> Result<Bytes, Code> {
        let mut request = Request::default();
        parts
            .iter()
            .try_for_each(|part| request.add(Bytes::copy_from_slice(part), MOST))
            .and_then(|()| request.message())
            .map_err(|status| status.code())
    }

    #[test]
    fn a_message_in_one_piece_is_not_copied() {
        let data = Bytes::from(framed(b"hello"));
        let mut request = Request::default();
        request.add(data.clone(), MOST).unwrap();
        // Many clients end a call with an empty frame.
        request.add(Bytes::new(), MOST).unwrap();
        let message = request.message().unwrap();
        assert_eq!(message, &b"hello"[..]);
        assert!(data.as_ptr_range().contains(&message.as_ptr()));
    }

    #[test]
    fn what_is_not_one_plain_message_is_refused() {
        assert_eq!(read(&[]), Err(Code::Internal), "no message");
        assert_eq!(read(&[&framed(b"hello")[..7]]), Err(Code::Internal), "half a message");
        assert_eq!(read(&[&[0, 0]]), Err(Code::Internal), "half a prefix");
        assert_eq!(read(&[&framed(b"hello"), b"x"]), Err(Code::Internal), "more than one");
        assert_eq!(read(&[&[1, 0, 0, 0, 0]]), Err(Code::Internal), "compressed without saying how");
        assert_eq!(read(&[&framed(&[7; MOST + 1])[..6]]), Err(Code::OutOfRange), "refused before it arrives");
        assert_eq!(read(&[&framed(&[7; MOST])]).unwrap().len(), MOST);
    }

    #[test]
    fn only_plain_requests_are_read() {
        let mut headers = HeaderMap::new();
        assert!(check_encoding(&headers).is_ok());
        headers.insert(ENCODING, IDENTITY);
        assert!(check_encoding(&headers).is_ok());
        headers.insert(ENCODING, HeaderValue::from_static("gzip"));
        let status = check_encoding(&headers).unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented);
        assert_eq!(status.metadata().get("grpc-accept-encoding").unwrap(), "identity");
    }

    proptest! {
        #[test]
        fn a_message_comes_whole_however_it_is_cut(message in prop::collection::vec(any::<u8>(), 0..200), cuts in prop::collection::vec(0usize..210, 0..5)) {
            let bytes = framed(&message);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let parts: Vec<&[u8]> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
            prop_assert_eq!(read(&parts).unwrap(), message);
        }
    }
}
