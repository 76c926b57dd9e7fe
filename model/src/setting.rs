//! The options of topics and groups by name, as operators set and see them: `delay.max=1h`, `quota.send.bytes=64MiB`.
//!
//! One table per noun says what there is; the administration service applies it, and the command line shows it as help.

use crate::group::{Exhausted, GroupOptions, LiteGroup, LiteSharing, Sharing};
use crate::spelling::nearest;
use crate::topic::TopicOptions;
use crate::units;
use std::fmt;

/// Lite topics that one client may subscribe unless the group says otherwise.
pub const LITE_CLIENT_QUOTA: u32 = 2_000;

/// One option by name.
pub struct Setting<T: 'static> {
    pub name: &'static str,
    /// What it does, in a few words.
    pub about: &'static str,
    /// A value that could be set.
    pub example: &'static str,
    write: fn(&mut T, &str) -> Result<(), String>,
    read: fn(&T) -> String,
}

impl<T> fmt::Debug for Setting<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Setting `{}`", self.name)
    }
}

/// Options that have settings. What has all its defaults shows none of them.
pub trait Settings: Default + Clone + 'static {
    /// For messages: topics or groups.
    const PLURAL: &'static str;
    /// In the order in which they are applied.
    const TABLE: &'static [Setting<Self>];
}

/// What is wrong with a change of settings; the text says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingError(pub String);

impl fmt::Display for SettingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SettingError {}

/// The options with some settings set and others taken back to their default.
pub fn changed<T: Settings>(options: &T, set: &[(&str, &str)], reset: &[&str]) -> Result<T, SettingError> {
    for name in set.iter().map(|(name, _)| *name).chain(reset.iter().copied()) {
        known::<T>(name)?;
    }
    if let Some((name, _)) = set.iter().find(|(name, _)| reset.contains(name)) {
        return Err(SettingError(format!("setting `{name}` is both set and taken back; leave one out")));
    }
    let (mut changed, default) = (options.clone(), T::default());
    for setting in T::TABLE {
        let value = match set.iter().find(|(name, _)| *name == setting.name) {
            Some((_, value)) => (*value).to_owned(),
            None if reset.contains(&setting.name) => (setting.read)(&default),
            None => continue,
        };
        (setting.write)(&mut changed, value.trim()).map_err(|why| SettingError(format!("setting `{}`: {why}", setting.name)))?;
    }
    Ok(changed)
}

fn known<T: Settings>(name: &str) -> Result<(), SettingError> {
    if T::TABLE.iter().any(|setting| setting.name == name) {
        return Ok(());
    }
    let names = || T::TABLE.iter().map(|setting| setting.name);
    let instead = match nearest(name, names()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("{} have {}", T::PLURAL, names().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")),
    };
    Err(SettingError(format!("unknown setting `{name}`: {instead}")))
}

/// The settings that differ from their default, as they would be set.
pub fn shown<T: Settings>(options: &T) -> Vec<(&'static str, String)> {
    let default = T::default();
    let differs = |setting: &Setting<T>| Some((setting.read)(options)).filter(|value| *value != (setting.read)(&default));
    T::TABLE.iter().filter_map(|setting| differs(setting).map(|value| (setting.name, value))).collect()
}

impl Settings for TopicOptions {
    const PLURAL: &'static str = "topics";
    const TABLE: &'static [Setting<TopicOptions>] = &[
        Setting {
            name: "delay.max",
            about: "longest delay of a delayed message, 1s to 40d",
            example: "7d",
            write: |options, text| units::time(text).map(|time| options.delay_max_ms = time.as_millis() as u64),
            read: |options| units::show_time(options.delay_max_ms),
        },
        Setting {
            name: "lite.topic.expiration",
            about: "life of a lite topic without messages, 15m to 30d, or never",
            example: "1d",
            write: |options, text| {
                options.lite_expiry_ms = if text == "never" { None } else { Some(units::time(text)?.as_millis() as u64) };
                Ok(())
            },
            read: |options| options.lite_expiry_ms.map_or_else(|| "never".to_owned(), units::show_time),
        },
        Setting {
            name: "quota.send.messages",
            about: "messages a second that producers may send",
            example: "5000",
            write: |options, text| number(text).map(|number| options.quota.send_messages_per_s = number),
            read: |options| show_number(options.quota.send_messages_per_s),
        },
        Setting {
            name: "quota.send.bytes",
            about: "body bytes a second that producers may send",
            example: "64MiB",
            write: |options, text| units::size(text).map(|size| options.quota.send_bytes_per_s = size),
            read: |options| show_size(options.quota.send_bytes_per_s),
        },
        Setting {
            name: "quota.stored.bytes",
            about: "bytes of log that messages may take; no sends beyond it",
            example: "10GiB",
            write: |options, text| units::size(text).map(|size| options.quota.stored_bytes = size),
            read: |options| show_size(options.quota.stored_bytes),
        },
        Setting {
            name: "quota.timers",
            about: "delayed messages that wait for their time",
            example: "100000",
            write: |options, text| number(text).map(|number| options.quota.timers = number),
            read: |options| show_number(options.quota.timers),
        },
        Setting {
            name: "quota.transactions",
            about: "transactions that are open at the same time",
            example: "1000",
            write: |options, text| number(text).map(|number| options.quota.transactions = number),
            read: |options| show_number(options.quota.transactions),
        },
        Setting {
            name: "quota.lite.topics",
            about: "lite topics of the topic",
            example: "10000",
            write: |options, text| number(text).map(|number| options.quota.lite_topics = number),
            read: |options| show_number(options.quota.lite_topics),
        },
    ];
}

impl Settings for GroupOptions {
    const PLURAL: &'static str = "groups";
    const TABLE: &'static [Setting<GroupOptions>] = &[
        Setting {
            name: "exhausted",
            about: "ordered message without attempts left: dead-letter or block its group",
            example: "block",
            write: |options, text| word(text, &EXHAUSTED).map(|value| options.exhausted = value),
            read: |options| show_word(options.exhausted, &EXHAUSTED),
        },
        Setting {
            name: "sharing",
            about: "who gets a message: one member (clustering), or every one",
            example: "broadcasting",
            write: |options, text| word(text, &SHARING).map(|value| options.sharing = value),
            read: |options| show_word(options.sharing, &SHARING),
        },
        Setting {
            name: "priority.factor",
            about: "of 100 deliveries, so many begin at the highest priority, 0 to 100",
            example: "80",
            write: |options, text| {
                let factor = text.parse().ok().filter(|factor| *factor <= 100);
                options.priority_factor = factor.ok_or_else(|| format!("`{text}` is not a number from 0 to 100"))?;
                Ok(())
            },
            read: |options| options.priority_factor.to_string(),
        },
        Setting {
            name: "lite.bind.topic",
            about: "the LITE topic whose lite topics the group consumes, or none",
            example: "sessions",
            write: bind,
            read: |options| options.lite.as_ref().map_or_else(|| "none".to_owned(), |lite| lite.topic.clone()),
        },
        Setting {
            name: "lite.sub.model",
            about: "whether subscribers share a lite topic (shared), or the newest has it",
            example: "exclusive",
            write: |options, text| {
                let sharing = word(text, &LITE_SHARING)?;
                on_lite(options, sharing == LiteSharing::default(), |lite| lite.sharing = sharing)
            },
            read: |options| show_word(options.lite.as_ref().map(|lite| lite.sharing).unwrap_or_default(), &LITE_SHARING),
        },
        Setting {
            name: "lite.sub.client.quota",
            about: "lite topics that one client may subscribe",
            example: "500",
            write: |options, text| {
                let quota = text.parse().ok().filter(|&quota: &u32| quota > 0);
                let quota = quota.ok_or_else(|| format!("`{text}` is not a count, which is a number from 1"))?;
                on_lite(options, quota == LITE_CLIENT_QUOTA, |lite| lite.client_quota = quota)
            },
            read: |options| options.lite.as_ref().map_or(LITE_CLIENT_QUOTA, |lite| lite.client_quota).to_string(),
        },
        Setting {
            name: "lite.sub.wildcard",
            about: "whether members get all lite topics without subscribing",
            example: "true",
            write: |options, text| {
                let wildcard = word(text, &ANSWERS)?;
                on_lite(options, !wildcard, |lite| lite.wildcard = wildcard)
            },
            read: |options| show_word(options.lite.as_ref().is_some_and(|lite| lite.wildcard), &ANSWERS),
        },
        Setting {
            name: "quota.receive.messages",
            about: "messages a second that the group gets",
            example: "1000",
            write: |options, text| number(text).map(|number| options.quota.receive_messages_per_s = number),
            read: |options| show_number(options.quota.receive_messages_per_s),
        },
        Setting {
            name: "quota.receive.bytes",
            about: "body bytes a second that the group gets",
            example: "16MiB",
            write: |options, text| units::size(text).map(|size| options.quota.receive_bytes_per_s = size),
            read: |options| show_size(options.quota.receive_bytes_per_s),
        },
        Setting {
            name: "quota.in.flight",
            about: "messages of one queue that the group may hold unfinished",
            example: "1000",
            write: |options, text| number(text).map(|number| options.quota.in_flight = number),
            read: |options| show_number(options.quota.in_flight),
        },
    ];
}

const EXHAUSTED: [(&str, Exhausted); 2] = [("dead-letter", Exhausted::DeadLetter), ("block", Exhausted::Block)];
const SHARING: [(&str, Sharing); 2] = [("clustering", Sharing::Clustering), ("broadcasting", Sharing::Broadcasting)];
const LITE_SHARING: [(&str, LiteSharing); 2] = [("shared", LiteSharing::Shared), ("exclusive", LiteSharing::Exclusive)];
const ANSWERS: [(&str, bool); 2] = [("true", true), ("false", false)];

/// Binding a group anew keeps how it shares; unbinding it forgets that.
fn bind(options: &mut GroupOptions, text: &str) -> Result<(), String> {
    if text == "none" || text.is_empty() {
        options.lite = None;
        return Ok(());
    }
    let lite = options.lite.get_or_insert_with(|| LiteGroup {
        topic: String::new(),
        sharing: LiteSharing::default(),
        client_quota: LITE_CLIENT_QUOTA,
        wildcard: false,
    });
    lite.topic = text.to_owned();
    Ok(())
}

/// Changes how a group shares lite topics. One that has none can only be told what it has already.
fn on_lite(options: &mut GroupOptions, is_default: bool, change: impl FnOnce(&mut LiteGroup)) -> Result<(), String> {
    match &mut options.lite {
        Some(lite) => {
            change(lite);
            Ok(())
        }
        None if is_default => Ok(()),
        None => Err("the group consumes no lite topics; set `lite.bind.topic` as well".to_owned()),
    }
}

fn number(text: &str) -> Result<Option<u64>, String> {
    if text == "unlimited" {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| format!("`{text}` is neither a number nor `unlimited`"))
}

fn show_number(number: Option<u64>) -> String {
    number.map_or_else(|| "unlimited".to_owned(), |number| number.to_string())
}

fn show_size(size: Option<u64>) -> String {
    size.map_or_else(|| "unlimited".to_owned(), units::show_size)
}

fn word<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    let found = words.iter().find(|(word, _)| text.eq_ignore_ascii_case(word)).map(|(_, value)| *value);
    found.ok_or_else(|| format!("`{text}` is none of {}", words.iter().map(|(word, _)| format!("`{word}`")).collect::<Vec<_>>().join(", ")))
}

fn show_word<T: PartialEq>(value: T, words: &[(&str, T)]) -> String {
    words.iter().find(|(_, known)| *known == value).map_or_else(String::new, |(word, _)| (*word).to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check_examples<T: Settings + PartialEq + fmt::Debug>(before: &T) {
        for setting in T::TABLE {
            let changed = changed(before, &[(setting.name, setting.example)], &[]).unwrap();
            assert_eq!((setting.read)(&changed), setting.example, "{setting:?} is shown as it was set");
            if setting.example != "unlimited" {
                assert!(shown(&changed).contains(&(setting.name, setting.example.to_owned())), "{setting:?} differs from its default");
            }
            let reset = super::changed(&changed, &[], &[setting.name]).unwrap();
            assert_eq!((setting.read)(&reset), (setting.read)(&T::default()), "{setting:?} goes back");
        }
        assert!(shown(&T::default()).is_empty(), "defaults are not shown");
    }

    #[test]
    fn every_setting_is_shown_as_it_was_set_and_goes_back() {
        check_examples(&TopicOptions::default());
        check_examples(&changed(&GroupOptions::default(), &[("lite.bind.topic", "parent")], &[]).unwrap());
    }

    #[test]
    fn every_option_of_a_topic_and_a_group_can_be_set() {
        let set: Vec<(&str, &str)> = TopicOptions::TABLE.iter().map(|setting| (setting.name, setting.example)).collect();
        let topic = changed(&TopicOptions::default(), &set, &[]).unwrap();
        assert_eq!((topic.delay_max_ms, topic.lite_expiry_ms), (7 * 86_400_000, Some(86_400_000)));
        assert_eq!((topic.quota.send_messages_per_s, topic.quota.send_bytes_per_s), (Some(5_000), Some(64 << 20)));
        assert_eq!((topic.quota.timers, topic.quota.transactions, topic.quota.lite_topics), (Some(100_000), Some(1_000), Some(10_000)));
        // Last things first: the order of the table decides, not that of the caller.
        let set: Vec<(&str, &str)> = GroupOptions::TABLE.iter().rev().map(|setting| (setting.name, setting.example)).collect();
        let group = changed(&GroupOptions::default(), &set, &[]).unwrap();
        assert_eq!((group.exhausted, group.sharing, group.priority_factor), (Exhausted::Block, Sharing::Broadcasting, 80));
        let lite = LiteGroup { topic: "sessions".into(), sharing: LiteSharing::Exclusive, client_quota: 500, wildcard: true };
        assert_eq!(group.lite, Some(lite));
        assert_eq!(
            (group.quota.receive_messages_per_s, group.quota.receive_bytes_per_s, group.quota.in_flight),
            (Some(1_000), Some(16 << 20), Some(1_000))
        );
    }

    #[test]
    fn a_wrong_setting_says_what_to_write_instead() {
        let topic = |set: &[(&str, &str)], reset: &[&str]| changed(&TopicOptions::default(), set, reset).unwrap_err().0;
        assert_eq!(topic(&[("delay.mx", "1h")], &[]), "unknown setting `delay.mx`: did you mean `delay.max`?");
        assert_eq!(topic(&[], &["quota.send.message"]), "unknown setting `quota.send.message`: did you mean `quota.send.messages`?");
        assert!(topic(&[("colour", "red")], &[]).starts_with("unknown setting `colour`: topics have `delay.max`, "));
        assert!(topic(&[("delay.max", "soon")], &[]).starts_with("setting `delay.max`: `soon` is not a time"));
        assert!(topic(&[("quota.timers", "many")], &[]).contains("neither a number nor `unlimited`"));
        assert!(topic(&[("quota.stored.bytes", "1 parsec")], &[]).starts_with("setting `quota.stored.bytes`"));
        assert!(topic(&[("delay.max", "1h")], &["delay.max"]).contains("both set and taken back"));
        let group = |set: &[(&str, &str)]| changed(&GroupOptions::default(), set, &[]).unwrap_err().0;
        assert_eq!(group(&[("sharing", "some")]), "setting `sharing`: `some` is none of `clustering`, `broadcasting`");
        assert!(group(&[("lite.sub.wildcard", "true")]).contains("set `lite.bind.topic` as well"));
        assert!(group(&[("priority.factor", "101")]).contains("0 to 100"));
    }

    #[test]
    fn unbinding_a_group_from_lite_topics_forgets_how_it_shared_them() {
        let bound = changed(&GroupOptions::default(), &[("lite.bind.topic", "p"), ("lite.sub.wildcard", "true")], &[]).unwrap();
        assert_eq!(shown(&bound), [("lite.bind.topic", "p".to_owned()), ("lite.sub.wildcard", "true".to_owned())]);
        assert!(changed(&bound, &[], &["lite.bind.topic"]).unwrap().is_default());
    }
}
