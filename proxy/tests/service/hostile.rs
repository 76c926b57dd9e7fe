//! Bytes that no client sends. Whatever comes, the connection ends and everybody else goes on.

use crate::rig::{Rig, call, resource};
use bytes::Bytes;
use gantry_platform::clock::timeout;
use gantry_proto::v2::*;
use http::{HeaderValue, Request};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn still_works(rig: &Rig) {
    let request = call(QueryRouteRequest { topic: resource("orders"), endpoints: None });
    assert_eq!(rig.client.clone().query_route(request).await.unwrap().into_inner().status.unwrap().code(), Code::Ok);
}

#[tokio::test]
async fn garbage_instead_of_a_protocol_closes_the_connection() {
    let (rig, _) = Rig::with_topic().await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let with_frame = |frame: &[u8]| [&preface[..], frame].concat();
    for garbage in [
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
        vec![0xff; 64],
        vec![0; 64],
        [&[0x16, 3, 1, 0xff, 0xff][..], &[0xaa; 512]].concat(),
        [&[0x16][..], &[0; 256]].concat(),
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n................".to_vec(),
        // A frame that says it has 16 MiB.
        with_frame(&[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]),
        // DATA on a stream that was never opened.
        with_frame(&[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 7, 1]),
        // HEADERS that are no HPACK.
        with_frame(&[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 4, 1, 4, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]),
    ] {
        let mut stream = TcpStream::connect(rig.messaging).await.unwrap();
        stream.write_all(&garbage).await.unwrap();
        let ended = timeout(Duration::from_secs(5), async { while !matches!(stream.read(&mut [0; 1024]).await, Ok(0) | Err(_)) {} }).await;
        assert!(ended.is_ok(), "{:?}", &garbage[..garbage.len().min(40)]);
    }
    still_works(&rig).await;
}

/// A raw HTTP/2 client, for calls that no gRPC library makes.
async fn raw(rig: &Rig) -> h2::client::SendRequest<Bytes> {
    let stream = TcpStream::connect(rig.messaging).await.unwrap();
    let (requests, connection) = h2::client::handshake(stream).await.unwrap();
    gantry_platform::tasks::spawn("raw client", async move { drop(connection.await) });
    requests
}

fn rpc(name: &str) -> Request<()> {
    let builder = Request::post(format!("http://gantry/apache.rocketmq.v2.MessagingService/{name}"));
    builder.header("content-type", "application/grpc").header("te", "trailers").header("x-mq-client-id", "raw").body(()).unwrap()
}

/// The gRPC status and the bytes of an answer, or what ended the stream.
async fn exchange(rig: &Rig, request: Request<()>, body: &[u8]) -> Result<(Option<String>, Vec<u8>), h2::Error> {
    let mut requests = raw(rig).await.ready().await?;
    let (answer, mut stream) = requests.send_request(request, false)?;
    stream.send_data(Bytes::copy_from_slice(body), true)?;
    let answer = timeout(Duration::from_secs(3), answer).await.expect("an answer")?;
    let status = |headers: &http::HeaderMap| headers.get("grpc-status").and_then(|status| status.to_str().ok()).map(str::to_owned);
    let (early, mut answer) = (status(answer.headers()), answer.into_body());
    let mut bytes = Vec::new();
    while let Some(data) = answer.data().await {
        bytes.extend_from_slice(&data?);
    }
    let late = answer.trailers().await?.as_ref().and_then(status);
    Ok((early.or(late), bytes))
}

#[tokio::test]
async fn a_broken_grpc_message_gets_a_grpc_status() {
    let (rig, _) = Rig::with_topic().await;
    let prefixed = |declared: u32, body: &[u8]| [&[0][..], &declared.to_be_bytes(), body].concat();
    for (what, body) in [
        ("a length of 4 GiB", prefixed(u32::MAX, b"x")),
        ("a length beyond the end", prefixed(100, b"x")),
        ("no protobuf", prefixed(4, &[0xff; 4])),
        ("a compression that nobody agreed on", [&[1][..], &4u32.to_be_bytes(), b"xxxx"].concat()),
        ("an unknown flag", [&[9][..], &4u32.to_be_bytes(), b"xxxx"].concat()),
        ("a cut prefix", vec![0, 0]),
        ("nothing", vec![]),
    ] {
        for name in ["SendMessage", "ReceiveMessage", "AckMessage", "Heartbeat"] {
            let (status, _) = exchange(&rig, rpc(name), &body).await.unwrap();
            assert!(status.as_deref().is_some_and(|status| status != "0"), "{name} with {what}: {status:?}");
        }
    }
    let (status, bytes) = exchange(&rig, rpc("Heartbeat"), &prefixed(0, b"")).await.unwrap();
    assert_eq!((status.as_deref(), bytes.len() > 5), (Some("0"), true), "an empty message is a message");
    let (status, _) = exchange(&rig, rpc("NoSuchRpc"), &prefixed(0, b"")).await.unwrap();
    assert_eq!(status.as_deref(), Some("12"), "unimplemented");
    still_works(&rig).await;
}

#[tokio::test]
async fn huge_and_odd_headers_do_no_harm() {
    let (rig, _) = Rig::with_topic().await;
    let mut huge = rpc("Heartbeat");
    huge.headers_mut().insert("x-mq-namespace", HeaderValue::from_str(&"n".repeat(20 * 1024)).unwrap());
    let refused = exchange(&rig, huge, &[0; 5]).await;
    assert!(refused.is_err() || refused.is_ok_and(|(status, _)| status.as_deref() != Some("0")));
    let mut enormous = rpc("Heartbeat");
    enormous.headers_mut().insert("x-mq-namespace", HeaderValue::from_str(&"n".repeat(200 * 1024)).unwrap());
    let refused = exchange(&rig, enormous, &[0; 5]).await;
    assert!(refused.is_err() || refused.is_ok_and(|(status, _)| status.as_deref() != Some("0")));
    for (name, value) in
        [("x-mq-client-id", &b"\xff\xfe"[..]), ("grpc-timeout", b"99999999999999H"), ("grpc-timeout", b"x"), ("x-mq-language", b"\x80")]
    {
        let mut odd = rpc("Heartbeat");
        odd.headers_mut().insert(name, HeaderValue::from_bytes(value).unwrap());
        let (status, _) = exchange(&rig, odd, &[0; 5]).await.unwrap();
        assert_eq!(status.as_deref(), Some("0"), "{name}");
    }
    still_works(&rig).await;
}

#[tokio::test]
async fn internal_names_in_headers_change_nothing() {
    let (rig, _) = Rig::with_topic().await;
    let mut request = call(HeartbeatRequest { group: resource("group"), client_type: ClientType::PushConsumer as i32 });
    for name in ["rpc-remote-address", "x-mq-authorization-ak", "x-mq-channel-id"] {
        request.metadata_mut().insert(name, "6.6.6.6:6".parse().unwrap());
    }
    rig.client.clone().heartbeat(request).await.unwrap();
    let answer = crate::admin::clients(&rig).await;
    assert!(answer[0].remote_address.starts_with("127.0.0.1:"), "{answer:?}");
}

#[tokio::test]
async fn a_flood_of_resets_ends_the_connection() {
    let (rig, _) = Rig::with_topic().await;
    let mut requests = raw(&rig).await;
    let flood = async {
        for _ in 0..5_000 {
            // Opened and reset in one go, so that the server sees the reset before it has looked at the call.
            for _ in 0..200 {
                requests.send_request(rpc("Heartbeat"), false)?.1.send_reset(h2::Reason::CANCEL);
            }
            requests = requests.clone().ready().await?;
            tokio::task::yield_now().await;
        }
        Ok::<_, h2::Error>(())
    };
    let error = timeout(Duration::from_secs(5), flood).await.expect("the flood is over").expect_err("the connection was ended");
    assert_eq!(error.reason(), Some(h2::Reason::ENHANCE_YOUR_CALM), "{error}");
    still_works(&rig).await;
}

#[tokio::test]
async fn more_streams_than_allowed_wait_or_are_refused() {
    let mut config = gantry_proxy::Config::default();
    config.limits.streams = 4;
    let rig = Rig::with(config).await;
    rig.metadata.add_topic("orders", gantry_model::topic::TopicType::Normal);
    let mut polls = Vec::new();
    for _ in 0..4 {
        polls.push(rig.client.clone().receive_message(call(crate::rig::push_poll("orders", "group"))).await.unwrap());
    }
    let mut fifth = rig.client.clone();
    let waits = timeout(Duration::from_millis(300), fifth.heartbeat(call(HeartbeatRequest::default()))).await;
    assert!(waits.is_err(), "the client's own library keeps it back");
    polls.pop();
    still_works(&rig).await;
}
