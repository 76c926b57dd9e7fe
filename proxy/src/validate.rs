//! What a request may contain. Each check answers with the code that the protocol names for it and a text for the person who wrote the
//! client.
//!
//! The order of the checks on a message is the protocol's, so that a message with two faults gets the same code everywhere. Nothing here
//! looks at topics or groups: whether they exist is the caller's question.

use crate::status::{self, Refusal};
use gantry_model::limits::{
    ACK_ENTRIES_MAX, BATCH_BYTES_MAX, BATCH_MESSAGES_MAX, BODY_MAX, INVISIBLE_MAX_MS, INVISIBLE_MIN_MS, LITE_NAME_BYTES_MAX, MESSAGE_GROUP_BYTES,
    MESSAGE_ID_MAX, PROPERTIES_BYTES_MAX, PROPERTIES_MAX,
};
use gantry_model::{Filter, GroupName, MessageKind, QueueId, QueueKey, TopicName};
use gantry_proto::v2::{self, Code, FilterType, MessageType, Resource, SystemProperties};
use std::collections::HashMap;
use std::time::Duration;

/// Longest delay before the first transaction check.
const RECOVERY_MAX_S: i64 = 3_600;
/// Highest priority that a message may have.
const PRIORITY_MAX: i32 = u8::MAX as i32;

/// Property keys that the Java server keeps for itself. Our system data lives elsewhere; the names are refused so that a program can move
/// between the servers without a surprise.
const RESERVED: [&str; 53] = [
    "TRACE_ON",
    "MSG_REGION",
    "KEYS",
    "TAGS",
    "WAIT",
    "DELAY",
    "RETRY_TOPIC",
    "REAL_TOPIC",
    "REAL_QID",
    "TRAN_MSG",
    "PGROUP",
    "MIN_OFFSET",
    "MAX_OFFSET",
    "BUYER_ID",
    "ORIGIN_MESSAGE_ID",
    "TRANSFER_FLAG",
    "CORRECTION_FLAG",
    "MQ2_FLAG",
    "RECONSUME_TIME",
    "UNIQ_KEY",
    "MAX_RECONSUME_TIMES",
    "CONSUME_START_TIME",
    "POP_CK",
    "POP_CK_OFFSET",
    "1ST_POP_TIME",
    "TRAN_PREPARED_QUEUE_OFFSET",
    "DUP_INFO",
    "EXTEND_UNIQ_INFO",
    "INSTANCE_ID",
    "CORRELATION_ID",
    "REPLY_TO_CLIENT",
    "TTL",
    "ARRIVE_TIME",
    "PUSH_REPLY_TIME",
    "CLUSTER",
    "MSG_TYPE",
    "INNER_MULTI_QUEUE_OFFSET",
    "TIMER_DELAY_MS",
    "TIMER_DELAY_SEC",
    "TIMER_DELIVER_MS",
    "TIMER_ENQUEUE_MS",
    "TIMER_DEQUEUE_MS",
    "TIMER_ROLL_TIMES",
    "TIMER_OUT_MS",
    "TIMER_DEL_UNIQKEY",
    "TIMER_DELAY_LEVEL",
    "__BORNHOST",
    "BORN_TIMESTAMP",
    "DLQ_ORIGIN_TOPIC",
    "DLQ_ORIGIN_MESSAGE_ID",
    "__CRC32#",
    "_SYS_MSG_PRIORITY_",
    "__LITE_TOPIC",
];

fn refuse<T>(code: Code, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::new(code, message.into()))
}

/// The topic that a resource names; its own namespace counts before the one of the call.
pub fn topic(resource: Option<&Resource>, namespace: &str) -> Result<TopicName, Refusal> {
    let (namespace, name) = parts(resource, namespace);
    TopicName::parse(namespace, name).map_err(status::topic_name)
}

/// The consumer group that a resource names.
pub fn group(resource: Option<&Resource>, namespace: &str) -> Result<GroupName, Refusal> {
    let (namespace, name) = parts(resource, namespace);
    GroupName::parse(namespace, name).map_err(status::group_name)
}

fn parts<'a>(resource: Option<&'a Resource>, namespace: &'a str) -> (&'a str, &'a str) {
    match resource {
        Some(resource) if resource.resource_namespace.is_empty() => (namespace, &resource.name),
        Some(resource) => (&resource.resource_namespace, &resource.name),
        None => (namespace, ""),
    }
}

/// Checks a whole send, and answers the kind of each message. `delay_max_ms` is the longest delay that the topic allows.
pub fn batch(messages: &[v2::Message], now_ms: u64, delay_max_ms: u64) -> Result<Vec<MessageKind>, Refusal> {
    let Some(first) = messages.first() else {
        return refuse(Code::BadRequest, "the request has no messages");
    };
    if messages.len() > BATCH_MESSAGES_MAX {
        return refuse(Code::BadRequest, format!("the request has {} messages, the most allowed is {BATCH_MESSAGES_MAX}", messages.len()));
    }
    let mut kinds = Vec::with_capacity(messages.len());
    for each in messages {
        if each.topic != first.topic {
            return refuse(Code::MessageCorrupted, "topic in message is not same: all messages of one request go to one topic");
        }
        kinds.push(message(each, now_ms, delay_max_ms)?);
    }
    let bytes: usize = messages.iter().map(|message| message.body.len()).sum();
    if messages.len() > 1 && bytes > BATCH_BYTES_MAX {
        return refuse(Code::MessageBodyTooLarge, format!("the bodies of the batch have {bytes} bytes, the most allowed is {BATCH_BYTES_MAX}"));
    }
    Ok(kinds)
}

/// Checks one message, and answers its kind.
pub fn message(message: &v2::Message, now_ms: u64, delay_max_ms: u64) -> Result<MessageKind, Refusal> {
    let none = SystemProperties::default();
    let system = message.system_properties.as_ref().unwrap_or(&none);
    body(message.body.len())?;
    let property_bytes = user_properties(&message.user_properties)?;
    tag(system.tag.as_deref().unwrap_or_default())?;
    system.keys.iter().try_for_each(|key| message_key(key))?;
    let system_bytes = system.tag.as_ref().map_or(0, String::len) + system.keys.iter().map(String::len).sum::<usize>();
    let carried = system.trace_context.as_ref().map_or(0, String::len) + system.born_host.len();
    total_size(property_bytes + system_bytes + carried)?;
    message_id(&system.message_id)?;
    recovery(system)?;
    delivery_time(system, now_ms, delay_max_ms)?;
    message_group(system.message_group.as_deref().unwrap_or_default())?;
    if let Some(lite) = system.lite_topic.as_deref().filter(|lite| !lite.is_empty()) {
        lite_topic(lite)?;
    }
    if let Some(priority) = system.priority.filter(|priority| !(0..=PRIORITY_MAX).contains(priority)) {
        return refuse(Code::BadRequest, format!("priority {priority} is out of range, allowed is 0 to {PRIORITY_MAX}"));
    }
    kind(system)
}

fn body(len: usize) -> Result<(), Refusal> {
    match len {
        0 => refuse(Code::MessageBodyEmpty, "message body cannot be empty"),
        1..=BODY_MAX => Ok(()),
        _ => refuse(Code::MessageBodyTooLarge, format!("message body has {len} bytes, the most allowed is {BODY_MAX}")),
    }
}

/// Checks keys and values, and answers how many bytes they have together.
fn user_properties(properties: &HashMap<String, String>) -> Result<usize, Refusal> {
    if properties.len() > PROPERTIES_MAX {
        return refuse(
            Code::MessagePropertiesTooLarge,
            format!("message has {} user properties, the most allowed is {PROPERTIES_MAX}", properties.len()),
        );
    }
    let mut bytes = 0;
    for (key, value) in properties {
        if RESERVED.contains(&key.as_str()) {
            return refuse(Code::IllegalMessagePropertyKey, format!("property is used by system: {key}"));
        }
        if has_control(key) || has_control(value) {
            return refuse(Code::IllegalMessagePropertyKey, format!("property `{}` contains a control character", key.escape_debug()));
        }
        bytes += key.len() + value.len();
    }
    Ok(bytes)
}

fn tag(tag: &str) -> Result<(), Refusal> {
    if tag.is_empty() {
        return Ok(());
    }
    if tag.trim().is_empty() {
        return refuse(Code::IllegalMessageTag, "tag cannot be blank");
    }
    if tag.contains('|') || has_control(tag) {
        return refuse(Code::IllegalMessageTag, format!("tag `{}` contains `|` or a control character", tag.escape_debug()));
    }
    Ok(())
}

fn message_key(key: &str) -> Result<(), Refusal> {
    if !key.is_empty() && key.trim().is_empty() {
        return refuse(Code::IllegalMessageKey, "message key cannot be blank");
    }
    if has_control(key) {
        return refuse(Code::IllegalMessageKey, format!("message key `{}` contains a control character", key.escape_debug()));
    }
    Ok(())
}

fn total_size(bytes: usize) -> Result<(), Refusal> {
    if bytes <= PROPERTIES_BYTES_MAX {
        return Ok(());
    }
    let text = format!("properties, tag, keys and trace context have {bytes} bytes together, the most allowed is {PROPERTIES_BYTES_MAX}");
    refuse(Code::MessagePropertiesTooLarge, text)
}

fn message_id(id: &str) -> Result<(), Refusal> {
    if id.trim().is_empty() {
        return refuse(Code::IllegalMessageId, "message id cannot be blank");
    }
    if id.len() > MESSAGE_ID_MAX {
        return refuse(Code::IllegalMessageId, format!("message id has {} bytes, the most allowed is {MESSAGE_ID_MAX}", id.len()));
    }
    Ok(())
}

fn recovery(system: &SystemProperties) -> Result<(), Refusal> {
    let seconds = system.orphaned_transaction_recovery_duration.as_ref().map_or(0, |duration| duration.seconds);
    if system.message_type == MessageType::Transaction as i32 && seconds > RECOVERY_MAX_S {
        return refuse(Code::BadRequest, format!("transaction recovery duration is {seconds} s, the longest allowed is {RECOVERY_MAX_S} s"));
    }
    Ok(())
}

fn delivery_time(system: &SystemProperties, now_ms: u64, delay_max_ms: u64) -> Result<(), Refusal> {
    let Some(due) = &system.delivery_timestamp else { return Ok(()) };
    let due_ms = i128::from(due.seconds) * 1_000 + i128::from(due.nanos) / 1_000_000;
    let latest = i128::from(now_ms) + i128::from(delay_max_ms);
    if due_ms <= latest {
        return Ok(());
    }
    let most = span(delay_max_ms);
    refuse(Code::IllegalDeliveryTime, format!("delivery timestamp lies more than {most} in the future, which is the longest delay of the topic"))
}

/// A length of time for people.
fn span(ms: u64) -> String {
    match ms {
        _ if ms.is_multiple_of(86_400_000) => format!("{} days", ms / 86_400_000),
        _ if ms.is_multiple_of(1_000) => format!("{} s", ms / 1_000),
        _ => format!("{ms} ms"),
    }
}

fn message_group(group: &str) -> Result<(), Refusal> {
    if group.is_empty() {
        return Ok(());
    }
    if group.trim().is_empty() {
        return refuse(Code::IllegalMessageGroup, "message group cannot be blank");
    }
    if group.len() >= MESSAGE_GROUP_BYTES {
        let most = MESSAGE_GROUP_BYTES - 1;
        return refuse(Code::IllegalMessageGroup, format!("message group has {} bytes, the most allowed is {most}", group.len()));
    }
    if has_control(group) {
        return refuse(Code::IllegalMessageGroup, format!("message group `{}` contains a control character", group.escape_debug()));
    }
    Ok(())
}

/// Checks the name of a lite topic.
pub fn lite_topic(name: &str) -> Result<(), Refusal> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if name.is_empty() || name.len() > LITE_NAME_BYTES_MAX || !name.chars().all(legal) {
        let text = format!("lite topic `{}` is not allowed: 1 to {LITE_NAME_BYTES_MAX} letters, digits, `_` and `-`", name.escape_debug());
        return refuse(Code::IllegalLiteTopic, text);
    }
    Ok(())
}

/// What a message is, by what it carries. A claim without the property that goes with it is a mistake of the sender; a property without
/// the claim is what the client meant.
fn kind(system: &SystemProperties) -> Result<MessageKind, Refusal> {
    let filled = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let claim = MessageType::try_from(system.message_type).unwrap_or(MessageType::Unspecified);
    let marks = [
        (claim == MessageType::Transaction, MessageKind::Transaction, "a transaction"),
        (system.delivery_timestamp.is_some(), MessageKind::Delay, "a delivery timestamp"),
        (filled(&system.message_group), MessageKind::Fifo, "a message group"),
        (system.priority.is_some(), MessageKind::Priority, "a priority"),
        (filled(&system.lite_topic), MessageKind::Lite, "a lite topic"),
    ];
    let mut present = marks.iter().filter(|(present, _, _)| *present);
    let conflict = |text: String| refuse(Code::MessagePropertyConflictWithType, text);
    match (present.next(), present.next()) {
        (Some((_, _, one)), Some((_, _, other))) => conflict(format!("message has both {one} and {other}, which exclude each other")),
        (Some((_, kind, mark)), None) => match claimed(claim) {
            Some(claimed) if claimed != *kind && claimed != MessageKind::Normal => conflict(format!("message says it is {claim:?} but has {mark}")),
            _ => Ok(*kind),
        },
        (None, _) => match claimed(claim) {
            Some(MessageKind::Normal) | None => Ok(MessageKind::Normal),
            Some(kind) => {
                let missing = marks.iter().find(|(_, of, _)| *of == kind).map_or("its property", |(_, _, mark)| mark);
                conflict(format!("message says it is {claim:?} but does not have {missing}"))
            }
        },
    }
}

fn claimed(claim: MessageType) -> Option<MessageKind> {
    u8::try_from(claim as i32).ok().and_then(MessageKind::from_number)
}

fn has_control(text: &str) -> bool {
    text.chars().any(char::is_control)
}

/// How long a received message stays invisible.
pub fn invisible_on_receive(duration: Option<&prost_types::Duration>) -> Result<Duration, Refusal> {
    let ms = duration.map_or(Some(0), duration_ms);
    invisible(ms, INVISIBLE_MIN_MS)
}

/// When a delivered message becomes visible again; nothing said means at once.
pub fn invisible_on_change(duration: Option<&prost_types::Duration>) -> Result<Duration, Refusal> {
    let ms = duration.map_or(Some(0), duration_ms);
    invisible(ms, 0)
}

fn invisible(ms: Option<u64>, least: u64) -> Result<Duration, Refusal> {
    match ms.filter(|ms| (least..=INVISIBLE_MAX_MS).contains(ms)) {
        Some(ms) => Ok(Duration::from_millis(ms)),
        None => {
            let text = match ms {
                Some(ms) => format!("invisible duration is {ms} ms, allowed is {least} to {INVISIBLE_MAX_MS} ms"),
                None => format!("invisible duration is negative or out of range, allowed is {least} to {INVISIBLE_MAX_MS} ms"),
            };
            refuse(Code::IllegalInvisibleTime, text)
        }
    }
}

/// A duration in whole milliseconds; `None` if it is negative or not a duration.
pub fn duration_ms(duration: &prost_types::Duration) -> Option<u64> {
    let ms = i128::from(duration.seconds) * 1_000 + i128::from(duration.nanos) / 1_000_000;
    let negative = duration.seconds < 0 || duration.nanos < 0;
    if negative { None } else { u64::try_from(ms).ok() }
}

/// Reads a filter expression. One without a type is a list of tags.
pub fn filter(expression: Option<&v2::FilterExpression>) -> Result<Filter, Refusal> {
    let Some(expression) = expression else { return Ok(Filter::All) };
    match FilterType::try_from(expression.r#type) {
        Ok(FilterType::Unspecified | FilterType::Tag) => Ok(Filter::tags(&expression.expression)?),
        Ok(FilterType::Sql) if expression.expression.trim().is_empty() => {
            refuse(Code::IllegalFilterExpression, "SQL filter expression cannot be blank")
        }
        Ok(FilterType::Sql) => Ok(Filter::sql(&expression.expression)?),
        Err(_) => refuse(Code::IllegalFilterExpression, format!("filter type {} is unknown, known are TAG (1) and SQL (2)", expression.r#type)),
    }
}

/// The number of a queue where it matters.
pub fn queue(queue: Option<&v2::MessageQueue>) -> Result<QueueId, Refusal> {
    let id = queue.map_or(0, |queue| queue.id);
    match u32::try_from(id) {
        Ok(id) if id <= QueueKey::MAX_QUEUE => Ok(QueueId(id)),
        _ => refuse(Code::BadRequest, format!("the topic has no queue {id}")),
    }
}

/// How many messages are wanted.
pub fn batch_size(size: i32) -> Result<u32, Refusal> {
    u32::try_from(size).or_else(|_| refuse(Code::BadRequest, format!("batch size {size} is negative")))
}

/// Checks how many deliveries are acknowledged at once.
pub fn ack_entries(count: usize) -> Result<(), Refusal> {
    match count {
        0 => refuse(Code::BadRequest, "the request has no entries"),
        1..=ACK_ENTRIES_MAX => Ok(()),
        _ => refuse(Code::BadRequest, format!("the request has {count} entries, the most allowed is {ACK_ENTRIES_MAX}")),
    }
}

/// Checks the properties that a client gives itself, by the limits that the protocol states.
pub fn client_properties(properties: &HashMap<String, String>) -> Result<(), Refusal> {
    let invalid = |text: String| refuse(Code::InvalidClientProperties, text);
    if properties.len() > 32 {
        return invalid(format!("{} client properties, the most allowed is 32", properties.len()));
    }
    let total: usize = properties.iter().map(|(key, value)| key.len() + value.len()).sum();
    if total > 4 * 1024 {
        return invalid(format!("client properties have {total} bytes together, the most allowed is 4096"));
    }
    for (key, value) in properties {
        let legal =
            key.starts_with(|c: char| c.is_ascii_alphabetic()) && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
        if !legal || key.len() > 64 || key.starts_with("rocketmq.") {
            return invalid(format!(
                "client property key `{}` is not allowed: a letter, then letters, digits, `_`, `.`, `-`, at most 64",
                key.escape_debug()
            ));
        }
        if value.len() > 256 {
            return invalid(format!("client property `{key}` has {} bytes, the most allowed is 256", value.len()));
        }
    }
    Ok(())
}
