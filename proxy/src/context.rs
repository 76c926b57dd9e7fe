//! Who calls, from where, and until when: what a call says about itself in its headers.
//!
//! Headers are only read, never written: what the server knows about a caller lives in typed fields of its own, so a caller gains nothing by
//! sending one of the names that other servers use inside (`x-mq-channel-id`, `rpc-remote-address`, …).

use crate::sessions::Session;
use crate::status::Refusal;
use gantry_model::limits::CLIENT_ID_MAX;
use gantry_proto::v2::{Code, Language};
use http::HeaderMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tonic::metadata::MetadataMap;

/// Longest time that a call without its own deadline may take, and the longest deadline that is believed.
const PATIENCE: Duration = Duration::from_secs(30);
/// What is kept back of a deadline, so that the answer arrives before it.
const RESERVE: Duration = Duration::from_millis(100);

/// The two ends of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    pub remote: SocketAddr,
    pub local: SocketAddr,
    /// `local` as text, as delivered messages show it.
    pub store_host: String,
}

impl Peer {
    pub fn new(remote: SocketAddr, local: SocketAddr) -> Peer {
        Peer { remote, local, store_host: local.to_string() }
    }
}

/// The headers of one call and the client behind it.
#[derive(Debug)]
pub struct Context {
    headers: Headers,
    pub session: Arc<Session>,
}

impl Context {
    pub fn new(headers: Headers, session: Arc<Session>) -> Context {
        Context { headers, session }
    }
}

impl std::ops::Deref for Context {
    type Target = Headers;

    fn deref(&self) -> &Headers {
        &self.headers
    }
}

/// The headers of one call.
#[derive(Debug)]
pub struct Headers(HeaderMap);

impl From<HeaderMap> for Headers {
    fn from(headers: HeaderMap) -> Headers {
        Headers(headers)
    }
}

impl From<MetadataMap> for Headers {
    fn from(metadata: MetadataMap) -> Headers {
        Headers(metadata.into_headers())
    }
}

impl Headers {
    fn text(&self, name: &'static str) -> &str {
        self.0.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// What the client calls itself; the one header that every call needs.
    pub fn client_id(&self) -> Result<&str, Refusal> {
        let id = self.text("x-mq-client-id");
        if id.trim().is_empty() {
            return Err(Refusal::new(Code::ClientIdRequired, "client id cannot be empty: send it in the header `x-mq-client-id`"));
        }
        if id.len() > CLIENT_ID_MAX {
            let text = format!("client id has {} bytes, the most allowed is {CLIENT_ID_MAX}", id.len());
            return Err(Refusal::new(Code::ClientIdRequired, text));
        }
        Ok(id)
    }

    /// Used for resources that name no namespace themselves.
    pub fn namespace(&self) -> &str {
        self.text("x-mq-namespace")
    }

    pub fn language(&self) -> Language {
        language(self.text("x-mq-language"))
    }

    pub fn version(&self) -> &str {
        self.text("x-mq-client-version")
    }

    /// Time until the client gives up, as it said when it sent the call.
    pub fn deadline(&self) -> Option<Duration> {
        self.0.get("grpc-timeout").and_then(|value| timeout(value.as_bytes()))
    }

    /// How long the work on a call may take so that its answer is still of use.
    pub fn patience(&self) -> Duration {
        match self.deadline() {
            Some(deadline) => deadline.saturating_sub(RESERVE.min(deadline / 4)).min(PATIENCE),
            None => PATIENCE,
        }
    }
}

/// The language that a client names; clients of the Node.js library call themselves `HTTP`. Unknown ones are fine.
pub fn language(name: &str) -> Language {
    match name {
        "JAVA" => Language::Java,
        "CPP" => Language::Cpp,
        "DOTNET" | "DOT_NET" => Language::DotNet,
        "GO" | "GOLANG" => Language::Golang,
        "RUST" => Language::Rust,
        "PYTHON" => Language::Python,
        "PHP" => Language::Php,
        "HTTP" | "NODE_JS" => Language::NodeJs,
        "RUBY" => Language::Ruby,
        "OBJECTIVE_C" => Language::ObjectiveC,
        "DART" => Language::Dart,
        "KOTLIN" => Language::Kotlin,
        _ => Language::Unspecified,
    }
}

/// Reads a `grpc-timeout`: at most eight digits and a unit.
fn timeout(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0u64, |number, digit| number * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Some(Duration::from_secs(number * 3_600)),
        b'M' => Some(Duration::from_secs(number * 60)),
        b'S' => Some(Duration::from_secs(number)),
        b'm' => Some(Duration::from_millis(number)),
        b'u' => Some(Duration::from_micros(number)),
        b'n' => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<Duration>) {
        assert_eq!(timeout(text.as_bytes()), expected, "`{text}`");
    }

    #[test]
    fn deadlines_are_read_in_every_unit() {
        check("3S", Some(Duration::from_secs(3)));
        check("99999999H", Some(Duration::from_secs(99_999_999 * 3_600)));
        check("20500m", Some(Duration::from_millis(20_500)));
        check("7u", Some(Duration::from_micros(7)));
        check("7n", Some(Duration::from_nanos(7)));
        check("1M", Some(Duration::from_secs(60)));
        for bad in ["", "S", "123456789S", "-1S", "1.5S", "5", "5s", "５S"] {
            check(bad, None);
        }
    }

    #[test]
    fn a_client_id_is_required_and_bounded() {
        let headers = |id: &str| {
            let mut map = HeaderMap::new();
            map.insert("x-mq-client-id", http::HeaderValue::from_str(id).expect("legal header"));
            Headers(map)
        };
        assert_eq!(headers("host@1@2").client_id(), Ok("host@1@2"));
        assert!(headers(&"x".repeat(255)).client_id().is_ok());
        for bad in [String::new(), "  ".into(), "x".repeat(256)] {
            assert_eq!(headers(&bad).client_id().map_err(|refusal| refusal.code), Err(Code::ClientIdRequired));
        }
    }
}
