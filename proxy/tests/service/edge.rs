//! The layers before a call: TLS and plaintext on one port, limits, idle connections, memory, health and reflection.

use crate::rig::{Client, Rig, call, channel, message, resource};
use gantry_model::topic::TopicType;
use gantry_platform::clock::{sleep, timeout};
use gantry_proto::v2::*;
use gantry_proxy::tls::{self, Mode};
use gantry_proxy::{Config, Proxy};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};

/// Trusts every certificate, as four of the official clients do, and remembers it.
#[derive(Debug, Default)]
struct TrustsAll(Mutex<Vec<CertificateDer<'static>>>);

impl ServerCertVerifier for TrustsAll {
    fn verify_server_cert(
        &self,
        cert: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.0.lock().unwrap().push(cert.clone().into_owned());
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(&self, _: &[u8], _: &CertificateDer<'_>, _: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(&self, _: &[u8], _: &CertificateDer<'_>, _: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

async fn tls_channel(address: SocketAddr, trust: Arc<TrustsAll>) -> Result<Channel, tonic::transport::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.dangerous().with_custom_certificate_verifier(trust).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let connect = tower::service_fn(move |_| {
        let connector = connector.clone();
        async move {
            let stream = TcpStream::connect(address).await?;
            connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.map(TokioIo::new)
        }
    });
    Endpoint::from_static("http://localhost").connect_with_connector(connect).await
}

async fn works(client: &mut Client) -> bool {
    let request = call(QueryRouteRequest { topic: resource("orders"), endpoints: None });
    client.query_route(request).await.is_ok_and(|answer| answer.into_inner().status.unwrap().code() == Code::Ok)
}

fn with_tls(mode: Mode) -> Config {
    Config { tls: tls::Config { mode, cert: None, key: None }, ..Config::default() }
}

#[tokio::test]
async fn one_port_speaks_tls_and_plaintext_as_configured() {
    for (mode, tls, plain) in [(Mode::Permissive, true, true), (Mode::Required, true, false), (Mode::Off, false, true)] {
        let rig_config = with_tls(mode);
        let rig = if plain { Rig::with(rig_config).await } else { Rig::lazily(rig_config).await };
        let over_tls = match tls_channel(rig.messaging, Arc::default()).await {
            Ok(channel) => works(&mut Client::new(channel)).await,
            Err(_) => false,
        };
        assert_eq!((over_tls, works(&mut rig.client.clone()).await), (tls, plain), "{mode:?}");
    }
}

fn write_certificate(directory: &Path) -> (tls::Config, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (cert, key) = (directory.join("tls.crt"), directory.join("tls.key"));
    // The files of a test, written as an operator would.
    #[allow(clippy::disallowed_methods)]
    for (file, text) in [(&cert, made.cert.pem()), (&key, made.signing_key.serialize_pem())] {
        std::fs::write(file, text).unwrap();
    }
    (tls::Config { mode: Mode::Required, cert: Some(cert), key: Some(key) }, made.cert.der().clone())
}

#[tokio::test]
async fn a_certificate_from_files_is_used_and_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let (config, first) = write_certificate(directory.path());
    let tls = tls::Tls::new(&config, vec![]).unwrap();
    let shown = async |tls: &tls::Tls| {
        let (client, server) = tokio::io::duplex(64 * 1024);
        let tls::Choice::Tls(acceptor) = tls.choose(0x16) else { panic!("tls") };
        let trust = Arc::new(TrustsAll::default());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = builder.dangerous().with_custom_certificate_verifier(trust.clone()).with_no_client_auth();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let (client, server) = tokio::join!(connector.connect(ServerName::try_from("localhost").unwrap(), client), acceptor.accept(server));
        client.unwrap();
        server.unwrap();
        trust.0.lock().unwrap().pop().unwrap()
    };
    assert_eq!(shown(&tls).await, first);
    let (_, second) = write_certificate(directory.path());
    assert_eq!(shown(&tls).await, first, "until the files are read again");
    tls.reload();
    assert_eq!(shown(&tls).await, second);
    #[allow(clippy::disallowed_methods)]
    std::fs::write(config.cert.as_ref().unwrap(), "not a certificate").unwrap();
    tls.reload();
    assert_eq!(shown(&tls).await, second, "a broken file changes nothing");
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let (good, _) = write_certificate(directory.path());
    let missing = tls::Config { key: Some(directory.path().join("missing.key")), ..good.clone() };
    let swapped = tls::Config { cert: good.key.clone(), key: good.cert.clone(), ..good.clone() };
    let half = tls::Config { key: None, ..good };
    for (config, expected) in [(missing, "missing.key"), (swapped, "tls.key"), (half, "both")] {
        let text = tls::Tls::new(&config, vec![]).unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    }
}

#[tokio::test]
async fn one_connection_too_many_is_closed() {
    let mut config = Config::default();
    config.limits.connections = 2;
    let rig = Rig::with(config).await;
    let second = TcpStream::connect(rig.messaging).await.unwrap();
    sleep(Duration::from_millis(50)).await;
    let mut third = TcpStream::connect(rig.messaging).await.unwrap();
    let read = timeout(Duration::from_secs(2), third.read(&mut [0; 64])).await.expect("it is closed");
    assert!(matches!(read, Ok(0) | Err(_)));
    assert!(works(&mut rig.client.clone()).await);
    drop(second);
}

#[tokio::test]
async fn silent_and_idle_connections_are_closed_and_open_streams_are_not_idle() {
    let mut config = Config::default();
    config.limits.first_call_time = Duration::from_millis(300);
    config.limits.idle_time = Duration::from_millis(400);
    let rig = Rig::with(config).await;
    for sent in [&b""[..], b"P", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"] {
        let mut silent = TcpStream::connect(rig.messaging).await.unwrap();
        silent.write_all(sent).await.unwrap();
        timeout(Duration::from_secs(3), async { while !matches!(silent.read(&mut [0; 64]).await, Ok(0) | Err(_)) {} }).await.expect("closed");
    }
    let mut idle = Client::new(channel(rig.messaging).await);
    let mut busy = Client::new(channel(rig.messaging).await);
    rig.metadata.add_topic("orders", TopicType::Normal);
    assert!(works(&mut idle).await);
    let stream = busy.receive_message(call(crate::rig::push_poll("orders", "group"))).await.unwrap();
    rig.until_at_most("gantry_connections", 1).await;
    sleep(Duration::from_millis(600)).await;
    assert_eq!((rig.gauge("gantry_connections").await, rig.gauge("gantry_open_polls").await), (1, 1));
    drop(stream);
    assert!(works(&mut idle).await, "a client comes back by itself");
}

#[tokio::test]
async fn each_rpc_has_its_own_largest_request() {
    let (rig, _) = Rig::with_topic().await;
    let route = |len: usize| call(QueryRouteRequest { topic: resource(&"x".repeat(len)), endpoints: None });
    assert_eq!(rig.client.clone().query_route(route(60 * 1024)).await.unwrap().into_inner().status.unwrap().code(), Code::IllegalTopic);
    assert_eq!(rig.client.clone().query_route(route(64 * 1024)).await.unwrap_err().code(), tonic::Code::OutOfRange);
    let send = |len: usize| call(SendMessageRequest { messages: vec![Message { body: vec![0; len].into(), ..message("orders") }] });
    let answer = rig.client.clone().send_message(send((16 << 20) - 1024)).await.unwrap().into_inner();
    assert_eq!(answer.status.unwrap().code(), Code::MessageBodyTooLarge, "inside the response as long as it gets through at all");
    assert_eq!(rig.client.clone().send_message(send(16 << 20)).await.unwrap_err().code(), tonic::Code::OutOfRange);
    let ack = |len: usize| {
        let entry = AckMessageEntry { message_id: "x".repeat(len), ..Default::default() };
        call(AckMessageRequest { entries: vec![entry], ..Default::default() })
    };
    assert!(rig.client.clone().ack_message(ack(1_000_000)).await.is_ok());
    assert_eq!(rig.client.clone().ack_message(ack(1 << 20)).await.unwrap_err().code(), tonic::Code::OutOfRange);
}

#[tokio::test]
async fn requests_over_the_memory_budget_are_answered_in_the_response() {
    let mut config = Config::default();
    config.limits.decode_bytes = 4 * 1024 * 1024;
    let rig = Rig::with(config).await;
    rig.metadata.add_topic("orders", TopicType::Normal);
    let send = |len: usize| call(SendMessageRequest { messages: vec![Message { body: vec![0; len].into(), ..message("orders") }] });
    let code = async |len| rig.client.clone().send_message(send(len)).await.unwrap().into_inner().status.unwrap().code();
    assert_eq!(code(900 * 1024).await, Code::Ok);
    assert_eq!(code(1100 * 1024).await, Code::TooManyRequests, "more than the share of one connection");
    rig.broker.with(|state| state.send_takes = Duration::from_millis(300));
    let (first, second) = tokio::join!(code(600 * 1024), async {
        sleep(Duration::from_millis(100)).await;
        code(600 * 1024).await
    });
    assert_eq!((first, second), (Code::Ok, Code::TooManyRequests), "what is being worked on counts");
    assert_eq!(code(900 * 1024).await, Code::Ok, "and is given back");
    rig.until_at_most("gantry_decode_bytes", 0).await;
}

#[tokio::test]
async fn health_and_reflection_answer_on_both_ports() {
    use tonic_health::pb::health_client::HealthClient;
    use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_request::MessageRequest, server_reflection_response::MessageResponse};
    let rig = Rig::start().await;
    for address in [rig.messaging, rig.admin] {
        let channel = channel(address).await;
        for service in ["", "apache.rocketmq.v2.MessagingService", "gantry.admin.v1.Admin"] {
            let request = HealthCheckRequest { service: service.into() };
            let status = HealthClient::new(channel.clone()).check(request).await.unwrap().into_inner().status();
            assert_eq!(status, ServingStatus::Serving, "`{service}`");
        }
        let list = ServerReflectionRequest { host: String::new(), message_request: Some(MessageRequest::ListServices(String::new())) };
        let mut answers = ServerReflectionClient::new(channel).server_reflection_info(tokio_stream::once(list)).await.unwrap().into_inner();
        let Some(MessageResponse::ListServicesResponse(services)) = answers.message().await.unwrap().unwrap().message_response else {
            panic!("a list")
        };
        let names: Vec<String> = services.service.into_iter().map(|service| service.name).collect();
        assert!(names.contains(&"apache.rocketmq.v2.MessagingService".to_owned()), "{names:?}");
    }
}

#[tokio::test]
async fn a_port_offers_only_its_own_services() {
    use gantry_proto::admin::{GetClusterInfoRequest, admin_client::AdminClient};
    let rig = Rig::start().await;
    let mut messaging = Client::new(channel(rig.admin).await);
    assert_eq!(messaging.heartbeat(call(HeartbeatRequest::default())).await.unwrap_err().code(), tonic::Code::Unimplemented);
    let mut admin = AdminClient::new(channel(rig.messaging).await);
    assert_eq!(admin.get_cluster_info(GetClusterInfoRequest {}).await.unwrap_err().code(), tonic::Code::Unimplemented);
}

#[tokio::test]
async fn a_configuration_that_cannot_work_is_refused() {
    let config = Config { tls: tls::Config { mode: Mode::Required, cert: Some("/nowhere/tls.crt".into()), key: None }, ..Config::default() };
    let (broker, metadata) = (Arc::new(crate::fakes::FakeBroker::default()), Arc::new(crate::fakes::FakeMetadata::new()));
    assert!(Proxy::new(config, broker, metadata, Arc::new(gantry_platform::SystemClock::new())).is_err());
}
