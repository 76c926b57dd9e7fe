//! One message as `consume` and `tail` show it: a line for people, an object for programs.

use crate::global::Global;
use crate::output::{Report, or_dash};
use crate::topic::message_type;
use crate::value;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::ValueEnum;
use gantry_proto::admin::StoredMessage;
use gantry_proto::v2;
use prost_types::Timestamp;
use serde::Serialize;
use std::collections::BTreeMap;

/// How a body is shown in the table form. JSON output always has the whole body, as text or in base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BodyForm {
    /// Text if it is printable, else hex
    Auto,
    /// Text; bytes that are not UTF-8 are replaced
    Text,
    /// Indented if it is JSON, else as `auto`
    Json,
    /// Hexadecimal
    Hex,
    /// Only its length
    None,
}

/// A message with what is known about its place.
#[derive(Debug, Serialize)]
pub struct Record {
    pub message_id: String,
    namespace: String,
    topic: String,
    pub queue: u32,
    pub offset: u64,
    message_type: &'static str,
    pub tag: Option<String>,
    keys: Vec<String>,
    properties: BTreeMap<String, String>,
    message_group: Option<String>,
    born_time: Option<String>,
    store_time: Option<String>,
    delivery_time: Option<String>,
    /// Only of messages that were delivered to a group.
    #[serde(skip_serializing_if = "Option::is_none")]
    delivery_attempt: Option<i32>,
    body_encoding: &'static str,
    body_size: usize,
    /// The body when it is UTF-8 text, else null.
    body: Option<String>,
    /// The body when it is not UTF-8 text, else null.
    body_base64: Option<String>,
    #[serde(skip)]
    bytes: Bytes,
    #[serde(skip)]
    form: BodyForm,
}

impl Record {
    /// A message from the messaging service.
    pub fn delivered(message: v2::Message, form: BodyForm) -> Record {
        let topic = message.topic.unwrap_or_default();
        let system = message.system_properties.unwrap_or_default();
        let stored = StoredMessage {
            message_type: system.message_type,
            body_encoding: system.body_encoding,
            message_id: system.message_id,
            namespace: topic.resource_namespace,
            topic: topic.name,
            queue: u32::try_from(system.queue_id).unwrap_or_default(),
            offset: u64::try_from(system.queue_offset.unwrap_or_default()).unwrap_or_default(),
            tag: system.tag,
            keys: system.keys,
            properties: message.user_properties,
            body: message.body,
            born_time: system.born_timestamp,
            store_time: system.store_timestamp,
            message_group: system.message_group,
            delivery_time: system.delivery_timestamp,
            ..Default::default()
        };
        Record { delivery_attempt: system.delivery_attempt, ..Record::stored(stored, form) }
    }

    /// A message from the Admin API.
    pub fn stored(message: StoredMessage, form: BodyForm) -> Record {
        let text = std::str::from_utf8(&message.body).ok().map(str::to_owned);
        let show = |time: &Option<Timestamp>| time.as_ref().map(value::show_timestamp);
        Record {
            message_type: message_type(message.message_type()),
            body_encoding: if message.body_encoding() == v2::Encoding::Gzip { "gzip" } else { "identity" },
            message_id: message.message_id,
            namespace: message.namespace,
            topic: message.topic,
            queue: message.queue,
            offset: message.offset,
            tag: message.tag,
            keys: message.keys,
            properties: message.properties.into_iter().collect(),
            message_group: message.message_group,
            born_time: show(&message.born_time),
            store_time: show(&message.store_time),
            delivery_time: show(&message.delivery_time),
            delivery_attempt: None,
            body_size: message.body.len(),
            body_base64: text.is_none().then(|| STANDARD.encode(&message.body)),
            body: text,
            bytes: message.body,
            form,
        }
    }

    fn body_text(&self) -> String {
        match self.form {
            BodyForm::None => format!("({})", value::show_size(self.bytes.len() as u64)),
            BodyForm::Hex => hex::encode(&self.bytes),
            BodyForm::Text => String::from_utf8_lossy(&self.bytes).into_owned(),
            BodyForm::Auto => self.readable(),
            BodyForm::Json => match serde_json::from_slice::<serde_json::Value>(&self.bytes) {
                Ok(value) => format!("{value:#}"),
                Err(_) => self.readable(),
            },
        }
    }

    /// Control characters could rewrite the terminal of the reader, so a body with some is shown as hex.
    fn readable(&self) -> String {
        match &self.body {
            Some(text) if !text.chars().any(|c| c.is_control() && !c.is_whitespace()) => text.clone(),
            _ => hex::encode(&self.bytes),
        }
    }
}

/// `time  topic/queue/offset  tag=…  keys=…  body`: one line unless the body has several.
impl Report for Record {
    fn table(&self) -> String {
        let time = self.store_time.as_ref().or(self.born_time.as_ref()).map(String::as_str).unwrap_or_default();
        let mut line = format!("{}  {}/{}/{}", or_dash(time), self.topic, self.queue, self.offset);
        let mut field = |name: &str, text: &str| {
            line.push_str("  ");
            line.push_str(name);
            line.push_str(text);
        };
        field("tag=", &or_dash(self.tag.as_deref().unwrap_or_default()));
        field("keys=", &or_dash(&self.keys.join(",")));
        if let Some(group) = &self.message_group {
            field("group=", group);
        }
        if let Some(attempt) = self.delivery_attempt.filter(|attempt| *attempt > 1) {
            field("attempt=", &attempt.to_string());
        }
        field("", &self.body_text());
        line.push('\n');
        line
    }
}

/// A tag filter that is checked before it is sent, so that a mistake is the command line's and not the server's.
pub fn check_filter(expression: &str) -> Result<gantry_model::filter::Filter, crate::Failure> {
    let wrong =
        |error| crate::Failure::usage(format!("filter `{expression}` is wrong")).because(error).hint("write tags joined by ||, such as 'A || B'");
    gantry_model::filter::Filter::tags(expression).map_err(wrong)
}

/// What an empty answer means, in words.
pub fn nothing_more(topic: &str, global: &Global) -> String {
    match global.namespace.as_str() {
        "" => format!("no more messages in `{topic}`"),
        namespace => format!("no more messages in `{topic}` of namespace `{namespace}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &'static [u8], form: BodyForm, expected: &str) {
        let message = StoredMessage { body: Bytes::from_static(body), ..Default::default() };
        assert_eq!(Record::stored(message, form).body_text(), expected);
    }

    #[test]
    fn bodies_are_shown_so_that_a_terminal_survives_them() {
        check(b"hello", BodyForm::Auto, "hello");
        check(b"\x1b[2J", BodyForm::Auto, "1b5b324a");
        check(&[0xff, 0x00], BodyForm::Auto, "ff00");
        check(&[0xff], BodyForm::Text, "\u{fffd}");
        check(b"{\"a\":[1]}", BodyForm::Json, "{\n  \"a\": [\n    1\n  ]\n}");
        check(b"not json", BodyForm::Json, "not json");
        check(b"hi", BodyForm::Hex, "6869");
        check(b"hi", BodyForm::None, "(2 B)");
    }

    #[test]
    fn a_body_that_is_no_text_is_base64_for_programs() {
        let message = StoredMessage { body: Bytes::from_static(&[0xff]), ..Default::default() };
        let record = Record::stored(message, BodyForm::Auto);
        assert_eq!((record.body, record.body_base64), (None, Some("/w==".to_owned())));
    }
}
