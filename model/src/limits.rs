//! Every bound a client can meet, in one place. The numbers are the protocol's or our own promise; `docs/compatibility.md` lists them.

/// Longest topic name, in characters.
pub const TOPIC_NAME_MAX: usize = 127;
/// Longest consumer group name, in characters.
pub const GROUP_NAME_MAX: usize = 120;
/// Largest message body, in bytes.
pub const BODY_MAX: usize = 4 * 1024 * 1024;
/// Most user properties on a message.
pub const PROPERTIES_MAX: usize = 128;
/// Most bytes of property keys, property values, tag and keys of a message together.
pub const PROPERTIES_BYTES_MAX: usize = 16 * 1024;
/// A message group has fewer bytes than this.
pub const MESSAGE_GROUP_BYTES: usize = 64;
/// Longest client-made message id, in bytes.
pub const MESSAGE_ID_MAX: usize = 255;
/// Longest client id, in bytes.
pub const CLIENT_ID_MAX: usize = 255;
/// Most messages in one send.
pub const BATCH_MESSAGES_MAX: usize = 128;
/// Most body bytes in one send.
pub const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Most messages one receive gives.
pub const RECEIVE_BATCH_MAX: u32 = 32;
/// Shortest invisible duration of a receive without auto-renewal, in milliseconds.
pub const INVISIBLE_MIN_MS: u64 = 10_000;
/// Longest invisible duration, in milliseconds.
pub const INVISIBLE_MAX_MS: u64 = 12 * 3600 * 1000;
/// Longest time that a poll is held, in milliseconds.
pub const POLL_MAX_MS: u64 = 20_000;
/// Longest delay of a timed message, in milliseconds.
pub const DELAY_MAX_MS: u64 = 40 * 24 * 3600 * 1000;
/// Delayed messages of a topic that may wait for their time.
pub const TIMERS_PER_TOPIC: u64 = 10_000_000;
/// Longest time that a consumer may hold an auto-renewed message by default, in milliseconds.
pub const AUTO_RENEW_CAP_MS: u64 = 3 * 3600 * 1000;
/// Most messages of one queue that one group may hold un-acknowledged.
pub const LEASES_PER_CURSOR: usize = 20_000;
/// Farthest that deliveries may run ahead of the oldest unfinished message of a queue.
pub const CURSOR_SPAN_MAX: u64 = 1_000_000;
/// Longest filter expression, in bytes.
pub const FILTER_MAX: usize = 4 * 1024;
/// Default number of deliveries before a message goes to the dead letter queue.
pub const MAX_ATTEMPTS: u32 = 16;
/// Queues of a topic that doesn't say how many.
pub const QUEUES_DEFAULT: u32 = 8;
/// Most queues a route shows.
pub const ROUTE_QUEUES_MAX: usize = 256;
/// Most entries of an acknowledgement call.
pub const ACK_ENTRIES_MAX: usize = 1024;
/// Longest name of a lite topic.
pub const LITE_NAME_BYTES_MAX: usize = 64;
/// Most lite topics below one parent that doesn't say how many.
pub const LITE_TOPICS_MAX: u64 = 1_000_000;
/// Lite topics that one client may subscribe if its group doesn't say how many.
pub const LITE_QUOTA: u32 = 2_000;
/// Most lite topics that the clients of one shard may subscribe together.
pub const LITE_SUBSCRIPTIONS_MAX: u64 = 1_000_000;
/// Additions to subscriptions of lite topics that one server takes in a second.
pub const LITE_ADDS_PER_S: u64 = 5_000;
