//! Names of topics and consumer groups with their namespace, and the grammar they obey.
//!
//! Identity is namespace plus name. The grammar is the protocol's: letters, digits, `%`, `|`, `_` and `-`; what starts with `%` belongs to the
//! system (`%DLQ%group` is the dead letter topic of a group and may be read).

use crate::limits::{GROUP_NAME_MAX, TOPIC_NAME_MAX};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Prefix of the dead letter topic of a group.
pub const DEAD_LETTER_PREFIX: &str = "%DLQ%";

const SYSTEM_TOPICS: [&str; 10] = [
    "TBW102",
    "SCHEDULE_TOPIC_XXXX",
    "BenchmarkTest",
    "RMQ_SYS_TRANS_HALF_TOPIC",
    "RMQ_SYS_TRACE_TOPIC",
    "RMQ_SYS_TRANS_OP_HALF_TOPIC",
    "TRANS_CHECK_MAX_TIME_TOPIC",
    "SELF_TEST_TOPIC",
    "OFFSET_MOVED_EVENT",
    "CHECKPOINT_TOPIC",
];

macro_rules! resource_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name {
            #[serde(default, skip_serializing_if = "String::is_empty")]
            pub namespace: String,
            pub name: String,
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.namespace.as_str() {
                    "" => f.write_str(&self.name),
                    namespace => write!(f, "{namespace}/{}", self.name),
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

resource_name!(
    /// A topic's namespace and name, already checked.
    TopicName
);
resource_name!(
    /// A consumer group's namespace and name, already checked.
    GroupName
);

/// Why a name was refused; the text is for the person who chose it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameError(pub String);

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NameError {}

impl TopicName {
    /// Checks a topic that a client names in any call.
    pub fn parse(namespace: &str, name: &str) -> Result<TopicName, NameError> {
        let longest = if name.starts_with(DEAD_LETTER_PREFIX) { TOPIC_NAME_MAX + DEAD_LETTER_PREFIX.len() } else { TOPIC_NAME_MAX };
        check_grammar("topic", name, longest)?;
        check_namespace(namespace)?;
        if SYSTEM_TOPICS.contains(&name) || name.starts_with("rmq_sys_") {
            return Err(NameError(format!("cannot access system topic `{name}`")));
        }
        Ok(TopicName { namespace: namespace.to_owned(), name: name.to_owned() })
    }

    /// Whether the system made this topic; such a topic can be read but neither created nor sent to by a client.
    pub fn is_system(&self) -> bool {
        self.name.starts_with('%')
    }

    /// The dead letter topic of a group.
    pub fn dead_letter_of(group: &GroupName) -> TopicName {
        TopicName { namespace: group.namespace.clone(), name: format!("{DEAD_LETTER_PREFIX}{}", group.name) }
    }
}

impl GroupName {
    /// Checks a consumer group that a client names in any call.
    pub fn parse(namespace: &str, name: &str) -> Result<GroupName, NameError> {
        check_grammar("consumer group", name, GROUP_NAME_MAX)?;
        check_namespace(namespace)?;
        if name.starts_with("CID_RMQ_SYS_") {
            return Err(NameError(format!("cannot access system consumer group `{name}`")));
        }
        Ok(GroupName { namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

fn check_grammar(what: &str, name: &str, longest: usize) -> Result<(), NameError> {
    if name.trim().is_empty() {
        return Err(NameError(format!("{what} cannot be blank")));
    }
    if name.len() > longest {
        return Err(NameError(format!("{what} has {} characters, the longest allowed is {longest}", name.chars().count())));
    }
    match name.chars().find(|&c| !(c.is_ascii_alphanumeric() || matches!(c, '%' | '|' | '_' | '-'))) {
        Some(bad) => Err(NameError(format!("{what} `{}` contains {bad:?}, allowed are letters, digits, `%`, `|`, `_` and `-`", name.escape_debug()))),
        None => Ok(()),
    }
}

fn check_namespace(namespace: &str) -> Result<(), NameError> {
    if namespace.is_empty() { Ok(()) } else { check_grammar("namespace", namespace, TOPIC_NAME_MAX) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, topic: bool, group: bool) {
        assert_eq!(TopicName::parse("", name).is_ok(), topic, "topic `{name}`");
        assert_eq!(GroupName::parse("", name).is_ok(), group, "group `{name}`");
    }

    #[test]
    fn names_follow_the_protocols_grammar() {
        check("orders", true, true);
        check("a|b%c_d-9", true, true);
        check("", false, false);
        check(" ", false, false);
        check("a.b", false, false);
        check("größe", false, false);
        check("../../x", false, false);
        check(&"x".repeat(120), true, true);
        check(&"x".repeat(121), true, false);
        check(&"x".repeat(127), true, false);
        check(&"x".repeat(128), false, false);
        check("TBW102", false, true);
        check("rmq_sys_x", false, true);
        check("CID_RMQ_SYS_x", true, false);
        check("%DLQ%orders", true, true);
    }

    #[test]
    fn the_dead_letter_topic_of_the_longest_group_is_a_legal_topic() {
        let group = GroupName::parse("", &"g".repeat(GROUP_NAME_MAX)).expect("legal");
        let topic = TopicName::dead_letter_of(&group);
        assert_eq!(TopicName::parse("", &topic.name), Ok(topic.clone()));
        assert!(topic.is_system());
    }
}
