//! From an address to a client: reading addresses, TLS, and the headers by which the server knows who calls.

use crate::clock;
use crate::failure::{Exit, Failure, check_status};
use crate::global::{Global, TlsMode};
use gantry_proto::admin::admin_client::AdminClient;
use gantry_proto::v2::messaging_service_client::MessagingServiceClient;
use gantry_proto::v2::{AddressScheme, Endpoints, QueryRouteRequest, Resource};
use std::time::Duration;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

mod any_certificate;

/// Answers may carry a body of 4 MiB and what belongs to it; tonic's own limit of 4 MiB would refuse those.
pub const DECODE_LIMIT: usize = 16 * 1024 * 1024;
/// The connection window, and that of each stream. HTTP/2's own 64 KiB would stop a batch of 32 bodies of 4 KiB half way.
const WINDOW: u32 = 1024 * 1024;
/// A server on this continent answers a SYN much sooner; a firewall that swallows it never does.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A client of the messaging service that says who it is.
pub type Messaging = MessagingServiceClient<InterceptedService<Channel, Headers>>;
/// A client of our Admin API.
pub type Admin = AdminClient<Channel>;

/// Connects to the messaging service as a client named after the command, such as `produce`.
pub async fn messaging(global: &Global, command: &str) -> Result<Messaging, Failure> {
    let channel = messaging_channel(global).await?;
    let client = MessagingServiceClient::with_interceptor(channel, Headers::new(command, &global.namespace));
    Ok(client.max_decoding_message_size(DECODE_LIMIT))
}

/// One connection to the messaging service.
pub async fn messaging_channel(global: &Global) -> Result<Channel, Failure> {
    let hint = "start a server with `gantry server`, or name another with `--endpoint` or GANTRY_ENDPOINT";
    connect(&global.endpoint, global).await.map_err(|failure| at("messaging service", failure, hint))
}

/// Connects to the Admin API.
pub async fn admin(global: &Global) -> Result<Admin, Failure> {
    let hint = "start a server with `gantry server`, or name another with `--admin` or GANTRY_ADMIN";
    let channel = connect(&global.admin, global).await.map_err(|failure| at("admin service", failure, hint))?;
    Ok(AdminClient::new(channel).max_decoding_message_size(DECODE_LIMIT))
}

fn at(service: &str, mut failure: Failure, hint: &str) -> Failure {
    if failure.exit == Exit::Unreachable {
        failure.what = format!("cannot reach the {service} at {}", failure.what);
        failure.next.get_or_insert_with(|| hint.to_owned());
    }
    failure
}

async fn connect(text: &str, global: &Global) -> Result<Channel, Failure> {
    let endpoint = endpoint(text, global).await?;
    endpoint.connect().await.map_err(|error| {
        let failure = Failure::new(Exit::Unreachable, format!("`{text}`")).because(root_cause(&error));
        if endpoint.uri().scheme_str() == Some("https") {
            failure.hint("for a certificate that the server made itself add `--tls-insecure`, for a private one `--tls-ca FILE`")
        } else {
            failure
        }
    })
}

/// How to connect to an address, before anything is tried.
pub async fn endpoint(text: &str, global: &Global) -> Result<Endpoint, Failure> {
    let address = Address::parse(text, global.tls)?;
    let endpoint = Endpoint::from_shared(address.url()).map_err(|error| Failure::usage(format!("`{text}` is not an address")).because(error))?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .http2_keep_alive_interval(Duration::from_secs(60));
    if address.encrypted { encrypt(endpoint, global).await } else { Ok(endpoint) }
}

async fn encrypt(endpoint: Endpoint, global: &Global) -> Result<Endpoint, Failure> {
    let config = ClientTlsConfig::new();
    let ready = if global.tls_insecure {
        endpoint.tls_config_with_verifier(config, any_certificate::verifier())
    } else if let Some(file) = &global.tls_ca {
        let pem = tokio::fs::read(file).await.map_err(|error| Failure::usage(format!("cannot read `{}`", file.display())).because(error))?;
        endpoint.tls_config(config.ca_certificate(Certificate::from_pem(pem)))
    } else {
        endpoint.tls_config(config.with_native_roots())
    };
    ready.map_err(|error| Failure::usage("cannot set up TLS").because(root_cause(&error)))
}

/// The innermost error says what happened; those around it only that something did.
pub fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// Where a service listens and whether to encrypt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub host: String,
    pub port: u16,
    pub encrypted: bool,
}

impl Address {
    /// Reads `host:port`, `[ip6]:port`, `http://…` and `https://…`.
    pub fn parse(text: &str, tls: TlsMode) -> Result<Address, Failure> {
        let wrong = || Failure::usage(format!("`{text}` is not an address")).hint("write host:port, http://host:port or https://host:port");
        let (https, rest) = match text.split_once("://") {
            None => (false, text),
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            Some(_) => return Err(wrong()),
        };
        let (host, port) = rest.trim_end_matches('/').rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if bare.is_empty() || bare.contains(['/', '@', ' ']) || (bare.contains(':') && bare == host) {
            return Err(wrong());
        }
        let encrypted = match tls {
            TlsMode::On => true,
            TlsMode::Off => false,
            TlsMode::Auto => https,
        };
        Ok(Address { host: bare.to_owned(), port, encrypted })
    }

    fn url(&self) -> String {
        let scheme = if self.encrypted { "https" } else { "http" };
        if self.host.contains(':') { format!("{scheme}://[{}]:{}", self.host, self.port) } else { format!("{scheme}://{}:{}", self.host, self.port) }
    }

    /// The address as requests carry it.
    pub fn endpoints(&self) -> Endpoints {
        let scheme = match self.host.parse() {
            Ok(std::net::IpAddr::V4(_)) => AddressScheme::IPv4,
            Ok(std::net::IpAddr::V6(_)) => AddressScheme::IPv6,
            Err(_) => AddressScheme::DomainName,
        };
        let address = gantry_proto::v2::Address { host: self.host.clone(), port: i32::from(self.port) };
        Endpoints { scheme: scheme as i32, addresses: vec![address] }
    }
}

/// Asks for the topic as every client does before it uses one: a server that makes topics on first use makes it now.
pub async fn find_topic(client: &mut Messaging, topic: &str, global: &Global) -> Result<(), Failure> {
    let what = format!("cannot find topic `{topic}`");
    let endpoints = Some(Address::parse(&global.endpoint, global.tls)?.endpoints());
    let ask = QueryRouteRequest { topic: Some(resource(global, topic)), endpoints };
    let answer = client.query_route(request(ask, global)).await.map_err(|status| Failure::from_grpc(&what, &status))?;
    check_status(&what, answer.into_inner().status.as_ref())
}

/// A topic or group of the namespace that the user chose.
pub fn resource(global: &Global, name: &str) -> Resource {
    Resource { resource_namespace: global.namespace.clone(), name: name.to_owned() }
}

/// A request that tells the server how long its caller waits.
pub fn request<T>(message: T, global: &Global) -> tonic::Request<T> {
    within(message, global.timeout)
}

/// The same with a time of its own.
pub fn within<T>(message: T, timeout: Duration) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(timeout);
    request
}

/// The headers that every call carries.
#[derive(Clone, Debug)]
pub struct Headers {
    map: MetadataMap,
}

impl Headers {
    pub fn new(command: &str, namespace: &str) -> Headers {
        let mut map = MetadataMap::new();
        let mut set = |name: &'static str, value: &str| {
            // A namespace may hold what a header cannot; then the resource in the request alone carries it.
            if let Ok(value) = MetadataValue::<Ascii>::try_from(value) {
                map.insert(name, value);
            }
        };
        set("x-mq-client-id", &format!("gantry-{command}@{}@{:016x}", std::process::id(), clock::random_tag()));
        set("x-mq-language", "OTHER");
        set("x-mq-client-version", env!("CARGO_PKG_VERSION"));
        set("x-mq-protocol", "v2");
        if !namespace.is_empty() {
            set("x-mq-namespace", namespace);
        }
        Headers { map }
    }

    /// A copy for a call that is built by hand.
    pub fn map(&self) -> MetadataMap {
        self.map.clone()
    }
}

impl Interceptor for Headers {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
        for entry in self.map.iter() {
            if let tonic::metadata::KeyAndValueRef::Ascii(name, value) = entry {
                request.metadata_mut().insert(name, value.clone());
            }
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(text: &str, tls: TlsMode, expected: Option<(&str, u16, bool)>) {
        let expected = expected.map(|(host, port, encrypted)| Address { host: host.to_owned(), port, encrypted });
        assert_eq!(Address::parse(text, tls).ok(), expected, "{text}");
    }

    #[test]
    fn addresses_may_have_a_scheme() {
        check("127.0.0.1:8083", TlsMode::Auto, Some(("127.0.0.1", 8083, false)));
        check("http://mq.example:8081/", TlsMode::Auto, Some(("mq.example", 8081, false)));
        check("https://mq.example:443", TlsMode::Auto, Some(("mq.example", 443, true)));
        check("https://mq.example:443", TlsMode::Off, Some(("mq.example", 443, false)));
        check("[::1]:8081", TlsMode::On, Some(("::1", 8081, true)));
        for wrong in ["", "host", "host:", "host:99999", ":8081", "::1:8081", "tcp://host:1", "user@host:1"] {
            check(wrong, TlsMode::Auto, None);
        }
    }

    #[test]
    fn the_wire_names_the_kind_of_address() {
        let scheme = |text| Address::parse(text, TlsMode::Auto).unwrap().endpoints().scheme();
        assert_eq!(scheme("10.0.0.1:1"), AddressScheme::IPv4);
        assert_eq!(scheme("[fe80::1]:1"), AddressScheme::IPv6);
        assert_eq!(scheme("localhost:1"), AddressScheme::DomainName);
    }
}
